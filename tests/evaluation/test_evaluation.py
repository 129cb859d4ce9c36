"""The fixed samples of a run: their record, their bare pictures, and the divergence from the base model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpo.evaluation.fixed_samples import Evaluation, Evaluator
from ddpo.evaluation.loading import load_policy
from ddpo.media.diversity import diversity
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward
from ddpo.runs.folder import RunFolder
from ddpo.runtime.processes import Runtime
from ddpo.training.run import train

MEASURED = {"number": 3, "every": 1, "kl_to_base": True, "rewards": ["jpeg-incompressibility"]}


def read_tiles(folder: RunFolder, record) -> np.ndarray:
    """Cut the sheet into pictures as docs/metrics.md says."""
    tiles = record["tiles"]
    sheet = np.asarray(Image.open(folder.samples / tiles["file"]))
    width, height, columns = tiles["width"], tiles["height"], tiles["columns"]
    corners = [(i // columns * height, i % columns * width) for i in range(len(record["samples"]))]
    return np.stack([sheet[y : y + height, x : x + width] for y, x in corners])


def test_the_record_says_everything_about_the_fixed_samples(tiny_config):
    result = train(tiny_config(evaluation=MEASURED))
    record = json.loads(result.folder.sample_files(2).record.read_text())
    assert list(record) == [
        "iteration", "tiles", "diversity", "kl_to_base", "trained_reward", "labels", "not_measured", "samples",
    ]  # fmt: skip
    assert record["not_measured"] == []
    assert record["iteration"] == 2
    assert record["tiles"] == {"file": "iteration-000002-tiles.png", "columns": 2, "width": 16, "height": 16}
    assert record["trained_reward"] == "jpeg-compressibility"
    assert record["labels"] == {
        "jpeg-compressibility": "negative JPEG size (kB)",
        "jpeg-incompressibility": "JPEG size (kB)",
    }
    assert [sample["prompt"] for sample in record["samples"]] == ["a cat", "a dog", "an ant"]
    for sample in record["samples"]:
        assert set(sample) == {"prompt", "seed", "rewards"}
        assert sample["rewards"]["jpeg-incompressibility"] == -sample["rewards"]["jpeg-compressibility"] > 0
    np.testing.assert_array_equal(read_tiles(result.folder, record), result.after.thumbnails)
    assert record["diversity"] == diversity(result.after.thumbnails) == result.metrics[-1]["evaluation/diversity"]
    assert record["kl_to_base"] == result.metrics[-1]["evaluation/kl_to_base"] > 0


def test_what_is_not_measured_is_null_and_absent(tiny_config):
    result = train(tiny_config(iterations=1, evaluation={"number": 1, "every": 1}))
    record = json.loads(result.folder.sample_files(1).record.read_text())
    assert record["diversity"] is None
    assert record["kl_to_base"] is None
    assert set(result.metrics[0]) & {"evaluation/diversity", "evaluation/kl_to_base"} == set()
    assert "evaluation/jpeg-compressibility/mean" in result.metrics[0]


def test_the_trained_reward_comes_first_wherever_it_is_measured_again(tiny_config):
    again = ["jpeg-incompressibility", {"name": "jpeg-compressibility", "quality": 20}]
    result = train(tiny_config(iterations=1, evaluation={"number": 1, "every": None, "rewards": again}))
    record = json.loads(result.folder.sample_files(1).record.read_text())
    assert record["trained_reward"] == "jpeg-compressibility"
    assert list(record["samples"][0]["rewards"]) == list(record["labels"])
    assert list(record["labels"]) == ["jpeg-compressibility", "jpeg-incompressibility"]
    rewards = record["samples"][0]["rewards"]  # of quality 95 both, as trained
    assert rewards["jpeg-compressibility"] == -rewards["jpeg-incompressibility"]


def test_a_reward_that_fails_later_is_told_and_recorded(tiny_config, tmp_path, caplog):
    (tmp_path / "tired.py").write_text(
        "calls = []\n\ndef tired(images, prompts, metadata):\n    calls.append(1)\n"
        "    return [1.0] * len(prompts) if len(calls) < 2 else 1 / 0\n"
    )
    config = tiny_config(evaluation={"number": 1, "every": 1, "rewards": [f"{tmp_path}/tired.py:tired"]})
    with caplog.at_level("INFO", logger="ddpo"):
        result = train(config)
    reason = "raised ZeroDivisionError"
    told = [record.getMessage() for record in caplog.records if reason in record.getMessage()]
    assert len(told) == 1  # once, and not again at the next evaluation
    records = [json.loads(result.folder.sample_files(i).record.read_text()) for i in range(3)]
    assert [len(record["not_measured"]) for record in records] == [0, 1, 1]
    assert reason in records[1]["not_measured"][0]


def test_metrics_of_an_evaluation():
    evaluation = Evaluation(3, None, {"r": np.array([1.0, 2.0])}, diversity=0.0, kl_to_base=0.5)
    assert evaluation.metrics == {"evaluation/r/mean": 1.5, "evaluation/diversity": 0, "evaluation/kl_to_base": 0.5}
    assert Evaluation(3, None, {"r": np.array([1.0])}, None).metrics == {"evaluation/r/mean": 1.0}


@pytest.mark.parametrize(("precision", "rank"), [("fp32", None), ("fp32", 2), ("bf16", None)])
def test_the_divergence_starts_at_exactly_0_and_grows_with_training(tiny_config, precision, rank):
    # 3 samples in batches of 2: the last batch is filled up
    config = tiny_config(
        evaluation=MEASURED, precision=precision, lora={"rank": rank}, batch_size=2, algorithm={"name": "ddpo-sf"}
    )
    result = train(config)
    assert result.before.kl_to_base == 0
    first, second = (metrics["evaluation/kl_to_base"] for metrics in result.metrics)
    assert first > 0
    assert second > 0
    assert second != first


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_changes_no_weight_and_no_picture(tiny_config, precision):
    config = tiny_config(precision=precision, evaluation={"kl_to_base": True})
    policy = load_policy(config, torch.device("cpu"))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01)
    weights = [parameter.detach().clone() for parameter in policy.parameters()]
    source, reward = load_prompts(["a cat", "a dog"]), load_reward("jpeg-compressibility")

    def evaluation(measure: bool) -> Evaluation:
        settings = {"number": 3, "seed": 0, "batch_size": 2, "measure_divergence": measure}
        evaluator = Evaluator(source, [reward], runtime=Runtime(device="cpu", threads=1), **settings)
        return evaluator.evaluate(policy, 1)

    plain, measured = evaluation(False), evaluation(True)
    assert plain.kl_to_base is None
    assert measured.kl_to_base is not None
    assert measured.kl_to_base > 0
    np.testing.assert_array_equal(plain.thumbnails, measured.thumbnails)
    assert all(torch.equal(old, new) for old, new in zip(weights, policy.parameters(), strict=True))
