"""From run folders to tables, figures and pages: the numbers are right, the words follow them, the bytes repeat."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import SIDE, rising, write_evaluation, write_run

from ddpo.experiments.definition import Claim, load_experiment
from ddpo.experiments.figures import redraw
from ddpo.experiments.generalisation import changes
from ddpo.experiments.overoptimisation import parting
from ddpo.experiments.pages import page
from ddpo.experiments.pages.markdown import verdict
from ddpo.experiments.publishing import publish
from ddpo.experiments.results import Runs, read_rows
from ddpo.experiments.tables import DrawingSource, spread
from ddpo.report.intervals import over_seeds
from ddpo.report.wording import with_interval
from ddpo.runtime.errors import ExperimentError

ABOUT = {
    "experiment": "figure", "scale": "embedded", "seeds": 3, "budget": 1.0, "queries": "1,024",
    "command": "ddpo reproduce figure", "date": "2026-01-02", "notes": [],
    "made_with": [{"version": "0.1.0", "commit": "abc", "machine": {"processor": "P"}, "steps": 6, "seconds": 90.0}],
}  # fmt: skip


def words(folder: Path) -> str:
    """Return a page with plain minus signs."""
    return (folder / "README.md").read_text().replace("\N{MINUS SIGN}", "-")


def exact(start: float, end: float):
    """Return a score without noise: `start`, then in a straight line to `end`."""
    return lambda done, seed, prompt: start + (end - start) * done


def shifted(start: float, ends: list[float]):
    """Return a score whose end depends on the seed."""
    return lambda done, seed, prompt: start + (ends[seed] - start) * done


def effectiveness(folder: Path, ends: dict[str, list[float]], **about) -> Path:
    runs = [
        write_run(folder / f"{variant}-{seed}", variant=variant, seed=seed, value=shifted(-2.4, values))
        for variant, values in ends.items()
        for seed in range(len(values))
    ]
    return publish(load_experiment("figure-3"), runs, ABOUT | about, folder / "results")


ENDS = {
    "ddpo-is": [-1.5, -1.6, -1.7],
    "ddpo-sf": [-1.6, -1.5, -1.8],
    "rwr": [-2.2, -2.3, -2.3],
    "rwr-sparse": [-1.4, -1.3, -1.4],
}
"""Rewards at the end of the three seeds of each algorithm."""


def test_runs_csv_has_every_iteration_and_the_base_model(tmp_path):
    folder = effectiveness(tmp_path, ENDS)
    rows = read_rows(folder / "runs.csv")
    assert len(rows) == 4 * 3 * 9
    first = [row for row in rows if row["variant"] == "ddpo-is" and row["seed"] == "1"]
    assert [row["queries"] for row in first] == [str(128 * i) for i in range(9)]
    assert first[0]["reward_mean"] == ""  # nothing was trained on yet
    assert float(first[0]["evaluation_mean"]) == pytest.approx(-2.4)
    assert float(first[-1]["evaluation_mean"]) == pytest.approx(-1.6)
    assert first[1]["evaluation_mean"] == ""  # not evaluated
    assert {row["budget"] for row in rows} == {"1"}


def test_the_page_of_figure_3_states_the_differences_that_are_there(tmp_path):
    text = words(effectiveness(tmp_path, ENDS))
    # IS minus SF by seed: 0.1, -0.1, 0.1: mean 1/30, t(2) 4.303 x 0.1155/sqrt(3) = 0.287
    assert "+0.03 [-0.25, +0.32] | not contradicted: no clear difference" in text
    # SF minus RWR: 0.6, 0.8, 0.5; mean 0.633, 4.303 x 0.1528 / sqrt(3) = 0.379
    assert "+0.63 [+0.25, +1.01] | holds" in text
    # SF minus sparse RWR: -0.2, -0.2, -0.4; mean -0.267, 4.303 x 0.1155 / sqrt(3) = 0.287
    assert "-0.27 [-0.55, +0.02] | not decided: the interval includes 0" in text
    assert "3 comparisons: once" in text


def test_a_claim_that_is_the_other_way_round_is_said_to_be(tmp_path):
    ends = ENDS | {"rwr": [-1.0, -0.9, -1.2]}
    text = words(effectiveness(tmp_path, ends))
    assert "+0.63" not in text
    assert "-0.6 [-0.6, -0.6] | does not hold: it is the other way round" in text  # the same for each seed: no spread


def test_another_budget_and_other_settings_are_marked(tmp_path):
    full, part = effectiveness(tmp_path / "a", ENDS), effectiveness(tmp_path / "b", ENDS, budget=0.25, notes=["Mixed."])
    text = words(part)
    assert text.index("Budget 0.25") < text.index("figure.svg")
    assert "> Mixed." in text
    assert "Budget" not in words(full)
    assert {row["budget"] for row in read_rows(part / "runs.csv")} == {"0.25"}
    assert (part / "figure.svg").read_bytes() != (full / "figure.svg").read_bytes()


def test_one_seed_gives_no_interval_and_says_so(tmp_path):
    text = words(effectiveness(tmp_path, {name: ends[:1] for name, ends in ENDS.items()}))
    assert "one seed: no interval" in text
    assert "[" not in text.partition("## What was found here")[2].partition("### Do the claims hold?")[0].replace(
        "in brackets", ""
    )


@pytest.mark.parametrize(
    ("differences", "strict", "loose"),
    [
        ([1.0, 1.1, 0.9], "holds", "holds"),
        ([-1.0, -1.1, -0.9], "does not hold: it is the other way round", "does not hold: it is the other way round"),
        ([1.0, -1.0, 0.5], "not decided: the interval includes 0", "not contradicted: no clear difference"),
        ([1.0], "one seed: no interval", "one seed: no interval"),
    ],
)
def test_verdicts(differences, strict, loose):
    mean = over_seeds(differences)
    assert verdict(Claim.model_validate("a > b"), mean) == strict
    assert verdict(Claim.model_validate("a >= b"), mean) == loose


def test_a_mean_with_its_interval():
    assert with_interval(over_seeds([1.0, 2.0, 3.0])) == "2.0 [\N{MINUS SIGN}0.5, 4.5]"  # 4.303 x 1 / sqrt(3)
    assert with_interval(over_seeds([0.5]), sign=True) == "+0.5"


def test_figure_7_finds_where_recognition_parts_from_the_reward(tmp_path):
    def recognition(done, seed, prompt):  # as the base model's until half of the training, then falling
        return 0.9 - max(0.0, done - 0.5) - 0.001 * seed * done

    runs = [
        write_run(tmp_path / str(seed), seed=seed, value=exact(-2.4, -1.4), kl=True,
                  others={"judge-recognition": recognition})
        for seed in range(3)
    ]  # fmt: skip
    folder = publish(load_experiment("figure-7"), runs, ABOUT, tmp_path / "results")
    found = parting(Runs.read(folder), "emoji-compressibility", "ddpo-is")
    assert found is not None
    assert found.queries == 6 * 128  # the evaluations are at iterations 0, 2, 4, 6, 8
    assert found.recognition.mean == pytest.approx(-0.25, abs=0.01)
    assert found.reward_after is not None
    assert found.reward_after.mean == pytest.approx(0.25)
    text = words(folder)
    assert "first clearly below the base model's after 768 reward queries" in text
    assert "afterwards the trained reward still rises by +0.25" in text
    assert (folder / "samples.svg").is_file()


def test_figure_7_says_when_nothing_parts(tmp_path):
    steady = {"judge-recognition": lambda done, seed, prompt: 0.9 + 0.01 * seed * done}
    runs = [write_run(tmp_path / str(seed), seed=seed, others=steady) for seed in range(3)]
    text = words(publish(load_experiment("figure-7"), runs, ABOUT, tmp_path / "results"))
    assert "recognition does not part from the reward in 1,024 queries" in text


def test_figure_4_follows_single_prompts(tmp_path):
    def value(done, seed, prompt):  # every prompt rises by 0.5, but the kangaroo falls
        return 0.1 * (prompt % 10) + (-0.5 if prompt % 10 == 9 else 0.5) * done

    runs = [
        write_run(tmp_path / f"{variant}{seed}", variant=variant, seed=seed, value=value)
        for variant in ("simple-animals", "hard-animals")
        for seed in range(2)
    ]
    folder = publish(load_experiment("figure-4"), runs, ABOUT, tmp_path / "results")
    rows = read_rows(folder / "prompts.csv")
    assert len(rows) == 4 * 5 * 10  # runs x evaluations x prompts
    assert {row["samples"] for row in rows} == {"2"}
    text = words(folder)
    assert "of 10 prompts 9 rose and 1 fell" in text
    assert "the least: “a kangaroo” (-0.5)" in text
    assert "The 2 prompts on which the base model is worst went from 0.05 to 0.55" in text


def test_figure_6_compares_prompt_sets(tmp_path):
    runs = []
    for seed in range(3):
        run = write_run(tmp_path / str(seed), seed=seed, variant="trained on some animals")
        sources = tuple(
            write_evaluation(run.folder / "evaluations" / f"{label}.json", label, reward="jpeg-compressibility",
                             words="negative JPEG size (kB)", change=change, prompts=12, recognition="animals" in label)
            for label, change in (("animals trained on", 0.8), ("animals held out", 0.6), ("everyday objects", 0.0))
        )  # fmt: skip
        runs.append(replace(run, evaluations=sources))
    folder = publish(load_experiment("figure-6"), runs, ABOUT, tmp_path / "results")
    rows = read_rows(folder / "evaluation.csv")
    assert len(rows) == 3 * (12 * 3 + 12 * 2)
    found = changes([row for row in rows if row["is_trained_reward"] == "1"])
    assert [change.prompt_set for change in found] == ["animals trained on", "animals held out", "everyday objects"]
    assert found[0].mean.mean == pytest.approx(0.8, abs=0.1)
    assert found[0].mean.number == 12  # prompts are what is resampled
    text = words(folder)
    assert "the effect carries over to animals held out (12 prompts)" in text
    assert "does not clearly carry over to everyday objects" in text


def test_figure_6_shows_what_both_models_draw(tmp_path):
    run = write_run(tmp_path / "run", variant="trained on some animals")
    for name, level in (("base", 10), ("trained", 200)):
        (tmp_path / name).mkdir()
        for place, prompt in enumerate(("a-bed", "a-wolf-spider")):
            Image.new("RGB", (SIDE, SIDE), (level + place, 0, 0)).save(tmp_path / name / f"{prompt}-0.png")
    source = write_evaluation(tmp_path / "e.json", "objects", reward="jpeg-compressibility", words="size", change=0.5,
                              prompts=4, recognition=False)  # fmt: skip
    drawing = DrawingSource("objects", ("a bed", "a wolf spider"), tmp_path / "base", tmp_path / "trained")
    run = replace(run, evaluations=(source,), drawings=(drawing,))
    folder = publish(load_experiment("figure-6"), [run], ABOUT, tmp_path / "results")
    rows = read_rows(folder / "pictures.csv")
    assert [(row["prompt"], row["iteration"]) for row in rows] == [
        ("a bed", "0"), ("a wolf spider", "0"), ("a bed", "8"), ("a wolf spider", "8"),
    ]  # fmt: skip
    sheet = np.asarray(Image.open(folder / "pictures.png"))
    assert [int(sheet[int(row["y"]), int(row["x"]), 0]) for row in rows] == [10, 11, 200, 201]
    assert (folder / "samples.svg").is_file()
    assert "Drawn at seed 0 by the base model" in words(folder)


def test_figure_8_compares_rounds(tmp_path):
    runs = [
        write_run(tmp_path / f"{variant}{seed}", variant=variant, seed=seed, iterations=4, every=1,
                  value=shifted(-2.4, ends))
        for variant, ends in (("with CFG training", [-2.0, -1.9, -2.0]), ("without CFG training", [-2.9, -3.0, -2.8]))
        for seed in range(3)
    ]  # fmt: skip
    text = words(publish(load_experiment("figure-8"), runs, ABOUT, tmp_path / "results"))
    assert "without CFG training: after 4 rounds the reward fell" in text
    assert "with CFG training: after 4 rounds the reward rose" in text
    assert "After the first round the difference with CFG training minus without CFG training is +0.23" in text


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    runs = [
        write_run(folder / recipe, recipe=recipe, iterations=8, every=1, value=exact(-2, sign))
        for recipe, sign in (("emoji-compressibility", -1.0), ("emoji-judge", -3.0))
    ]
    publish(load_experiment("figure-2"), runs, ABOUT, folder / "results")
    publish(load_experiment("figure-1"), runs, ABOUT, folder / "results")
    return folder / "results"


def test_pictures_are_those_of_the_fixed_samples(pictures):
    rows = read_rows(pictures / "figure-2" / "pictures.csv")
    assert len(rows) == 2 * 2 * 9  # recipes x moments x prompts
    sheet = np.asarray(Image.open(pictures / "figure-2" / "pictures.png"))
    row = next(r for r in rows if r["prompt"] == "a dog" and r["iteration"] == "0")
    x, y = int(row["x"]), int(row["y"])
    assert tuple(sheet[y + SIDE // 2, x + SIDE // 2]) == (40, 90, 230)  # the dog is sample 1 of the synthetic tiles
    assert (row["width"], row["height"]) == (str(SIDE), str(SIDE))


def test_a_progression_has_the_base_model_the_end_and_moments_between(pictures):
    rows = read_rows(pictures / "figure-1" / "pictures.csv")
    part = [row for row in rows if row["recipe"] == "emoji-judge" and row["prompt"] == "a cat"]
    assert [row["iteration"] for row in part] == ["0", "2", "4", "6", "8"]
    assert len({row["sample_seed"] for row in part}) == 1


def test_the_page_counts_how_many_samples_improved(pictures):
    text = words(pictures / "figure-2")
    assert "| compressibility | negative JPEG size (kB) | -2 | -1 | 9 of 9 |" in text
    assert "| judge | negative JPEG size (kB) | -2 | -3 | 0 of 9 |" in text


def test_the_same_tables_give_the_same_bytes(pictures, tmp_path):
    folder = effectiveness(tmp_path, ENDS)
    for name, where in (("figure-3", folder), ("figure-2", pictures / "figure-2")):
        again = redraw(load_experiment(name), where)
        assert set(again) == {"figure.svg", "figure.png"}
        for file, content in again.items():
            assert content == (where / file).read_bytes()
        assert page(load_experiment(name), where) == (where / "README.md").read_text()


def test_other_numbers_give_another_figure(tmp_path):
    folder = effectiveness(tmp_path, ENDS)
    before = (folder / "figure.svg").read_bytes()
    file = folder / "runs.csv"
    file.write_text(file.read_text().replace("-1.6,", "-1.9,"))
    assert redraw(load_experiment("figure-3"), folder)["figure.svg"] != before


def test_an_error_leaves_the_former_results(tmp_path):
    folder = effectiveness(tmp_path, ENDS)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    run = write_run(tmp_path / "broken")
    for file in (run.folder / "samples").glob("*.json"):
        file.write_text("{")
    with pytest.raises(ExperimentError, match=r"delete .*broken to train the run anew"):
        publish(load_experiment("figure-3"), [run], ABOUT, tmp_path / "results")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_that_holds_no_results_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match=r"has no runs\.csv"):
        redraw(load_experiment("figure-3"), tmp_path)


def test_spread_keeps_both_ends():
    assert spread(list(range(13)), 7) == [0, 2, 4, 6, 8, 10, 12]
    assert spread([1, 2], 5) == [1, 2]


def test_rising_is_what_it_says():
    value = rising(1.0, 3.0)
    assert (value(0.0, 0, 0), value(1.0, 0, 0)) == pytest.approx((1.0, 3.0))


def test_drawing_never_loads_torch():
    code = (
        "import sys; import ddpo.experiments.publishing, ddpo.experiments.runner; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_csv_files_are_plain(tmp_path):
    file = effectiveness(tmp_path, ENDS) / "runs.csv"
    assert b"\r" not in file.read_bytes()
    with file.open(newline="") as text:
        assert all(None not in row for row in csv.DictReader(text))
