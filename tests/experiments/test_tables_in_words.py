"""Tables unlike those of the shipped experiments: several variants, prompts that differ, evaluations gone astray."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ddpo.experiments.definition import load_experiment
from ddpo.experiments.figures.curves import FAINTLY
from ddpo.experiments.figures.generalisation import generalisation as draw_generalisation
from ddpo.experiments.figures.pictures import before_after, progression
from ddpo.experiments.generalisation import changes
from ddpo.experiments.overoptimisation import parting
from ddpo.experiments.pages.curves import effectiveness, overoptimisation
from ddpo.experiments.pages.samples import generalisation, pictures
from ddpo.experiments.results import Runs, read_rows
from ddpo.experiments.tables import DrawingSource, EvaluationSource, Picture, RunSource, write_pictures, write_rows
from ddpo.runtime.errors import ExperimentError


def words_of(figure) -> list[str]:
    """Return the words of a figure from top to bottom, then from left to right."""
    placed = [(-text.get_position()[1], text.get_position()[0], text.get_text()) for text in figure.texts]
    return [" ".join(text.split()) for _, _, text in sorted(placed) if text]


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
    words = words_of(before_after(folder))
    assert words.count("base model") == 2
    rows = ("base model", "compressibility", "incompressibility", "judge")
    assert [word for word in words if word in (*animals, *objects, *rows)] == [
        *animals, "base model", "compressibility", "incompressibility", *objects, "base model", "judge",
    ]  # fmt: skip


def test_variants_are_told_apart_below_the_pictures_and_on_the_page(tmp_path):
    folder = picture_table(tmp_path, {
        ("emoji-judge", "one"): (["a cat"], [0, 4]),
        ("emoji-judge", "two"): (["a cat"], [0, 8]),
    })  # fmt: skip
    assert {"one", "two"} <= set(words_of(before_after(folder)))
    text = pictures(load_experiment("figure-2"), folder)
    assert "| judge, one | size | 0 | 4 | 1 of 1 |" in text
    assert "| judge, two | size | 0 | 8 | 1 of 1 |" in text


def test_runs_evaluated_at_other_moments_have_headings_of_their_own(tmp_path):
    folder = picture_table(tmp_path, {
        ("emoji-judge", "often"): (["a cat"], [0, 2, 4]),
        ("emoji-judge", "once"): (["a cat"], [0, 4]),
    })  # fmt: skip
    words = words_of(progression(folder))
    assert [word for word in words if word == "base model" or word.removesuffix(" queries") in ("200", "400")] == [
        "base model", "200 queries", "400", "base model", "400 queries",
    ]  # fmt: skip


def evaluation_table(folder: Path, changed: dict[str, float]) -> Path:
    """Write an evaluation of a variant each, with the change it made on two prompt sets."""
    write_rows(folder / "evaluation.csv", [
        {"recipe": "emoji-judge", "variant": variant, "seed": 0, "prompt_set": prompt_set, "reward": "judge",
         "label": "judge", "is_trained_reward": 1, "prompt": f"prompt {place}", "samples": 1, "base": 0.0,
         "trained": change + 0.01 * place}
        for variant, change in changed.items()
        for prompt_set in ("near", "far")
        for place in range(4)
    ])  # fmt: skip
    return folder


def test_variants_are_not_pooled_in_what_carries_over(tmp_path):
    folder = evaluation_table(tmp_path, {"up": 1.0, "down": -1.0})
    found = changes(read_rows(folder / "evaluation.csv"))
    assert [(change.variant, change.prompt_set, round(change.mean.mean, 3)) for change in found] == [
        ("up", "near", 1.015), ("up", "far", 1.015), ("down", "near", -0.985), ("down", "far", -0.985),
    ]  # fmt: skip
    text = generalisation(load_experiment("figure-6"), folder)
    assert "- judge, up: the effect carries over to far" in text
    assert "- judge, down: the effect carries over to far" in text
    titles = [axes.get_title(loc=side) for axes in draw_generalisation(folder).axes for side in ("left", "center")]
    assert [title for title in titles if title] == ["trained on judge, up", "trained on judge, down"]


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
    ("recognition", "reward", "queries", "words"),
    [
        ([BASE, NOISY, BELOW, BELOW], [0.0, 1.0, 2.0, 3.0], 256, "first clearly below the base model's after 256"),
        ([BASE, NOISY, BELOW, NOISY], [0.0, 1.0, 2.0, 3.0], None, "at 1 of 3 evaluations it is clearly below"),
        ([BASE, BELOW, NOISY, BELOW], [0.0, 1.0, 2.0, 3.0], 384, "first clearly below the base model's after 384"),
        (
            [BASE, BELOW, BELOW, BELOW],
            [0.0, -1.0, -2.0, -3.0],
            None,
            "the trained reward is not above the base model's",
        ),
        ([BASE, BELOW, BELOW, BELOW], [0.0, -1.0, 2.0, 3.0], 256, "first clearly below the base model's after 256"),
        ([BASE, NOISY, NOISY, NOISY], [0.0, 1.0, 2.0, 3.0], None, "at no evaluation is it clearly below"),
        ([[0.9], [0.5]], [0.0, 1.0], None, "with one seed there is no interval"),
    ],
)
def test_recognition_parts_where_it_stays_below_while_the_reward_is_above(
    tmp_path, recognition, reward, queries, words
):
    folder = run_table(tmp_path, recognition, reward)
    found = parting(Runs.read(folder), "emoji-judge", "is")
    assert (found and found.queries) == queries
    assert words in overoptimisation(load_experiment("figure-7"), folder)


def test_training_samples_stand_at_the_queries_before_their_update(tmp_path):
    runs = Runs.read(run_table(tmp_path, [BASE] * 4, [0.0, 1.0, 2.0, 3.0]))
    points = runs.training_points("emoji-judge", "is")
    assert [(point.queries, point.mean.mean) for point in points] == [(0, 1.0), (128, 2.0), (256, 3.0)]
    assert "at the queries before" in FAINTLY


def test_a_claim_about_runs_that_are_not_there_is_not_dropped_in_silence(tmp_path):
    text = effectiveness(load_experiment("figure-3"), run_table(tmp_path, [BASE] * 2, [0.0, 1.0]))
    assert "“ddpo-sf > rwr” is not checked" in text


def test_an_evaluation_or_a_picture_that_is_gone_is_named(tmp_path):
    from synthetic_runs import write_run

    from ddpo.experiments.tables import drawings_of, evaluation_rows

    run = write_run(tmp_path / "run", iterations=1)
    gone = RunSource(run.folder, run.recipe, run.variant, 0, (EvaluationSource("near", tmp_path / "gone.json"),))
    with pytest.raises(ExperimentError, match=r"gone\.json cannot be read"):
        evaluation_rows([gone])
    drawing = DrawingSource("near", ("a wolf spider",), tmp_path / "base", tmp_path / "trained")
    drawn = drawings_of([RunSource(run.folder, run.recipe, run.variant, 0, (), (drawing,))])
    assert drawn[0].file == tmp_path / "base" / "a-wolf-spider-0.png"
    with pytest.raises(ExperimentError, match=r"a-wolf-spider-0\.png cannot be read"):
        write_pictures(tmp_path, drawn)
