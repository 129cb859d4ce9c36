"""The files of experiments: what comes with the package, and how mistakes are refused."""

from __future__ import annotations

import pytest

from ddpo.experiments.definition import OF_PICTURES, experiment_names, load_experiment, parse_experiment, plan_of
from ddpo.experiments.plan import runs_of
from ddpo.runtime.errors import ExperimentError

FIGURES = ["figure-1", "figure-2", "figure-3", "figure-4", "figure-6", "figure-7", "figure-8"]

SMALL = """
name: mine
title: Mine
summary: a small one
figure: effectiveness
embedded:
  recipes: [emoji-compressibility]
  variants: {one: [algorithm=ddpo-is], two: [algorithm=ddpo-sf]}
  queries: 1024
  evaluations: 4
"""


def test_the_figures_of_the_paper_come_with_the_package():
    assert set(FIGURES) <= set(experiment_names())


@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name in experiment_names() for scale in load_experiment(name).scales]
)
def test_every_run_of_every_experiment_can_be_configured(name, scale):
    experiment = load_experiment(name)
    assert experiment.name == name
    plan = plan_of(experiment, scale)
    runs = runs_of(experiment, scale)
    seeds = 1 if experiment.figure in OF_PICTURES else plan.seeds
    assert len(runs) == seeds * len(plan.recipes) * len(plan.variants)
    assert len({run.name for run in runs}) == len(runs)
    assert {run.config.seed for run in runs} == set(range(seeds))
    for run in runs:
        samples = run.config.samples_per_iteration
        assert run.config.iterations == max(1, round(plan.queries / samples))
        assert run.config.evaluation.every is not None
        evaluations = run.config.iterations / run.config.evaluation.every
        assert evaluations >= min(plan.evaluations, run.config.iterations) * 0.7  # as many as asked for, or all


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("queries: 1024", "querys: 1024", "mine.yaml: embedded.querys: unknown key. Did you mean 'queries'?"),
        ("title: Mine", "titel: Mine", "titel: unknown key. Did you mean 'title'?"),
        ("queries: 1024", "queries: 0", "embedded.queries: Input should be greater than or equal to 1"),
        ("figure: effectiveness", "figure: bars", "figure: Input should be 'progression'"),
        ("evaluations: 4", "evaluate: [{label: x, prompt: y}]", "embedded.evaluate.0.prompt: unknown key"),
        ("figure: effectiveness", "figure: effectiveness\nclaims: [one > three]", "there is no variant 'three'"),
        ("figure: effectiveness", "figure: effectiveness\nclaims: [one best]", "'one best' is not of the form"),
        ("embedded:", "pictures: {promts: 3}\nembedded:", "Did you mean 'prompts'? Valid: prompts, moments."),
        (
            "figure: effectiveness",
            "figure: progression\nclaims: [one > two]",
            "figure: progression has no curves to compare",
        ),
        ("name: mine", "name: My Own", "name: String should match pattern"),
        ("title: Mine", "title: [", "mine.yaml is not valid YAML"),
    ],
)
def test_a_mistake_is_refused_with_the_path_of_its_key(old, new, message):
    text = SMALL.replace(old, new)
    assert text != SMALL
    with pytest.raises(ExperimentError) as caught:
        parse_experiment(text, "mine.yaml")
    assert message in str(caught.value)


def test_an_experiment_without_runs_is_refused():
    with pytest.raises(ExperimentError, match="give what is run under 'embedded', 'paper' or both"):
        parse_experiment(SMALL.partition("embedded:")[0], "mine.yaml")


def test_unknown_names_and_scales_are_refused():
    with pytest.raises(ExperimentError, match=r"no experiment 'figure-33'. Did you mean 'figure-3'\?"):
        load_experiment("figure-33")
    with pytest.raises(ExperimentError, match=r"There is no experiment file missing\.yaml"):
        load_experiment("missing.yaml")
    with pytest.raises(ExperimentError, match="has no paper scale; use --scale embedded"):
        plan_of(parse_experiment(SMALL, "mine.yaml"), "paper")


def test_recipes_beside_an_experiment_file_are_found_from_anywhere(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("model: embedded\nsamples_per_iteration: 16\n")
    (folder / "mine.yaml").write_text(SMALL.replace("emoji-compressibility", "recipe.yaml"))
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("deep/mine.yaml")
    assert [run.config.iterations for run in runs_of(experiment, "embedded", seeds=1)] == [64, 64]
