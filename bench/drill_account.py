"""The account of `bench drills`: which faults came, and which clips, rows and answers were lost, doubled or wrong.

What is counted is read from the artefacts themselves: sidecars against the plan, items of an index against the
undisturbed one's, bytes against bytes.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..index.changes import verify as index_faults
from ..index.errors import IndexStoreError
from ..index.snapshot import open_snapshot
from ..shards import ShardError
from ..shards.commit import committed_shards
from ..shards.planfile import PLAN_FILE, keys_of, read_plan_file
from ..shards.sidecar import read_sidecar
from ..shards.verify import verify
from .drill_stage import Ended, contents


@dataclass(slots=True)
class Account:
    """What was done and what came of it; each case says how to repeat it."""

    injected: Counter[str] = field(default_factory=Counter)
    """Faults by kind."""
    drills: Counter[str] = field(default_factory=Counter)
    """Commands that were disturbed and went on, by name."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing was lost, doubled or wrong."""
        return not (self.lost or self.doubled or self.wrong)

    def expect(self, case: str, ended: Ended, code: int = 0) -> bool:
        """Note a command that ended otherwise than it should; an error must be one line that says so."""
        is_fine = ended.code == code and (code == 0 or ended.told.startswith("error: "))
        if not is_fine:
            self.wrong.append(f"{case}: ended with {ended.code}, not {code}: {ended.told[:200]}")
        return is_fine

    def same(self, case: str, found: dict[str, str], wanted: dict[str, str]) -> None:
        """Note every file that is missing, too many, or not the one of the undisturbed run."""
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                what = "is missing" if name not in found else "is too much" if name not in wanted else "is another"
                self.wrong.append(f"{case}: {name} {what}")

    def shards(self, case: str, root: Path, wanted: dict[str, str] | None = None) -> None:
        """Count the clips of a shard set; `wanted` has the hashes of the undisturbed one."""
        try:
            planned = Counter(keys_of(read_plan_file(root / PLAN_FILE).table).to_pylist())
            found: Counter[str] = Counter()
            for commit in committed_shards(root):
                found.update(read_sidecar(commit)["key"].to_pylist())
            report = verify(root, level="deep")
        except ShardError as e:
            self.wrong.append(f"{case}: {e}")
            return
        self._count(case, found, planned)
        self.wrong += [f"{case}: {line}" for line in [report.advice(root)] if line]
        if wanted is not None:
            self.same(case, contents(root), wanted)

    def index(
        self, case: str, root: Path, wanted: dict[str, str] | None = None, items: Counter[str] | None = None
    ) -> None:
        """Count the items of an index; `items` are those that it must hold."""
        try:
            found = items_of(root)
        except IndexStoreError as e:
            self.wrong.append(f"{case}: {e}")
            return
        if items is not None:
            self._count(case, found, items)
        self.wrong += [f"{case}: {line}" for line in index_faults(root)]
        if wanted is not None:
            self.same(case, contents(root), wanted)

    def _count(self, case: str, found: Counter[str], wanted: Counter[str]) -> None:
        missing, twice = sorted(wanted - found), sorted(found - wanted)
        self.lost += [f"{case}: {name}" for name in missing]
        self.doubled += [f"{case}: {name}" for name in twice]


def items_of(root: Path) -> Counter[str]:
    """Count the live items of the current snapshot by id."""
    snapshot = open_snapshot(root)
    return Counter(
        item for name in snapshot.counts() for item in snapshot.items(name).rows["item_id"].to_pylist()
    )  # fmt: skip
