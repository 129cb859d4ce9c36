"""Processes and trackers of a run."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from quiet_runs import train

from ddpo.runs.checkpoints import Checkpoints
from ddpo.runtime.errors import ConfigError, DivergenceError
from ddpo.runtime.processes import Runtime

WORKER = textwrap.dedent(
    """
    import json, os, pathlib, sys
    from ddpo.config import load_config
    from ddpo.runtime import processes
    from ddpo.training.run import train

    processes.BUCKET = 1000  # gradients are averaged in several parts
    result = train(load_config(sys.argv[1], [f"output={sys.argv[2]}"]))
    weights = sum(p.double().sum().item() for p in __import__("safetensors.torch").torch.load_file(
        next(result.folder.model.glob("*.safetensors"))).values())
    file = pathlib.Path(f"result-{os.environ['RANK']}.json")
    moments = (result.before, result.after)
    fixed = [{name: score_B.tolist() for name, score_B in each.scores.items()} for each in moments]
    file.write_text(json.dumps({"metrics": result.metrics, "weights": weights, "fixed": fixed}))
    """
)


def in_two_processes(config, folder):
    """Return what `WORKER` wrote in each of two processes that train `config` together."""
    (folder / "worker.py").write_text(WORKER)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "worker.py", config, "together"],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(2)]
    assert results[0]["weights"] == results[1]["weights"]
    return results


def test_two_processes_make_the_run_of_one(tiny_config, tmp_path):
    # The same samples with the same seeds, one update on all of them: averaged over two processes the gradient is
    # that of one process up to the order of float32 sums, and so are rewards and weights.
    # A callback, which only the main process calls, ends the run for both. The fixed samples, one fewer in the second
    # process than in the first, are those of one process in their order.
    (tmp_path / "mine.py").write_text("def stop(moment):\n    if moment.iteration == 2:\n        moment.stop('here')\n")
    callbacks = [f"{tmp_path / 'mine.py'}:stop"]
    evaluation = {"number": 3, "kl_to_base": True}
    alone = train(
        tiny_config(updates_per_iteration=1, lora={"rank": 2}, iterations=9, callbacks=callbacks, evaluation=evaluation)
    )
    results = in_two_processes(alone.folder.config, tmp_path)
    assert [len(each["metrics"]) for each in results] == [2, 2]
    for ours, theirs in zip(alone.metrics, results[0]["metrics"], strict=True):
        for name in ("reward/mean", "reward/standard_error", "gradient_norm", "kl/step"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, atol=1e-9)
    for ours, *theirs in zip([alone.before, alone.after], *(each["fixed"] for each in results), strict=True):
        for name, score_B in ours.scores.items():
            assert theirs[0][name] == theirs[1][name]
            np.testing.assert_allclose(score_B, theirs[0][name], rtol=2e-3)


def test_a_process_that_keeps_no_sample_of_a_regression_takes_part(tiny_config, tmp_path):
    # The data set's best of 8 is in one process only; the other contributes nothing and waits for nobody.
    algorithm = {"name": "rwr-sparse", "percentile": 0.95, "reweighting": "dataset", "samples_per_update": 8}
    alone = train(tiny_config(algorithm=algorithm, updates_per_iteration=3, lora={"rank": 2}))
    assert alone.metrics[0]["weight/kept"] == 1 / 8
    results = in_two_processes(alone.folder.config, tmp_path)
    assert results[0]["metrics"][0]["weight/effective_samples"] == 1
    assert results[0]["metrics"][0]["gradient_norm"] > 0


def test_samples_are_shared_equally_or_refused(monkeypatch):
    runtime = Runtime(device="cpu", threads=1)
    assert runtime.shard(6) == range(6)
    monkeypatch.setattr(Runtime, "processes", 2)
    assert runtime.shard(6) == range(3)
    with pytest.raises(ConfigError, match="5 samples do not divide by the 2 processes"):
        runtime.shard(5)


def test_a_second_run_may_have_another_device():
    assert Runtime(device="cpu", threads=1).device.type == "cpu"
    assert Runtime(threads=1).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Runtime(device="cpu", threads=1).device.type == "cpu"


def test_fp16_skips_an_overflow_and_stops_when_no_scale_helps():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    runtime = Runtime(device="cpu", threads=1, precision="fp16")
    runtime.backward((parameter * float("inf")).sum())
    assert runtime.optimizer_step(optimizer, [parameter], 1.0) is None
    assert parameter.item() == 1.0

    def never_finite():
        for _ in range(40):  # the scale starts at 2^16 and halves
            runtime.backward((parameter * float("nan")).sum())
            runtime.optimizer_step(optimizer, [parameter], 1.0)

    for _ in range(2):  # where such updates are skipped, the next one may be no better
        with pytest.raises(DivergenceError, match="not finite"):
            never_finite()
    assert parameter.item() == 1.0
    runtime.backward(parameter.sum())  # gradient 1
    assert runtime.optimizer_step(optimizer, [parameter], 1.0) == 1.0
    assert parameter.item() == pytest.approx(0.0, abs=2e-6)  # clipping divides by the norm + 1e-6


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_returned():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    norm = Runtime(device="cpu", threads=1).optimizer_step(optimizer, [parameter], 1.0)
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-0.6, -0.8]))


@pytest.mark.parametrize(
    ("samples", "where", "saved", "scored"),
    [
        (16, "os.environ['RANK'] == '1' and len(prompts) == 4", "iteration-000001-unfinished", [4, 0]),  # one of two
        (8, "calls.count(2) == 2", "iteration-000001", None),  # fixed samples, which the main process scores
    ],
)
def test_a_reward_that_fails_in_one_process_ends_all_with_its_message(
    tiny_config, tmp_path, samples, where, saved, scored
):
    (tmp_path / "my.py").write_text(
        "import os\n\ncalls = []\n\n\ndef reward(images, prompts, metadata):\n"
        "    calls.append(len(prompts))\n"
        f"    if {where}:\n"
        "        raise ValueError('only here')\n"
        "    return images.mean((1, 2, 3))\n"
    )
    config = tiny_config(reward=f"{tmp_path / 'my.py'}:reward", output=None, samples_per_iteration=samples)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ddpo"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "train", "config.yaml", "--output", "out"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stderr.count("Error: Reward") == 2
    assert "only here" in done.stderr
    checkpoint = Checkpoints(tmp_path / "out" / "checkpoints").get()
    unfinished = checkpoint.state()["unfinished"]
    assert checkpoint.name == saved
    assert scored == (unfinished and [len(each["scores"]["reward"]) for each in unfinished])


def test_tensorboard_gets_the_metrics(tiny_config):
    pytest.importorskip("tensorboard")
    result = train(tiny_config(tracker="tensorboard"))
    assert list(result.folder.path.rglob("events.out.tfevents*"))
