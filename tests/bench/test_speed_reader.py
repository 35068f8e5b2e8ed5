"""`bench speed reader` on a few clips for real: all deliver the same, who is missing or wrong is said by name."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from unibrivl.bench import peers
from unibrivl.bench.errors import BenchError
from unibrivl.bench.speed_clips import make_set
from unibrivl.bench.speed_reader import COLUMNS, CONTENDERS, ReaderSpeedConfig, measure_reader, rows
from unibrivl.shards import ClipShards

TINY = {"quick": True, "samples": 10, "shard_clips": 4, "raw_epochs": 2, "decoded_epochs": 1}


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reader") / "set"
    make_set(root, count=10, shard_clips=4, seed=1, workers=2)
    return root


def test_the_set_is_what_our_reader_and_any_other_take(clip_set: Path) -> None:
    with ClipShards(clip_set) as clips:
        samples = [clips[n] for n in range(len(clips))]
    assert len(clips.catalog.shards) == 3 and len({sample.members["flac"] for sample in samples}) == 10
    for sample in samples:
        assert sample.audio().shape == (160_000,) and sample.frame().shape == (64, 64, 3)
        assert abs(sample.audio()).max() < 0.99  # nothing is clipped
        assert 90_000 < len(sample.members["flac"]) < 150_000
    others = dict(peers.samples_of(clip_set))
    assert others == {sample.key: dict(sample.members) for sample in samples}
    assert len(others) == 10


def test_a_set_is_made_the_same_way_twice(clip_set: Path, tmp_path: Path) -> None:
    make_set(tmp_path / "again", count=10, shard_clips=4, seed=1, workers=1)
    make_set(tmp_path / "other", count=10, shard_clips=4, seed=2, workers=1)
    tars = [[path.read_bytes() for path in peers.tars_of(root)] for root in (clip_set, tmp_path / "again")]
    assert tars[0] == tars[1] != [path.read_bytes() for path in peers.tars_of(tmp_path / "other")]


@pytest.mark.parametrize("name", ["pread", "flac_only"])
def test_a_ceiling_visits_every_sample_in_another_order_each_epoch(name: str, clip_set: Path) -> None:
    epoch = peers.OPEN[name](clip_set, 0)
    field = "span" if name == "pread" else "flac"
    first, again, second = ([members[field] for members in epoch(number)] for number in (0, 0, 1))
    assert first == again != second and sorted(first) == sorted(second)
    if name == "pread":
        tars = [path.read_bytes() for path in peers.tars_of(clip_set)]
        assert sum(map(len, first)) == sum(len(tar) - 1024 for tar in tars)
    assert len(set(first)) == 10


def fake_peers(folder: Path) -> Path:
    """Return a Python that finds a broken litData and a MosaicML streaming that hands out too little."""
    streaming = """
        class MDSWriter:
            def __init__(self, **options): self.out = options["out"]
            def __enter__(self): return self
            def __exit__(self, *rest): __import__("os").makedirs(self.out)
            def write(self, sample): pass
        def StreamingDataset(**options):
            return [{"flac": b"f", "jpg": b"j", "json": b"{"}] * 9
    """
    sources = {
        "litdata/__init__.py": "raise RuntimeError('broken on purpose')",
        "streaming/__init__.py": "\n".join(line[8:] for line in streaming.splitlines()),
        "streaming/base/__init__.py": "",
        "streaming/base/util.py": "def clean_stale_shared_memory(): pass",
        "litdata-9.8.dist-info/METADATA": "Metadata-Version: 2.1\nName: litdata\nVersion: 9.8\n",
        "mosaicml_streaming-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: mosaicml-streaming\nVersion: 9.9\n",
    }
    for name, text in sources.items():
        (folder / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "packages" / name).write_text(text)
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{folder / "packages"}" exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    work = tmp_path_factory.mktemp("work")
    python = fake_peers(tmp_path_factory.mktemp("fake"))
    steps: list[tuple[int, int, str]] = []
    config = ReaderSpeedConfig(**TINY, seed=5, work=work, peers_python=python)
    result = measure_reader(config, lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == list(range(steps[-1][1] + 1))
    return result, work


@pytest.mark.slow
def test_every_figure_is_there_and_agrees_with_the_others(measured: tuple[dict[str, Any], Path]) -> None:
    result, work = measured
    assert json.loads(json.dumps(result)) == result
    assert list(work.iterdir()) == [] and str(work) not in json.dumps(result)
    rates = result["samples_per_s"]
    assert list(rates) == list(CONTENDERS)
    ran = ("unibrivl", "unibrivl_without_verify", "webdataset")
    assert all(rates[name][kind] > 0 for name in ran for kind in ("raw", "decoded"))
    assert rates["pread"]["raw"] > 0 and rates["flac_only"]["decoded"] > 0
    assert rates["pread"]["decoded"] is None and rates["flac_only"]["raw"] is None
    ours, theirs = rates["unibrivl"], rates["webdataset"]
    for key, expected in {
        "ratio_vs_webdataset_raw": ours["raw"] / theirs["raw"],
        "ratio_vs_best_peer_raw": ours["raw"] / theirs["raw"],
        "ratio_vs_webdataset_decoded": ours["decoded"] / theirs["decoded"],
        "ratio_decoded_to_flac_only": ours["decoded"] / rates["flac_only"]["decoded"],
    }.items():
        assert result[key] == pytest.approx(expected, rel=1e-3)
    for name in ran:
        assert result["spread"][name]["raw"]["median"] == rates[name]["raw"]
        assert result["samples_per_cpu_s"][name]["raw"] > 0
    assert result["set"]["samples"] == 10 and 90_000 < result["set"]["mean_sample_bytes"] < 160_000
    assert result["seed"] == 5 and result["versions"]["peers"]["litdata"] == "9.8"


@pytest.mark.slow
def test_a_peer_that_crashes_or_hands_out_other_than_it_should_is_an_error_line(
    measured: tuple[dict[str, Any], Path],
) -> None:
    result = measured[0]
    assert result["samples_per_s"]["litdata"] is None and result["samples_per_s"]["mosaicml_streaming"] is None
    assert result["errors"] == {
        "litdata": "litdata: RuntimeError: broken on purpose",
        "mosaicml_streaming": result["errors"]["mosaicml_streaming"],
    }
    assert "handed out 9 samples of 27 bytes, want 10 of" in result["errors"]["mosaicml_streaming"]
    table = rows(result)
    assert [row[0] for row in table] == list(CONTENDERS) and all(len(row) == len(COLUMNS) for row in table)
    assert table[4][-1] == "litdata: RuntimeError: broken on purpose"


@pytest.mark.slow
def test_a_missing_peer_is_named_with_what_to_do(tmp_path: Path) -> None:
    """Our own environment has webdataset and neither of the others."""
    result = measure_reader(ReaderSpeedConfig(**TINY | {"samples": 4, "raw_epochs": 1}, work=tmp_path))
    for name, package in (("litdata", "litdata"), ("mosaicml_streaming", "mosaicml-streaming")):
        assert result["samples_per_s"][name] is None
        assert result["errors"][name].startswith(f"{package} is not installed; ")
        assert "make peers" in result["errors"][name]
        assert result["versions"]["peers"][name] is None
    assert result["samples_per_s"]["webdataset"]["raw"] > 0


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    for python in (tmp_path / "python", Path("/bin/true")):
        with pytest.raises(BenchError, match=f"{python}: is no Python that runs the peers"):
            measure_reader(ReaderSpeedConfig(**TINY, work=tmp_path, peers_python=python))
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="samples is 0, want at least 1"):
        ReaderSpeedConfig(samples=0)
