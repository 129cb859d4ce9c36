"""Trial 7: whatever a reward does or returns, its numbers reach their samples or the run stops with one sentence."""

from __future__ import annotations

import decimal
import fractions
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpo.media import Image
from ddpo.rewards import load_reward, score
from ddpo.runtime.errors import RewardError
from fault_trials.refusals import flaw_of_refusal
from fault_trials.registry import Cases, trial

FIRST = 100
"""Number of the first sample, as in a part of an iteration."""
Values = list[float]
Make = Callable[[Values], Any]

GOOD: dict[str, Make] = {
    "list": list,
    "tuple": tuple,
    "list of lists": lambda values: [[value] for value in values],
    "list of tensors": lambda values: [torch.tensor(value, requires_grad=True) for value in values],
    "list of arrays": lambda values: [np.array([value]) for value in values],
    "list of fractions": lambda values: [fractions.Fraction(value) for value in values],
    **{
        f"array of {kind}": partial(np.array, dtype=kind)
        for kind in ("float64", "float32", "float16", "int64", "uint8")
    },
    "array of objects": partial(np.array, dtype=object),
    "column": lambda values: np.array(values)[:, None],
    "reversed view": lambda values: np.array(values[::-1])[::-1],
    "read-only array": lambda values: np.broadcast_to(np.array(values), len(values)),
    "big-endian array": partial(np.array, dtype=">f8"),
    "masked array, nothing masked": np.ma.array,
    "range": lambda values: range(len(values)),
    **{
        f"tensor of {str(kind).removeprefix('torch.')}": partial(torch.tensor, dtype=kind)
        for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)
    },
    "tensor with gradient": partial(torch.tensor, requires_grad=True),
    "tensor of a graph": lambda values: torch.tensor(values, requires_grad=True) * 1,
    "tensor, strided": lambda values: torch.tensor([values, values]).T[:, 0],
    "tensor column": lambda values: torch.tensor(values)[:, None],
    "sub-class of tensor": lambda values: torch.nn.Parameter(torch.tensor(values)),
}
"""Ways to return 0, 1, 2, ...: each must arrive as exactly that."""

TRUTHS: dict[str, Callable[[list[bool]], Any]] = {
    "list of booleans": list,
    "array of booleans": np.array,
    "objects that are booleans": partial(np.array, dtype=object),
    "tensor of booleans": torch.tensor,
}

BAD: dict[str, Make] = {
    "None": lambda values: None,
    "nothing": lambda values: [],
    "a generator": lambda values: (value for value in values),
    "a map": lambda values: map(float, values),
    "a set": set,
    "a dict": lambda values: dict(enumerate(values)),
    "a dict of scores": lambda values: {"scores": values},
    "a scalar": lambda values: 1.0,
    "an array of no dimension": lambda values: np.array(1.0),
    "a tensor of no dimension": lambda values: torch.tensor(1.0),
    "one too few": lambda values: values[1:],
    "one too many": lambda values: [*values, 0.0],
    "twice as many": lambda values: values * 2,
    "a row": lambda values: np.array([values]),
    "two columns": lambda values: np.array([values, values]).T,
    "a square": lambda values: np.tile(values, (len(values), 1)),
    "three dimensions": lambda values: np.array(values)[:, None, None],
    "scores and more": lambda values: (np.array(values), "info"),
    "lists of different lengths": lambda values: [[0.0] * index for index in range(len(values))],
    "text": lambda values: " ".join(map(str, values)),
    "bytes": lambda values: bytes(len(values)),
    "texts": lambda values: [str(value) for value in values],
    "an array of texts": lambda values: np.array([str(value) for value in values]),
    "objects that are texts": lambda values: np.array([str(value) for value in values], dtype=object),
    "objects that are bytes": lambda values: np.array([b"1" for _ in values], dtype=object),
    "decimals": lambda values: [decimal.Decimal(value) for value in values],
    "complex numbers": lambda values: [complex(value) for value in values],
    "an array of complex numbers": partial(np.array, dtype=complex),
    "a tensor of complex numbers": partial(torch.tensor, dtype=torch.complex64),
    "dates": lambda values: np.array(["2024-01-01"] * len(values), dtype="datetime64[D]"),
    "records": lambda values: np.array([(value,) for value in values], dtype=[("score", float)]),
    "objects": lambda values: [object() for _ in values],
    "functions": lambda values: [lambda: 1.0 for _ in values],
    "a tensor on the meta device": lambda values: torch.zeros(len(values), device="meta"),
    "a list of meta tensors": lambda values: [torch.zeros((), device="meta") for _ in values],
    "a sparse tensor": lambda values: torch.tensor(values).to_sparse(),
    "the reward itself": lambda values: load_reward("jpeg-compressibility"),
}
"""What is no number per sample: refused in the reward's name."""

NOT_FINITE: dict[str, tuple[float | None, Make]] = {
    "NaN in a list": (np.nan, list),
    "infinity in a list": (np.inf, list),
    "minus infinity in an array": (-np.inf, np.array),
    "NaN in a tensor": (np.nan, torch.tensor),
    "infinity in half precision": (1e9, partial(torch.tensor, dtype=torch.float16)),
    "NaN among objects": (np.nan, partial(np.array, dtype=object)),
    "None in a list": (None, list),
    "a masked score": (7.0, lambda values: np.ma.array(values, mask=[value == 7.0 for value in values])),
}
"""A score that is none, and how it comes: refused with the name of the reward, the sample and its prompt."""


class _UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("not even its text can be told")


def _exits(images: Any, prompts: Any, metadata: Any) -> Any:
    sys.exit(0)


def _recurses(images: Any, prompts: Any, metadata: Any) -> Any:
    return _recurses(images, prompts, metadata)


def _raising(error: BaseException) -> Callable[..., Any]:
    def raises(images: Any, prompts: Any, metadata: Any) -> Any:
        raise error

    return raises


def _drains(images: Any, prompts: Any, metadata: Any) -> Any:
    return next(iter(()))


RAISING: dict[str, Callable[..., Any]] = {
    "an error": _raising(ValueError("mine")),
    "an error of several lines": _raising(RuntimeError("mine\n  and\n\nmore" * 100)),
    "an error without text": _raising(RuntimeError()),
    "an error whose text fails": _raising(_UnspeakableError()),
    "a group of errors": _raising(ExceptionGroup("mine", [ValueError("a"), TypeError("b")])),
    "no memory": _raising(MemoryError("mine")),
    "no recursion left": _recurses,
    "an empty iterator": _drains,
    "leaving the program": _exits,
    "an assertion": _raising(AssertionError()),
    "a warning as error": _raising(UserWarning("mine")),
}
"""Rewards that raise; those that hang are in `hanging.py`."""


@trial(
    7,
    "rewards",
    "What a reward returns reaches its samples exactly, or the run stops and names the reward, and the sample if any.",
    fast=3,
    full=64,
)
def rewards_of_every_kind(size: int, folder: Path) -> Cases:
    """Good and bad answers for batches of 2 to `size` + 1 samples, the bad score at every place in turn."""
    del folder
    for number in range(2, size + 2):
        values = [float(index) for index in range(number)]
        for case, make in GOOD.items():
            yield f"{case}, {number}", _difference(_returning(partial(make, values)), values)
        truths = [index % 2 == 1 for index in range(number)]
        for case, make in TRUTHS.items():
            yield f"{case}, {number}", _difference(_returning(partial(make, truths)), list(map(float, truths)))
        for case, make in BAD.items():
            yield f"{case}, {number}", _refusal(_returning(partial(make, values)), number, f"here {number}")
        for place in range(number):
            yield from _one_score_that_is_none(number, place)
    for case, reward in RAISING.items():
        yield f"raises {case}", _refusal(reward, 2, "raised")
    yield "changes its arguments", _difference(_vandal, [0.0, 1.0])


def _one_score_that_is_none(number: int, place: int) -> Cases:
    for case, (value, make) in NOT_FINITE.items():
        values: list[Any] = [0.0] * number
        values[place] = value
        says = f"sample {FIRST + place}", f"'prompt {place}'", "finite number"
        yield f"{case}, place {place} of {number}", _refusal(_returning(partial(make, values)), number, *says)


def _returning(make: Callable[[], Any]) -> Callable[..., Any]:
    def returning(images: Any, prompts: Any, metadata: Any) -> Any:
        return make()

    return returning


def _vandal(images: Any, prompts: Any, metadata: Any) -> Any:
    scores = np.arange(len(prompts))
    images.fill_(np.nan)
    prompts[:] = ["other"]
    metadata.clear()
    return scores


def _score(reward: Callable[..., Any], number: int) -> Any:
    images = torch.full((number, 3, 2, 2), 0.5)
    prompts: Sequence[str] = [f"prompt {index}" for index in range(number)]
    return score(load_reward(reward), Image(), images, prompts, [{}] * number, first_index=FIRST)


def _difference(reward: Callable[..., Any], expected: list[float]) -> str | None:
    try:
        found = _score(reward, len(expected))
    except RewardError as error:
        return f"was refused: {error}"
    right = found.dtype == np.float64 and found.tolist() == expected
    return None if right else f"gave {found.dtype} {found.tolist()}"


def _refusal(reward: Callable[..., Any], number: int, *says: str) -> str | None:
    name = reward.__name__
    return flaw_of_refusal(lambda: _score(reward, number), f"'{name}'", *says, error=RewardError)
