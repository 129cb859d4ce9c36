"""The checks of a recipe, one by one: what makes each of them warn or fail, and that none stops the others."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from ddpo.config import load_config
from ddpo.doctor import machine
from ddpo.doctor.checks import ok, perform
from ddpo.doctor.environment import look_at_extras, look_at_packages, look_at_python
from ddpo.doctor.hub import look_at_hub
from ddpo.doctor.plan import look_ahead
from ddpo.doctor.servers import servers
from ddpo.prompts import load_prompts
from ddpo.runtime.errors import ConfigError


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("batch_size: is too large."), "batch_size: is too large."),
        (ZeroDivisionError("division\nby zero"), "ZeroDivisionError: division by zero"),
        (SystemExit(), "SystemExit"),
    ],
)
def test_whatever_a_check_raises_is_its_outcome(error, text):
    check = perform("name", raising(error), limit=60)
    assert (check.name, check.outcome.status, check.outcome.text) == ("name", "failed", text)


def test_a_check_that_hangs_is_left_alone():
    never = threading.Event()
    check = perform("name", lambda: never.wait() and ok(""), limit=0.05)
    never.set()
    assert (check.outcome.status, check.outcome.text) == ("failed", "It did not end within 0 s.")


INSTALLED = {"torch": "2.13.0+cpu", "diffusers": "0.42.1", "pyyaml": "6.0", "uvicorn": "0.40"}


def version(name):
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return INSTALLED[name]


def test_packages_against_requirements():
    fine = look_at_packages(["torch>=2.10", "pyyaml>=6", 'uvicorn>=0.99; extra == "serve"'], version)
    assert (fine.status, fine.text) == ("ok", "torch 2.13.0+cpu and 1 other")
    old = look_at_packages(["torch>=2.14", "peft>=0.18", "diffusers>=0.38"], version)
    assert old.status == "failed"
    assert old.text == "torch is 2.13.0+cpu, needed is >=2.14; peft is not installed."
    assert old.advice == "`pip install 'torch>=2.14' 'peft>=0.18'`"


def test_optional_parts_are_information():
    seen = look_at_extras(['uvicorn>=0.34; extra == "serve"', 'wandb; extra == "wandb"', "torch>=99"], version)
    assert (seen.status, seen.text) == ("note", "installed: serve; not installed: wandb")


def test_what_is_installed_here_is_well():
    assert look_at_python().status == "ok"
    assert look_at_packages().status == "ok"
    assert "torch" in look_at_packages().text


@pytest.fixture
def default_run():
    config = load_config(None, ["device=cpu", "threads=1", "precision=fp32"])
    return config, look_ahead(config, load_prompts(config.prompts))


def test_more_threads_than_cores(default_run, monkeypatch):
    config, _ = default_run
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert machine.look_at_processors(config.model_copy(update={"threads": 2})).status == "ok"
    seen = machine.look_at_processors(config.model_copy(update={"threads": 3}))
    assert (seen.status, seen.advice) == ("warning", "Set threads=2.")
    half = machine.look_at_processors(config.model_copy(update={"precision": "fp16"}))
    assert (half.status, half.advice) == ("warning", "Set precision=auto.")


def test_cores_and_memory_that_a_container_grants(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    everything = machine.usable_cores()
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores() == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cores() == everything
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert machine.free_main_memory() == 2_000_000


@pytest.mark.parametrize(
    ("needed", "free", "status"),
    [(79, 100, "ok"), (81, 100, "warning"), (100, 100, "warning"), (101, 100, "failed"), (5, None, "skipped")],
)
def test_memory_with_headroom(needed, free, status):
    assert machine.compare_memory(needed, free, "main memory").status == status


def test_disk(default_run, tmp_path):
    config, outlook = default_run
    assert machine.compare_disk(100, 100, tmp_path).status == "ok"
    assert machine.compare_disk(101, 100, tmp_path).status == "failed"
    # weights twice; 5 evaluations and 2 more sheets, each bare and with captions, of 45 pictures of 64 x 64 x 3; report
    # checkpoints: the 2 newest and the one being written, of weights and two moments, and an iteration's samples
    weights, samples = outlook.plan.result_bytes, outlook.plan.memory.samples
    expected = 2 * weights + 3 * 3 * weights + samples + 7 * 2 * 45 * 64 * 64 * 3 + 16_000_000
    assert machine.bytes_written(config, outlook) == expected
    regression = load_config("emoji-judge", ["algorithm=rwr", "algorithm.memory_gb=0"])
    # the same sheets, and a file of 512 samples of 8 x 8 x 8 float32
    assert machine.bytes_written(regression, outlook) == expected + 512 * 512 * 4


def test_a_run_folder_that_cannot_be_written(default_run, tmp_path):
    config, outlook = default_run
    seen = machine.look_at_disk(config.model_copy(update={"output": tmp_path / "deep" / "run"}), outlook)
    assert seen.status == "ok"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("taken")
    check = perform(
        "disk",
        lambda: machine.look_at_disk(config.model_copy(update={"output": tmp_path}), outlook),
        limit=60,
    )
    assert check.outcome.status == "failed"
    assert "is not empty and is never overwritten" in check.outcome.text
    unwritable = machine.look_at_disk(config.model_copy(update={"output": Path("/proc/run")}), outlook)
    assert (unwritable.status, "/proc cannot be written into" in unwritable.text) == ("failed", True)


class Refusing(BaseHTTPRequestHandler):
    """A hub that is there and answers that it has nothing."""

    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *arguments):
        pass


def test_the_hub_is_asked_only_for_what_is_missing(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert look_at_hub([], offline=False).status == "ok"
    away = look_at_hub(["someone/model"], offline=False)
    assert away.status == "failed"
    assert "someone/model is not on this machine, and http://127.0.0.1:9 cannot be reached" in away.text
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert look_at_hub(["someone/model"], offline=False).status == "warning"
    assert look_at_hub(["someone/model"], offline=True).status == "failed"
    server.shutdown()
    server.server_close()


def test_servers_are_found_wherever_a_reward_may_stand():
    a, b, c, d, e = (f"http://{letter}:1" for letter in "abcde")
    rewards = [
        a,
        {b: 0.5, "judge": 1},
        {"name": "sum", "rewards": [{"name": c, "weight": 2, "token": "x"}, {"reward": d, "weight": 1}]},
        {"name": "clip", "reward": {"name": "remote", "url": [a, e], "timeout": 3}, "low": 0},
        {"name": "alignment", "endpoint": "http://describer:1"},  # another kind of server
    ]
    found = servers(rewards)
    assert set(found) == {a, b, c, d, e}
    assert found[c] == {"name": "remote", "url": c, "token": "x"}
    assert found[e] == {"name": "remote", "url": e, "timeout": 3}
