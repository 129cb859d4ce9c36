"""`ddpo doctor RECIPE`: green on the default recipe, and what it says of a recipe with one thing wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from command_line import PROGRAM
from reward_servers import real_server

from ddpo.config import load_config
from ddpo.core.kernel import ddim
from ddpo.doctor import checks
from ddpo.doctor.checks import examine, judge, look_at_packages
from ddpo.doctor.rehearsal import Rehearsal, in_small, last_steps, rehearse
from ddpo.policies.schedule import read_schedule
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.prompts import load_prompts
from ddpo.runtime.errors import ReplayError
from ddpo.runtime.processes import Runtime


def test_packages_against_requirements():
    installed = {"torch": "2.13.0+cpu", "diffusers": "0.42.1", "pyyaml": "6.0"}

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    assert look_at_packages(["torch>=2.10", "pyyaml>=6", 'uvicorn>=0.99; extra == "serve"'], version).status == "ok"
    old = look_at_packages(["torch>=2.14", "peft>=0.18", "diffusers>=0.38"], version)
    assert old.status == "failed"
    assert old.text == "torch is 2.13.0+cpu, needed is >=2.14; peft is not installed."
    assert old.advice == "`pip install 'torch>=2.14' 'peft>=0.18'`"


@pytest.fixture
def run(tiny_pipeline, tmp_path, monkeypatch):
    """Return the checks by name of a run on a tiny model, with changes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as the command sets it
    settings = [f"model={tiny_pipeline()}", "batch_size=4", "device=cpu", "threads=1", "evaluation.rewards=[]"]

    def by_name(*changes):
        return {c.name: c for c in examine("emoji-compressibility", [*settings, "precision=fp32", *changes])}

    return by_name


def failing(outcomes):
    return [name for name, check in outcomes.items() if check.status == "failed"]


def test_the_default_recipe_is_green_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [PROGRAM, "doctor", "threads=1", "batch_size=8", "--json"],
        cwd=tmp_path / "here", capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["healthy"] is True
    assert {check["status"] for check in told["checks"]} == {"ok"}
    assert {"packages", "configuration", "reward", "rehearsal"} <= {check["name"] for check in told["checks"]}
    assert not list((tmp_path / "here").iterdir())


def test_a_reward_that_raises_does_not_stop_the_rehearsal(run, tmp_path):
    (tmp_path / "my.py").write_text("def broken(images, prompts, metadata):\n    return 1 / 0\n")
    outcomes = run("reward=my.py:broken", "evaluation.rewards=[my.py:broken]")
    assert failing(outcomes) == ["reward"]
    assert "ZeroDivisionError" in outcomes["reward"].text
    assert outcomes["measured reward"].status == "warning"  # training measures it no more
    assert outcomes["rehearsal"].status == "ok"
    assert "4 samples, 2 denoising steps, an update" in outcomes["rehearsal"].text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("prompts=gone.txt", "gone.txt"),
        ("device=cuda:7", "there is no 'cuda:7' here"),
        ("algoritm=ddpo-is", "Did you mean 'algorithm'?"),
        ("evaluation.rewards=[judgee]", "judgee"),
        ("reward=http://127.0.0.1:9", "No reward server answers at http://127.0.0.1:9"),
        ("lora={rank: 1, target_modules: [nothing]}", "lora.target_modules"),
    ],
)
def test_what_does_not_load_is_said(run, change, text):
    outcomes = run(change)
    assert failing(outcomes) == ["configuration"]
    assert list(outcomes)[-1] == "configuration"
    assert text in outcomes["configuration"].text


def test_whatever_a_plugin_raises_is_an_outcome(run, tmp_path):
    (tmp_path / "my.py").write_text("raise SystemExit('gone')\n")
    assert failing(run("reward=my.py:broken")) == ["configuration"]


def test_weights_that_are_not_here(run, tiny_pipeline, tmp_path):
    outcomes = run("model=CompVis/stable-diffusion-v1-4", "lora.rank=4", "reward=clip-score", "batch_size=1")
    assert failing(outcomes) == []
    assert outcomes["rehearsal"].status == outcomes["reward"].status == "warning"
    assert "`ddpo train` downloads what is missing" in outcomes["rehearsal"].advice
    cut = tmp_path / "model"
    shutil.copytree(tiny_pipeline(), cut)
    next((cut / "vae").glob("*.safetensors")).unlink()
    assert failing(run(f"model={cut}")) == ["rehearsal"]
    assert failing(run("model={name: someone/unknown, local_files_only: true}")) == ["rehearsal"]


def test_a_reward_server_is_asked(run):
    with real_server("jpeg-compressibility") as url:
        assert run(f"reward={url}")["reward"].status == "ok"


def test_what_does_not_fit_the_memory_is_not_tried(run, monkeypatch):
    monkeypatch.setattr(checks, "_memory_of", lambda device: 1000)
    outcomes = run()
    assert failing(outcomes) == ["rehearsal"]
    assert "Lower batch_size" in outcomes["rehearsal"].advice


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
    assert min(exact.rollout_seconds, exact.decode_seconds, exact.update_seconds) > 0
    predict, calls = StableDiffusionPolicy.predict, []

    def drifting(self, *arguments, **options):
        calls.append(1)
        return predict(self, *arguments, **options) + 1e-2 * len(calls)

    monkeypatch.setattr(StableDiffusionPolicy, "predict", drifting)
    with pytest.raises(ReplayError, match="off by"):
        rehearse(config, load_prompts(config.prompts), runtime)


def test_the_rehearsed_steps_are_the_last_with_a_likelihood(ddim_config):
    # 50 of 1000 steps with an offset of 1 end at 21 and 1; a deterministic last one is left out
    for final, expected in ((False, [21, 1]), (True, [41, 21])):
        kernel = ddim(read_schedule(ddim_config(set_alpha_to_one=final)), 50)
        short = last_steps(kernel, 2)
        assert short.time_T.tolist() == expected
        assert torch.equal(short.std_T, kernel.std_T[-2:] if not final else kernel.std_T[-3:-1])


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
    good = Rehearsal(load_config(None), 0.0, 1e-4, 0.3, False, True, 1.0, 1.0, 1.0)
    assert judge(replace(good, **changes)).status == status


def test_the_rehearsal_takes_one_batch_of_the_recipe():
    small = in_small(load_config("compressibility"))
    assert (small.samples_per_iteration, small.updates) == (8, 1)
    assert small.model.local_files_only
    assert in_small(load_config("compressibility", ["batch_size=1"])).samples_per_iteration == 2
