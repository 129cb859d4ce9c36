"""`ddpo reproduce` as a user types it, on a tiny model: runs, results, and nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import ddpo

from ddpo.experiments.definition import experiment_names

EXPERIMENT = """
name: mine
title: Two learning rates
summary: a small one
figure: effectiveness
claims: [fast > slow]
embedded:
  recipes: [tiny.yaml]
  variants: {slow: [algorithm=ddpo-is], fast: [algorithm=ddpo-is, learning_rate=1e-3]}
  settings: [evaluation.number=2]
  queries: 64
  evaluations: 2
"""


@pytest.fixture
def folder(tiny_pipeline, tmp_path) -> Path:
    (tmp_path / "tiny.yaml").write_text(
        f"model: {tiny_pipeline()}\nprompts: [a cat, a dog]\nalgorithm: {{name: ddpo-is}}\nsamples_per_iteration: 8\n"
        "batch_size: 4\nsampler: {steps: 3}\nthreads: 1\n"
    )
    (tmp_path / "mine.yaml").write_text(EXPERIMENT)
    return tmp_path


def test_an_experiment_of_ones_own_runs_and_resumes(folder):
    command = ("reproduce", "mine.yaml", "--seeds", "1", "--budget", "0.25", "--jobs", "2")
    done = ddpo(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 steps, 2 at a time" in done.stdout
    results = folder / "results" / "mine"
    assert {file.name for file in results.iterdir()} == {
        "README.md", "about.json", "figure.png", "figure.svg", "runs.csv",
    }  # fmt: skip
    text = (results / "README.md").read_text()
    assert "Command: `ddpo reproduce mine.yaml --seeds 1 --budget 0.25`" in text
    assert "Budget 0.25" in text
    assert str(folder) not in "".join(file.read_text() for file in results.glob("*.[!p]*"))  # no paths of a machine
    about = json.loads((results / "about.json").read_text())
    assert about["queries"] == "16"  # 64 x 0.25, 2 iterations of 8
    assert about["made_with"][0]["machine"]["torch"]

    again = ddpo(*command, folder=folder)
    assert again.returncode == 0, again.stderr
    assert "2 of 2 are finished already" in again.stdout
    assert "started" not in again.stdout


def test_a_run_that_cannot_train_fails_with_the_words_of_its_log(folder):
    tiny = folder / "tiny.yaml"
    tiny.write_text(tiny.read_text().replace("model: /", "model: /nowhere/"))
    done = ddpo("reproduce", "mine.yaml", "--seeds", "1", "--budget", "0.25", folder=folder)
    assert done.returncode == 2
    assert "there is no folder /nowhere" in done.stdout
    assert done.stderr.startswith("Error: 2 of 2 steps failed (tiny_algorithm-ddpo-is_")
    assert not (folder / "results").exists()


def test_a_wrong_recipe_is_refused_before_anything_runs(folder):
    (folder / "mine.yaml").write_text(EXPERIMENT.replace("learning_rate", "learning_rat"))
    done = ddpo("reproduce", "mine.yaml", folder=folder)
    assert done.returncode == 2
    assert "Did you mean 'learning_rate'?" in done.stderr
    assert not (folder / "runs").exists()


def test_without_an_experiment_all_are_listed_with_a_line_each(tmp_path):
    done = ddpo("reproduce", folder=tmp_path)
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.partition("\n\n")[0].splitlines()]
    assert names == experiment_names()
