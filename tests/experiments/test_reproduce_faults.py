"""What can go wrong around the runs of an experiment: before the first is started, and after the last."""

from __future__ import annotations

import json

import pytest
from synthetic_runs import write_run

from ddpo.experiments import machine, publishing
from ddpo.experiments import reproduce as module
from ddpo.experiments.definition import Experiment, load_experiment, parse_experiment
from ddpo.experiments.publishing import publish
from ddpo.experiments.reproduce import Options, reproduce
from ddpo.runtime.errors import ExperimentError


def experiment(name: str, *settings: str, evaluate: str = "") -> Experiment:
    return parse_experiment(
        f"{{name: {name}, title: x, summary: x, figure: effectiveness, embedded: {{recipes: [emoji-compressibility], "
        f"queries: 128, evaluations: 1, seeds: 1, variants: {{one: {json.dumps(list(settings))}}}{evaluate}}}}}",
        name,
    )


@pytest.fixture
def no_run(monkeypatch):
    """Let every step be taken for finished; return the names of those that were to be run."""
    asked: list[str] = []

    class Finished:
        def __init__(self, work, slots, tell, origin):
            pass

        def run(self, steps) -> dict[str, str]:
            asked.extend(step.name for step in steps)
            return {}

    monkeypatch.setattr(module, "Runner", Finished)
    monkeypatch.setattr(machine, "gpus", lambda: [])
    return asked


@pytest.mark.parametrize(
    ("settings", "evaluate", "message"),
    [
        (["reward=jpeg-compresibility"], "", "Did you mean 'jpeg-compressibility'?"),
        (["evaluation.rewards=[judge-recognitio]"], "", "Did you mean 'judge-recognition'?"),
        (["prompts=simple-animal"], "", "Did you mean 'simple-animals'?"),
        ([], ", evaluate: [{label: x, prompts: everyday-objects, rewards: [nobody]}]", "Unknown reward 'nobody'"),
        ([], ", evaluate: [{label: x, prompts: {name: simple-animals, part: none}}]", "have no part 'none'"),
    ],
)
def test_a_reward_or_prompts_that_are_not_there_stop_the_command_before_any_run(
    no_run, tmp_path, settings, evaluate, message
):
    whole = experiment("whole")
    lacking = experiment("lacking", *settings, evaluate=evaluate)
    with pytest.raises(ExperimentError) as caught:
        reproduce([whole, lacking], Options(output=tmp_path / "results", work=tmp_path / "work"), print)
    assert message in str(caught.value)
    assert str(caught.value).startswith("Recipe 'emoji-compressibility': ")
    assert no_run == []


def test_a_folder_of_something_else_is_left_alone(no_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("mine")
    with pytest.raises(ExperimentError, match="holds something else than results"):
        reproduce([experiment("mine")], Options(output=tmp_path, work=tmp_path / "work"), print)
    assert no_run == []
    assert (tmp_path / "mine" / "precious.txt").is_file()


def test_results_that_cannot_be_written_do_not_keep_the_others_from_it(no_run, tmp_path, monkeypatch):
    def one_fails(experiment, sources, about, output):
        if experiment.name == "first":
            raise ExperimentError("no evaluation is there.")
        return output / experiment.name

    monkeypatch.setattr(module, "publish", one_fails)
    monkeypatch.setattr(module, "about_results", lambda *_: {})
    lines: list[str] = []
    with pytest.raises(ExperimentError) as caught:
        reproduce([experiment("first"), experiment("second")], Options(output=tmp_path), lines.append)
    assert str(caught.value) == "first was not written: no evaluation is there."
    assert f"second written into {tmp_path / 'second'}" in lines


def test_new_results_take_the_place_of_the_former_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "draw", lambda experiment, folder: [])
    monkeypatch.setattr(publishing, "page", lambda experiment, folder: "")
    about = {"budget": 1.0}
    run = write_run(tmp_path / "run", iterations=2)
    folder = publish(load_experiment("figure-3"), [run], about, tmp_path / "results")
    (folder / "samples.png").write_text("of former results")
    publish(load_experiment("figure-3"), [run], about, tmp_path / "results")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "about.json", "runs.csv"]
    assert [path.name for path in folder.parent.iterdir()] == ["figure-3"]  # nothing is left beside it
