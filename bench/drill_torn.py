"""Drills of files that are torn: what is damaged is refused, found and mended; what is answered stays right.

And of readers beside writers: every answer is that of one snapshot.
"""

import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..index.changes import compact, delete_items, rollback
from ..index.changes import verify as index_faults
from ..index.errors import IndexStoreError
from ..index.plan import SearchConfig
from ..index.search import Searcher
from ..index.snapshot import Snapshot, open_snapshot
from ..shards import ClipShards, ShardError
from ..shards.verify import verify
from .drill_account import Account, items_of
from .drill_stage import Stage, contents

BLOCK_BYTES = 4096
CHANGES = 8
"""Of the index that is read meanwhile."""


def damage(path: Path, draws: random.Random) -> str:
    """Damage a file in a way that is drawn; return what was done, empty where the bytes came out the same."""
    data = bytearray(path.read_bytes())
    before, kind = bytes(data), draws.choice(("flipped bit", "zeroed block", "cut", "removed"))
    place = draws.randrange(max(len(data), 1))
    if kind == "removed" or not data:
        path.unlink()
        return "removed file"
    if kind == "flipped bit":
        data[place] ^= 1 << draws.randrange(8)
    elif kind == "zeroed block":
        stop = min(place + BLOCK_BYTES, len(data))
        data[place:stop] = bytes(stop - place)
    else:
        del data[place:]
    path.write_bytes(data)
    return kind if bytes(data) != before else ""


def torn_shards(stage: Stage, account: Account, draws: random.Random, case: str, times: int) -> None:
    """Damage files of a shard set one after the other, read every clip, verify; then one more, and mend it."""
    root, kept = stage.copy("shards"), stage.folder / "shards"
    sound = _clips(kept)
    for here in _tears(root, kept, account, draws, case, times):
        if verify(root).is_whole:
            account.wrong.append(f"{here}: verify found nothing")
        for key, data in _clips(root).items():
            if sound.get(key) != data:
                account.wrong.append(f"{here}: clip {key} was handed out with other bytes")
    damage(draws.choice(sorted((root / "shards").rglob("*.*"))), draws)
    repair = ["shards", "repair", str(root), "--media-dir", str(stage.media)]
    for words in (
        repair,
        stage.words("shards", root),
    ):  # a shard without its commit file is not there: ingestion's work
        account.expect(f"{case}, {words[0]}", stage.run(words))
    account.shards(case, root, contents(kept))
    account.drills["torn shards"] += 1
    shutil.rmtree(root, ignore_errors=True)


def torn_index(stage: Stage, account: Account, draws: random.Random, case: str, times: int) -> None:
    """Damage files of an index one after the other: it is refused, or answers as before, and verify finds it."""
    root, kept = stage.copy("index"), stage.folder / "index"
    answers = _answers(open_snapshot(root))
    for here in _tears(root, kept, account, draws, case, times):
        try:
            if _answers(open_snapshot(root)) != answers:
                account.wrong.append(f"{here}: other answers")
            if not index_faults(root):
                account.wrong.append(f"{here}: verify found nothing")
        except IndexStoreError:
            continue
    account.index(case, root, contents(kept), items_of(kept))
    account.drills["torn index"] += 1
    shutil.rmtree(root, ignore_errors=True)


def _tears(root: Path, kept: Path, account: Account, draws: random.Random, case: str, times: int) -> Iterator[str]:
    """Damage a file that is drawn, so many times; yield what was done, then take the file from `kept` again."""
    names = sorted(contents(kept))
    for _ in range(times):
        name = draws.choice(names)
        if kind := damage(root / name, draws):
            account.injected[f"torn: {kind}"] += 1
            yield f"{case}, {name} {kind}"
            shutil.copyfile(kept / name, root / name)


def torn_run(stage: Stage, account: Account, draws: random.Random, case: str) -> None:
    """Damage a run's checkpoint: indexing with it is refused in one line."""
    run, out = stage.copy("run"), stage.place("index")
    kind = ""
    while not kind:  # a block of zeros may be one already
        kind = damage(run / "checkpoint.safetensors", draws)
    account.injected[f"torn: {kind}"] += 1
    words = ["index", str(run), str(stage.folder / "shards"), "--out", str(out)]
    ended = stage.run(words)
    account.expect(f"{case}, checkpoint {kind}", ended, 1)
    if (out / "CURRENT").exists():
        account.wrong.append(f"{case}: an index was published from a damaged run")
    account.drills["torn run"] += 1
    for folder in (run, out):
        shutil.rmtree(folder, ignore_errors=True)


def readers(stage: Stage, account: Account, draws: random.Random, case: str) -> None:
    """Read an index while it is changed: every answer holds the items of the snapshot that gave it, all and only."""
    root = stage.copy("index")
    published = {open_snapshot(root).id: items_of(root)}
    faults: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(CHANGES):
                _change(root, draws, number)
                published[open_snapshot(root).id] = items_of(root)
        except BaseException as e:  # told below, by the thread that reads
            faults.append(e)

    writer = threading.Thread(target=write)
    writer.start()
    read: list[tuple[str, dict[str, list[str]]]] = []
    while writer.is_alive():
        snapshot = open_snapshot(root)
        read.append((snapshot.id, _answers(snapshot)))
    writer.join()
    account.wrong += [f"{case}: {type(e).__name__}: {e}" for e in faults]
    for name, answers in read:
        if sorted(item for some in answers.values() for item in some) != sorted(published.get(name, ())):
            account.wrong.append(f"{case}: an answer of snapshot {name} does not have its items")
    account.injected["change under readers"] += CHANGES
    account.drills["readers beside a writer"] += 1
    shutil.rmtree(root, ignore_errors=True)


def _change(root: Path, draws: random.Random, number: int) -> None:
    if number % 4 == 3:
        compact(root, SearchConfig(exact=True))
    elif number % 4 == 2:
        rollback(root)
    else:
        delete_items(root, keys=[draws.choice(sorted(items_of(root))).rpartition("/")[0]])


def _answers(snapshot: Snapshot) -> dict[str, list[str]]:
    """Return all items of each modality, nearest to a fixed question first."""
    query_1D = np.ones((1, snapshot.manifest["dim"]), np.float32) / np.sqrt(np.float32(snapshot.manifest["dim"]))
    found = {}
    for modality, count in snapshot.counts().items():
        hits = Searcher(snapshot).search(modality, query_1D, count)
        pairs = zip(hits.segments_QK[0].tolist(), hits.rows_QK[0].tolist(), strict=True)
        found[modality] = [snapshot.of(modality)[s].rows["item_id"][r].as_py() for s, r in pairs if r >= 0]
    return found


def _clips(root: Path) -> dict[str, bytes]:
    """Return what is stored of every clip that can be read; a damaged set or clip is refused and left out."""
    found = {}
    try:
        with ClipShards(root) as clips:
            for number in range(len(clips)):
                try:
                    sample = clips[number]
                    found[sample.key] = b"".join(data for _, data in sorted(sample.members.items()))
                except ShardError:
                    continue
    except ShardError:
        pass
    return found
