"""From a run to the hub and back: the card, the upload, and what stock diffusers loads of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from quiet_runs import train
from typer.testing import CliRunner

from ddpo.cli.program import app
from ddpo.runtime.errors import ModelError, RunFolderError


class Hub:
    """Stands in for the hub: a folder for each repository."""

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, repository, *, private, exist_ok):
        if "/" not in repository:
            raise huggingface_hub.errors.HFValidationError(f"Repo id must be USER/NAME: '{repository}'.")
        (self.folder / repository).mkdir(parents=True, exist_ok=exist_ok)
        return f"https://hub/{repository}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


def push(*arguments):
    return CliRunner().invoke(app, ["push", *map(str, arguments)])


@pytest.mark.parametrize("rank", [None, 2])
def test_what_is_pushed_is_loaded_by_stock_diffusers_and_says_what_it_is(tiny_config, tmp_path, monkeypatch, rank):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(tmp_path / "hub"))
    (tmp_path / "own.py").write_text(
        "from ddpo.algorithms import DDPOScoreFunction\n\n\nclass Mine(DDPOScoreFunction):\n    name: str = 'mine'\n"
    )
    config = tiny_config(lora={"rank": rank}, iterations=1, algorithm=f"{tmp_path / 'own.py'}:Mine")
    run = train(config).folder
    assert (run.model / "README.md").is_file()
    done = push(run.path, "me/red")
    assert done.output.strip() == "https://hub/me/red"

    there = tmp_path / "hub" / "me" / "red"
    _, header, text = (there / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header)["tags"] == ["ddpo", "reinforcement-learning", *([] if rank is None else ["lora"])]
    assert str(tmp_path) not in text
    assert "| `algorithm` | Mine |" in text
    for picture in ("before-after.png", "curve.png"):
        assert f"({picture})" in text
        assert (there / picture).is_file()

    pipeline = StableDiffusionPipeline.from_pretrained(config.model.name)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    used = text.split("```python\n")[1].split("```")[0]  # what the card says, on this machine's folders
    used = used.replace(f'"{Path(config.model.name).name}"', repr(str(config.model.name))).replace("me/red", str(there))
    scope = {}
    exec(used, scope)
    assert scope["image"].size == (16, 16)
    after = scope["pipeline"].unet.state_dict()
    changed = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    assert changed


def test_what_cannot_be_pushed_is_one_sentence(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(tmp_path / "hub"))
    run = train(tiny_config(iterations=1)).folder
    assert isinstance(push(tmp_path, "me/red").exception, RunFolderError)
    refused = push(run.path, "red").exception
    assert isinstance(refused, ModelError)
    assert str(refused) == "red was not pushed: Repo id must be USER/NAME: 'red'. `hf auth login` logs in."
    shutil.rmtree(run.model)
    assert "has no trained model yet" in str(push(run.path, "me/red").exception)
