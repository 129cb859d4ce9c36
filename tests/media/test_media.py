"""What rewards and reports see of pictures and of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpo.media import Array, Image
from ddpo.media.array import SIDE
from ddpo.media.diversity import diversity
from ddpo.media.image import to_uint8


def test_pictures_are_shown_and_measured_as_their_files():
    images = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    pixels = to_uint8(images.numpy())
    assert np.array_equal(Image().thumbnails(images), pixels)
    assert Image().diversity(images) == diversity(pixels)
    assert np.array_equal(to_uint8(Image().as_seen(images).numpy()), pixels)


def test_pixels_are_rounded_not_truncated():
    levels = torch.tensor([-3.0, 0.0, 0.4, 0.6, 100.3, 100.7, 254.6, 255.0, 300.0])
    images = (levels / 255).reshape(1, 1, 1, -1).expand(1, 3, 1, -1)
    expected = [0, 0, 0, 1, 100, 101, 255, 255, 255]
    assert to_uint8(images.numpy())[0, 0, :, 0].tolist() == expected
    assert torch.equal(Image().as_seen(images)[0, 0, 0], torch.tensor(expected) / 255)  # not what is between two levels


def test_arrays_are_copied_and_never_changed():
    values = torch.randn(2, 3, 4).permute(0, 2, 1)
    seen = Array().as_seen(values)
    assert torch.equal(seen, values)
    assert seen.is_contiguous()
    seen.zero_()
    assert values.abs().sum() > 0


def test_the_diversity_of_arrays_is_in_their_own_unit():
    # differences of (0, 0), (3, 4), (0, 0): two pairs of sqrt(25 / 2), one of 0
    assert Array().diversity(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(2 / 3 * 12.5**0.5)
    assert Array().diversity(torch.zeros(1, 2)) is None


@pytest.mark.parametrize("shape", [(), (1,), (2,), (9, 2), (1, 2), (7,), (7, 1), (7, 3)])
def test_points_and_curves_have_thumbnails(shape):
    plots = Array().thumbnails(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert plots.shape == (3, SIDE, SIDE, 3)
    assert plots.dtype == np.uint8
    assert len({plot.tobytes() for plot in plots}) == 3


@pytest.mark.parametrize("shape", [(0,), (0, 2), (7, 9), (3, 4, 5), (0, 3)])
def test_other_shapes_have_none(shape):
    assert Array().thumbnails(torch.zeros(2, *shape)) is None


def red_centre(plot):
    """Return the mean place (from the left, from the bottom) of a plot's red pixels, as shares of its sides."""
    rows, columns = np.nonzero((plot[..., 0] > 150) & (plot[..., 1] < 80))
    return columns.mean() / SIDE, 1 - rows.mean() / SIDE


def test_a_point_stands_where_its_numbers_say_on_axes_that_all_share():
    # the largest value is 1.5: axes from -2 to 2
    plots = Array().thumbnails(torch.tensor([[-1.5, 0.3], [1.0, 1.0]]))
    assert red_centre(plots[0]) == pytest.approx((0.5 / 4, 2.3 / 4), abs=0.04)
    assert red_centre(plots[1]) == pytest.approx((3 / 4, 3 / 4), abs=0.04)
    fixed = Array((0.0, 10.0)).thumbnails(torch.tensor([[2.5, 7.5]]))
    assert red_centre(fixed[0]) == pytest.approx((1 / 4, 3 / 4), abs=0.04)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"limits of an array's plots are \(1, 1\)"):
        Array((1, 1))
    with pytest.raises(ValueError, match="the array holds NaN"):
        Array().thumbnails(torch.tensor([[0.0, torch.inf]]))
