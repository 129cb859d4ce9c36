import numpy as np
import pytest
import torch
from PIL import Image

from ddpo import media
from ddpo.rewards import load_reward, score, to_uint8
from ddpo.rewards.jpeg import jpeg_size
from ddpo.runtime.errors import RewardError


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).random((4, 3, 64, 64), dtype=np.float32))


def size_on_disk(levels_HWC, folder, quality=95):
    """The second source: F.4's parameters, but a real file and the size that the file system reports."""
    path = folder / "x.jpg"
    Image.fromarray(levels_HWC, "RGB").save(path, format="JPEG", quality=quality)
    return path.stat().st_size / 1000


def test_size_is_that_of_a_file_with_rounded_pixels(images, tmp_path):
    rounded = np.floor(images.double().numpy() * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)
    truncated = np.floor(images.double().numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    expected = [size_on_disk(x, tmp_path) for x in rounded]
    assert expected != [size_on_disk(x, tmp_path) for x in truncated]  # or the test could not tell
    assert jpeg_size(images).tolist() == expected


def test_rewards_are_plus_and_minus_the_size(images, tmp_path):
    size_B = jpeg_size(images)
    for name, sign in (("jpeg-incompressibility", 1), ("jpeg-compressibility", -1)):
        score_B = score(load_reward(name), media.Image(), images, ["a cat"] * 4, [{}] * 4)
        assert score_B.dtype == np.float64
        assert score_B.tolist() == (sign * size_B).tolist()


def test_noise_is_larger_than_a_plain_picture():
    plain_then_noise = torch.stack([torch.full((3, 64, 64), 0.3), torch.rand(3, 64, 64)])
    size_B = jpeg_size(plain_then_noise)
    assert size_B[0] < 1.0 < size_B[1]


def test_quality_is_an_option(images, tmp_path):
    reward = load_reward({"name": "jpeg-incompressibility", "quality": 50})
    expected = [size_on_disk(x, tmp_path, quality=50) for x in to_uint8(images.numpy())]
    assert score(reward, media.Image(), images, ["a cat"] * 4, [{}] * 4).tolist() == expected


def test_pixels_round_to_nearest_and_clip():
    # 0.999 * 255 = 254.745 -> 255 (truncation: 254); 0.3 * 255 = 76.5 -> 76 in float32 (76.50000114 -> 77), so
    # 0.302 * 255 = 77.01 -> 77; 0.4999 * 255 = 127.47 -> 127; outside [0, 1] -> the ends.
    values = np.array([0.999, 0.302, 0.4999, -0.2, 1.7], dtype=np.float32)
    image_BCHW = np.broadcast_to(values, (1, 3, 1, 5))
    assert to_uint8(image_BCHW)[0, 0, :, 0].tolist() == [255, 77, 127, 0, 255]


def test_channels_stay_in_order():
    red = np.zeros((1, 3, 2, 2), dtype=np.float32)
    red[:, 0] = 1.0
    assert to_uint8(red)[0, 1, 1].tolist() == [255, 0, 0]


def test_pixels_that_are_not_finite_are_refused(images):
    images[2, 1, 5, 5] = float("nan")
    with pytest.raises(RewardError, match=r"jpeg-compressibility.*sample 2.*NaN"):
        score(load_reward("jpeg-compressibility"), media.Image(), images, ["a cat"] * 4, [{}] * 4)
