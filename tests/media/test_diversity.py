"""The diversity of pictures against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ddpo.media.diversity import diversity


def test_the_mean_over_all_pairs():
    # black, white, and black with half of its pixels white: pairs differ by 1, sqrt(1/2), sqrt(1/2)
    pixels = np.zeros((3, 2, 4, 3), np.uint8)
    pixels[1] = 255
    pixels[2, 0] = 255
    assert diversity(pixels) == pytest.approx((1 + 2 * 0.5**0.5) / 3, rel=1e-6)


def test_noise_has_the_difference_of_two_uniform_variables():
    # E(u - v)^2 = 2 Var(u) = 1/6; 256 levels i/255 have variance (256^2 - 1) / (12 * 255^2), 0.8 % more
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    assert diversity(pixels) == pytest.approx((2 * (256**2 - 1) / (12 * 255**2)) ** 0.5, rel=0.005)


def test_equal_pictures_have_none_and_a_single_one_is_not_measured():
    assert diversity(np.full((3, 4, 4, 3), 9, np.uint8)) == 0
    assert diversity(np.zeros((1, 4, 4, 3), np.uint8)) is None
