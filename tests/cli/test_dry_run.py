"""`ddpo train --dry-run` as a user types it: says what a run would do and cost, and does nothing."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from command_line import PROGRAM, ddpo

from ddpo.cli.plan import quantity


@pytest.fixture
def dry_run(tmp_path, monkeypatch):
    """Return what the command prints in an empty folder, with an empty hub cache and a network that leads nowhere."""
    folder, cache = tmp_path / "folder", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("HF_HOME", str(cache))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    def run(*arguments):
        done = subprocess.run(
            [PROGRAM, "train", *arguments, "--dry-run"],
            cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert not list(folder.iterdir())
        return done

    return run


def value(output, name):
    """Return what stands beside the first row called `name`."""
    return re.search(rf"^ +{re.escape(name)}  +(.*?) *$", output, flags=re.MULTILINE).group(1)


def test_the_paper_s_run_without_its_weights(dry_run):
    done = dry_run("compressibility")
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert value(printed, "prompts") == "imagenet-animals, 398 distinct"
    assert value(printed, "reward").startswith("jpeg-compressibility")
    assert value(printed, "algorithm") == "ddpo-is"
    assert value(printed, "model").startswith("CompVis/stable-diffusion-v1-4, the whole network")
    assert value(printed, "iterations") == "195"
    assert value(printed, "reward queries") == "49,920"
    assert value(printed, "samples").startswith("256 ")
    assert value(printed, "updates").startswith("4 ")
    assert value(printed, "denoising steps").startswith("50 ")
    assert value(printed, "guidance scale") == "5.0"
    assert value(printed, "an iteration") == "82.8 PFLOP"
    assert value(printed, "trained weights") == "3.44 GB"  # 859,520,964 numbers of 4 bytes
    assert re.fullmatch(r"[\d.]+ GB", value(printed, "together"))
    assert value(printed, "duration").startswith("not known: model: CompVis/stable-diffusion-v1-4 is not in the local")
    assert "\x1b" not in printed


def test_the_default_run_is_timed():
    done = ddpo("train", "batch_size=8", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.match(r"about \d.* without the reward", value(done.stdout, "duration"))
    assert "not known" not in done.stdout


def test_a_hub_id_in_the_cache_is_timed_without_a_network(dry_run, tiny_pipeline, tmp_path):
    repository = tmp_path / "cache" / "hub" / "models--someone--tiny"
    shutil.copytree(tiny_pipeline(), repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    settings = ["model=someone/tiny", "batch_size=4", "sampler.steps=3"]
    done = dry_run(*settings)
    assert done.returncode == 0, done.stderr
    assert value(done.stdout, "duration").startswith("about ")
    (repository / "snapshots" / "0123abcd" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    done = dry_run(*settings)
    assert "FLOP" in value(done.stdout, "an iteration")
    assert value(done.stdout, "duration").startswith("not known")


def test_an_architecture_that_nobody_knows(dry_run):
    done = dry_run("compressibility", "model=someone/unknown")
    assert done.returncode == 0, done.stderr
    assert value(done.stdout, "rollout") == "1,600 network passes, 25,600 rows"
    assert value(done.stdout, "FLOPs").startswith("not known")
    assert "its architecture is not among those ddpo knows" in done.stdout


def test_a_wrong_configuration_is_refused_as_by_the_run():
    done = ddpo("train", "reward=jpeg-compresibility", "--dry-run")
    assert done.returncode == 2
    assert "Did you mean 'jpeg-compressibility'?" in done.stderr


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (4, "4 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_999, "1.00 MB"),
        (3.438e9, "3.44 GB"),
        (82.795e15, "82.8 PB"),
    ],
)
def test_quantity(number, text):
    assert quantity(number, "B") == text
