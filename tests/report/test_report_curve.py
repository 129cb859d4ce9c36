import math

import numpy as np
import pytest
from PIL import Image

from ddpo.report import draw_curve
from ddpo.report.curve import running_mean
from ddpo.runtime.errors import RunFolderError


def metrics(number):
    return [
        {"iteration": i + 1, "reward_queries": 48 * (i + 1), "reward/mean": -2 + i / 40, "reward/standard_error": 0.02}
        for i in range(number)
    ]


@pytest.mark.parametrize("number", [1, 2, 40])
def test_a_png_is_drawn(tmp_path, number):
    path = tmp_path / "deep" / "curve.png"
    draw_curve(metrics(number), path, title="a run", label="JPEG size (kB)")
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("PNG", (1125, 675))  # 7.5 x 4.5 inches at 150 dots
    assert [p.name for p in path.parent.iterdir()] == ["curve.png"]  # nothing temporary is left


def test_the_line_rises_when_the_reward_does(tmp_path):
    draw_curve(metrics(40), tmp_path / "up.png")
    pixels = np.asarray(Image.open(tmp_path / "up.png").convert("RGB")).astype(int)
    line = np.abs(pixels - (0x1F, 0x5F, 0xA8)).sum(axis=2) < 30  # the colour of the line
    columns = [int(np.median(np.flatnonzero(line[:, x]))) for x in (400, 700, 1000)]
    assert columns[0] > columns[1] > columns[2]  # rows count downwards


def test_iterations_without_a_reward_are_left_out(tmp_path):
    rows = [{"iteration": 1}, {**metrics(1)[0], "reward/mean": math.nan}, {**metrics(1)[0], "reward/mean": None}]
    draw_curve([*rows, *metrics(3)], tmp_path / "curve.png")
    with pytest.raises(RunFolderError, match=r"curve\.png.*no iteration"):
        draw_curve(rows, tmp_path / "curve.png")


def test_running_mean_and_its_error():
    mean_N, error_N = np.array([1.0, 2.0, 6.0, 3.0]), np.array([0.3, 0.4, 1.2, 0.9])
    smooth_N, smooth_error_N = running_mean(mean_N, error_N, 3)
    # (1+2)/2, (1+2+6)/3, (2+6+3)/3, (6+3)/2
    np.testing.assert_allclose(smooth_N, [1.5, 3.0, 11 / 3, 4.5], rtol=1e-14)
    # sqrt(.09+.16)/2 = .25, sqrt(.09+.16+1.44)/3 = 1.3/3, sqrt(.16+1.44+.81)/3, sqrt(1.44+.81)/2 = .75
    np.testing.assert_allclose(smooth_error_N, [0.25, 1.3 / 3, math.sqrt(2.41) / 3, 0.75], rtol=1e-14)
    np.testing.assert_allclose(running_mean(mean_N, error_N, 1), (mean_N, error_N), rtol=1e-15)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    draw_curve(metrics(3), path)
    old = path.read_bytes()

    def disk_full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", disk_full)
    with pytest.raises(OSError, match="No space"):
        draw_curve(metrics(9), path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
