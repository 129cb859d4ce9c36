"""The number of threads is measured, recorded, and taken up again; arithmetic is chosen by what the processor has."""

from __future__ import annotations

import pytest
import torch
from quiet_runs import resume, train

from ddpo.core.prompt import Prompt
from ddpo.runtime import processes
from ddpo.runtime.errors import ConfigError
from ddpo.runtime.processes import Runtime
from ddpo.training import threads
from ddpo.training.threads import choose_threads, fastest


@pytest.fixture(autouse=True)
def one_thread_afterwards():
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 2: 0.55, 4: 0.30, 8: 0.29}, 4),  # twice as many for 3 % are not worth it
        ({1: 1.0, 2: 1.4, 4: 0.1, 8: 0.1}, 1),  # a small network, or a busy machine
        ({1: 1.0, 2: 0.5, 4: 0.25, 8: 0.125}, 8),
    ],
)
def test_the_fastest_number_is_taken(seconds, chosen):
    now = 0.0

    def work():
        nonlocal now
        now += seconds[torch.get_num_threads()]

    assert fastest(work, 15, clock=lambda: now) == chosen


def test_a_single_core_is_not_measured():
    assert fastest(lambda: pytest.fail("nothing is to be chosen"), 1) == 1


def test_the_choice_is_recorded_and_a_run_that_goes_on_keeps_it(tiny_config, monkeypatch):
    monkeypatch.setattr(threads, "AVAILABLE_THREADS", 2)
    monkeypatch.setattr(threads, "fastest", lambda work, most: work() or most)
    folder = train(tiny_config(threads=None, iterations=1, checkpoint_every=1)).folder
    assert folder.read_config()["threads"] == 2
    monkeypatch.setattr(threads, "fastest", lambda work, most: pytest.fail("a run that goes on has its number"))
    torch.set_num_threads(1)
    changed = tiny_config(threads=None, iterations=2)
    resume(folder.path, config=changed)
    assert torch.get_num_threads() == 2


def test_measuring_leaves_no_gradient(conv_policy, ddim_config, monkeypatch):
    policy = conv_policy(ddim_config(), steps=3)
    monkeypatch.setattr(threads, "fastest", lambda work, most: work() or 1)
    assert choose_threads(policy, Prompt("a cat"), 2, Runtime(device="cpu", threads=1)) == 1
    assert policy.rows_seen == [2]
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_measuring_changes_no_result(tiny_config, tmp_path, monkeypatch):
    one = train(tiny_config(threads=1, output=tmp_path / "one")).metrics
    monkeypatch.setattr(threads, "AVAILABLE_THREADS", 2)
    monkeypatch.setattr(threads, "fastest", lambda work, most: work() or 1)
    other = train(tiny_config(threads=None, output=tmp_path / "other")).metrics
    assert [untimed(row) for row in one] == [untimed(row) for row in other]


def untimed(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


@pytest.mark.parametrize(
    ("present", "chosen"),
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32"), ({}, "fp32")],
)
def test_auto_is_bf16_where_the_processor_has_units_for_it(present, chosen, monkeypatch):
    monkeypatch.setattr(processes.torch.cpu, "get_capabilities", lambda: present)
    assert Runtime(device="cpu", threads=1, precision="auto").precision == chosen


def test_tf32_is_of_cuda():
    with pytest.raises(ConfigError, match="tf32 is arithmetic of CUDA"):
        Runtime(device="cpu", threads=1, precision="tf32")
