import numpy as np
import pytest
from PIL import Image, ImageFont

from ddpo.report import draw_before_after, draw_grid
from ddpo.report.grid import draw_tiles, tile_columns, wrap

GAP, SIZE = 10, 160  # tiles of 160 pixels are not enlarged


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_every_sample_is_at_its_place(images, tmp_path):
    path = tmp_path / "samples" / "grid.png"
    draw_grid(images, [f"a cat\n{i} kB" for i in range(6)], path, columns=3)
    sheet = read(path)
    # 3 columns of 160 pixels and 4 gaps; 2 rows of 160 pixels + 2 caption lines of 17 + 4, and 3 gaps
    assert sheet.shape == (2 * (SIZE + 38) + 3 * GAP, 3 * SIZE + 4 * GAP, 3)
    for index in range(6):
        y = GAP + index // 3 * (SIZE + 38 + GAP)
        x = GAP + index % 3 * (SIZE + GAP)
        np.testing.assert_array_equal(sheet[y : y + SIZE, x : x + SIZE], images[index])
        caption = sheet[y + SIZE : y + SIZE + 38, x : x + SIZE]
        assert caption.min() < 100  # ink
        assert caption[:, :5].min() == 255  # centred


def test_small_tiles_are_enlarged_and_large_ones_not(tmp_path):
    for side, shown in ((64, 192), (256, 256)):
        draw_grid(np.zeros((1, side, side, 3), dtype=np.uint8), ["x"], tmp_path / "grid.png")
        assert read(tmp_path / "grid.png").shape == (shown + 21 + 2 * GAP, shown + 2 * GAP, 3)


def test_a_title_takes_a_line_above(images, tmp_path):
    draw_grid(images, [""] * 6, tmp_path / "a.png", columns=6)
    draw_grid(images, [""] * 6, tmp_path / "b.png", columns=6, title="before training")
    plain, titled = read(tmp_path / "a.png"), read(tmp_path / "b.png")
    assert titled.shape[0] - plain.shape[0] == 18 + GAP
    assert titled[GAP : GAP + 18].min() < 100
    np.testing.assert_array_equal(titled[18 + 2 * GAP :], plain[GAP:])


def test_before_is_above_after(images, tmp_path):
    before = np.concatenate([images, images[::-1]])[:10]
    after, path = 255 - before, tmp_path / "before_after.png"
    draw_before_after(before, after, ["a"] * 10, ["b"] * 10, path)
    sheet = read(path)
    row = SIZE + 21 + GAP
    assert sheet.shape[0] == 4 * row + GAP  # before 0-4, after 0-4, before 5-9, after 5-9
    for line, part in enumerate([before[:5], after[:5], before[5:], after[5:]]):
        for column, image in enumerate(part):
            y, x = GAP + line * row, GAP + column * (SIZE + GAP)
            np.testing.assert_array_equal(sheet[y : y + SIZE, x : x + SIZE], image)


def test_captions_wrap_and_keep_their_last_line():
    font = ImageFont.load_default(size=13)
    lines = wrap("a long-haired cat washing the dishes in the kitchen of a very old house\n1.97 kB", 130, font)
    assert len(lines.split("\n")) == 3
    assert lines.split("\n")[1].endswith("…")
    assert lines.endswith("\n1.97 kB")
    assert all(font.getlength(line) <= 130 for line in lines.split("\n"))
    assert wrap("", 100, font) == ""


@pytest.mark.parametrize(
    "call",
    [
        lambda x, p: draw_grid(x.astype(np.float32), ["a"] * 6, p),
        lambda x, p: draw_grid(x.transpose(0, 3, 1, 2), ["a"] * 6, p),
        lambda x, p: draw_grid(x, ["a"] * 5, p),
        lambda x, p: draw_grid(x[:0], [], p),
        lambda x, p: draw_tiles(x.astype(np.float32), p),
        lambda x, p: draw_before_after(x, x[:5], ["a"] * 6, ["a"] * 5, p),
    ],
)
def test_what_does_not_fit_is_refused(images, tmp_path, call):
    with pytest.raises(ValueError, match=r"images|shape"):
        call(images, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_tiles_stand_side_by_side_without_margins(tmp_path):
    wide = np.random.default_rng(1).integers(0, 256, (5, 8, 20, 3), dtype=np.uint8)
    draw_tiles(wide, tmp_path / "samples" / "tiles.png")
    sheet = read(tmp_path / "samples" / "tiles.png")
    assert sheet.shape == (2 * 8, 3 * 20, 3)  # 5 tiles: 3 columns, 2 rows
    for index in range(5):
        y, x = index // 3 * 8, index % 3 * 20
        np.testing.assert_array_equal(sheet[y : y + 8, x : x + 20], wide[index])
    assert not sheet[8:, 40:].any()  # the unused place is black
    assert [tile_columns(n) for n in (1, 2, 4, 5, 9, 10, 45)] == [1, 2, 2, 3, 3, 4, 7]
