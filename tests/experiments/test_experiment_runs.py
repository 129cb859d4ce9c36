"""Which runs an experiment needs, and the steps that make them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ddpo.experiments import machine
from ddpo.experiments.definition import load_experiment, parse_experiment, plan_of
from ddpo.experiments.plan import runs_of, steps_of

GENERALISATION = """
name: mine
title: Mine
summary: two recipes on two prompt sets
figure: generalisation
embedded:
  recipes: [emoji-compressibility, emoji-incompressibility]
  variants: {some animals: [algorithm=ddpo-is, "prompts={name: simple-animals, part: train}"]}
  queries: 1024
  evaluations: 1
  evaluate:
    - label: held out
      prompts: {name: simple-animals, part: held-out}
      rewards: [judge-recognition]
      show: [a horse]
    - {label: everyday objects, prompts: everyday-objects, show: [a balloon, a bed]}
"""


def names(figure: str, **options) -> set[str]:
    return {run.name for run in runs_of(load_experiment(figure), "embedded", **options)}


def queries_of(run) -> int:
    return run.config.iterations * run.config.samples_per_iteration


def test_figures_of_pictures_share_the_first_seeds_runs_of_figure_3_whatever_is_asked_for():
    ours = {name for name in names("figure-3", seeds=1) if "_algorithm-ddpo-is_" in name}
    assert len(ours) == 3
    assert names("figure-1") == names("figure-2", seeds=5) == ours


@pytest.mark.parametrize("figure", ["figure-4", "figure-8", "regression-control"])
def test_first_variants_share_their_runs_with_figure_3_as_their_files_say(figure):
    runs = runs_of(load_experiment(figure), "embedded")
    assert {run.name for run in runs if run.variant == runs[0].variant} <= names("figure-3")


def test_equal_queries_whatever_the_algorithm_and_the_budget():
    runs = runs_of(load_experiment("figure-3"), "embedded", seeds=1)
    queries = plan_of(load_experiment("figure-3"), "embedded").queries
    assert {queries_of(run) for run in runs} == {queries}
    assert len({run.config.samples_per_iteration for run in runs}) > 1  # RWR draws more samples an iteration
    halved = runs_of(load_experiment("figure-3"), "embedded", seeds=1, budget=0.5)
    assert {queries_of(run) for run in halved} == {queries // 2}
    assert not {run.name for run in runs} & {run.name for run in halved}


def test_a_tiny_budget_still_trains():
    runs = runs_of(load_experiment("figure-8"), "embedded", seeds=1, budget=1e-6)
    assert {run.config.iterations for run in runs} == {1}


def test_evaluations_are_spread_over_the_queries():
    plan = plan_of(load_experiment("figure-3"), "embedded")
    for run in runs_of(load_experiment("figure-3"), "embedded", seeds=1):
        between = run.config.evaluation.every * run.config.samples_per_iteration
        # Where an iteration has more samples than a share of the queries, every iteration is evaluated.
        assert between == max(plan.queries / plan.evaluations, run.config.samples_per_iteration)


def test_all_first_seeds_come_first_and_no_run_twice():
    runs = [run for name in ("figure-1", "figure-3", "figure-2") for run in runs_of(load_experiment(name), "embedded")]
    steps = steps_of(runs, Path("work"))
    seeds = [int(step.name.partition("seed-")[2][0]) for step in steps]
    assert seeds == sorted(seeds)
    assert len(steps) == len({step.name for step in steps}) == 36


def test_the_name_tells_recipe_settings_and_seed():
    file = parse_experiment(
        "{name: x, title: x, summary: x, figure: rounds, embedded: {recipes: [emoji-judge], queries: 128, "
        "evaluations: 1, variants: {a: [algorithm=ddpo-is], b: [algorithm=ddpo-is, learning_rate=1e-3]}}}",
        "x",
    )
    first, second = runs_of(file, "embedded", seeds=1)
    assert first.name.startswith("emoji-judge_algorithm-ddpo-is_iterations-1_seed-0_")
    assert "learning_rate-1e-3" in second.name
    assert first.name != runs_of(file, "embedded", seeds=2)[-2].name


def test_a_step_is_a_command_that_anybody_can_type():
    run = runs_of(parse_experiment(GENERALISATION, "mine"), "embedded", seeds=1)[0]
    training, *others = steps_of([run], Path("work"))
    evaluations = [step for step in others if "evaluate" in step.command]
    assert training.command[:5] == (sys.executable, "-m", "ddpo", "train", "emoji-compressibility")
    assert "prompts={name: simple-animals, part: train}" in training.command
    assert training.command[-4:] == ("--output", f"work/{run.name}", "--resume", "--quiet")
    assert len(evaluations) == 2
    for step in evaluations:
        assert step.after == training.name
        assert step.command[3:5] == ("evaluate", f"work/{run.name}")
        assert step.marker.parent == step.product.parent
        assert step.marker != step.product
    held_out = evaluations[0].command
    prompts = json.loads(held_out[held_out.index("--prompts") + 1])
    assert prompts == {"name": "simple-animals", "part": "held-out"}
    rewards = [held_out[place + 1] for place, word in enumerate(held_out) if word == "--reward"]
    assert rewards == ["jpeg-compressibility", "judge-recognition"]


def test_the_first_seed_draws_what_is_shown():
    runs = runs_of(parse_experiment(GENERALISATION, "mine"), "embedded", seeds=2)
    drawings = [step for step in steps_of(runs, Path("work")) if "sample" in step.command]
    of_base = [step for step in drawings if step.command[4] == "embedded"]
    assert (len(of_base), len(drawings)) == (2 * 2, 2 * 2 * 2)  # recipes and prompt sets, base and trained model
    assert all("seed-0" in step.command[4] for step in drawings if step not in of_base)
    run = runs[0].config
    assert of_base[0].command[5:9] == ("--steps", str(run.sampler.steps), "--guidance-scale", str(run.guidance_scale))


def test_a_recipe_that_changed_is_another_run_and_a_machine_is_not(tmp_path):
    def name(recipe: str) -> str:
        (tmp_path / "mine.yaml").write_text(recipe)
        text = "{name: x, title: x, summary: x, figure: rounds, embedded: {recipes: [%s], queries: 16, evaluations: 1, "
        text = text % (tmp_path / "mine.yaml") + "variants: {a: [algorithm=ddpo-is]}}}"
        return runs_of(parse_experiment(text, "x"), "embedded")[0].name

    recipe = "model: embedded\nsamples_per_iteration: 16\n"
    assert name(recipe) == name(recipe + "threads: 7\n# a comment\n")
    assert name(recipe) != name(recipe + "prompts: {name: simple-animals, part: train}\n")
    assert name(recipe) != name(recipe + "learning_rate: 0.5\n")


@pytest.mark.parametrize(
    ("jobs", "devices", "visible", "expected"),
    [
        (3, [], None, [None] * 3),
        (None, ["A", "B"], None, ["0", "1"]),
        (3, ["A", "B"], None, ["0", "1", "0"]),
        (None, ["A", "B"], "4,6", ["4", "6"]),
    ],
)
def test_jobs_go_to_devices_in_turn(monkeypatch, jobs, devices, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    slots = machine.slots(jobs, devices)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in slots] == expected
    assert {slot["OMP_NUM_THREADS"] for slot in slots} == {"1"}


def test_without_devices_as_many_jobs_as_cores_but_one_of_the_papers_model():
    assert len(machine.slots(None, [])) == machine.cores()
    assert machine.slots(None, [], "paper") == [{}]
    assert len(machine.slots(3, [], "paper")) == 3


def test_the_machine_is_described_without_its_name():
    described = machine.origin(["NVIDIA H200"])["machine"]
    host = subprocess.run(["uname", "-n"], capture_output=True, text=True, check=True).stdout.strip()
    assert described["devices"] == "NVIDIA H200"
    assert host not in " ".join(described.values())
    assert "/" not in "".join(value for name, value in described.items() if name != "processor")
