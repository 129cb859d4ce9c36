"""Which runs an experiment needs, and the steps that make them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ddpo.experiments import machine
from ddpo.experiments.definition import load_experiment, parse_experiment, plan_of
from ddpo.experiments.plan import changed_settings, runs_of, steps_of
from ddpo.experiments.steps import Step

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
      prompts: "{name: simple-animals, part: held-out}"
      rewards: [judge-recognition]
      show: [a horse]
    - {label: everyday objects, prompts: everyday-objects, show: [a balloon, a bed]}
"""

ORIGIN = {"version": "0", "commit": None, "machine": {}}


def names(figure: str, **options) -> set[str]:
    return {run.name for run in runs_of(load_experiment(figure), "embedded", **options)}


def test_figures_share_their_runs():
    ours = {name for name in names("figure-3", seeds=1) if "_ddpo-is_" in name}
    assert len(ours) == 3
    assert names("figure-1") == names("figure-2") == ours


def test_equal_queries_whatever_the_algorithm_and_the_budget():
    runs = runs_of(load_experiment("figure-3"), "embedded", seeds=1)
    queries = plan_of(load_experiment("figure-3"), "embedded").queries
    assert {run.queries for run in runs} == {queries}
    assert len({run.config.samples_per_iteration for run in runs}) > 1  # RWR draws more samples an iteration
    halved = runs_of(load_experiment("figure-3"), "embedded", seeds=1, budget=0.5)
    assert {run.queries for run in halved} == {queries // 2}
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
    steps = steps_of(runs, Path("work"), {}, ORIGIN)
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
    assert first.name.startswith("emoji-judge_ddpo-is_iterations-1_seed-0_")
    assert "learning_rate-1e-3" in second.name
    assert first.name != runs_of(file, "embedded", seeds=2)[-2].name


def test_a_step_is_a_command_that_anybody_can_type():
    run = runs_of(parse_experiment(GENERALISATION, "mine"), "embedded", seeds=1)[0]
    training, *others = steps_of([run], Path("work"), {"OMP_NUM_THREADS": "1"}, ORIGIN)
    evaluations = [step for step in others if "evaluate" in step.command]
    assert training.command[:5] == (sys.executable, "-m", "ddpo", "train", "emoji-compressibility")
    assert "prompts={name: simple-animals, part: train}" in training.command
    assert training.command[-4:] == ("--output", f"work/{run.name}", "--resume", "--quiet")
    assert training.environment == {"OMP_NUM_THREADS": "1"}
    assert len(evaluations) == 2
    for step in evaluations:
        assert step.after == training.name
        assert step.command[3:5] == ("evaluate", f"work/{run.name}")
        assert step.marker.parent == step.product.parent
        assert step.marker != step.product
    held_out = evaluations[0].command
    assert held_out[held_out.index("--prompts") + 1] == "{name: simple-animals, part: held-out}"
    rewards = [held_out[place + 1] for place, word in enumerate(held_out) if word == "--reward"]
    assert rewards == ["jpeg-compressibility", "judge-recognition"]


def test_the_first_seed_draws_what_is_shown_and_the_base_model_only_once():
    runs = runs_of(parse_experiment(GENERALISATION, "mine"), "embedded", seeds=2)
    drawings = [step for step in steps_of(runs, Path("work"), {}, ORIGIN) if "sample" in step.command]
    of_base = [step for step in drawings if step.command[4] == "embedded"]
    assert len(of_base) == 2  # a folder a prompt set, for both recipes
    assert len(drawings) == 2 + 2 * 2
    assert all("seed-0" in step.command[4] for step in drawings if step not in of_base)
    run = runs[0].config
    assert of_base[0].command[5:9] == ("--steps", str(run.sampler.steps), "--guidance-scale", str(run.guidance_scale))


def test_a_run_name_with_a_point_in_it_is_a_folder(tmp_path):
    step = Step("lr-0.01_x", ("true",), tmp_path / "lr-0.01_x", tmp_path)
    assert step.marker == tmp_path / "lr-0.01_x" / "finished.json"


def test_a_recipe_that_changed_after_a_run_is_noticed(tmp_path):
    run = runs_of(load_experiment("figure-1"), "embedded")[0]
    (step,) = steps_of([run], tmp_path, {}, ORIGIN)
    step.product.mkdir()
    step.finish(1.0)
    assert changed_settings(step, run) == []
    record = json.loads(step.marker.read_text())
    record["settings"]["learning_rate"] = 0.5
    record["settings"]["threads"] = 7  # not what a run trains
    record["settings"]["of_another_version"] = 1
    step.marker.write_text(json.dumps(record))
    assert changed_settings(step, run) == [f"learning_rate 0.5 -> {run.config.learning_rate}"]


@pytest.mark.parametrize(
    ("jobs", "devices", "visible", "expected"),
    [
        (3, [], None, [{}, {}, {}]),
        (None, ["A", "B"], None, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (3, ["A", "B"], None, [{"CUDA_VISIBLE_DEVICES": d} for d in "010"]),
        (None, ["A", "B"], "4,6", [{"CUDA_VISIBLE_DEVICES": d} for d in "46"]),
    ],
)
def test_jobs_go_to_devices_in_turn(monkeypatch, jobs, devices, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.slots(jobs, devices) == expected


def test_without_devices_as_many_jobs_as_cores():
    assert len(machine.slots(None, [])) == machine.cores()


def test_the_machine_is_described_without_its_name():
    described = machine.describe(["NVIDIA H200"])
    host = subprocess.run(["uname", "-n"], capture_output=True, text=True, check=True).stdout.strip()
    assert described["devices"] == "NVIDIA H200"
    assert host not in " ".join(described.values())
    assert "/" not in "".join(value for name, value in described.items() if name != "processor")
