"""A file of FAISS that was made to harm: whatever sizes it declares, it is refused in little memory and time.

Checksums keep such a file out of our own indexes; this is for one that comes with a manifest that fits.
"""

import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from unibrivl.bench.speed_index_data import make_vectors
from unibrivl.index.ann import FILE, open_ann
from unibrivl.index.ann_build import build_ann
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.exact import ExactScan

ROWS, DIM = 2000, 16
TRY = """
import resource, struct, sys, time
from pathlib import Path
import numpy as np
from unibrivl.index.ann import Setting, open_ann
from unibrivl.index.errors import IndexStoreError
from unibrivl.index.exact import ExactScan

path, vectors = Path(sys.argv[1]), np.load(sys.argv[2])
scan, data = ExactScan(vectors), path.read_bytes()
open_ann(path, scan)  # loads what is loaded late
held = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (held + 2**26, held + 2**26))  # 64 MB more, and no allocation beyond
refused = opened = 0
for place in [*range(220), *np.random.default_rng(0).integers(220, len(data) - 8, 100).tolist()]:
    for value, kind in ((2**62, "<Q"), (2**40, "<Q"), (2**33, "<Q"), (2**31 - 1, "<i"), (-1, "<q"), (100_000, "<i")):
        told = struct.pack(kind, value)
        path.write_bytes(data[:place] + told + data[place + len(told) :])
        began = time.perf_counter()
        try:
            ann = open_ann(path, scan)
            ann.search(vectors[:2].astype(np.float32), 5, Setting(nprobe=4, k_factor=4))
            opened += 1
        except IndexStoreError:
            refused += 1
        assert time.perf_counter() - began < 5, (place, value)
path.write_bytes(data)
open_ann(path, scan)
print(refused, opened)
"""


@pytest.mark.parametrize("factory", ["IVF16,PQ4x4fsr", "IVF16,SQ8"])
def test_huge_sizes_are_refused_before_anything_is_allocated(tmp_path: Path, factory: str) -> None:
    vectors = make_vectors(ROWS, DIM, seed=0, queries=1).base_ND.astype(np.float16)
    faiss.write_index(build_ann(ExactScan(vectors), factory, 0).ann.index, str(tmp_path / FILE))
    np.save(tmp_path / "vectors.npy", vectors)
    done = subprocess.run(
        [sys.executable, "-c", TRY, str(tmp_path / FILE), str(tmp_path / "vectors.npy")],
        capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    refused, opened = map(int, done.stdout.split())
    assert refused > 300 and opened > 0  # a number of a code or a centroid may be any


@pytest.mark.parametrize("fault", ["a row that is none", "none of the search index's lists, or in two"])
def test_lists_that_hold_other_rows_are_refused(tmp_path: Path, fault: str) -> None:
    """Such a file loads in FAISS, and leads to rows that are not there, or leaves some out."""
    vectors = make_vectors(ROWS, DIM, seed=0, queries=1).base_ND.astype(np.float16)
    scan = ExactScan(vectors)
    index = build_ann(scan, "IVF16,SQ8", 0).ann.index
    ids = faiss.rev_swig_ptr(index.invlists.get_ids(3), index.invlists.list_size(3))
    ids[0] = ROWS if fault == "a row that is none" else ids[1]
    faiss.write_index(index, str(tmp_path / FILE))
    with pytest.raises(IndexStoreError, match=rf"ann\.faiss: .*{fault}"):
        open_ann(tmp_path / FILE, scan)


def test_an_index_of_many_lists_and_few_rows_opens(tmp_path: Path) -> None:
    """What FAISS computes at reading takes more than all of its file."""
    vectors = make_vectors(2000, 256, seed=0, queries=1).base_ND.astype(np.float16)
    scan = ExactScan(vectors)
    faiss.write_index(build_ann(scan, "IVF512,PQ64x4fsr", 0).ann.index, str(tmp_path / FILE))
    assert open_ann(tmp_path / FILE, scan).nlist == 512
