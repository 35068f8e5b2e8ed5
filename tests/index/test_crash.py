"""An index whose writer is killed anywhere is the old one or the new one, and the same command again ends it.

The points are all calls that change files, and those that flush folders: the writer is killed right before its N-th,
for each N.
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

CALLS = {"write", "tofile", "replace", "rename", "truncate", "unlink", "rmdir", "mkdir"}
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
        manifest = {"segments": entries, "sources": [], "encoder": {"fingerprints": {}}, "dim": 4, "search": {}}
        manifest |= {"note": note, "parent": before.id if before else None}
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
        if event != "c_call":
            return
        name = called.__name__  # flushing a file changes nothing that a killed process leaves
        if name not in CALLS and (name != "fsync" or frame.f_code.co_name != "sync_directory"):
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
    if held() != new:
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
for name in sys.argv[3:]:
    results[name] = run(*SCENARIOS[name], work / name)
print(json.dumps(results))
'''


def kill_everywhere(folder: Path, rows: list[dict[str, Any]], changes: dict[str, int]) -> None:
    """Kill each change at all of its points, at least as many as given, and look at what is left."""
    done = subprocess.run(
        [sys.executable, "-c", POINTS, str(folder), str(Path(__file__).parents[1]), *changes],
        input=json.dumps(rows), env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for change, result in json.loads(done.stdout).items():
        assert result["faults"] == [], change
        assert result["points"] >= changes[change], (change, result["points"])
        assert 0 < result["old"] < result["points"] or change == "clean", "it was killed before and after the switch"


def test_a_writer_killed_at_any_point_leaves_the_old_index_or_the_new_one(tmp_path: Path, make_rows) -> None:
    kill_everywhere(tmp_path, make_rows(3), {"delete": 15, "rollback": 4, "the same segments": 35})


@pytest.mark.slow
def test_and_so_it_is_for_all_other_changes(tmp_path: Path, make_rows) -> None:
    changes = {"build": 30, "append": 30, "compact": 35, "compact again": 35, "clean": 20}
    kill_everywhere(tmp_path, make_rows(3), changes)
