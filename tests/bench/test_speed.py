"""What both speed benches stand on: processes that are measured, watched, ended, and reported in one line."""

import os
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unibrivl.bench.errors import BenchError
from unibrivl.bench.speed import (
    ContenderError,
    Conversation,
    last_core,
    pinned,
    ratio,
    run_process,
    spread,
    working_folder,
)
from unibrivl.bench.speed_memory import MemoryWatch


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_a_process_is_charged_with_its_own_work_and_its_childrens() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    finished = run_process(
        python(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(7)")
    )
    assert finished.stdout.strip() == "7"
    assert finished.cpu_s >= 0.3 and finished.wall_s > 0
    assert run_process(python("import time; time.sleep(0.5)")).cpu_s < finished.cpu_s


def test_a_pinned_process_has_one_core_and_the_rest_of_us_keep_ours() -> None:
    before = os.sched_getaffinity(0)
    finished = run_process(python("import os; print(os.sched_getaffinity(0))"), core=last_core())
    assert finished.stdout.strip() == str({last_core()})
    with pinned(last_core()):
        assert os.sched_getaffinity(0) == {last_core()}
    assert os.sched_getaffinity(0) == before


def test_a_crash_is_one_line_with_the_last_word_of_the_program() -> None:
    code = "import sys; print('so far so good', file=sys.stderr); raise SystemExit('no such codec')"
    with pytest.raises(ContenderError, match=r"^python[\d.]*: exit code 1: no such codec$"):
        run_process(python(code))
    with pytest.raises(ContenderError, match=r"killed by signal 9: it said nothing"):
        run_process(python("import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(ContenderError, match="no/such/program: cannot be started"):
        run_process(["no/such/program"])


def test_a_process_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}, {str(tmp_path / 'pid')!r}])"
    with pytest.raises(ContenderError, match="killed by signal 9"):
        run_process(python(code), timeout_s=3)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{(tmp_path / 'pid').read_text()}/fd").exists() and time.monotonic() < deadline:
        state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat").read_text().split(")")[1].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert time.monotonic() < deadline


ECHO = """
    import json, sys
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "die":
            sys.exit("it is too late")
        if order["do"] != "sleep":
            print(json.dumps({"error": "Oops: no"} if order["do"] == "fail" else order), flush=True)
"""


def test_a_conversation_goes_on_after_a_failure_and_ends_with_a_death(tmp_path: Path) -> None:
    talk = Conversation(python(ECHO), env={}, folder=tmp_path, name="echo")
    try:
        for order in ({"do": "this"}, {"do": "that"}):
            talk.tell(order)
            assert talk.hear(30) == order
        talk.tell({"do": "fail"})
        with pytest.raises(ContenderError, match=r"^echo: Oops: no$"):
            talk.hear(30)
        talk.tell({"do": "die"})
        with pytest.raises(ContenderError, match=r"^echo: exit code 1: it is too late$"):
            talk.hear(30)
        talk.tell({"do": "this"})
    finally:
        talk.close()
    assert talk.process.returncode == 1


def test_a_contender_that_does_not_answer_is_ended(tmp_path: Path) -> None:
    talk = Conversation(python(ECHO), env={}, folder=tmp_path, name="echo")
    talk.tell({"do": "sleep"})
    with pytest.raises(ContenderError, match=r"echo: no answer within 0.3 s"):
        talk.hear(0.3)
    assert talk.process.returncode is not None
    talk.close()


def test_the_working_folder_goes_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with working_folder(tmp_path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("y")
        assert folder.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with (
        pytest.raises(BenchError, match=r"mine: no folder can be made there .*--work"),
        working_folder(tmp_path / "mine"),
    ):
        pass


def test_figures_are_rounded_and_a_missing_one_makes_no_ratio() -> None:
    assert spread([3.14159265, 1, 2]) == {"min": 1, "median": 2, "max": 3.142}
    assert ratio(10, 4) == 2.5
    assert ratio(None, 4) is None and ratio(10, None) is None


CHILD = """
import sys, time
held = []
for _ in range(int(sys.argv[2])):
    held.append(bytearray(int(sys.argv[1])))
    time.sleep(0.05)
"""


def watched(grow_bytes: int, times: int = 120) -> MemoryWatch:
    watch = MemoryWatch()
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, '{grow_bytes}', '{times}'])"
    run_process(python(code), watch=watch)
    return watch


def test_a_worker_that_grows_is_seen_to_grow() -> None:
    with ThreadPoolExecutor(3) as pool:
        watches = pool.map(watched, (500_000, 10, 10), (120, 120, 40))
    growing, steady, short = (watch.growth_mb() for watch in watches)
    assert short is None  # it has hardly done anything but start
    assert growing is not None and steady is not None
    assert 20 < growing < 70  # 60 MB, less what lies before the third tenth and behind the last
    assert abs(steady) < 5
    assert MemoryWatch().growth_mb() is None and MemoryWatch().as_dict()["workers"] == 0
