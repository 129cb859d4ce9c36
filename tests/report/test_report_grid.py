import numpy as np
import pytest
from PIL import Image, ImageFont

from ddpo.report import draw_before_after, draw_grid
from ddpo.report.grid import balanced_columns, draw_tiles, tile_columns, whole_scale, wrap

GAP = 10


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_every_picture_is_at_its_place(images, tmp_path):
    path = tmp_path / "samples" / "grid.png"
    draw_grid(images, [f"a cat\n{i} kB" for i in range(6)], path, columns=3, scale=2, resample="nearest")
    sheet = read(path)
    # 3 columns of 128 pixels and 4 gaps; 2 rows of 128 pixels + 2 caption lines of 17 + 4, and 3 gaps
    assert sheet.shape == (2 * (128 + 38) + 3 * GAP, 3 * 128 + 4 * GAP, 3)
    for index in range(6):
        y = GAP + index // 3 * (128 + 38 + GAP)
        x = GAP + index % 3 * (128 + GAP)
        np.testing.assert_array_equal(sheet[y : y + 128 : 2, x : x + 128 : 2], images[index])
        np.testing.assert_array_equal(sheet[y + 1 : y + 129 : 2, x + 1 : x + 129 : 2], images[index])
        caption = sheet[y + 128 : y + 166, x : x + 128]
        assert caption.min() < 100  # ink
        assert caption[:, :5].min() == 255  # centred


def test_small_pictures_are_enlarged_and_large_ones_not(images, tmp_path):
    draw_grid(images[:1], ["x"], tmp_path / "small.png")
    assert read(tmp_path / "small.png").shape == (3 * 64 + 21 + 2 * GAP, 3 * 64 + 2 * GAP, 3)  # 64 -> 192
    large = np.zeros((1, 256, 256, 3), dtype=np.uint8)
    draw_grid(large, ["x"], tmp_path / "large.png")
    assert read(tmp_path / "large.png").shape == (256 + 21 + 2 * GAP, 256 + 2 * GAP, 3)
    assert [whole_scale(n) for n in (1, 32, 64, 80, 159, 160, 512)] == [160, 5, 3, 2, 2, 1, 1]


def test_a_title_takes_a_line_above(images, tmp_path):
    draw_grid(images, [""] * 6, tmp_path / "a.png", columns=6, scale=1)
    draw_grid(images, [""] * 6, tmp_path / "b.png", columns=6, scale=1, title="before training")
    plain, titled = read(tmp_path / "a.png"), read(tmp_path / "b.png")
    assert titled.shape[0] - plain.shape[0] == 18 + GAP
    assert titled[GAP : GAP + 18].min() < 100
    np.testing.assert_array_equal(titled[18 + 2 * GAP :], plain[GAP:])


def test_before_is_above_after(images, tmp_path):
    before, after = images, 255 - images
    path = tmp_path / "before_after.png"
    draw_before_after(before, after, ["a"] * 6, ["b"] * 6, path, columns=4, scale=1, resample="nearest")
    sheet = read(path)
    row = 64 + 21 + GAP
    assert sheet.shape[0] == 4 * row + GAP  # before 0-3, after 0-3, before 4-5, after 4-5
    left = sheet.shape[1] - 4 * (64 + GAP)
    for line, part in enumerate([before[:4], after[:4], before[4:], after[4:]]):
        for column, image in enumerate(part):
            y, x = GAP + line * row, left + column * (64 + GAP)
            np.testing.assert_array_equal(sheet[y : y + 64, x : x + 64], image)
        label = sheet[GAP + line * row : GAP + line * row + 64, : left - GAP]
        assert label.min() < 100  # ink of "before" or "after"


def test_columns_balance():
    # 7: 4 columns leave 1 place empty, 7 > 2 ceil(sqrt(7)) = 6, 5 leave 3, 6 leave 5, 3 leave 2
    assert [balanced_columns(n) for n in (1, 2, 3, 4, 6, 7, 8, 12, 16, 45)] == [1, 2, 3, 2, 3, 4, 4, 4, 4, 9]


def test_captions_wrap_and_shorten():
    font = ImageFont.load_default(size=13)
    width = 100
    lines = wrap("a long-haired cat washing the dishes in the kitchen of a very old house", width, font)
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= width for line in lines)
    assert wrap("a cat\n1.97 kB", width, font) == ["a cat", "1.97 kB"]
    assert wrap("x" * 100, width, font)[0].endswith("…")
    assert wrap("", width, font) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda x, p: draw_grid(x.astype(np.float32), ["a"] * 6, p),
        lambda x, p: draw_grid(x.transpose(0, 3, 1, 2), ["a"] * 6, p),
        lambda x, p: draw_grid(x, ["a"] * 5, p),
        lambda x, p: draw_grid(x[:0], [], p),
        lambda x, p: draw_grid(x, ["a"] * 6, p, resample="cubic"),
        lambda x, p: draw_before_after(x, x[:5], ["a"] * 6, ["a"] * 5, p),
    ],
)
def test_what_does_not_fit_is_refused(images, tmp_path, call):
    with pytest.raises(ValueError, match=r"images|shape|resample"):
        call(images, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_tiles_stand_side_by_side_without_margins(images, tmp_path):
    path = tmp_path / "samples" / "tiles.png"
    draw_tiles(images[:5], path)
    sheet = read(path)
    assert sheet.shape == (2 * 64, 3 * 64, 3)  # 5 pictures: 3 columns, 2 rows
    for index in range(5):
        y, x = index // 3 * 64, index % 3 * 64
        np.testing.assert_array_equal(sheet[y : y + 64, x : x + 64], images[index])
    assert not sheet[64:, 128:].any()  # the unused place is black


def test_tiles_need_not_be_square(tmp_path):
    wide = np.random.default_rng(1).integers(0, 256, (3, 8, 20, 3), dtype=np.uint8)
    draw_tiles(wide, tmp_path / "tiles.png")
    sheet = read(tmp_path / "tiles.png")
    assert sheet.shape == (16, 40, 3)
    np.testing.assert_array_equal(sheet[:8, 20:], wide[1])
    np.testing.assert_array_equal(sheet[8:, :20], wide[2])
    assert [tile_columns(n) for n in (1, 2, 4, 5, 9, 10, 45)] == [1, 2, 2, 3, 3, 4, 7]
    with pytest.raises(ValueError, match="uint8"):
        draw_tiles(wide.astype(np.float32), tmp_path / "no.png")
