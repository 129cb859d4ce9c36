"""Seeds: a number of its own for each run, stream, iteration and sample, the same for ever."""

from __future__ import annotations

import itertools

from ddpo.core.randomness import Stream, derive_seed, sample_seeds


def test_runs_streams_iterations_and_samples_have_seeds_of_their_own():
    seeds = {
        seed
        for run, stream, iteration in itertools.product(range(3), Stream, range(4))
        for seed in sample_seeds(run, stream, iteration, range(8))
    }
    assert len(seeds) == 3 * len(Stream) * 4 * 8


def test_positions_of_a_stream_are_told_apart():
    positions = list(itertools.product(range(4), repeat=3))
    assert len({derive_seed(0, Stream.SHUFFLE, *position) for position in positions}) == len(positions)


def test_seeds_never_change():
    # A run that is resumed with a newer ddpo must draw what it would have drawn.
    assert sample_seeds(7, Stream.SAMPLE, 3, range(2)) == [3351598949, 2211917656]
    assert derive_seed(0, Stream.SHUFFLE, 1) == 901243215
