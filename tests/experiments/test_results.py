"""From run folders to tables, figures and pages: the numbers are right and the bytes repeat."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from synthetic_runs import SIDE, write_evaluation, write_run

from ddpo.experiments.definition import load_experiment
from ddpo.experiments.figures import redraw
from ddpo.experiments.figures.charts import generalisation as draw_generalisation
from ddpo.experiments.figures.pictures import before_after, progression
from ddpo.experiments.page import page
from ddpo.experiments.publishing import publish
from ddpo.experiments.results import Runs, changes, parting, read_rows
from ddpo.experiments.tables import Drawing, Picture, spread, write_pictures, write_rows
from ddpo.runtime.errors import ExperimentError

ABOUT = {
    "experiment": "figure", "scale": "embedded", "seeds": 3, "budget": 1.0, "queries": "1,024",
    "command": "ddpo reproduce figure", "date": "2026-01-02",
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
    assert "| ddpo-is >= ddpo-sf | 1,024 | +0.03 [-0.25, +0.32] | not clearly different |" in text
    # SF minus RWR: 0.6, 0.8, 0.5; mean 0.633, 4.303 x 0.1528 / sqrt(3) = 0.379
    assert "| ddpo-sf > rwr | 1,024 | +0.63 [+0.25, +1.01] | above |" in text
    # SF minus sparse RWR: -0.2, -0.2, -0.4; mean -0.267, 4.303 x 0.1155 / sqrt(3) = 0.287
    assert "-0.27 [-0.55, +0.02] | not clearly different |" in text
    # IS at the end: -1.5, -1.6, -1.7 from -2.4: +0.8, 4.303 x 0.1 / sqrt(3) = 0.248
    assert "| ddpo-is | negative JPEG size (kB) | 1,024 | -2.4 | -1.60 [-1.85, -1.35] | +0.80 [+0.55, +1.05] |" in text


def test_a_claim_the_other_way_round_and_one_of_runs_that_are_not_there_are_said_to_be(tmp_path):
    ends = {name: ends for name, ends in ENDS.items() if name != "rwr-sparse"} | {"rwr": [-1.0, -0.9, -1.2]}
    text = words(effectiveness(tmp_path, ends))
    assert "| ddpo-sf > rwr | 1,024 | -0.6 [-0.6, -0.6] | below |" in text  # the same for each seed: no spread
    assert "| ddpo-sf > rwr-sparse |  | not both were run |  |" in text


def test_another_budget_is_marked(tmp_path):
    full, part = effectiveness(tmp_path / "a", ENDS), effectiveness(tmp_path / "b", ENDS, budget=0.25)
    assert words(part).index("Budget 0.25") < words(part).index("figure.svg")
    assert "Budget" not in words(full)
    assert {row["budget"] for row in read_rows(part / "runs.csv")} == {"0.25"}
    assert (part / "figure.svg").read_bytes() != (full / "figure.svg").read_bytes()


def test_one_seed_gives_no_interval_and_says_so(tmp_path):
    text = words(effectiveness(tmp_path, {name: ends[:1] for name, ends in ENDS.items()}))
    assert "| ddpo-is | negative JPEG size (kB) | 1,024 | -2.4 | -1.5 | +0.9 |" in text
    assert "| +0.1 | one seed, no interval |" in text


def test_figure_7_measures_what_the_reward_costs(tmp_path):
    def recognition(done, seed, prompt):  # as the base model's until half of the training, then falling
        return 0.9 - max(0.0, done - 0.5) - 0.001 * seed * done

    runs = [
        write_run(tmp_path / str(seed), seed=seed, value=exact(-2.4, -1.4), kl=True,
                  others={"judge-recognition": recognition})
        for seed in range(3)
    ]  # fmt: skip
    folder = publish(load_experiment("figure-7"), runs, ABOUT, tmp_path / "results")
    # the evaluations are at iterations 0, 2, 4, 6, 8
    assert parting(Runs(folder), "emoji-compressibility", "ddpo-is") == 6 * 128
    assert "| recognition (share) | 1,024 | 0.9 | 0.3990 [0.3965, 0.4015] | -0.5010 [-0.50" in words(folder)
    assert (folder / "samples.svg").is_file()


def test_figure_4_has_single_prompts(tmp_path):
    runs = [
        write_run(tmp_path / f"{variant}{seed}", variant=variant, seed=seed, value=exact(-2.0, -1.0))
        for variant in ("simple-animals", "hard-animals")
        for seed in range(2)
    ]
    folder = publish(load_experiment("figure-4"), runs, ABOUT, tmp_path / "results")
    rows = read_rows(folder / "prompts.csv")
    assert len(rows) == 4 * 5 * 10  # runs x evaluations x prompts
    assert {row["samples"] for row in rows} == {"2"}
    assert {row["reward_mean"] for row in rows if row["iteration"] == "4"} == {"-1.5"}


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
    assert [change.row["prompt_set"] for change in found] == [
        "animals trained on",
        "animals held out",
        "everyday objects",
    ]
    assert found[0].mean.mean == pytest.approx(0.8, abs=0.1)
    assert found[0].mean.number == 12  # prompts are what is resampled
    assert [change.mean.rose for change in found] == [True, True, False]


def test_figure_6_shows_what_both_models_draw(tmp_path):
    run = write_run(tmp_path / "run", variant="trained on some animals")
    for name, level in (("base", 10), ("trained", 200)):
        (tmp_path / name).mkdir()
        for place, prompt in enumerate(("a-bed", "a-wolf-spider")):
            Image.new("RGB", (SIDE, SIDE), (level + place, 0, 0)).save(tmp_path / name / f"{prompt}-0.png")
    source = write_evaluation(tmp_path / "e.json", "objects", reward="jpeg-compressibility", words="size", change=0.5,
                              prompts=4, recognition=False)  # fmt: skip
    drawing = Drawing("objects", ("a bed", "a wolf spider"), tmp_path / "base", tmp_path / "trained")
    run = replace(run, evaluations=(source,), drawings=(drawing,))
    folder = publish(load_experiment("figure-6"), [run], ABOUT, tmp_path / "results")
    rows = read_rows(folder / "pictures.csv")
    assert [(row["prompt"], row["iteration"]) for row in rows] == [
        ("a bed", "0"), ("a wolf spider", "0"), ("a bed", "8"), ("a wolf spider", "8"),
    ]  # fmt: skip
    sheet = np.asarray(Image.open(folder / "pictures.png"))
    assert [int(sheet[int(row["y"]), int(row["x"]), 0]) for row in rows] == [10, 11, 200, 201]
    assert (folder / "samples.svg").is_file()
    (tmp_path / "base" / "a-bed-0.png").unlink()
    with pytest.raises(OSError, match=r"a-bed-0\.png"):
        publish(load_experiment("figure-6"), [run], ABOUT, tmp_path / "results")
    assert (folder / "samples.svg").is_file()  # of the former results
    (tmp_path / "e.json").write_text("{")
    with pytest.raises(ExperimentError, match=r"e\.json is damaged .*; delete it and give the command again"):
        publish(load_experiment("figure-6"), [run], ABOUT, tmp_path / "results")


def test_figure_8_compares_rounds(tmp_path):
    runs = [
        write_run(tmp_path / f"{variant}{seed}", variant=variant, seed=seed, iterations=4, every=1,
                  value=shifted(-2.4, ends))
        for variant, ends in (("with CFG training", [-2.0, -1.9, -2.0]), ("without CFG training", [-2.9, -3.0, -2.8]))
        for seed in range(3)
    ]  # fmt: skip
    text = words(publish(load_experiment("figure-8"), runs, ABOUT, tmp_path / "results"))
    assert "| with CFG training > without CFG training | 128 | +0.23 [+0.14, +0.33] | above |" in text
    assert "| with CFG training > without CFG training | 512 | +0.93 [+0.55, +1.31] | above |" in text


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
    with pytest.raises(ExperimentError, match=r"Delete .*broken to train the run anew"):
        publish(load_experiment("figure-3"), [run], ABOUT, tmp_path / "results")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_folder_that_holds_no_results_is_refused(tmp_path):
    with pytest.raises(ExperimentError, match=r"has no runs\.csv"):
        redraw(load_experiment("figure-3"), tmp_path)


def test_spread_keeps_both_ends():
    assert spread(list(range(13)), 7) == [0, 2, 4, 6, 8, 10, 12]
    assert spread([1, 2], 5) == [1, 2]


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


def words_of(figure) -> list[str]:
    """Return the words of a figure from top to bottom, then from left to right."""
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    corners = [(round(-text.get_window_extent().y0), text.get_window_extent().x0) for text in texts]
    return [
        " ".join(text.get_text().split()) for _, text in sorted(zip(corners, texts, strict=True), key=itemgetter(0))
    ]


def picture_table(folder: Path, runs: dict[tuple[str, str], tuple[list[str], list[int]]]) -> Path:
    """Write pictures of runs, each with its prompts and its iterations; the reward is the iteration."""
    Image.new("RGB", (4, 4)).save(folder / "tile.png")
    write_pictures(folder, [
        Picture({"recipe": recipe, "variant": variant, "seed": 0, "label": "size", "iteration": iteration,
                 "queries": 100 * iteration, "prompt": prompt, "sample_seed": 7, "reward": float(iteration)},
                folder / "tile.png")
        for (recipe, variant), (prompts, iterations) in runs.items()
        for iteration in iterations
        for prompt in prompts
    ])  # fmt: skip
    return folder


def test_runs_of_other_prompts_have_headings_and_a_base_model_of_their_own(tmp_path):
    animals, objects = ["a cat", "a dog"], ["a bed", "a house"]
    folder = picture_table(tmp_path, {
        ("emoji-compressibility", "is"): (animals, [0, 8]),
        ("emoji-judge", "is"): (objects, [0, 8]),
        ("emoji-incompressibility", "is"): (animals, [0, 8]),
    })  # fmt: skip
    rows = ("base model", "compressibility", "incompressibility", "judge")
    assert [word for word in words_of(before_after(folder)) if word in (*animals, *objects, *rows)] == [
        *animals, "base model", "compressibility", "incompressibility", *objects, "base model", "judge",
    ]  # fmt: skip


def test_runs_evaluated_at_other_moments_have_headings_of_their_own(tmp_path):
    folder = picture_table(tmp_path, {
        ("emoji-judge", "often"): (["a cat"], [0, 2, 4]),
        ("emoji-judge", "once"): (["a cat"], [0, 4]),
    })  # fmt: skip
    words = words_of(progression(folder))
    assert [word for word in words if word == "base model" or word.removesuffix(" queries") in ("200", "400")] == [
        "base model", "200 queries", "400", "base model", "400 queries",
    ]  # fmt: skip


def test_variants_are_not_pooled_in_what_carries_over(tmp_path):
    write_rows(tmp_path / "evaluation.csv", [
        {"recipe": "emoji-judge", "variant": variant, "seed": 0, "prompt_set": prompt_set, "reward": "judge",
         "label": "judge", "is_trained_reward": 1, "prompt": f"prompt {place}", "samples": 1, "base": 0.0,
         "trained": change + 0.01 * place}
        for variant, change in {"up": 1.0, "down": -1.0}.items()
        for prompt_set in ("near", "far")
        for place in range(4)
    ])  # fmt: skip
    found = changes(read_rows(tmp_path / "evaluation.csv"))
    assert [(each.row["variant"], each.row["prompt_set"], round(each.mean.mean, 3)) for each in found] == [
        ("up", "near", 1.015), ("up", "far", 1.015), ("down", "near", -0.985), ("down", "far", -0.985),
    ]  # fmt: skip
    titles = [axes.get_title(loc=side) for axes in draw_generalisation(tmp_path).axes for side in ("left", "center")]
    assert [title for title in titles if title] == ["trained on up", "trained on down"]


def run_table(folder: Path, recognition: list[list[float]], reward: list[float]) -> Path:
    """Write runs.csv: at each evaluation each seed's recognition and the reward of all."""
    write_rows(folder / "runs.csv", [
        {"recipe": "emoji-judge", "variant": "is", "seed": seed, "label": "size", "iteration": place,
         "queries": 128 * place, "reward_mean": float(place) if place else None,
         "evaluation_mean": reward[place] + 0.001 * seed * place, "evaluation_judge-recognition": value}
        for place, values in enumerate(recognition)
        for seed, value in enumerate(values)
    ])  # fmt: skip
    return folder


BASE, NOISY, BELOW = [0.9, 0.9, 0.9], [0.9, 0.7, 0.95], [0.5, 0.52, 0.48]


@pytest.mark.parametrize(
    ("recognition", "reward", "queries"),
    [
        ([BASE, NOISY, BELOW, BELOW], [0.0, 1.0, 2.0, 3.0], 256),
        ([BASE, NOISY, BELOW, NOISY], [0.0, 1.0, 2.0, 3.0], None),  # below, but not to the end
        ([BASE, BELOW, NOISY, BELOW], [0.0, 1.0, 2.0, 3.0], 384),
        ([BASE, BELOW, BELOW, BELOW], [0.0, -1.0, -2.0, -3.0], None),  # the reward fell too
        ([BASE, BELOW, BELOW, BELOW], [0.0, -1.0, 2.0, 3.0], 256),
        ([[0.9], [0.5]], [0.0, 1.0], None),  # one seed
    ],
)
def test_recognition_parts_where_it_stays_below_while_the_reward_is_above(tmp_path, recognition, reward, queries):
    assert parting(Runs(run_table(tmp_path, recognition, reward)), "emoji-judge", "is") == queries


def test_training_samples_stand_at_the_queries_before_their_update(tmp_path):
    points = Runs(run_table(tmp_path, [BASE] * 4, [0.0, 1.0, 2.0, 3.0])).training_points("emoji-judge", "is")
    assert [(point.queries, point.mean.mean) for point in points] == [(0, 1.0), (128, 2.0), (256, 3.0)]
