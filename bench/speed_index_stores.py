"""Local vector stores as engines of `bench speed index`; run as a file, as `speed_index_engines.py` says.

Each is used as its own documents begin, with the settings of its approximate index that the others have, too.
"""

import json
import sys
from importlib import import_module
from typing import Any

import numpy as np

if __package__:
    from .peers import serve
    from .speed_index_engines import GRAPH_M, NPROBE, Engine, K
else:  # run as a file, by another Python
    from peers import serve
    from speed_index_engines import GRAPH_M, NPROBE, Engine, K

BLOCK_ROWS = 5_000
"""Rows that are handed over at once."""


class Lancedb(Engine):
    """lancedb: a graph a list over scalar codes, refined."""

    package = "lancedb"
    efforts = (1, 2, 4, 8, 16, 32, 64)

    def _build(self, base_ND: np.ndarray) -> None:
        import pyarrow as pa

        lancedb = import_module("lancedb")
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(base_ND.ravel()), base_ND.shape[1])
        table = pa.table({"row": pa.array(np.arange(len(base_ND))), "vector": vectors})
        store = lancedb.connect(str(self.folder)).create_table("rows", table, mode="overwrite")
        store.create_index(
            metric="cosine", vector_column_name="vector", index_type="IVF_HNSW_SQ", num_partitions=16, m=GRAPH_M,
            ef_construction=self.job["graph_build"],
        )  # fmt: skip

    def _open(self) -> None:
        lancedb = import_module("lancedb")
        self.table = lancedb.connect(str(self.folder)).open_table("rows")

    def _one(self, query_D: np.ndarray, effort: int, where: str | None = None) -> np.ndarray:
        asked = self.table.search(query_D).distance_type("cosine").nprobes(effort).ef(4 * K).refine_factor(4)
        asked = asked if where is None else asked.where(where, prefilter=True)
        rows = asked.select(["row", "_distance"]).limit(K).to_arrow()["row"].to_numpy()
        return np.pad(rows, (0, K - len(rows)), constant_values=-1)

    def _search(self, queries_QD: np.ndarray, effort: int) -> np.ndarray:
        return np.stack([self._one(query, effort) for query in queries_QD])

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        listed = ", ".join(map(str, np.flatnonzero(allowed_N)))
        return np.stack([self._one(query, effort, f"row IN ({listed})") for query in queries_QD])


class MilvusLite(Engine):
    """milvus-lite through pymilvus: inverted lists over the vectors as they are."""

    package = "milvus-lite"
    efforts = NPROBE

    def _client(self) -> Any:

        self.folder.mkdir(exist_ok=True)
        return import_module("pymilvus").MilvusClient(str(self.folder / "milvus.db"))

    def _build(self, base_ND: np.ndarray) -> None:
        client = self._client()
        if client.has_collection("rows"):
            client.drop_collection("rows")
        params = client.prepare_index_params()
        lists = min(1024, int(4 * len(base_ND) ** 0.5))
        told = {"params": json.dumps({"nlist": lists})}  # pymilvus 3 flattens others, and Lite takes 128 lists then
        params.add_index("vector", index_type="IVF_FLAT", metric_type="IP", params=told)
        client.create_collection("rows", dimension=base_ND.shape[1], metric_type="IP", index_params=params)
        for start in range(0, len(base_ND), BLOCK_ROWS):
            block = base_ND[start : start + BLOCK_ROWS]
            client.insert("rows", [{"id": start + n, "vector": vector.tolist()} for n, vector in enumerate(block)])
        client.close()

    def _open(self) -> None:
        self.client = self._client()
        self.client.load_collection("rows")

    def _search(self, queries_QD: np.ndarray, effort: int, where: str = "") -> np.ndarray:
        found = self.client.search(
            "rows", [query.tolist() for query in queries_QD], filter=where, limit=K,
            search_params={"metric_type": "IP", "params": {"nprobe": effort}},
        )  # fmt: skip
        return _rows_of([[hit["id"] for hit in hits] for hits in found])

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        return self._search(queries_QD, effort, f"id in {np.flatnonzero(allowed_N).tolist()}")


class QdrantLocal(Engine):
    """qdrant-client without a server: every vector is compared."""

    package = "qdrant-client"

    def _build(self, base_ND: np.ndarray) -> None:
        qdrant, models = import_module("qdrant_client"), import_module("qdrant_client.models")
        client = qdrant.QdrantClient(path=str(self.folder))
        if client.collection_exists("rows"):
            client.delete_collection("rows")
        vectors = models.VectorParams(size=base_ND.shape[1], distance=models.Distance.COSINE)
        client.create_collection("rows", vectors_config=vectors)
        for start in range(0, len(base_ND), BLOCK_ROWS):
            block = base_ND[start : start + BLOCK_ROWS]
            client.upsert(
                "rows",
                [models.PointStruct(id=start + n, vector=v.tolist(), payload={}) for n, v in enumerate(block)],
            )
        client.close()

    def _open(self) -> None:
        self.client = import_module("qdrant_client").QdrantClient(path=str(self.folder))

    def _search(self, queries_QD: np.ndarray, effort: int, allowed: Any = None) -> np.ndarray:
        found = [
            self.client.query_points("rows", query=query.tolist(), limit=K, query_filter=allowed).points
            for query in queries_QD
        ]
        return _rows_of([[hit.id for hit in hits] for hits in found])

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        models = import_module("qdrant_client.models")
        listed = models.HasIdCondition(has_id=np.flatnonzero(allowed_N).tolist())
        return self._search(queries_QD, effort, models.Filter(must=[listed]))


class Chroma(Engine):
    """chromadb on disk: its hnswlib graph."""

    package = "chromadb"
    efforts = (10, 20, 40, 64, 100, 160, 256, 512)

    def _client(self) -> Any:
        chromadb = import_module("chromadb")
        return chromadb.PersistentClient(str(self.folder), chromadb.Settings(anonymized_telemetry=False))

    def _build(self, base_ND: np.ndarray) -> None:
        client = self._client()
        if any(found.name == "rows" for found in client.list_collections()):
            client.delete_collection("rows")
        settings = {
            "space": "ip",
            "max_neighbors": GRAPH_M,
            "ef_construction": self.job["graph_build"],
            "num_threads": 1,
        }
        rows = client.create_collection("rows", configuration={"hnsw": settings}, embedding_function=None)
        for start in range(0, len(base_ND), BLOCK_ROWS):
            block = base_ND[start : start + BLOCK_ROWS]
            numbers = range(start, start + len(block))
            rows.add(ids=list(map(str, numbers)), embeddings=block, metadatas=[{"row": number} for number in numbers])

    def _open(self) -> None:
        self.rows = self._client().get_collection("rows", embedding_function=None)
        self.ef = 0

    def _search(self, queries_QD: np.ndarray, effort: int, where: dict[str, Any] | None = None) -> np.ndarray:
        if effort != self.ef:
            self.rows.modify(configuration={"hnsw": {"ef_search": effort}})
            self.ef = effort
        found = self.rows.query(query_embeddings=queries_QD, n_results=K, where=where, include=[])
        return _rows_of([[int(name) for name in names] for names in found["ids"]])

    def _filtered(self, queries_QD: np.ndarray, effort: int, allowed_N: np.ndarray) -> np.ndarray | None:
        return self._search(queries_QD, effort, {"row": {"$in": np.flatnonzero(allowed_N).tolist()}})


ENGINES = {"lancedb": Lancedb, "milvus_lite": MilvusLite, "qdrant_local": QdrantLocal, "chroma": Chroma}


def _rows_of(found: list[list[int]]) -> np.ndarray:
    """Return rows (Q, K) of lists that may be shorter."""
    rows = np.full((len(found), K), -1, np.int64)
    for number, hits in enumerate(found):
        rows[number, : len(hits)] = hits
    return rows


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    serve(ENGINES[task["engine"]](task))
