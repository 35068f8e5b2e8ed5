"""Drills of commands at work: killed, without room, with a source that flaps, under a clock that jumps.

After each the same command goes on, and what it ends with is compared with what the undisturbed one made.
"""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from ..index.snapshot import open_snapshot
from .drill_account import Account, items_of
from .drill_stage import MOST_S, Ended, Stage, contents
from .drill_web import flapping

MOST_KILLS = 4
"""Of one command, which is then left to end."""
FULL_DISK = """
mount -t tmpfs -o size="$1" tmpfs "$2" || exit 77
out="$2"; kept="$3"; log="$4"; shift 4
cp -a "$kept/." "$out" 2>/dev/null
"$@" > "$log.1" 2>&1; echo $? >> "$log.1"
mount -o remount,size=400m tmpfs "$out" || exit 77
"$@" > "$log.2" 2>&1; echo $? >> "$log.2"
rm -rf "$kept"; cp -a "$out" "$kept"
"""
NO_MOUNT = 77


def kill(stage: Stage, account: Account, draws: random.Random, case: str, name: str) -> None:
    """Kill what makes shards, run or index at random instants, then let it end."""
    out = stage.place(name)
    words, kills = stage.words(name, out), draws.randint(1, MOST_KILLS)
    ended = _killed(stage, account, draws, words, stage.seconds[name], kills)
    account.drills[f"kill of {words[0]}"] += 1
    if account.expect(case, ended):
        wanted = contents(stage.folder / name)
        if name == "shards":
            account.shards(case, out, wanted)
        elif name == "index":
            account.index(case, out, wanted, items_of(stage.folder / name))
        else:
            account.same(case, contents(out), wanted)
    shutil.rmtree(out, ignore_errors=True)


def kill_change(stage: Stage, account: Account, draws: random.Random, case: str) -> None:
    """Kill deletions and compactions of an index: what is there afterwards is the old snapshot or the new one."""
    out = stage.copy("index")
    live = items_of(out)
    took = 1.5
    for _ in range(draws.randint(2, MOST_KILLS)):
        key = draws.choice(sorted({item.rpartition("/")[0] for item in live}))
        words = (
            ["snapshots", "delete", str(out), "--key", key]
            if draws.random() < 0.7
            else ["snapshots", "compact", str(out)]
        )
        began = time.monotonic()
        ended = _killed(stage, account, draws, words, took, 1, again=False)
        took = max(time.monotonic() - began, 0.5) if ended.code == 0 else took
        after = items_of(out)
        fewer = Counter({item: n for item, n in live.items() if item.rpartition("/")[0] != key})
        is_old_or_new = after == live or (words[1] == "delete" and after == fewer)
        account.index(case, out, items=after if is_old_or_new else live)
        live = after
    account.drills["kill of snapshots"] += 1
    shutil.rmtree(out, ignore_errors=True)


def full_disk(stage: Stage, account: Account, draws: random.Random, case: str, name: str) -> None:
    """Make shards or index where there is too little room, then make room; without a mount, with a limit of files."""
    out, kept = stage.place(name), stage.place("kept")
    out.mkdir()
    kept.mkdir()
    words = [sys.executable, "-m", "unibrivl", *stage.words(name, out)]
    size = sum(path.stat().st_size for path in (stage.folder / name).rglob("*") if path.is_file())
    room = int(size * draws.uniform(0.1, 0.8))
    log = stage.folder / "disk"
    script = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh", str(room), str(out)]
    done = None
    if shutil.which("unshare"):
        done = subprocess.run(
            [*script, str(kept), str(log), *words], capture_output=True, timeout=2 * MOST_S, check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    if done is None or done.returncode == NO_MOUNT or not Path(f"{log}.2").exists():
        first, second = _limited(words, room), stage.run(stage.words(name, out))
        account.injected["file too large"] += 1
        found = out
    else:
        first, second = (_logged(Path(f"{log}.{number}")) for number in (1, 2))
        account.injected["disk full"] += 1
        found = kept
    if first.code:
        account.expect(f"{case}, without room", first, 1)
    if account.expect(case, second):
        if name == "shards":
            account.shards(case, found)
        account.same(case, contents(found), contents(stage.folder / name))
    account.drills[f"no room for {stage.words(name, out)[0]}"] += 1
    for folder in (out, kept):
        shutil.rmtree(folder, ignore_errors=True)


def source(stage: Stage, account: Account, draws: random.Random, case: str, refusals: int) -> None:
    """Ingest from a source that flaps: the shards are those of the files themselves."""
    out = stage.place("shards")
    with flapping(stage.media, draws.randrange(1 << 30), refusals) as web:
        media = ["--media-url", web.url + "/{id}.mp4", "--max-wait", "120"]
        ended = stage.run(stage.words("shards", out, media))
    for fault, count in web.injected.items():
        account.injected[f"source: {fault}"] += count
    account.drills["flapping source"] += 1
    if account.expect(case, ended):
        tars = {name: digest for name, digest in contents(stage.folder / "shards").items() if name.endswith(".tar")}
        account.shards(case, out)
        account.same(case, {name: digest for name, digest in contents(out).items() if name in tars}, tars)
    shutil.rmtree(out, ignore_errors=True)


def clock(stage: Stage, account: Account, draws: random.Random, case: str) -> None:
    """Ingest, delete, roll back and clean under a clock that jumps, with files from past and future."""
    seed = draws.randrange(1 << 30)
    out, index = stage.place("shards"), stage.copy("index")
    if account.expect(case, stage.run(stage.words("shards", out), seed)):
        account.shards(case, out, contents(stage.folder / "shards"))
    before = items_of(index)
    snapshot = open_snapshot(index).id
    key = draws.choice(sorted(before)).rpartition("/")[0]
    for words in (["delete", str(index), "--key", key], ["rollback", str(index)], ["clean", str(index)]):
        _move_times(index, draws)
        account.expect(f"{case}, {words[0]}", stage.run(["snapshots", *words], seed))
    account.index(case, index, items=before)
    if open_snapshot(index).id != snapshot:
        account.wrong.append(f"{case}: another snapshot than the one rolled back to")
    account.injected["clock jump"] += 4
    account.drills["clock"] += 1
    for folder in (out, index):
        shutil.rmtree(folder, ignore_errors=True)


def _killed(
    stage: Stage, account: Account, draws: random.Random, words: list[str], took_s: float, kills: int,
    *, again: bool = True,
) -> Ended:  # fmt: skip
    """Run a command that is killed so often, half the times without its workers; with `again` it then ends."""
    ended = Ended(0, "")
    for _ in range(kills):
        running = stage.launch(words)
        found = running.wait(took_s * draws.uniform(0.3, 1.0))
        if found is not None:
            return found
        is_alone = draws.random() < 0.5
        ended = running.kill(alone=is_alone)
        account.injected["kill -9 of the command alone" if is_alone else "kill -9 of all its processes"] += 1
    return stage.run(words) if again else ended


def _limited(words: list[str], room: int) -> Ended:
    """Run a command whose files may not grow beyond a limit."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room // 8, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit, timeout=MOST_S, check=False)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return Ended(done.returncode, lines[-1] if lines else "")


def _logged(log: Path) -> Ended:
    *lines, code = log.read_text(errors="replace").split("\n")[:-1]
    log.unlink()
    return Ended(int(code), next((line.strip() for line in reversed(lines) if line.strip()), ""))


def _move_times(root: Path, draws: random.Random) -> None:
    """Set the times of all files and folders into past and future."""
    for path in [root, *root.rglob("*")]:
        moment = time.time() + draws.uniform(-10, 10) * 365 * 86_400
        os.utime(path, (moment, moment))
