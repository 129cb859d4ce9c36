"""The runner: several at a time, failures, interruption at any moment, and a work folder in use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ddpo.experiments.runner import Runner, Step
from ddpo.runtime.errors import ExperimentError

COMMAND = """
import os, sys, time, pathlib
folder, seconds, code = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
with (folder.parent / "started.txt").open("a") as file:
    file.write(folder.name + "\\n")
folder.mkdir()
(folder / "half.txt").write_text(str(os.getpid()))
time.sleep(seconds)
print("the reason of", folder.name)
(folder / "whole.txt").write_text("whole")
sys.exit(code)
"""
"""Makes a folder, in two halves, and notes that it was started."""


def step(work: Path, name: str, *, seconds: float = 0.0, code: int = 0, after: str | None = None) -> Step:
    command = (sys.executable, "-c", COMMAND, str(work / name), str(seconds), str(code))
    return Step(name=name, command=command, product=work / name, after=after)


def run(steps: list[Step], slots: int = 2):
    """Run the steps; return what failed and the lines that were told."""
    lines: list[str] = []
    return Runner(steps[0].product.parent, [{}] * slots, lines.append, {}).run(steps), lines


def started(work: Path) -> list[str]:
    file = work / "started.txt"
    return file.read_text().split() if file.exists() else []


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_independent_steps_run_side_by_side_and_finish_once(tmp_path):
    steps = [step(tmp_path, name, seconds=1.0) for name in "abcd"]
    failed, lines = run(steps, slots=4)
    assert ["started" in line for line in lines[:5]] == [True] * 4 + [False]  # all at work before the first ends
    assert not failed
    assert json.loads(steps[0].marker.read_text())["seconds"] >= 1.0
    failed, lines = run(steps)
    assert lines == ["4 of 4 are finished already"]
    assert sorted(started(tmp_path)) == list("abcd")


def test_no_more_at_a_time_than_slots_and_in_order(tmp_path):
    _, lines = run([step(tmp_path, name) for name in "abcd"], slots=1)
    assert started(tmp_path) == list("abcd")
    assert ["started" in line for line in lines[:4]] == [True, False] * 2


def test_each_slot_has_its_environment(tmp_path):
    show = (
        "import os, sys, pathlib, time; time.sleep(0.5); "
        "pathlib.Path(sys.argv[1]).write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    steps = [Step(file.stem, (sys.executable, "-c", show, str(file)), file) for file in files]
    Runner(tmp_path, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}], print, {}).run(steps)
    assert sorted(s.product.read_text() for s in steps) == ["0", "1"]


def test_a_failed_step_is_reported_with_its_log_and_the_others_go_on(tmp_path):
    steps = [
        step(tmp_path, "a", code=3),
        step(tmp_path, "needs-a", after="a"),
        step(tmp_path, "b"),
        step(tmp_path, "needs-b", after="b"),
    ]
    failed, lines = run(steps, slots=1)
    assert [s.is_finished for s in steps] == [False, False, True, True]
    assert "exit code 3" in failed["a"]
    assert "the reason of a" in failed["a"]
    assert failed["needs-a"] == "it needs a"
    assert any("FAILED a" in line and "the reason of a" in line for line in lines)
    run(steps)
    assert started(tmp_path) == ["a", "b", "needs-b", "a"]  # again only what failed


def test_a_command_that_makes_nothing_has_failed(tmp_path):
    failed, _ = run([Step("nothing", (sys.executable, "-c", ""), tmp_path / "nothing")])
    assert "without making" in failed["nothing"]


def test_what_an_interrupted_command_left_is_made_again_from_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stale.txt").write_text("of an earlier try")
    assert run([step(tmp_path, "a")])[0] == {}
    assert not (tmp_path / "a" / "stale.txt").exists()
    evaluation = Step("evaluation", ("true",), tmp_path / "result.json")
    evaluation.product.write_text("{}")
    evaluation.finish(1.0, {})
    assert evaluation.is_finished
    evaluation.product.unlink()
    assert not evaluation.is_finished
    evaluation.product.write_text("half")
    evaluation.clear()
    assert not evaluation.marker.exists()
    assert not evaluation.product.exists()


def test_a_run_name_with_a_point_in_it_is_a_folder(tmp_path):
    assert Step("x", ("true",), tmp_path / "lr-0.01_x").marker == tmp_path / "lr-0.01_x" / "finished.json"


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_runner import step
from ddpo.experiments.runner import Runner
work = Path(sys.argv[2])
try:
    Runner(work, [{}], print, {}).run([step(work, name, seconds=float(sys.argv[3])) for name in sys.argv[4]])
except KeyboardInterrupt:
    sys.exit(130)
"""
"""A runner in a process of its own, one step at a time."""


def runner_process(work: Path, names: str, seconds: float) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, here, str(work), str(seconds), names])


def pid_of(work: Path, name: str) -> int:
    file = work / name / "half.txt"
    until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_killed_half_way_the_same_command_does_only_the_rest(tmp_path):
    run([step(tmp_path, "a")])
    process = runner_process(tmp_path, "abc", seconds=60)
    child = pid_of(tmp_path, "b")
    process.kill()  # kill -9: no chance to clean up
    process.wait()
    until(lambda: not is_alive(child), seconds=5)  # the subprocess dies with the runner
    failed, lines = run([step(tmp_path, name, seconds=0.0) for name in "abc"])
    assert not failed
    assert sorted(started(tmp_path)) == ["a", "b", "b", "c"]
    assert lines[0] == "1 of 3 are finished already"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_subprocesses_and_keeps_what_is_finished(tmp_path, number):
    run([step(tmp_path, "a")])
    process = runner_process(tmp_path, "ab", seconds=60)
    child = pid_of(tmp_path, "b")
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    assert not is_alive(child)
    assert step(tmp_path, "a").is_finished
    assert not step(tmp_path, "b").is_finished


def test_a_work_folder_in_use_is_left_to_the_command_that_uses_it(tmp_path):
    other = runner_process(tmp_path, "a", seconds=1.5)
    pid_of(tmp_path, "a")
    with pytest.raises(ExperimentError, match=rf"is in use by process {other.pid}; wait for it"):
        run([step(tmp_path, "a")])
    assert other.wait(timeout=30) == 0
    assert run([step(tmp_path, "a")]) == ({}, ["1 of 1 are finished already"])


def test_a_stop_of_this_process_ends_the_runner(tmp_path):
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(KeyboardInterrupt):
        run([step(tmp_path, "a", seconds=30)])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
