"""Checks how the medium of a clip is found in a folder."""

import os
from pathlib import Path

import pytest

from unibrivl.ingest import Clip, ClipError, PlanError
from unibrivl.ingest.sources import MEDIA_SUFFIXES, MediaFolder


def clip(media_id: str = "a", source: str = "") -> Clip:
    return Clip(corpus="gen", media_id=media_id, source=source, start_ms=0, end_ms=1000)


@pytest.mark.parametrize("suffix", [*MEDIA_SUFFIXES, ".MP4", ".Mkv"])
@pytest.mark.parametrize("media_id", ["--PJHxphWEs", "_a_b"])
def test_a_medium_is_found_by_its_id(tmp_path: Path, media_id: str, suffix: str) -> None:
    path = tmp_path / f"{media_id}{suffix}"
    path.touch()
    (tmp_path / f"{media_id}.txt").touch()
    (tmp_path / f"{media_id}.info.json").touch()
    assert MediaFolder(tmp_path).find(clip(media_id)) == path


def test_of_two_files_of_one_id_it_is_always_the_same(tmp_path: Path) -> None:
    for suffix in (".webm", ".mp4", ".mkv"):
        (tmp_path / f"a{suffix}").touch()
    assert MediaFolder(tmp_path).find(clip()) == tmp_path / "a.mkv"


def test_a_medium_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/ä b.mp4", "sub/c", "a.mp4"):
        (tmp_path / name).touch()
    media = MediaFolder(tmp_path)
    assert media.find(clip(source="sub/ä b.mp4")) == tmp_path / "sub" / "ä b.mp4"
    assert media.find(clip(source="sub/c")) == tmp_path / "sub" / "c"


@pytest.mark.parametrize(
    "source", ["", "b.mp4", "sub", ".", "sub/b.mp4", "a.mp4/b.mp4", "b\0.mp4", "x" * 300, "x/" * 3000]
)
def test_a_missing_medium_is_the_fault_of_one_clip(tmp_path: Path, source: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ClipError, match="no such media file") as caught:
        MediaFolder(tmp_path).find(clip("gone", source))
    assert caught.value.code == "local.missing_file"


def test_the_message_names_the_file_that_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=f"^{tmp_path}/gone.mp4: no such media file$"):
        MediaFolder(tmp_path).find(clip("gone"))


def test_what_is_no_file_is_no_medium(tmp_path: Path) -> None:
    """A FIFO would keep its reader waiting for ever."""
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "nowhere")
    for media_id in ("a", "b"):
        with pytest.raises(ClipError, match="no such media file"):
            MediaFolder(tmp_path).find(clip(media_id))


def test_a_path_through_a_link_stays_in_the_folder(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (tmp_path / "secret.mp4").touch()
    (media / "inside.mp4").touch()
    (media / "good.mp4").symlink_to(media / "inside.mp4")
    (media / "bad.mp4").symlink_to(tmp_path / "secret.mp4")
    (media / "up").symlink_to(tmp_path)
    assert MediaFolder(media).find(clip(source="good.mp4")) == media / "good.mp4"
    for source in ("bad.mp4", "up/secret.mp4"):
        with pytest.raises(ClipError, match="leads out of the media folder") as caught:
            MediaFolder(media).find(clip(source=source))
        assert caught.value.code == "local.outside"


def test_the_media_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.mp4").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert MediaFolder(tmp_path / "link").find(clip(source="a.mp4")) == tmp_path / "link" / "a.mp4"


@pytest.mark.parametrize("name", ["none", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match=f"{name}: not a readable folder of media .*; name one with --media-dir"):
        MediaFolder(tmp_path / name)
