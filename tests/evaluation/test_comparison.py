"""The trained model beside its base: samples against stock diffusers, statistics against hand calculations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from ddpo.evaluation.comparison import Comparison, Measured, compare
from ddpo.prompts import Prompt
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import PromptError, RewardError, RunFolderError
from ddpo.training.run import train


def brightness(images, prompts, metadata):
    """Mean brightness, (B,)."""
    return images.mean(axis=(1, 2, 3))


def broken_on_dogs(images, prompts, metadata):
    """Fail on dogs, (B,)."""
    if "a dog" in prompts:
        raise ValueError("no dogs")
    return np.ones(len(prompts))


@pytest.fixture
def trained_run(tiny_config) -> Callable[..., str]:
    """Train a run, far enough to move its pictures, and return its folder."""

    def run(**changes: Any) -> str:
        settings = {"iterations": 1, "learning_rate": 1e-2, "algorithm": {"name": "ddpo-sf"}}
        config = tiny_config(**(settings | changes))
        return str(train(config).folder.path)

    return run


def by_diffusers(pipeline: StableDiffusionPipeline, prompt: str, seed: int) -> float:
    """Brightness of the picture that diffusers draws with the settings of `tiny_config`."""
    picture = pipeline(
        prompt,
        num_inference_steps=4,
        guidance_scale=5.0,
        eta=1.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images[0]
    return float(picture.mean())


@pytest.mark.parametrize("rank", [None, 2])
def test_both_models_draw_what_diffusers_draws_with_the_recorded_seeds(trained_run, tiny_pipeline, rank):
    learning_rate = 1e-2 if rank is None else 1e-1
    folder = trained_run(lora={"rank": rank}, learning_rate=learning_rate, evaluation={"number": 1, "every": None})
    comparison = compare(folder, rewards=[brightness], seeds=2, device="cpu")
    base = StableDiffusionPipeline.from_pretrained(tiny_pipeline(), safety_checker=None)
    trained = StableDiffusionPipeline.from_pretrained(tiny_pipeline(), safety_checker=None)
    if rank is None:
        trained.unet = UNet2DConditionModel.from_pretrained(f"{folder}/model")
    else:
        trained.load_lora_weights(f"{folder}/model")
    for pipeline in (base, trained):
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
    samples = comparison.record()["samples"]
    assert [sample["prompt"] for sample in samples] == ["a cat", "a cat", "a dog", "a dog", "an ant", "an ant"]
    assert len({sample["seed"] for sample in samples}) == 6
    for sample in samples:
        assert sample["base"] == pytest.approx(by_diffusers(base, sample["prompt"], sample["seed"]), abs=1e-4)
        assert sample["trained"] == pytest.approx(by_diffusers(trained, sample["prompt"], sample["seed"]), abs=1e-4)
    assert max(abs(sample["base"] - sample["trained"]) for sample in samples) > 1e-3


def test_the_record_adds_up(trained_run):
    folder = trained_run()
    progress = []
    record = compare(
        folder, rewards=[brightness, "jpeg-incompressibility"], seeds=3, device="cpu",
        progress=lambda *told: progress.append(told),
    ).record()  # fmt: skip
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["source"], record["prompts"], record["seeds_per_prompt"]) == (folder, 3, 3)
    assert list(record["rewards"]) == ["brightness", "jpeg-incompressibility"]
    assert record["rewards"]["jpeg-incompressibility"]["label"] == "JPEG size (kB)"
    for key, reward in record["rewards"].items():
        rows = [sample for sample in record["samples"] if sample["reward"] == key]
        differences = [row["trained"] - row["base"] for row in rows]
        assert len(rows) == 9
        assert reward["base"]["mean"] == pytest.approx(np.mean([row["base"] for row in rows]))
        assert reward["difference"]["mean"] == pytest.approx(np.mean(differences))
        assert reward["difference"]["low"] <= np.mean(differences) <= reward["difference"]["high"]
        for entry in record["per_prompt"]:
            own = [row["trained"] for row in rows if row["prompt"] == entry["prompt"]]
            assert entry["rewards"][key]["trained"] == pytest.approx(np.mean(own))
    assert record["diversity"]["base"]["mean"] == pytest.approx(
        np.mean([entry["diversity"]["base"] for entry in record["per_prompt"]])
    )
    # 9 samples in batches of 4 at most, from either model
    expected = [(model, done, 9) for model in ("base model", "trained model") for done in (3, 6, 9)]
    assert progress == expected


def test_prompts_are_the_units_and_differences_are_paired():
    # prompts with base (0, 2) and (10, 14), all raised by 1 except the last by 3: differences 1, 1 and 1, 3.
    # Prompt means of the differences are 1 and 2: mean 1.5, standard error sd/sqrt(2) = 0.5. Student's t of one degree
    # of freedom is Cauchy's distribution, whose 97.5 % quantile is tan(0.475 pi).
    base = np.array([[0.0, 2.0], [10.0, 14.0]])
    trained = base + np.array([[1.0, 1.0], [1.0, 3.0]])
    comparison = Comparison(
        source="run",
        prompts=[Prompt("a cat"), Prompt("a dog")],
        seed_PN=[[1, 2], [3, 4]],
        labels={"r": "reward"},
        base=Measured({"r": base}, np.array([0.2, 0.4])),
        trained=Measured({"r": trained}, np.array([0.1, 0.1])),
        not_measured=[],
    )
    paired = comparison.reward("r")
    assert (paired.base.mean, paired.trained.mean) == (6.5, 8)
    assert paired.base.error == pytest.approx(5.5)  # prompt means 1 and 12
    assert (paired.difference.mean, paired.difference.error) == pytest.approx((1.5, 0.5))
    reach = 0.5 * np.tan(0.475 * np.pi)
    assert (paired.difference.low, paired.difference.high) == pytest.approx((1.5 - reach, 1.5 + reach))
    assert paired.difference.number == 2
    assert comparison.diversity().difference.mean == pytest.approx(-0.2)
    one = Comparison(
        "run", [Prompt("a cat")], [[1, 2]], {"r": "reward"},
        Measured({"r": base[:1]}, None), Measured({"r": trained[:1] + np.array([[0, 2]])}, None), [],
    )  # fmt: skip
    difference = one.reward("r").difference  # one prompt: its pairs, 1 and 3, are the units
    assert (difference.mean, difference.error, difference.number) == (2, pytest.approx(1), 2)
    assert one.diversity() is None


def test_a_model_alone_is_only_measured(tiny_pipeline):
    comparison = compare(str(tiny_pipeline()), prompts=["a cat", "a dog"], rewards=[brightness], seeds=1, device="cpu")
    record = comparison.record()
    assert comparison.trained is None
    assert record["rewards"]["brightness"]["trained"] is record["rewards"]["brightness"]["difference"] is None
    assert record["diversity"] is None
    assert record["samples"][0]["trained"] is None
    assert record["samples"][0]["base"] > 0


def test_a_run_is_measured_by_what_it_trains_and_measures_on_its_own_prompts(trained_run):
    folder = trained_run(
        reward={"name": "jpeg-compressibility", "quality": 20},
        prompts=["a house", "a boat"],
        evaluation={"number": 1, "rewards": ["judge-recognition", "jpeg-incompressibility", "jpeg-compressibility"]},
    )
    comparison = compare(folder, seeds=1, device="cpu")
    assert [prompt.text for prompt in comparison.prompts] == ["a house", "a boat"]
    # the judge knows neither, so it is left out; the trained reward wins over the measured one of its name
    assert list(comparison.labels) == ["jpeg-compressibility", "jpeg-incompressibility"]
    assert len(comparison.not_measured) == 1
    assert "the prompt 'a house' names no animal" in comparison.not_measured[0]
    sizes = comparison.base.scores
    assert (-sizes["jpeg-compressibility"] < sizes["jpeg-incompressibility"]).all()


def test_what_was_asked_for_must_work(trained_run, tmp_path):
    folder = trained_run()
    with pytest.raises(RewardError, match="the prompt 'a house' names no animal"):
        compare(folder, prompts=["a house"], rewards=["judge"], seeds=1, device="cpu")
    with pytest.raises(RewardError, match="no dogs"):
        compare(folder, rewards=[brightness, broken_on_dogs], seeds=1, device="cpu")
    with pytest.raises(PromptError, match="Did you mean 'simple-animals'"):
        compare(folder, prompts="simple-animal", device="cpu")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("{}")
    with pytest.raises(RunFolderError, match="not finished"):
        compare(str(tmp_path / "begun"), device="cpu")


def test_seeds_are_a_stream_of_their_own(trained_run):
    folder = trained_run()
    options = {"prompts": ["a cat"], "rewards": [brightness], "seeds": 3, "device": "cpu"}
    first, again, other = (compare(folder, seed=seed, **options) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.trained.scores["brightness"], again.trained.scores["brightness"])
    assert set(first.seed_PN[0]).isdisjoint(other.seed_PN[0])
    fixed = json.loads(RunFolder(Path(folder)).sample_files(0).record.read_text())
    assert fixed["samples"][0]["seed"] not in first.seed_PN[0]
