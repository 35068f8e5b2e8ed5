"""`bench speed ingest` on a handful of clips for real: no figure is judged here, only that they are what they say."""

import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import pytest
import soundfile

from unibrivl.bench import speed_floor, speed_ingest
from unibrivl.bench.errors import BenchError
from unibrivl.bench.speed_ingest import COLUMNS, FULL, MEANING, IngestSpeedConfig, Turn, measure_ingest, rows
from unibrivl.bench.speed_media import Medium, bit_rate, make_clips, make_long

FFMPEG = Path(imageio_ffmpeg.get_ffmpeg_exe())
RATIOS = {"ffmpeg_two_outputs", "ffmpeg_two_outputs_early_stop", "ffmpeg_keyframes"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Medium]:
    """Return two clips as the bench makes them."""
    return make_clips(tmp_path_factory.mktemp("media"), count=2, seed=3, ffmpeg=FFMPEG, workers=2)


@pytest.mark.slow
def test_the_media_are_what_the_figures_are_said_of(clips: list[Medium], tmp_path: Path) -> None:
    contents = set()
    for clip in clips:
        contents.add(clip.path.read_bytes())
        with av.open(str(clip.path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, video.width, video.height, video.average_rate) == ("h264", 1280, 720, 30)
            assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 44_100, 2)
            assert container.duration is not None and abs(container.duration / 1e6 - 10) < 0.05
            assert video.time_base is not None
            packets = [packet for packet in container.demux(video) if packet.pts is not None]
            keys = [packet.pts * video.time_base for packet in packets if packet.is_keyframe]
            assert keys == [0, 5] and len(packets) == 300
            assert any(a.pts > b.pts for a, b in pairwise(packets))  # B-frames come out of order
    assert len(contents) == 2
    assert 1200 < bit_rate(clips) < 2600
    long = make_long(clips, tmp_path / "long.mp4", count=3, ffmpeg=FFMPEG)
    assert [clip.start_s for clip in long] == [0, 10, 20]
    with av.open(str(long[0].path)) as container:
        assert container.duration is not None and abs(container.duration / 1e6 - 30) < 0.2


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    work = tmp_path_factory.mktemp("work")
    config = IngestSpeedConfig(quick=True, work=work, seed=5, media=1, repeats=1, shard_clips=8, shards=6)
    steps: list[tuple[int, int, str]] = []
    for _ in range(4):  # so few clips may cost less than the start of a process differs on a busy machine
        steps.clear()
        with suppress(BenchError):
            result = measure_ingest(config, lambda *step: steps.append(step))
            break
    else:
        result = measure_ingest(config)
    assert [done for done, _, _ in steps] == list(range(steps[-1][1] + 1))
    yield result, work


@pytest.mark.slow
def test_every_figure_is_there_and_agrees_with_the_others(measured: tuple[dict[str, Any], Path]) -> None:
    result, work = measured
    assert json.loads(json.dumps(result)) == result
    assert list(work.iterdir()) == []
    per_core = result["clips_per_s_per_core"]
    assert list(per_core) == list(MEANING) and result["errors"] == {}
    assert all(rate > 0 for rate in per_core.values())
    ours = per_core["unibrivl"]
    for name in RATIOS:
        assert result[f"ratio_vs_{name}"] == pytest.approx(ours / per_core[name], rel=1e-3)
    assert result["ratio_to_floor"] == pytest.approx(per_core["floor"] / ours, rel=1e-3)
    if result["scaling_2_workers"] is not None:
        wall = result["clips_per_s_wall"]
        assert result["scaling_2_workers"] == pytest.approx(wall["unibrivl_2_workers"] / wall["unibrivl"], rel=1e-3)
        assert result["scaling_2_floors"] == pytest.approx(wall["floor_2_processes"] / wall["floor"], rel=1e-3)
    parts = result["floor_ms"]
    assert set(parts) == set(speed_floor.PARTS) and all(ms > 0 for ms in parts.values())
    assert sum(parts.values()) == pytest.approx(1000 / per_core["floor"], rel=0.1)
    for name, spread in result["spread"].items():
        assert spread["min"] <= spread["median"] == per_core[name] <= spread["max"]
    assert result["memory"]["clips"] == 112 and result["memory"]["max_rss_mb"] > 20
    assert result["rss_growth_mb"] is None or result["rss_growth_mb"] < result["memory"]["max_rss_mb"]
    assert result["long_files"] is None
    assert result["config"]["shard_clips"] == 8 and result["seed"] == 5
    assert result["versions"]["av"] == av.__version__ and "cores" in result["environment"]
    assert str(work) not in json.dumps(result)


@pytest.mark.slow
def test_the_table_has_a_row_a_contender(measured: tuple[dict[str, Any], Path]) -> None:
    result = dict(measured[0])
    result["clips_per_s_per_core"] = result["clips_per_s_per_core"] | {"ffmpeg_keyframes": None}
    result["errors"] = {"ffmpeg_keyframes": "ffmpeg: exit code 1: no"}
    table = rows(result)
    assert [row[0] for row in table] == list(MEANING)
    assert all(len(row) == len(COLUMNS) for row in table)
    assert table[3][1] == "-" and "exit code 1" in table[3][-1]


def bench(tmp_path: Path, ffmpeg: str) -> Any:
    config = IngestSpeedConfig(quick=True, media=1, repeats=2, shard_clips=1, shards=1)
    made = speed_ingest._Bench(config, tmp_path, lambda *_: None)
    made.ffmpeg = tmp_path / "ffmpeg"
    made.ffmpeg.write_text(f"#!/bin/sh\n{ffmpeg}\n")
    made.ffmpeg.chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo 'no such filter' >&2; exit 3", "ffmpeg: exit code 3: no such filter"), ("exit 0", "left no sound")],
)
def test_a_contender_that_fails_is_an_error_line_and_the_others_go_on(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench(tmp_path, script)
    for name in ("ours", "floor"):
        monkeypatch.setattr(made, name, lambda clips: Turn(1, 0.1, 0.1))
    turns = made.take_turns([Medium(tmp_path / "a.mp4")], made.runs())
    assert set(made.errors) == RATIOS and all(reason in error for error in made.errors.values())
    assert [len(found) for found in turns.values()] == [2, 0, 0, 0, 2]
    per_core = speed_ingest._per_core(turns)
    ratios = speed_ingest._ratios(per_core)
    assert ratios == dict.fromkeys((f"ratio_vs_{name}" for name in RATIOS), None) | {"ratio_to_floor": 1.0}


def test_our_own_failure_ends_the_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The media are no videos: ingestion refuses them, and that is no figure."""

    def nothing(folder: Path, **_: object) -> list[Medium]:
        folder.mkdir()
        (folder / "clip-00.mp4").write_bytes(b"no video at all")
        return [Medium(folder / "clip-00.mp4")]

    monkeypatch.setattr(speed_ingest, "make_clips", nothing)
    config = IngestSpeedConfig(quick=True, work=tmp_path, media=1, repeats=1, shard_clips=1, shards=1)
    with pytest.raises(BenchError, match=r"ingestion or its media failed: .*exit code 1: error: "):
        measure_ingest(config)
    assert list(tmp_path.iterdir()) == []


def test_the_floor_does_all_of_the_clip(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = soundfile.write
    monkeypatch.setattr(
        soundfile, "write", lambda file, data, *a, **k: (written.append(data), real(file, data, *a, **k))
    )
    parts: defaultdict[str, float] = defaultdict(float)
    path = sorted((corpus / "media").iterdir())[0]
    size = speed_floor.work((str(path), 0.0), 1.0, parts)
    assert tuple(parts) == speed_floor.PARTS and min(parts.values()) >= 0
    assert len(written[0]) == 16_000 and written[0].dtype == "int16" and abs(written[0]).max() > 10_000
    buffer = io.BytesIO()
    real(buffer, written[0], 16_000, format="FLAC", subtype="PCM_16")
    assert size == buffer.tell()


def test_the_list_gives_each_clip_another_id_and_real_times(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    speed_ingest._write_list(path, [Medium(Path("a.mp4")), Medium(Path("long.mp4"), 20.0)], 5)
    lines = path.read_text().split()
    assert lines == [
        "id,path,start,end", "a-00000,a.mp4,0.0,10.0", "long-00000,long.mp4,20.0,30.0", "a-00001,a.mp4,0.0,10.0",
        "long-00001,long.mp4,20.0,30.0", "a-00002,a.mp4,0.0,10.0",
    ]  # fmt: skip


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats is 0, want at least 1"):
        IngestSpeedConfig(repeats=0)
    assert IngestSpeedConfig().memory_clips == FULL["memory_clips"] == 5000
    assert IngestSpeedConfig(quick=True, media=7).media == 7
    with pytest.raises(BenchError, match="take more shards"):
        speed_ingest._per_core({"unibrivl": [Turn(4, -0.1, 1.0)]})
