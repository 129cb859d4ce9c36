"""What can go wrong around the runs of an experiment: before the first is started, and after the last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_runs import write_run

from ddpo.experiments import machine, publishing
from ddpo.experiments import reproduce as module
from ddpo.experiments.definition import Experiment, load_experiment, parse_experiment
from ddpo.experiments.plan import runs_of, steps_of
from ddpo.experiments.publishing import publish
from ddpo.experiments.reproduce import Options, reproduce
from ddpo.experiments.runner import Outcome
from ddpo.experiments.steps import Step
from ddpo.runtime.errors import ExperimentError

ORIGIN = {"version": "0", "commit": None, "machine": {}}


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
        def __init__(self, steps, slots, tell):
            asked.extend(step.name for step in steps)

        def run(self) -> Outcome:
            return Outcome(finished=list(asked))

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
    assert "Experiment 'lacking', recipe 'emoji-compressibility'" in str(caught.value)
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


def test_a_step_without_its_product_is_not_finished(tmp_path):
    step = Step("evaluation", ("true",), tmp_path / "result.json", tmp_path)
    step.product.write_text("{}")
    step.finish(1.0)
    assert step.is_finished
    step.product.unlink()
    assert not step.is_finished
    step.product.write_text("half")
    step.clear()
    assert not step.marker.exists()


def test_new_results_take_the_place_of_the_former_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "draw", lambda experiment, folder: [])
    monkeypatch.setattr(publishing, "write_page", lambda experiment, folder: None)
    about = {"budget": 1.0}
    run = write_run(tmp_path / "run", iterations=2)
    folder = publish(load_experiment("figure-3"), [run], about, tmp_path / "results")
    (folder / "samples.png").write_text("of former results")
    publish(load_experiment("figure-3"), [run], about, tmp_path / "results")
    assert sorted(file.name for file in folder.iterdir()) == ["about.json", "runs.csv"]
    assert [path.name for path in folder.parent.iterdir()] == ["figure-3"]  # nothing is left beside it


def test_shared_runs_of_the_first_seed_stay_so_whatever_is_asked_for():
    for name in ("figure-1", "figure-2"):
        assert {run.seed for run in runs_of(load_experiment(name), "embedded", seeds=5)} == {0}
    assert {run.seed for run in runs_of(load_experiment("figure-3"), "embedded", seeds=5)} == set(range(5))
    all_of = parse_experiment(
        "{name: x, title: x, summary: x, figure: effectiveness, embedded: {runs_of: figure-3}}", "x"
    )
    assert len(runs_of(all_of, "embedded", seeds=2)) == 2 * len(runs_of(all_of, "embedded", seeds=1)) == 24


def test_the_papers_model_runs_alone_where_there_is_no_gpu():
    assert len(machine.slots(None, [], "paper")) == 1
    assert len(machine.slots(3, [], "paper")) == 3
    assert len(machine.slots(None, ["A", "B"], "paper")) == 2


@pytest.mark.parametrize("figure", ["figure-4", "figure-8", "regression-control"])
def test_first_variants_share_their_runs_with_figure_3_as_their_files_say(figure):
    of_figure_3 = {run.name for run in runs_of(load_experiment("figure-3"), "embedded")}
    runs = runs_of(load_experiment(figure), "embedded")
    assert {run.name for run in runs if run.variant == runs[0].variant} <= of_figure_3


def test_another_shape_of_a_setting_is_a_change(tmp_path):
    whole = experiment("x", "prompts=simple-animals")
    part = experiment("x", "prompts={name: simple-animals, part: train}", "evaluation.rewards=[judge]")
    (then,), (now,) = (runs_of(each, "embedded") for each in (whole, part))
    (step,) = steps_of([then], tmp_path, {}, ORIGIN)
    step.product.mkdir(parents=True)
    step.finish(1.0)
    from ddpo.experiments.plan import changed_settings

    changed = changed_settings(step, now)
    assert len(changed) == 2
    assert any(line.startswith("prompts ") and "'part': 'train'" in line for line in changed)
    assert any(line.startswith("evaluation.rewards ") for line in changed)


def test_prompts_of_an_evaluation_may_be_a_mapping_and_text_keeps_its_file():
    from ddpo.experiments.plan import evaluation_file

    mapping = experiment("x", evaluate=", evaluate: [{label: x, prompts: {name: simple-animals, part: train}}]")
    (run,) = runs_of(mapping, "embedded")
    step = steps_of([run], Path("work"), {}, ORIGIN)[1]
    assert json.loads(step.command[step.command.index("--prompts") + 1]) == {"name": "simple-animals", "part": "train"}
    first = runs_of(load_experiment("figure-6"), "embedded")[0]
    file = evaluation_file(first, first.prompt_sets[0], Path("work"))
    assert file.name == "animals-trained-on-7ab43541.json"  # of results that are there
