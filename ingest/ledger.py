"""The ledger: every attempt at every clip, one JSON line each, appended by the worker that made it.

Nothing depends on it while all is well. Where a sidecar is lost it still knows why clips failed.
"""

import json
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import TextIO

Failure = tuple[str, str]
"""Error code and sentence."""
SHARD_PATTERN = re.compile(rb'"shard": "([^"]*)"')


def write_attempt(file: TextIO, shard: str, key: str, code: str, detail: str) -> None:
    """Append what came of one attempt; `code` is empty for a clip that came."""
    entry = {"time_s": round(time.time(), 3), "shard": shard, "key": key, "error": code, "detail": detail}
    file.write(json.dumps(entry) + "\n")
    file.flush()


def last_failures(root: Path, shards: Collection[str]) -> dict[str, dict[str, Failure]]:
    """Return, for each of some shards of the set at `root`, the clips whose last attempt there failed, by key.

    Lines that are no entries are left aside: a killed worker may have torn its last one.
    """
    wanted = {name.encode() for name in shards}
    last: dict[tuple[str, str], tuple[float, Failure]] = {}
    for path in sorted((root / "ledger").glob("*/*.jsonl")) if wanted else ():
        with path.open("rb") as file:
            for line in file:
                match = SHARD_PATTERN.search(line)
                if match and match[1] in wanted:
                    _take(last, line)
    found: dict[str, dict[str, Failure]] = {name: {} for name in shards}
    for (shard, key), (_, failure) in last.items():
        if failure[0] and shard in found:
            found[shard][key] = failure
    return found


def _take(last: dict[tuple[str, str], tuple[float, Failure]], line: bytes) -> None:
    try:
        entry = json.loads(line)
        clip, time_s = (str(entry["shard"]), str(entry["key"])), float(entry["time_s"])
        failure = str(entry["error"]), str(entry["detail"])
    except (ValueError, KeyError, TypeError):
        return
    if clip not in last or last[clip][0] <= time_s:
        last[clip] = time_s, failure
