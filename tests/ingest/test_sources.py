"""Checks how the medium of a clip is found in a folder, and that a folder needs no library for addresses."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.ingest.clips import Clip
from unibrivl.ingest.errors import ClipError, PlanError
from unibrivl.ingest.sources import (
    MEDIA_SUFFIXES,
    FolderConfig,
    MediaFolder,
    Medium,
    RemoteConfig,
    YouTubeConfig,
    make_source,
)  # fmt: skip

ID = "-_aB9xYz_30"


def clip(media_id: str = "a", source: str = "", start_ms: int = 0, end_ms: int = 1000, corpus: str = "gen") -> Clip:
    return Clip(corpus=corpus, media_id=media_id, source=source, start_ms=start_ms, end_ms=end_ms)


def folder(root: Path, **options: object) -> MediaFolder:
    return MediaFolder(FolderConfig(root=root, **options))  # type: ignore[arg-type]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def find_code(root: Path, wanted: Clip) -> str:
    with pytest.raises(ClipError) as caught:
        folder(root).find(wanted)
    return caught.value.code


@pytest.mark.parametrize("suffix", [*MEDIA_SUFFIXES, ".MP4", ".Mkv"])
@pytest.mark.parametrize("media_id", ["--PJHxphWEs", "_a_b"])
def test_a_medium_is_found_by_its_id(tmp_path: Path, media_id: str, suffix: str) -> None:
    touch(tmp_path, f"{media_id}{suffix}", f"{media_id}.txt", f"{media_id}.info.json", f"{media_id}.mp4.part")
    assert folder(tmp_path).find(clip(media_id)) == Medium(tmp_path / f"{media_id}{suffix}")


def test_of_two_files_of_one_id_it_is_always_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "a.webm", "b/a.avi", "a.mp4", "a.mkv")
    assert folder(tmp_path).find(clip()) == Medium(tmp_path / "a.mkv")


@pytest.mark.parametrize("name", [f"Y{ID}", f"id_{ID}", ID])
def test_downloaders_put_something_before_an_id(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}.mp4")
    wanted = clip(ID, start_ms=30_000, end_ms=40_000)
    assert folder(tmp_path).find(wanted) == Medium(tmp_path / f"{name}.mp4")
    assert folder(tmp_path, holds="clips").find(wanted) == Medium(tmp_path / f"{name}.mp4", 30_000)


@pytest.mark.parametrize(
    "rest",
    [
        "_000030", "_30", "_30.0", "_30.000", "_30_40", "_30.0_40.0", "_30.000_40.000", "_30-40", "_30.0-40.0",
        "_30000_40000", "_30000",
    ],
)  # fmt: skip
def test_a_file_named_by_start_holds_just_the_clip(tmp_path: Path, rest: str) -> None:
    touch(tmp_path, f"{ID}{rest}.mp4")
    for holds in ("media", "clips"):
        found = folder(tmp_path, holds=holds).find(clip(ID, start_ms=30_000, end_ms=40_000, corpus="as"))
        assert found == Medium(tmp_path / f"{ID}{rest}.mp4", 30_000)
    for start_ms, end_ms in ((20_000, 30_000), (0, 10_000), (30, 40), (3_000, 4_000)):
        other = clip(ID, start_ms=start_ms, end_ms=end_ms, corpus="as")
        assert find_code(tmp_path, other) == "local.missing_file"


@pytest.mark.parametrize(
    ("rest", "start_ms", "end_ms"),
    [
        ("_0_10000", 0, 6_000), ("_30.5_40.5", 30_500, 40_500), ("_30.500_36.000", 30_500, 36_000),
        ("_30500_40500", 30_500, 40_500), ("_30.0_36.5", 30_000, 36_500), ("_0", 0, 10_000),
    ],
)  # fmt: skip
def test_fractions_and_short_clips_have_their_names(tmp_path: Path, rest: str, start_ms: int, end_ms: int) -> None:
    touch(tmp_path, f"{ID}{rest}.webm")
    found = folder(tmp_path).find(clip(ID, start_ms=start_ms, end_ms=end_ms))
    assert found == Medium(tmp_path / f"{ID}{rest}.webm", start_ms)


def test_our_own_key_names_a_clip(tmp_path: Path) -> None:
    touch(tmp_path, f"as_{ID}_000030000.mp4")
    wanted = clip(ID, start_ms=30_000, end_ms=40_000, corpus="as")
    assert folder(tmp_path).find(wanted) == Medium(tmp_path / f"as_{ID}_000030000.mp4", 30_000)
    assert find_code(tmp_path, clip(ID, start_ms=30_000, end_ms=40_000)) == "local.missing_file"


def test_milliseconds_alone_are_taken_only_where_a_medium_has_one_clip(tmp_path: Path) -> None:
    """`ID_5000` of a medium with many clips may as well begin at second 5000."""
    touch(tmp_path, f"{ID}_5000.mp4")
    assert find_code(tmp_path, clip(ID, start_ms=5_000, end_ms=15_000)) == "local.missing_file"
    assert folder(tmp_path).find(clip(ID, start_ms=5_000_000, end_ms=5_010_000)).start_ms == 5_000_000


def test_an_id_that_looks_like_a_clip_is_an_id(tmp_path: Path) -> None:
    touch(tmp_path, "abc_30_40.mp4", "abc_30.mp4")
    for media_id in ("abc_30_40", "abc_30"):
        for start_ms in (0, 30_000):
            found = folder(tmp_path).find(clip(media_id, start_ms=start_ms, end_ms=start_ms + 10_000))
            assert found == Medium(tmp_path / f"{media_id}.mp4")


def test_the_whole_medium_goes_before_its_clip_unless_files_are_clips(tmp_path: Path) -> None:
    touch(tmp_path, f"{ID}.mp4", f"{ID}_30_40.mp4", f"{ID}_30000_40000.mp4")
    wanted = clip(ID, start_ms=30_000, end_ms=40_000)
    assert folder(tmp_path).find(wanted) == Medium(tmp_path / f"{ID}.mp4")
    assert folder(tmp_path, holds="clips").find(wanted) == Medium(tmp_path / f"{ID}_30_40.mp4", 30_000)


@given(
    st.text("aB9_-", min_size=1, max_size=6), st.text("aB9_-", min_size=1, max_size=6),
    st.integers(0, 50_000), st.integers(0, 50_000), st.integers(1, 20_000),
)  # fmt: skip
def test_a_file_cut_from_one_medium_never_serves_another_start(
    media_id: str, other: str, start_ms: int, other_start_ms: int, length_ms: int
) -> None:
    """Every name that a clip could have leads back to its own id and start, or is another id whole."""
    from unibrivl.ingest.sources import _names_by_start

    mine = set(_names_by_start(clip(media_id, start_ms=start_ms, end_ms=start_ms + length_ms)))
    theirs = set(_names_by_start(clip(media_id, start_ms=other_start_ms, end_ms=other_start_ms + length_ms)))
    if start_ms >= 1000 and other_start_ms >= 1000 and start_ms != other_start_ms and length_ms >= 1000:
        assert not mine & theirs
    assert all(name.startswith((f"{media_id}_", f"gen_{media_id}_")) for name in mine)


def test_media_lie_in_folders_below(tmp_path: Path) -> None:
    touch(tmp_path, "train/00/a.mp4", "train/01/b.mp4", "b/a.mp4", "deep/er/and/deeper/c.mkv", "d.mp4/e.mp4")
    media = folder(tmp_path)
    assert media.find(clip("a")).path == tmp_path / "b" / "a.mp4"
    assert media.find(clip("b")).path == tmp_path / "train" / "01" / "b.mp4"
    assert media.find(clip("c")).path == tmp_path / "deep" / "er" / "and" / "deeper" / "c.mkv"
    assert media.find(clip("e")).path == tmp_path / "d.mp4" / "e.mp4"
    assert find_code(tmp_path, clip("d")) == "local.missing_file"


def test_linked_folders_are_not_entered(tmp_path: Path) -> None:
    """One that leads to its own parent would never end; one that leads out would bring strange media."""
    media = tmp_path / "media"
    touch(tmp_path, "media/a.mp4", "other/b.mp4")
    (media / "loop").symlink_to(media)
    (media / "out").symlink_to(tmp_path / "other")
    (media / "c.mp4").symlink_to(tmp_path / "other")
    assert folder(media).find(clip("a")).path == media / "a.mp4"
    assert find_code(media, clip("b")) == "local.missing_file"
    assert find_code(media, clip("c")) == "local.missing_file"


def test_a_folder_that_cannot_be_read_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as `lost+found` on a disk of media; the tests may run as root, who is never refused."""
    touch(tmp_path, "a.mp4", "closed/b.mp4")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    media = folder(tmp_path)
    assert media.find(clip("a")).path == tmp_path / "a.mp4"
    with pytest.raises(ClipError, match="1 folders could not be read, such as closed/"):
        media.find(clip("b"))


def test_a_medium_is_found_by_its_path(tmp_path: Path) -> None:
    touch(tmp_path, "sub/ä b.mp4", "sub/c", "a.mp4")
    media = folder(tmp_path)
    assert media.find(clip(source="sub/ä b.mp4", start_ms=5)) == Medium(tmp_path / "sub" / "ä b.mp4")
    assert media.find(clip(source="sub/c")) == Medium(tmp_path / "sub" / "c")


@pytest.mark.parametrize(
    "source", ["", "b.mp4", "sub", ".", "sub/b.mp4", "a.mp4/b.mp4", "b\0.mp4", "x" * 300, "x/" * 3000]
)
def test_a_missing_medium_is_the_fault_of_one_clip(tmp_path: Path, source: str) -> None:
    touch(tmp_path, "a.mp4", "sub/c.mp4")
    with pytest.raises(ClipError, match="no such media file") as caught:
        folder(tmp_path).find(clip("gone", source))
    assert caught.value.code == "local.missing_file"


def test_the_message_names_the_file_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"^gone\.mp4: no such media file$"):
        folder(tmp_path).find(clip("gone"))


def test_what_is_no_file_is_no_medium(tmp_path: Path) -> None:
    """A FIFO would keep its reader waiting for ever, so it is not opened."""
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.mp4").symlink_to("/dev/zero")
    for wanted in (clip("a"), clip(source="a.mp4"), clip("c")):
        assert find_code(tmp_path, wanted) == "local.unreadable"
    for wanted in (clip("b"), clip(source="b.mp4")):
        assert find_code(tmp_path, wanted) == "local.missing_file"


def test_a_path_of_a_list_stays_in_the_folder(tmp_path: Path) -> None:
    media = tmp_path / "media"
    touch(tmp_path, "secret.mp4", "media/inside.mp4")
    (media / "good.mp4").symlink_to(media / "inside.mp4")
    (media / "bad.mp4").symlink_to(tmp_path / "secret.mp4")
    (media / "up").symlink_to(tmp_path)
    assert folder(media).find(clip(source="good.mp4")).path == media / "good.mp4"
    for source in ("bad.mp4", "up/secret.mp4", "../secret.mp4", str(tmp_path / "secret.mp4")):
        with pytest.raises(ClipError, match="leads out of the media folder") as caught:
            folder(media).find(clip(source=source))
        assert caught.value.code == "local.outside"


def test_the_media_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for wanted in (clip(source="a.mp4"), clip("a")):
        assert folder(tmp_path / "link").find(wanted).path == tmp_path / "link" / "a.mp4"


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match=f"{name}: not a readable folder of media .*; name one with --media-dir"):
        make_source(FolderConfig(root=tmp_path / name))


def test_a_list_of_paths_does_not_list_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing two million files takes seconds, in every worker."""
    touch(tmp_path, "a.mp4")
    media = folder(tmp_path)
    monkeypatch.setattr(os, "scandir", None)
    assert media.find(clip(source="a.mp4")).path == tmp_path / "a.mp4"
    with pytest.raises(TypeError):
        media.find(clip("a"))


def test_open_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    with make_source(FolderConfig(root=tmp_path)).open(clip()) as medium:
        assert medium == Medium(tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("config", [FolderConfig(root=Path("m")), RemoteConfig(prefix="s3://b/{id}"), YouTubeConfig()])
def test_configurations_travel_to_workers(config: object) -> None:
    assert pickle.loads(pickle.dumps(config)) == config


def test_what_a_folder_holds_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="holds is 'audio', want one of media, clips"):
        FolderConfig(root=Path("m"), holds="audio")  # type: ignore[arg-type]


def test_a_folder_loads_no_library_for_addresses(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    code = (
        "import sys; from pathlib import Path; from unibrivl.ingest.sources import *; "
        f"make_source(FolderConfig(root=Path({str(tmp_path)!r}))); "
        "print({'yt_dlp', 'aiohttp', 'fsspec.implementations.http', 's3fs'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
