"""Checks the samples' folders on a Debian package and a source package made in code."""

import csv
import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unibrivl.ingest import film, stamps
from unibrivl.ingest.corpora import SampleConfig, clip_id, connected_groups, held_out_groups
from unibrivl.ingest.errors import SampleError
from unibrivl.ingest.mux import write_video
from unibrivl.ingest.packages import PackageFile
from unibrivl.ingest.samples import SampleResult, write_sample
from unibrivl.shards.atomic import hold_directory

SVG = '<svg xmlns="http://www.w3.org/2000/svg" {}><rect width="20" height="10" fill="red"/></svg>'


def png(seed: int, size: tuple[int, int] = (40, 30), alpha: int = 255) -> bytes:
    color = tuple(np.random.default_rng(seed).integers(0, 200, 3).tolist())
    file = io.BytesIO()
    Image.new("RGBA", size, (*color, alpha)).save(file, "PNG")
    return file.getvalue()


def ogg(seed: int, duration_s: float = 0.6, gain: float = 0.3) -> bytes:
    sound = gain * np.random.default_rng(seed).standard_normal(int(duration_s * 8000))
    file = io.BytesIO()
    soundfile.write(file, sound.clip(-1, 1), 8000, format="OGG", subtype="VORBIS")
    return file.getvalue()


def stamp_files() -> dict[str, bytes]:
    """Return a small set of stamps: five that make clips in French or by sound, the rest with a fault each."""
    dog, apple = ogg(1), ogg(2)
    return {
        "animals/dogs/dog.png": png(1),
        "animals/dogs/dog.txt": b"A dog.\nes.utf8=Un perro.\nfr.utf8=Un chien.\n",
        "animals/dogs/dog.ogg": ogg(3),
        "animals/dogs/dog_desc.ogg": ogg(4),
        "animals/dogs/dog_desc_fr.ogg": dog,
        "animals/dogs/dog_desc_fr.ogg.ogg": ogg(5),
        "animals/dogs/puppy.png": png(2),
        "animals/dogs/puppy.txt": b"A puppy.\n",
        "animals/dogs/puppy_desc_fr.ogg": dog,
        "animals/dogs/puppy_desc_es.ogg": apple,
        "animals/stray_desc_fr.ogg": ogg(6),
        "food/apple.svg": SVG.format('width="20" height="10"').encode(),
        "food/apple.txt": b"An apple.\nfr.utf8=Une pomme.\n",
        "food/apple_desc_es.ogg": apple,
        "food/apple_desc_fr.ogg": ogg(7),
        "food/pear.png": png(3, alpha=0),
        "food/pear_desc_fr.ogg": ogg(8, duration_s=11.0),
        "faults/odd.svg": SVG.format('width="0" height="0"').encode(),
        "faults/odd_desc_fr.ogg": ogg(9),
        "faults/silent.png": png(4),
        "faults/silent_desc_fr.ogg": ogg(0, gain=0.0),
        "faults/short.png": png(5),
        "faults/short.ogg": ogg(10, duration_s=0.1),
        "faults/broken.png": png(6),
        "faults/broken.ogg": b"no recording",
    }


FAULTS = {stamps.UNDRAWABLE: 1, stamps.SILENT: 1, stamps.SHORT: 1, stamps.UNREADABLE: 1}


@pytest.fixture(scope="module")
def debian_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a Debian package of the small stamps."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is missing")
    root = tmp_path_factory.mktemp("deb")
    files = {f"usr/share/tuxpaint/stamps/{path}": content for path, content in stamp_files().items()}
    files |= {"usr/share/doc/tuxpaint/other.png": b"not a stamp"}
    files |= {"DEBIAN/control": b"Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"}
    for path, content in files.items():
        (root / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "tree" / path).write_bytes(content)
    (root / "cache").mkdir()
    target = root / "cache" / stamps.PACKAGE.file
    subprocess.run(["dpkg-deb", "--build", "-Znone", root / "tree", target], check=True, capture_output=True)
    return target


Write = Callable[..., SampleResult]


def pinned(package: PackageFile, path: Path) -> PackageFile:
    return replace(package, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def write_stamps(debian_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes the small stamps to a folder of the test's."""
    monkeypatch.setattr(stamps, "PACKAGE", pinned(stamps.PACKAGE, debian_package))

    def write(folder: str = "out", **options: object) -> SampleResult:
        config = SampleConfig(name="stamps", out=tmp_path / folder, cache=debian_package.parent, **options)
        return write_sample(config)

    return write


def rows(result: SampleResult) -> list[dict[str, str]]:
    with result.general_csv.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_stamps_become_clips(write_stamps: Write) -> None:
    result = write_stamps()
    listed = {(row["caption"], row["language"]): row for row in rows(result)}
    assert set(listed) == {
        ("A dog", ""),
        ("Un chien", "fr"),
        ("A puppy", "fr"),
        ("Une pomme", "fr"),
        ("", "fr"),
    }
    assert (result.num_clips, result.left_out) == (5, FAULTS)
    assert result.num_held_out == sum(row["split"] == "test" for row in listed.values())
    assert listed["Un chien", "fr"]["labels"] == "animals;dogs"
    for row in listed.values():
        assert re.fullmatch(r"[\w-]{11}", row["id"])
        assert row["path"] == f"{row['id']}.mp4" and row["license"] == "GPL-2.0-or-later"
        long = row["caption"] == ""  # the pear has no names, and its recording is cut
        assert float(row["end"]) == (10.0 if long else pytest.approx(0.6, abs=0.03))
    assert sorted(p.name for p in result.media_dir.iterdir()) == sorted(r["path"] for r in listed.values())
    assert "GPL-2.0-or-later" in (result.media_dir.parent / "ATTRIBUTION.txt").read_text()


def test_a_clip_shows_the_picture_and_plays_the_recording(write_stamps: Write) -> None:
    result = write_stamps(sounds=False)
    row = next(r for r in rows(result) if r["caption"] == "Une pomme")
    with av.open(result.media_dir / row["path"]) as container:
        pictures = [f.to_ndarray(format="rgb24").astype(int) for f in container.decode(video=0)]
        container.seek(0)
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    for picture in pictures:
        assert picture.shape == (320, 320, 3)
        assert (picture[:70] > 250).all() and (picture[-70:] > 250).all()  # a square of white
        assert np.abs(picture[100:220, 10:310].mean((0, 1)) - (255, 0, 0)).max() < 10
    end_s = float(row["end"])
    assert len(sound) / 44_100 >= end_s and len(pictures) / 5 >= end_s
    assert np.sqrt(np.square(sound[: int(end_s * 44_100)]).mean()) == pytest.approx(0.3, rel=0.2)


def test_stamps_that_share_anything_share_a_group(write_stamps: Write) -> None:
    groups = {row["caption"]: row["group"] for row in rows(write_stamps())}
    # dog - puppy by a French recording; puppy - apple by a Spanish one, though Spanish is not asked for.
    assert len({groups[c] for c in ("A dog", "Un chien", "A puppy", "Une pomme")}) == 1
    assert groups[""] != groups["A dog"]
    assert all(re.fullmatch("[0-9a-f]{12}", g) for g in groups.values())


def test_the_split_does_not_depend_on_the_languages(write_stamps: Write) -> None:
    few = {r["id"]: r for r in rows(write_stamps("few", languages=("es",), sounds=False, held_out=0.5))}
    many = {r["id"]: r for r in rows(write_stamps("many", languages=("es", "fr", "en"), held_out=0.5))}
    assert few.keys() < many.keys()
    assert all(many[key] == row for key, row in few.items())
    assert {r["language"] for r in many.values()} == {"", "en", "es", "fr"}


def test_audioset_list_has_audiosets_shape(write_stamps: Write) -> None:
    result = write_stamps()
    head, lines = (lines := result.clips_csv.read_text().splitlines())[:3], lines[3:]
    assert head == [
        "# Segments csv created by unibrivl sample stamps",
        "# num_ytids=5, num_segs=5, num_unique_labels=3, num_positive_labels=8",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    assert all(re.fullmatch(r'[\w-]{11}, \d+\.\d{3}, \d+\.\d{3}, "[a-z]+(,[a-z]+)*"', line) for line in lines)
    general = [(r["id"], float(r["end"]), r["labels"].split(";")) for r in rows(result)]
    fields = [re.split(r", ", line) for line in lines]
    assert [(f[0], float(f[2]), f[3].strip('"').split(",")) for f in fields] == general


def test_processes_and_order_do_not_change_a_byte(write_stamps: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    one = write_stamps("one", languages=("en", "es"))
    monkeypatch.setattr(stamps, "CHUNK_PICTURES", 2)
    two = write_stamps("two", languages=("es", "en"))
    assert contents(one.media_dir.parent) == contents(two.media_dir.parent)


def test_a_second_run_changes_nothing(write_stamps: Write) -> None:
    first = write_stamps(languages=("es",), sounds=False)
    times = {p: p.stat().st_mtime_ns for p in first.media_dir.parent.rglob("*")}
    second = write_stamps(languages=("es",), sounds=False)
    assert {p: p.stat().st_mtime_ns for p in first.media_dir.parent.rglob("*")} == times
    assert second == replace(first, was_finished=True) and not first.was_finished


def test_a_missing_file_is_made_again(write_stamps: Write) -> None:
    result = write_stamps(languages=("es",), sounds=False)
    before = contents(result.media_dir.parent)
    next(result.media_dir.iterdir()).unlink()
    assert not write_stamps(languages=("es",), sounds=False).was_finished
    assert contents(result.media_dir.parent) == before


KILLED = """
    import multiprocessing, os, signal, sys
    from dataclasses import replace
    from pathlib import Path
    from unibrivl.ingest import stamps
    from unibrivl.ingest.corpora import SampleConfig
    from unibrivl.ingest.samples import write_sample

    def kill(done, total, what):
        if done:
            print(*[p.pid for p in multiprocessing.active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        deb, digest, out = sys.argv[1:]
        stamps.PACKAGE = replace(stamps.PACKAGE, sha256=digest)
        stamps.CHUNK_PICTURES = 2
        write_sample(SampleConfig(name="stamps", out=Path(out), cache=Path(deb).parent), kill)
"""


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_killed_run_leaves_no_workers_and_can_be_finished(
    write_stamps: Write, debian_package: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    digest = hashlib.sha256(debian_package.read_bytes()).hexdigest()
    command = [sys.executable, str(script), str(debian_package), digest, str(tmp_path / "killed")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    workers = [int(pid) for pid in done.stdout.split()]
    assert workers
    deadline = time.monotonic() + 10
    while not all(map(has_ended, workers)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    (tmp_path / "killed" / "media" / ".x.mp4.tmp-1-00").write_bytes(b"half")
    assert json.loads((tmp_path / "killed" / "sample.json").read_text())["counts"] is None
    with pytest.raises(SampleError, match="holds another sample"):
        write_stamps("killed", seed=1)
    assert not write_stamps("killed").was_finished
    write_stamps("clean")
    assert contents(tmp_path / "killed") == contents(tmp_path / "clean")


def test_another_sample_is_not_mixed_in(write_stamps: Write) -> None:
    write_stamps(languages=("es",), sounds=False)
    with pytest.raises(SampleError, match=r"languages \['es'\], not \['fr'\].*choose another folder"):
        write_stamps(languages=("fr",), sounds=False)


def test_other_files_are_not_touched(write_stamps: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(SampleError, match="holds other files"):
        write_stamps()
    (tmp_path / "file").write_text("")
    with pytest.raises(SampleError, match=r"file: File exists"):
        write_stamps("file")
    assert contents(tmp_path) == {"out/thesis.txt": b"years of work", "file": b""}


def test_a_spoiled_marker_is_told(write_stamps: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sample.json").write_text("{")
    with pytest.raises(SampleError, match=r"sample\.json cannot be read"):
        write_stamps()


def test_a_folder_in_use_is_told(write_stamps: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with hold_directory(tmp_path / "out", wait=False), pytest.raises(SampleError, match="another process"):
        write_stamps()


def test_an_unknown_language_lists_those_there_are(write_stamps: Write) -> None:
    with pytest.raises(SampleError, match=r"no recordings in 'xx'; the package has: fr 6, es 2, en 1"):
        write_stamps(languages=("fr", "xx"))


def test_a_sample_of_nothing_is_told(write_stamps: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamps, "MIN_S", 60.0)
    with pytest.raises(SampleError, match=r"no clip came of it; left out: recording shorter"):
        write_stamps(languages=("en",), sounds=False)


def test_a_missing_dpkg_is_told(write_stamps: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SampleError, match=r"dpkg-deb is missing.*unibrivl sample film"):
        write_stamps()


def test_a_package_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"not a package")
    with pytest.raises(SampleError, match=r"a\.deb cannot be read as a Debian package"):
        stamps.read_package(tmp_path / "a.deb", {"fr"})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "birds"}, "unknown sample 'birds'"),
        ({"held_out": 1.0}, r"`held_out` is 1\.0"),
        ({"languages": (), "sounds": False}, "would be empty"),
    ],
)
def test_a_wrong_config_is_told(tmp_path: Path, options: dict[str, object], match: str) -> None:
    with pytest.raises(SampleError, match=match):
        SampleConfig(**{"name": "stamps", "out": tmp_path, "cache": tmp_path, **options})


@pytest.fixture
def source_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a source package with a film of 21 s in it, and pin both."""
    write_video(
        tmp_path / "film.mp4",
        frames=[np.full((32, 32, 3), i, np.uint8) for i in range(21)],
        audio=np.zeros(21 * 8000, np.float32),
        fps=1,
        sample_rate=8000,
        keyframe_every=1,
    )
    content = (tmp_path / "film.mp4").read_bytes()
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr(film.MEMBER, content)
    (tmp_path / "cache").mkdir()
    path = tmp_path / "cache" / film.PACKAGE.file
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(film.ARCHIVE)
        member.size = len(inner.getvalue())
        archive.addfile(member, io.BytesIO(inner.getvalue()))
    monkeypatch.setattr(film, "PACKAGE", pinned(film.PACKAGE, path))
    monkeypatch.setattr(film, "FILM_SHA256", hashlib.sha256(content).hexdigest())
    return path


def test_the_film_has_windows_and_queries_between_them(source_package: Path, tmp_path: Path) -> None:
    config = SampleConfig(name="film", out=tmp_path / "out", cache=source_package.parent)
    result = write_sample(config)
    listed = [(float(r["start"]), float(r["end"]), r["split"], r["caption"]) for r in rows(result)]
    assert listed == [
        (0.0, 10.0, "train", "Big Buck Bunny 0:00-0:10"),
        (2.5, 12.5, "test", "Big Buck Bunny 0:02.5-0:12.5"),
        (5.0, 15.0, "train", "Big Buck Bunny 0:05-0:15"),
        (7.5, 17.5, "test", "Big Buck Bunny 0:07.5-0:17.5"),
        (10.0, 20.0, "train", "Big Buck Bunny 0:10-0:20"),
    ]
    assert (result.num_clips, result.num_groups, result.num_held_out, result.left_out) == (5, 1, 2, {})
    (path,) = result.media_dir.iterdir()
    assert path.read_bytes() == (tmp_path / "film.mp4").read_bytes()
    assert {r["path"] for r in rows(result)} == {path.name}
    # What only the stamps have does not make it another film.
    assert write_sample(replace(config, seed=7, languages=("es",))).was_finished


def test_captions_past_a_minute() -> None:
    captions = [clip.caption for clip in film.windows("x", 596.5)]
    assert captions[-1] == "Big Buck Bunny 9:45-9:55" and "Big Buck Bunny 0:52.5-1:02.5" in captions


def test_another_film_is_refused(source_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "FILM_SHA256", "0" * 64)
    with pytest.raises(SampleError, match="the film in it has SHA-256"):
        film.read_film(source_package)
    monkeypatch.setattr(film, "ARCHIVE", "elsewhere.zip")
    with pytest.raises(SampleError, match="not where it was expected"):
        film.read_film(source_package)


edges_of_stamps = st.lists(
    st.tuples(st.integers(0, 15).map("p{}".format), st.integers(0, 15).map("r{}".format)), max_size=25
)


@given(edges_of_stamps, st.randoms())
def test_a_group_is_what_is_connected(edges: list[tuple[str, str]], order: Random) -> None:
    groups = connected_groups(edges)
    shuffled = sorted(edges, key=lambda _: order.random())
    assert connected_groups(shuffled) == groups
    for start in groups:
        reached = {start}
        for _ in edges:
            reached |= {node for edge in edges if reached & set(edge) for node in edge}
        assert {node for node in groups if groups[node] == groups[start]} == reached


@given(edges_of_stamps, st.integers(0, 9), st.floats(0, 1, exclude_max=True))
def test_held_out_pictures_and_recordings_are_unseen(edges: list[tuple[str, str]], seed: int, share: float) -> None:
    groups = connected_groups(edges)
    held_out = held_out_groups(groups.values(), seed, share)
    sides = [{n for e in edges for n in e if (groups[e[0]] in held_out) is side} for side in (True, False)]
    assert not sides[0] & sides[1]
    assert len(held_out) == round(share * len(set(groups.values())))


def test_the_seed_draws_the_groups() -> None:
    groups = [f"{i:012x}" for i in range(100)]
    draws = [frozenset(held_out_groups(groups, seed, 0.2)) for seed in range(5)]
    assert len(set(draws)) == 5 and all(len(draw) == 20 for draw in draws)
    assert held_out_groups(reversed(groups), 0, 0.2) == draws[0]


def test_ids_look_like_audiosets() -> None:
    ids = {clip_id(str(i).encode()) for i in range(2000)}
    assert len(ids) == 2000 and all(re.fullmatch(r"[\w-]{11}", key) for key in ids)
    assert any(key.startswith("-") for key in ids)


def test_the_pins_are_whole() -> None:
    for digest in (stamps.PACKAGE.sha256, film.PACKAGE.sha256, film.FILM_SHA256):
        assert re.fullmatch("[0-9a-f]{64}", digest)
