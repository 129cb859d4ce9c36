"""The command line as a user types it: what it prints, and how it refuses."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import warnings

import pytest
from command_line import ddpo
from PIL import Image

from ddpo.cli import program
from ddpo.runtime.signals import Interrupted


def test_train_sample_and_repeat(tiny_pipeline, tmp_path):
    (tmp_path / "my.py").write_text("def redness(images, prompts, metadata):\n    return images[:, 0].mean((1, 2))\n")
    (tmp_path / "my.txt").write_text("a cat\na dog\n")
    settings = [
        f"model={tiny_pipeline()}", "reward=my.py:redness", "prompts=my.txt", "iterations=2", "batch_size=4",
        "samples_per_iteration=8", "sampler.steps=3", "evaluation={number: 2, every: 1}", "threads=1",
    ]  # fmt: skip
    done = ddpo("train", *settings, "--output", "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "iteration 2/2" in done.stdout
    assert "redness" in done.stdout
    assert "out/before-after.png" in done.stdout
    again = ddpo("train", "out/config.yaml", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "runs" / "redness" / "metrics.jsonl").is_file()
    drawn = ddpo("sample", "out", "--prompt", "a cat", "--number", "4", "--output", "grid.png", folder=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert Image.open(tmp_path / "grid.png").width > 32
    refused = ddpo("train", *settings, "--output", "out", folder=tmp_path)
    assert refused.returncode == 2
    assert "out is not empty" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algoritm.name=ddpo-is"], "algoritm: unknown key. Did you mean 'algorithm'?"),
        (["algorithm.clip_rang=1"], "algorithm.clip_rang: unknown key. Did you mean 'clip_range'?"),
        (["evaluation.numbr=1"], "evaluation.numbr: unknown key. Did you mean 'number'?"),
        (["iterations=many"], "iterations: must be a whole number (given: 'many')"),
        (["sampler.eta=0"], "sampler.eta: eta 0 makes every denoising step deterministic"),
        (["algorithm=ddpo-iss"], "unknown algorithm 'ddpo-iss'. Did you mean 'ddpo-is'?"),
        (["algorithm=ddpo-sf", "updates_per_iteration=2"], "ddpo-sf is on-policy"),
        (["samples_per_iteration=30"], "samples_per_iteration: 30 does not divide by updates_per_iteration (4)"),
        (["reward=jpeg-compresibility"], "Unknown reward 'jpeg-compresibility'. Did you mean 'jpeg-compressibility'?"),
        (["reward=nothing.py:here"], "nothing.py"),
        (["prompts=simple-animal"], "Unknown prompts 'simple-animal'. Did you mean 'simple-animals'?"),
        (["emoji-judge", "model=./nowhere"], "there is no folder nowhere"),
        (["emoji-compresibility"], "There is no recipe 'emoji-compresibility'. Did you mean 'emoji-compressibility'?"),
        (["missing.yaml"], "There is no configuration file missing.yaml"),
        (["precision=fp8"], "precision: must be 'fp32', 'tf32', 'bf16', 'fp16' or 'auto'"),
        (["device=cuda:7"], "device: there is no 'cuda:7' here"),
        (["tracker=trackio"], "tracker: the package trackio is not installed"),
        (["learning_rate=.inf"], "learning_rate: must be a finite number"),
        (["prompts=3"], "prompts: "),
        (["name=../up"], "name: must begin with a letter or digit"),
        (["algorithm={name: ddpo-is, log_prob: sum}"], "log_prob=sum needs a clip_range"),
        (["seed=1", "emoji-compressibility"], "give one recipe or file, first"),
        (["advantage=group", "samples_per_prompt=1"], "samples_per_prompt"),
        (["advantage.min_count=64"], "min_count 64 is never reached"),
        (["algorithm={name: ddpo-is, clip_nats: 1, log_prob: sum}"], "clip_nats goes with log_prob=mean"),
        (["algorithm={name: ddpo-is, clip_range: 1e-4, clip_nats: 1}"], "clip_range or clip_nats, not both"),
    ],
)
def test_a_wrong_configuration_ends_with_one_sentence_and_code_2(arguments, message, tmp_path):
    done = ddpo("train", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_list_names_everything():
    done = ddpo("list")
    for name in ("emoji-compressibility", "jpeg-compressibility", "simple-animals", "ddpo-sf", "embedded"):
        assert name in done.stdout
    rewards = ddpo("list", "rewards").stdout
    assert "judge" in rewards
    assert "simple-animals" not in rewards
    assert ddpo("list", "reward").returncode == 2
    of_lora = ddpo("list", "settings", "lora").stdout
    assert "lora.rank" in of_lora
    assert "sampler.steps" not in of_lora
    assert "Did you mean 'lora.rank'?" in ddpo("list", "settings", "lorra").stderr
    judges = ddpo("list", "rewards", "judge").stdout
    assert "judge-recognition" in judges
    assert "jpeg" not in judges
    assert ddpo("list", "rewards", "jugde").returncode == 2


def test_list_says_what_each_reward_needs():
    lines = ddpo("list", "rewards").stdout.splitlines()[1:]
    assert len(lines) >= 12
    for line in lines:
        assert re.search(r" \[(no weights|weights: [^;]+; [^;\]]+)\]$", line), line
    (nsfw,) = (line for line in lines if line.split()[0] == "nsfw-penalty")
    assert nsfw.endswith("[weights: Falconsai/nsfw_image_detection; Apache-2.0]")


def test_help_has_an_example_everywhere_and_loads_nothing_heavy():
    for command in ([], ["train"], ["sample"], ["list"], ["doctor"]):
        assert "Example: ddpo" in ddpo(*command, "--help").stdout
    code = "import sys, ddpo, ddpo.cli, ddpo.config; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version():
    assert ddpo("--version").stdout.startswith("ddpo 0.")


def test_sampling_something_that_is_not_there():
    done = ddpo("sample", "./nowhere", "--prompt", "a cat")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_a_run_that_is_interrupted_while_it_loads_may_be_given_again(monkeypatch, capsys):
    def interrupted():
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(program, "app", interrupted)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 143
    assert "give the same command again" in capsys.readouterr().err  # also of `ddpo resume`, with checkpoints there
