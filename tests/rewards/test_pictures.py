"""Reading picture files: what they hold, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ddpo.rewards import Scorer, load_reward
from ddpo.rewards.pictures import MAX_PIXELS, find_pictures, read_picture, score_pictures
from ddpo.runtime.errors import PictureError


def test_levels_and_axes(tmp_path):
    pixels_HWC = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels_HWC).save(tmp_path / "a.png")
    image = read_picture(tmp_path / "a.png")
    assert image.shape == (1, 3, 2, 3)
    np.testing.assert_allclose(image[0].permute(1, 2, 0), pixels_HWC / 255, rtol=1e-6)


def test_transparency_is_over_white_and_grey_has_three_channels(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.webp", lossless=True)
    assert read_picture(tmp_path / "clear.webp").eq(1).all()
    Image.new("L", (2, 2), 51).save(tmp_path / "grey.png")
    np.testing.assert_allclose(read_picture(tmp_path / "grey.png"), np.full((1, 3, 2, 2), 0.2), rtol=1e-6)


def test_a_photo_taken_sideways_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").shape == (1, 3, 4, 2)


def test_folders_hold_their_pictures_by_name(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp", "d.txt", "e.gif"):
        Image.new("RGB", (2, 2)).save(tmp_path / name, format="PNG")
    (tmp_path / "f.png").mkdir()
    found = find_pictures([tmp_path / "c.webp", tmp_path])
    assert [path.name for path in found] == ["c.webp", "a.JPG", "b.png", "c.webp"]


def test_pictures_of_different_sizes_are_normalised_together(tmp_path):
    for name, size in (("a.png", 8), ("b.png", 32), ("c.png", 64)):
        Image.effect_noise((size, size), 100).convert("RGB").save(tmp_path / name)
    spec = {"name": "sum", "rewards": [{"name": "jpeg-incompressibility", "normalise": "rank"}]}
    scores = score_pictures(Scorer([load_reward(spec)], []), find_pictures([tmp_path]), "", {})
    assert scores["sum"].tolist() == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    assert list(scores) == ["sum", "jpeg-incompressibility"]


def make(folder, name):
    path = folder / name
    if name == "large.png":
        Image.new("1", (8000, MAX_PIXELS // 8000 + 1)).save(path)
    elif name == "bomb.png":
        Image.new("1", (16000, 16000)).save(path)
    elif name == "moving.webp":
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif name == "deep.png":
        Image.fromarray(np.full((2, 2), 1000, dtype=np.uint16)).save(path)
    elif name == "cut.jpg":
        Image.effect_noise((64, 64), 100).save(path)
        path.write_bytes(path.read_bytes()[:500])
    elif name == "words.png":
        path.write_text("words")
    elif name == "gif.png":
        Image.new("RGB", (2, 2)).save(path, format="GIF")
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("large.png", "is too large to decode: 8000 x 8001 is more than 64,000,000 pixels"),
        ("bomb.png", "is too large to decode"),
        ("moving.webp", "is animated"),
        ("deep.png", "has more than 8 bits a channel"),
        ("cut.jpg", "cannot be read as a picture: .*truncated"),
        ("words.png", "is not a PNG, JPEG or WebP picture"),
        ("gif.png", "is not a PNG, JPEG or WebP picture"),
    ],
)
def test_what_cannot_be_scored_is_named(tmp_path, name, message):
    with pytest.raises(PictureError, match=f"{name} {message}"):
        read_picture(make(tmp_path, name))


def test_paths_that_lead_nowhere_are_named(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "fox.png")
    with pytest.raises(PictureError, match=r"no picture .*foxx.png\. Did you mean 'fox.png'"):
        find_pictures([tmp_path / "foxx.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PictureError, match="holds no pictures"):
        find_pictures([tmp_path / "empty"])
