"""An index whose writer is killed anywhere is the old one or the new one, and the same command again ends it.

The points are all calls that change files: the writer is killed right before its N-th, for each N.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

POINTS = '''
"""Changes a copy of an index in a child for each change and point, kills it there, and looks at what is left."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

from unibrivl.index.changes import clean, compact, delete_items, rollback, verify
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.plan import SearchConfig
from unibrivl.index.snapshot import open_snapshot, publish, writing

sys.path.insert(0, sys.argv[2])
from made import write_segment

CALLS = {"write", "tofile", "fsync", "replace", "rename", "truncate", "unlink", "rmdir", "mkdir"}
work, rows = Path(sys.argv[1]), json.loads(sys.stdin.read())
root = work / "index"
EXACT = SearchConfig(exact=True)


def add(root, prefix, note=""):
    with writing(root):
        before = open_snapshot(root) if (root / "CURRENT").exists() else None
        entries = list(before.manifest["segments"]) if before else []
        given = [row | {"key": prefix + row["key"]} for row in rows]
        for number, modality in enumerate(("audio", "image")):
            vectors = np.random.default_rng([number, *prefix.encode()]).standard_normal((len(rows), 4))
            entry = write_segment(root / "segments", modality, vectors.astype(np.float32), given)
            entries += [] if entry in entries else [entry]
        manifest = {"segments": entries, "sources": [], "dim": 4, "search": {}, "note": note}
        manifest["parent"] = before.id if before else None
        publish(root, manifest, None, before.tombstones if before else None)


def two(root):
    add(root, "a")
    add(root, "b")
    delete_items(root, keys=["a" + rows[0]["key"]])


def merged(root):
    two(root)
    compact(root, EXACT)


# Of each change: what makes the index that it starts from, and the change itself.
SCENARIOS = {
    "build": (lambda root: None, lambda root: add(root, "a")),
    "append": (lambda root: add(root, "a"), lambda root: add(root, "b")),
    "delete": (two, lambda root: delete_items(root, keys=["b" + rows[1]["key"]])),
    "compact": (two, lambda root: compact(root, EXACT)),
    "compact again": (merged, lambda root: compact(root, EXACT)),
    "rollback": (two, rollback),
    "clean": (merged, lambda root: clean(root, 0)),
    "the same segments": (lambda root: add(root, "a"), lambda root: add(root, "a", "other settings")),
}


def killed(change, stop_at):
    """Change the index in a child; return its exit status and how many points it passed."""
    reading, writing_end = os.pipe()
    child = os.fork()
    if child:
        os.close(writing_end)
        passed = b""
        while more := os.read(reading, 100):
            passed += more
        os.close(reading)
        return os.waitpid(child, 0)[1], int(passed or 0)
    count = 0

    def watch(frame, event, called):
        nonlocal count
        if event != "c_call" or called.__name__ not in CALLS:
            return
        count += 1
        if count == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    change(root)
    sys.setprofile(None)
    os.write(writing_end, str(count).encode())
    os._exit(0)


def fresh(start):
    shutil.rmtree(root, ignore_errors=True)
    if start.exists():
        shutil.copytree(start, root)


def held():
    """Return the current snapshot with every item and its vector; None: there is no index."""
    if not (root / "CURRENT").exists():
        return None
    snapshot = open_snapshot(root)
    items = {}
    for modality in ("audio", "image"):
        found = snapshot.items(modality)
        ids = found.rows["item_id"].to_pylist()
        items |= {name: vector.tobytes() for name, vector in zip(ids, found.vectors_ND, strict=True)}
    return snapshot.id, items


def look(change, old, new, faults):
    """Look at what a killed change left, make the change once more if need be; return whether it was the old index."""
    found = held()
    if found not in (old, new):
        faults.append("neither the old index nor the new one")
    if found is not None:
        faults.extend(verify(root))
    if found == new != old:
        return False
    change(root)
    if held() != new or verify(root):
        faults.append("ended otherwise")
    faults.extend(f"left {path}" for path in root.rglob(".*"))
    return True


def run(prepare, change, start):
    prepare(start)
    fresh(start)
    old = held()
    change(root)  # loads what is loaded late, once and not in every child
    fresh(start)
    status, points = killed(change, 0)
    assert status == 0, status
    new = held()
    faults, olds = [], 0
    for point in range(1, points + 1):
        fresh(start)
        found = [] if killed(change, point)[0] == signal.SIGKILL else ["not killed"]
        try:
            olds += look(change, old, new, found)
        except IndexStoreError as e:
            found.append(str(e))
        faults += [f"point {point}: {fault}" for fault in found]
    return {"points": points, "old": olds, "faults": faults}


results = {}
for name, (prepare, change) in SCENARIOS.items():
    results[name] = run(prepare, change, work / name)
print(json.dumps(results))
'''


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, make_rows) -> dict[str, dict[str, Any]]:
    """Return what every killed change left, in one process, since loading takes the longest."""
    done = subprocess.run(
        [sys.executable, "-c", POINTS, str(tmp_path_factory.mktemp("crash")), str(Path(__file__).parents[1])],
        input=json.dumps(make_rows(4)), env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "least"),
    [
        ("build", 40), ("append", 40), ("delete", 20), ("compact", 50), ("compact again", 50), ("rollback", 3),
        ("clean", 10), ("the same segments", 40),
    ],
)  # fmt: skip
def test_a_writer_killed_at_any_point_leaves_the_old_index_or_the_new_one(
    results: dict[str, dict[str, Any]], change: str, least: int
) -> None:
    result = results[change]
    assert result["faults"] == []
    assert result["points"] >= least
    assert 0 < result["old"] < result["points"] or change == "clean", "it was killed before and after the switch"
