"""Processes and trackers of a run."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from ddpo.distributed import Runtime
from ddpo.run import train

WORKER = textwrap.dedent(
    """
    import json, sys
    from ddpo.config import load_config
    from ddpo.run import train

    result = train(load_config(sys.argv[1], [f"output={sys.argv[2]}"]))
    weights = sum(p.double().sum().item() for p in __import__("safetensors.torch").torch.load_file(
        next(result.folder.model.glob("*.safetensors"))).values())
    print("RESULT", json.dumps({"metrics": result.metrics, "weights": weights}))
    """
)


def test_two_processes_make_the_run_of_one(tiny_config, tmp_path):
    # The same samples with the same seeds, one update on all of them: averaged over two processes the gradient is
    # that of one process up to the order of float32 sums, and so are rewards and weights.
    alone = train(tiny_config(updates_per_iteration=1, lora={"rank": 2}))
    (tmp_path / "worker.py").write_text(WORKER)
    launch = ["torch.distributed.run", "--nproc-per-node=2", "--master-port=29561"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "worker.py", alone.folder.config, "together"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]

    lines = [line.partition("RESULT ")[2] for line in done.stdout.splitlines() if "RESULT " in line]
    results = [json.loads(line) for line in lines]
    assert len(results) == 2
    assert results[0]["weights"] == results[1]["weights"]
    for ours, theirs in zip(alone.metrics, results[0]["metrics"], strict=True):
        for name in ("reward/mean", "reward/standard_error", "gradient_norm", "kl/step"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, atol=1e-9)


def test_a_number_of_samples_that_does_not_divide_is_refused():
    runtime = Runtime(device="cpu", threads=1)
    assert runtime.share(6) == range(6)
    assert runtime.processes == 1
    assert runtime.is_main


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_returned():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    norm = Runtime(device="cpu", threads=1).optimizer_step(optimizer, [parameter], 1.0)
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.6, -0.8]))


def test_tensorboard_gets_the_metrics(tiny_config):
    pytest.importorskip("tensorboard")
    result = train(tiny_config(tracker="tensorboard"))
    assert list(result.folder.path.rglob("events.out.tfevents*"))
