"""Indexes built on a Ray cluster of real processes on this machine, whose nodes are lost: the bytes of one process."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from unibrivl.bench.speed_index_data import Vectors, make_vectors
from unibrivl.index import assign_cluster
from unibrivl.index.ann import FILE
from unibrivl.index.assign_cluster import Stretch, assign_on, assign_stretch, software
from unibrivl.index.build import CONTENTS, EMBEDDED, IndexConfig, build_index
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.gate import equip
from unibrivl.index.plan import ASSIGN_ROWS, SearchConfig
from unibrivl.index.segment import GIVEN_SCHEMA, draft_segment, seal_segment
from unibrivl.index.snapshot import open_snapshot
from unibrivl.model.embed_set import embed_set
from unibrivl.model.embed_shard import EmbedConfig
from unibrivl.shards.atomic import TEMPORARY_MARK
from unibrivl.shards.cluster import ClusterConfig
from unibrivl.shards.commit import describe_file

from .clusters import NODE, WAIT_S, processes, ray_cluster, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore::FutureWarning:ray")]
ROWS, DIM = 30_000, 32
SEARCH = SearchConfig(recall=0.8, factory="IVF256,PQ16x4fsr")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def made() -> Vectors:
    return make_vectors(ROWS, DIM, seed=6, queries=600)


@pytest.fixture
def one_loading(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    """Load the run once for all indexes of a test."""
    from unibrivl.index import build

    loaded = build.load_encoder(run)
    monkeypatch.setattr(build, "load_encoder", lambda run, image_tower: loaded)


def segment_files(index: Path) -> dict[str, bytes]:
    """Return every file of an index's segments by its place, in which the hash of its content stands."""
    paths = sorted(path for path in (index / "segments").rglob("*") if path.is_file())
    return {str(path.relative_to(index)): path.read_bytes() for path in paths}


def while_both_nodes_are_lost(cluster: Any, process: str, work: Callable[[], Any]) -> Any:
    """Kill both nodes when each runs such a process, and add two others; return what the work returns for all that.

    Ray starts nodes in the main thread only.
    """
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            wait_for(lambda: len(processes(process)) == 2 or done.done(), "work on both nodes")
            killed = processes(process)
            for node in list(cluster.worker_nodes):
                cluster.remove_node(node, allow_graceful=False)
            wait_for(lambda: not set(killed) & set(processes(process)), "the end of those who worked")
            assert len(killed) == 2 and not done.done()
        finally:
            while len(cluster.worker_nodes) < 2:
                cluster.add_node(**NODE)
        return done.result(WAIT_S)


def test_lists_are_those_of_one_process_though_both_nodes_are_lost(
    cluster: Any, made: Vectors, make_rows: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setattr(assign_cluster, "STRETCH_ROWS", ASSIGN_ROWS)
    given = pa.Table.from_pylist(make_rows(ROWS, source=0), schema=GIVEN_SCHEMA)

    def sealed(name: str, config: ClusterConfig | None) -> dict[str, bytes]:
        directory = tmp_path / name / "segments"
        draft = draft_segment(directory, "image", iter([made.base_ND]), given)
        found = equip([draft], {"image": made.far_QD}, SEARCH, assign=assign_on(config))
        assert found["search"]["image"]["factory"] == SEARCH.factory
        seal_segment(draft, directory)
        assert not list(directory.glob(f".*{TEMPORARY_MARK}*"))
        return segment_files(tmp_path / name)

    wanted = sealed("quiet", None)
    config = ClusterConfig(address=cluster.address)
    found = while_both_nodes_are_lost(cluster, "ray::assign_stretch", lambda: sealed("out", config))
    assert len(found) == 3 and found == wanted


def test_an_index_of_a_run_is_that_of_one_process(
    cluster: Any, run: Path, shards: Path, tmp_path: Path, one_loading: None
) -> None:
    quiet = IndexConfig(run=run, shards=shards, out=tmp_path / "quiet")
    wanted = build_index(quiet)
    config = replace(quiet, out=tmp_path / "out", cluster=ClusterConfig(address=cluster.address))

    stopped = config.out / EMBEDDED  # as a command leaves it that is killed after a shard
    embed_set(EmbedConfig(run=run, shards=shards, out=stopped))
    (config.out / "snapshots").mkdir()
    kept = {path: path.stat().st_mtime_ns for path in sorted(stopped.rglob("*.parquet"))[:1]}
    for path in stopped.rglob("*.parquet"):
        if path not in kept:
            path.unlink()
    again = dict[Path, int]()

    def look(done: int, total: int, text: str) -> None:
        again.update({path: path.stat().st_mtime_ns for path in kept if path.exists()})

    result = while_both_nodes_are_lost(cluster, "ray::Embedder", lambda: build_index(config, look))
    assert again == kept, "what was embedded was embedded again"
    assert result.items == wanted.items == dict.fromkeys(CONTENTS, 24)
    assert segment_files(config.out) == segment_files(quiet.out)
    assert open_snapshot(config.out).manifest["segments"] == open_snapshot(quiet.out).manifest["segments"]
    assert not (config.out / EMBEDDED).exists()
    assert not build_index(replace(config, cluster=ClusterConfig(address="127.0.0.1:9"))).built


def test_an_approximate_index_of_given_embeddings_is_that_of_one_process(
    cluster: Any, run: Path, shards: Path, tmp_path: Path, one_loading: None
) -> None:
    embed_set(EmbedConfig(run=run, shards=shards, out=tmp_path / "embedded"))
    search = SearchConfig(recall=0.5, factory="IVF2,SQ8")
    quiet = IndexConfig(run=run, shards=shards, out=tmp_path / "quiet", search=search)
    config = replace(
        quiet, out=tmp_path / "out", embeddings=tmp_path / "embedded", cluster=ClusterConfig(address=cluster.address)
    )
    build_index(quiet)
    build_index(config)
    assert segment_files(config.out) == segment_files(quiet.out)
    assert sum(Path(name).name == FILE for name in segment_files(config.out)) == len(CONTENTS)


def test_a_cluster_that_cannot_be_used_is_one_line_and_leaves_the_old_index(
    cluster: Any, run: Path, shards: Path, made: Vectors, tmp_path: Path, one_loading: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = IndexConfig(run=run, shards=shards, out=tmp_path / "index", cluster=ClusterConfig(address="127.0.0.1:9"))
    with pytest.raises(IndexStoreError, match=r"^no Ray cluster at 127\.0\.0\.1:9 \(.*"):
        build_index(config)
    assert not segment_files(config.out)
    np.save(tmp_path / "vectors.npy", made.base_ND.astype(np.float16))
    vectors_ND = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    quantizer = faiss.IndexFlatIP(DIM)
    quantizer.add(made.base_ND[:16])
    monkeypatch.setattr(assign_cluster, "software", lambda: software() | {"faiss": "1.0"})
    with pytest.raises(IndexStoreError, match=r"has the versions .*'faiss': '1\.15.*the command was given with .*1\.0"):
        assign_on(ClusterConfig(address=cluster.address))(quantizer, vectors_ND)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["vectors.npy"]
    assert not list(tmp_path.glob(f".*{TEMPORARY_MARK}*")) and not list(tmp_path.parent.glob(f".*{TEMPORARY_MARK}*"))


def test_another_file_than_the_commands_is_told(made: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "quantizer"
    quantizer = faiss.IndexFlatIP(DIM)
    quantizer.add(made.base_ND[:16])
    faiss.write_index(quantizer, str(path))
    sha256 = describe_file(path)["sha256"]
    stretch = Stretch(
        vectors=tmp_path / "vectors.npy", quantizer=path, quantizer_sha256=sha256, out=tmp_path / "0.npy", first=0,
        count=100,
    )  # fmt: skip
    with pytest.raises(IndexStoreError, match=r"does not see .*vectors\.npy; every machine"):
        assign_stretch(stretch, software())
    np.save(stretch.vectors, made.base_ND.astype(np.float16))
    with pytest.raises(IndexStoreError, match=r"sees another .*quantizer than the command's own machine"):
        assign_stretch(replace(stretch, quantizer_sha256="0" * 64), software())
    about = assign_stretch(stretch, software())
    wanted = quantizer.assign(made.base_ND[:100].astype(np.float16).astype(np.float32), 1)[:, 0]
    assert np.array_equal(np.load(stretch.out), wanted)
    stretch.out.write_bytes(stretch.out.read_bytes()[:-1])
    with pytest.raises(IndexStoreError, match="is not what a machine of the cluster wrote"):
        assign_cluster._read(stretch, about, 16)
