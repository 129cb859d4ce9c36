"""`ddpo doctor RECIPE`: green on the default recipe, and what it says of a recipe with one thing wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reward_servers import real_server

from ddpo.config import load_config
from ddpo.doctor.checks import perform
from ddpo.doctor.recipe import examine
from ddpo.doctor.rehearsal import Rehearsal, judge, last_steps, rehearse
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.prompts import load_prompts
from ddpo.runtime.errors import ReplayError
from ddpo.runtime.processes import Runtime

PROGRAM = Path(sys.executable).with_name("ddpo")


@pytest.fixture
def run(tiny_pipeline, tmp_path, monkeypatch):
    """Return the outcomes by name of all checks of a run on a tiny model, with changes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the command sets it
    settings = [f"model={tiny_pipeline()}", "batch_size=4", "device=cpu", "threads=1", "evaluation.rewards=[]"]

    def outcomes(*changes):
        checks = list(examine("emoji-compressibility", [*settings, "precision=fp32", *changes]))
        return {check.name: check.outcome for check in checks}

    return outcomes


def failing(outcomes):
    return [name for name, outcome in outcomes.items() if outcome.status == "failed"]


def test_the_default_recipe_is_green_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [PROGRAM, "doctor", "threads=1", "--json"],
        cwd=tmp_path / "here", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    statuses = {check["name"]: check["status"] for check in told["checks"]}
    assert told["healthy"] is True
    assert {status for name, status in statuses.items() if name not in ("extras", "memory", "device")} == {"ok"}
    assert {"Python", "packages", "device", "memory", "disk", "hub", "reward", "dry run"} <= set(statuses)
    assert not list((tmp_path / "here").iterdir())


def test_a_reward_that_raises_does_not_stop_the_dry_run(run, tmp_path):
    (tmp_path / "my.py").write_text("def broken(images, prompts, metadata):\n    return 1 / 0\n")
    outcomes = run("reward=my.py:broken", "evaluation.rewards=[my.py:broken]")
    assert failing(outcomes) == ["reward"]
    assert "ZeroDivisionError" in outcomes["reward"].text
    assert outcomes["measured reward"].status == "warning"  # training measures it no more
    assert failing(run("evaluation.rewards=[judgee]")) == ["measured reward"]  # training would not start
    assert outcomes["dry run"].status == "ok"
    assert "4 samples, 2 denoising steps, 1 update" in outcomes["dry run"].text


def test_what_does_not_load_is_said_and_what_needs_it_is_left_out(run):
    outcomes = run("prompts=gone.txt")
    assert failing(outcomes) == ["prompts"]
    assert {outcomes[name].status for name in ("model", "memory", "disk", "reward", "dry run")} == {"skipped"}
    assert failing(run("device=cuda:7")) == ["device"]
    wrong = run("algoritm=ddpo-is")
    assert list(wrong)[-1] == "configuration"
    assert "Did you mean 'algorithm'?" in wrong["configuration"].text


def test_weights_that_are_not_here_are_asked_for_at_the_hub(run, tiny_pipeline, tmp_path):
    outcomes = run("model=someone/unknown", "reward=clip-score")
    assert failing(outcomes) == ["hub"]
    assert "someone/unknown and what the reward 'clip-score' needs are not on this machine" in outcomes["hub"].text
    assert outcomes["dry run"].status == "skipped"
    cut = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), cut)
    next((cut / "vae").glob("*.safetensors")).unlink()
    assert failing(run(f"model={cut}")) == ["model"]
    local = run("model={name: someone/unknown, local_files_only: true}")
    assert failing(local) == ["model"]


def test_reward_servers(run):
    with real_server("jpeg-compressibility") as url:
        outcomes = run(f"reward={url}")
        assert outcomes["reward server"].text == f"{url} answers and serves: negative JPEG size (kB)"
        assert outcomes["reward"].status == "ok"
    gone = run("reward=http://127.0.0.1:9")
    assert failing(gone) == ["reward server"]
    assert "No reward server answers at http://127.0.0.1:9" in gone["reward server"].text
    assert gone["reward"].status == "skipped"


@pytest.mark.parametrize("change", ["algorithm=ddpo-sf", "algorithm=rwr", "algorithm=rwr-sparse", "lora.rank=2"])
def test_every_kind_of_run_is_rehearsed(run, change):
    assert failing(run(change)) == []


def test_a_rehearsal_sees_a_replay_that_is_not_exact(tiny_config, monkeypatch):
    config, runtime = tiny_config(), Runtime(device="cpu", threads=1)
    exact = rehearse(config, load_prompts(config.prompts), runtime)
    assert exact.ratio_error == 0
    # 1.64 nats over the 4 x 8 x 8 numbers of a latent, a tenth of it
    assert exact.tolerance == pytest.approx(0.164 / 256)
    assert exact.gradient_norm > 0
    step, calls = StableDiffusionPolicy.step, []

    def drifting(self, *arguments):
        calls.append(1)
        gaussian = step(self, *arguments)
        return replace(gaussian, mean=gaussian.mean + 1e-3 * len(calls))

    monkeypatch.setattr(StableDiffusionPolicy, "step", drifting)
    with pytest.raises(ReplayError, match="off by"):
        rehearse(config, load_prompts(config.prompts), runtime)
    check = perform("dry run", lambda: judge(rehearse(config, load_prompts(config.prompts), runtime)), limit=300)
    assert "Use precision=fp32" in check.outcome.text


def test_the_rehearsed_steps_are_the_last_with_a_likelihood(ddim_config):
    from ddpo.core.forward_process import NoiseSchedule
    from ddpo.core.kernel import Sampler

    # 50 of 1000 steps with an offset of 1 end at 21 and 1; a deterministic last one is left out
    for final, expected in ((False, [21, 1]), (True, [41, 21])):
        sampler = Sampler.create(NoiseSchedule.from_config(ddim_config(set_alpha_to_one=final)), "ddim", 50, 1.0)
        short = last_steps(sampler, 2)
        assert short.grid.timestep_T.tolist() == expected
        assert torch.equal(short.std_T, sampler.std_T[-2:] if not final else sampler.std_T[-3:-1])


GOOD = Rehearsal(8, 2, 0.0, 1e-4, 0.3, skipped=False, finite=True)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "ok"),
        ({"ratio_error": 4.9e-5}, "ok"),
        ({"ratio_error": 5.1e-5}, "warning"),
        ({"ratio_error": None, "tolerance": None}, "ok"),
        ({"gradient_norm": 0.0}, "failed"),
        ({"gradient_norm": 0.0, "skipped": True}, "ok"),
        ({"finite": False}, "failed"),
    ],
)
def test_the_verdict_on_a_rehearsal(changes, status):
    assert judge(replace(GOOD, **changes)).status == status


def test_the_rehearsal_takes_one_batch_of_the_recipe():
    from ddpo.doctor.rehearsal import in_small

    small = in_small(load_config("compressibility"))
    assert (small.samples_per_iteration, small.updates, small.iterations) == (8, 1, 1)
    assert small.model.local_files_only
    assert in_small(load_config("compressibility", ["batch_size=1"])).samples_per_iteration == 2
