import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddpo import media
from ddpo.rewards import check_media, load_reward, score, to_uint8
from ddpo.runtime.errors import RewardError

PROMPTS = ["a cat", "a dog", "an ant", "a bee", "a fox"]


def run(function, number=5):
    images = torch.full((number, 3, 4, 4), 0.5)
    return score(load_reward(function), media.Image(), images, PROMPTS[:number], [{"index": i} for i in range(number)])


@pytest.mark.parametrize(
    "scores",
    [
        np.arange(5),
        np.arange(5, dtype=np.float32)[:, None],
        [0, 1, 2, 3, 4],
        (0, 1, 2, 3, 4),
        torch.arange(5),
        torch.arange(5, dtype=torch.bfloat16)[:, None],
        torch.arange(5.0, requires_grad=True),
        [torch.tensor(float(i)) for i in range(5)],
        [[i] for i in range(5)],
        (torch.arange(5), {"seconds": 3}),  # as rewards of TRL and ddpo-pytorch return them
    ],
    ids=repr,
)
def test_every_usual_kind_of_scores_becomes_float64(scores):
    score_B = run(lambda images, prompts, metadata: scores)
    assert score_B.dtype == np.float64
    assert score_B.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_booleans_are_zeros_and_ones():
    assert run(lambda i, p, m: torch.tensor([True, False, True, False, True])).tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_a_score_that_is_not_finite_names_reward_sample_and_prompt(value):
    def broken(images, prompts, metadata):
        return [0.0, 1.0, 2.0, value, 4.0]

    with pytest.raises(RewardError, match=r"'broken'.*sample 3.*'a bee'"):
        run(broken)


def test_the_number_of_further_bad_scores_is_told():
    with pytest.raises(RewardError, match=r"sample 1, prompt 'a dog' \(and 2 more\)"):
        run(lambda i, p, m: [0.0, np.nan, 0.0, np.inf, np.nan])


@pytest.mark.parametrize(
    "scores",
    [np.zeros(4), np.zeros((5, 2)), np.zeros((1, 5)), 1.0, torch.tensor(0.0), [], np.zeros((5, 1, 1))],
    ids=repr,
)
def test_a_wrong_shape_is_refused(scores):
    with pytest.raises(RewardError, match=r"returned an array of shape .*here 5"):
        run(lambda i, p, m: scores)


@pytest.mark.parametrize(
    "scores",
    [
        ["1", "2", "3", "4", "5"],
        {"a": 1},
        "12345",
        np.zeros(5, dtype=complex),
        [[1], [1, 2], [], [], []],
        (np.zeros(5), "details"),
    ],
    ids=repr,
)
def test_what_is_not_numbers_is_refused(scores):
    with pytest.raises(RewardError, match=r"not numbers.*here 5"):
        run(lambda i, p, m: scores)


def test_an_exception_is_told_with_its_place_and_chained():
    def divides(images, prompts, metadata):
        return 1 / 0

    with pytest.raises(
        RewardError, match=r"'divides' raised ZeroDivisionError: division by zero .*test_reward_c.*line"
    ) as caught:
        run(divides)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_reward_that_changes_its_input_changes_nothing_else():
    images, prompts, metadata = torch.full((2, 3, 4, 4), 0.5), ["a cat", "a dog"], [{"x": 1}, {"x": 2}]

    def vandal(images, prompts, metadata):
        images.zero_()
        prompts.clear()
        metadata[0]["x"] = 9
        return np.zeros(2)

    score(load_reward(vandal), media.Image(), images, prompts, metadata)
    assert images.eq(0.5).all()
    assert (prompts, metadata) == (["a cat", "a dog"], [{"x": 1}, {"x": 2}])


def test_the_result_does_not_share_memory_with_the_reward():
    kept = np.zeros(5)
    run(lambda i, p, m: kept)[0] = 7.0
    assert kept[0] == 0.0


def test_images_need_no_gradient():
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    assert score(load_reward("jpeg-compressibility"), media.Image(), images, ["a cat"], [{}]).shape == (1,)


def test_counts_must_agree():
    with pytest.raises(ValueError, match="must be equal"):
        score(load_reward("jpeg-compressibility"), media.Image(), torch.zeros(2, 3, 8, 8), ["a cat"], [{}])


@pytest.mark.parametrize("package", ["rewards", "media", "prompts", "runs", "report.progress"])
def test_importing_is_light(package):
    heavy = "torch", "PIL", "matplotlib", "diffusers", "transformers", "rich"
    program = f"import ddpo.{package}, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_reward_sees_the_picture_that_a_file_would_hold(tmp_path):
    values = torch.tensor([-0.1, 0.0, 0.1, 0.3, 0.4999, 0.5001, 1.0, 1.2])
    images = values.expand(1, 3, 2, 8)
    seen = []

    def remember(images, prompts, metadata):
        seen.append(images.clone())
        images.zero_()
        return [0.0]

    score(load_reward({remember: 1}), media.Image(), images, ["a cat"], [{}])
    # the second source: Pillow's pixels
    Image.fromarray(to_uint8(images.numpy())[0]).save(tmp_path / "picture.png")
    file = np.asarray(Image.open(tmp_path / "picture.png"), np.float32).transpose(2, 0, 1) / np.float32(255)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0][0], torch.from_numpy(file))
    assert seen[0][0, 0, 0].mul(255).tolist() == [0, 0, 26, 76, 127, 128, 255, 255]
    assert torch.equal(images, values.expand(1, 3, 2, 8))


def test_images_reach_a_reward_in_one_layout():
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    reward = load_reward(lambda i, p, m: [i.is_contiguous()] * 2)
    assert score(reward, media.Image(), images, ["a cat"] * 2, [{}] * 2).tolist() == [1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_named_and_not_scored(value):
    images = torch.zeros(3, 3, 2, 2)
    images[1, 2, 0, 1] = value
    reward = load_reward(lambda i, p, m: pytest.fail("the reward was asked"))
    with pytest.raises(RewardError, match=r"cannot score sample 5, prompt 'a dog': the image holds NaN or an infinity"):
        score(reward, media.Image(), images, PROMPTS[:3], [{}] * 3, first_index=4)


def test_a_reward_gets_the_numbers_of_an_array_as_they_are():
    points = torch.tensor([[-1.5, 0.3], [2.0, 1e-4]])
    seen = []

    def remember(samples, prompts, metadata):
        seen.append(samples.clone())
        samples.zero_()
        return [0.0] * len(prompts)

    score(load_reward(remember), media.Array(), points, ["", ""], [{"goal": points[0]}, {}])
    assert torch.equal(seen[0], points)
    assert points[0, 0] == -1.5
    points[1, 1] = torch.nan
    with pytest.raises(RewardError, match=r"sample 1, prompt '': the array holds NaN"):
        score(load_reward(remember), media.Array(), points, ["", ""], [{}] * 2)


def test_a_reward_of_another_medium_is_refused():
    def far(samples, prompts, metadata):
        return samples.norm(dim=1)

    check_media(load_reward(far), "image")  # without the attribute any medium is taken
    far.media = ("array", "audio")
    check_media(load_reward(far), "array")
    assert load_reward({far: 1}).media == ("array", "audio")
    assert load_reward({far: 1, "judge": 1}).media == ()
    with pytest.raises(
        RewardError, match="Reward 'far' scores samples of the medium 'array' or 'audio', not 'image': choose"
    ):
        check_media(load_reward(far), "image")
    with pytest.raises(RewardError, match="Reward 'judge' scores samples of the medium 'image', not 'array': choose"):
        check_media(load_reward({far: 1, "judge": 1}), "array")
    far.media = 3
    with pytest.raises(RewardError, match="Reward 'far': its attribute `media` is 3"):
        load_reward(far)
