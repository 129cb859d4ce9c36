from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest

from ddpo.prompts import load_prompts


@pytest.fixture(scope="module")
def animals():
    return load_prompts("simple-animals")


def test_any_process_draws_any_part(animals):
    whole = animals.draw(64, seed=3, iteration=5, samples_per_prompt=3)
    for processes in (2, 4, 8):
        share = 64 // processes
        parts = [
            animals.draw(share, seed=3, iteration=5, samples_per_prompt=3, first=rank * share)
            for rank in range(processes)
        ]
        assert list(chain.from_iterable(parts)) == whole


def test_a_longer_draw_begins_with_the_shorter(animals):
    assert animals.draw(10, seed=0, iteration=0) == animals.draw(50, seed=0, iteration=0)[:10]


def test_seed_and_iteration_matter(animals):
    one = animals.draw(64, seed=0, iteration=1)
    assert one == animals.draw(64, seed=0, iteration=1)
    assert one != animals.draw(64, seed=1, iteration=0)
    assert one != animals.draw(64, seed=0, iteration=2)


def test_samples_per_prompt(animals):
    drawn = animals.draw(12, seed=0, iteration=0, samples_per_prompt=4)
    single = animals.draw(3, seed=0, iteration=0)
    assert drawn == [prompt for prompt in single for _ in range(4)]


def test_draws_are_uniform_and_independent(animals):
    number = 45 * 200
    drawn = [animals.prompts.index(prompt) for prompt in animals.draw(number, seed=7, iteration=0)]
    counts = np.array([Counter(drawn)[index] for index in range(45)])
    # chi-square with 44 degrees of freedom: mean 44, standard deviation sqrt(88) = 9.4; four of them above
    assert ((counts - 200) ** 2 / 200).sum() < 44 + 4 * 9.4
    # repeats of the neighbour: expected (n - 1) / 45 = 200, standard deviation sqrt(200 * 44 / 45) = 14
    repeats = sum(a == b for a, b in pairwise(drawn))
    assert abs(repeats - 200) < 4 * 14


def test_draws_never_change(animals):
    # Pinned when first written, so that a stored configuration keeps its prompts.
    pinned = ["a beetle", "a bear", "a bear", "a bee", "a cat", "a wolf", "a llama", "a deer"]
    assert [prompt.text for prompt in animals.draw(8, seed=0, iteration=0)] == pinned
    # floor(bits * 45 / 2^64) from NumPy's own C-level raw Philox stream, computed with exact integers.
    for group in range(4):
        sequence = np.random.SeedSequence(entropy=11, spawn_key=(0x50524F4D, 2, group))
        bits = np.random.Philox(sequence).random_raw(1)[0]
        expected = int(bits) * 45 // 2**64
        assert animals.draw(1, seed=11, iteration=2, first=group)[0] is animals.prompts[expected]


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"iteration": -1}, {"samples_per_prompt": 0}, {"first": -1}], ids=str)
def test_arguments_are_checked(animals, wrong):
    with pytest.raises(ValueError, match="negative"):
        animals.draw(1, **{"seed": 0, "iteration": 0, **wrong})


def test_fixed_prompts_spread_evenly_and_repeat_in_turn():
    source = load_prompts([f"p{i}" for i in range(6)])
    # i * 6 // 4 = 0, 1, 3, 4
    assert [p.text for p in source.fixed(4)] == ["p0", "p1", "p3", "p4"]
    assert [p.text for p in source.fixed(3)] == ["p0", "p2", "p4"]
    assert [p.text for p in source.fixed(8)] == ["p0", "p1", "p2", "p3", "p4", "p5", "p0", "p1"]
    assert source.fixed(0) == []


def test_prompts_can_be_keys(animals):
    assert len(set(animals.prompts)) == 45
