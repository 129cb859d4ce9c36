"""Rewards from the embedded judge, a small classifier of the 45 animals that ships with the package."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.rewards.contract import Array
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo.embedded.judge import Judge

OTHER = "other"
"""The judge's class for everything that is none of its animals; no prompt can ask for it."""
GROUP = 8
"""Pictures that the judge sees at once, always as many: kernels for another number round differently, and a picture's
score would depend on those scored with it."""


def judge_probability(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Array:
    """Return `p_B`, the probability in [0, 1] that the judge gives to the prompt's animal (`ddpo.embedded.judge`).

    The animal is `metadata["animal"]` or, without it, the label word in the prompt. Raises RewardError naming
    the prompt when there is none.
    """
    logits_BK, label_B = _judged(images, prompts, metadata)
    shifted_BK = logits_BK - logits_BK.max(axis=1, keepdims=True)
    probability_BK = np.exp(shifted_BK) / np.exp(shifted_BK).sum(axis=1, keepdims=True)
    probability_B: Array = probability_BK[np.arange(len(label_B)), label_B]
    return probability_B


def judge_recognition(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Array:
    """Return 1.0 where the judge's first choice is the prompt's animal, else 0.0, NaN where it gives NaN; shape `(B,)`.

    The judge is that of `ddpo.embedded.judge`. Raises RewardError naming the prompt when it has no animal that the
    judge knows.
    """
    logits_BK, label_B = _judged(images, prompts, metadata)
    recognised_B: Array = (logits_BK.argmax(axis=1) == label_B).astype(np.float64)
    recognised_B[np.isnan(logits_BK).any(axis=1)] = np.nan
    return recognised_B


def animal_of(prompt: str, metadata: dict[str, Any], labels: Sequence[str]) -> str:
    """Return the label that `metadata["animal"]` or, without it, a whole word of the prompt names.

    Of several labels in a prompt the longest wins, then the first. Raises RewardError when there is none.
    """
    animals = [label for label in labels if label != OTHER]
    if "animal" in metadata:
        animal = str(metadata["animal"])
        if animal not in animals:
            raise RewardError(f"the judge does not know the animal '{animal}' of the prompt '{prompt}'.")
        return animal
    words = "|".join(re.escape(label) for label in sorted(animals, key=len, reverse=True))
    found: list[str] = re.findall(rf"\b(?:{words})\b", prompt.lower())
    if not found:
        raise RewardError(f"the prompt '{prompt}' names no animal that the judge knows.")
    return max(found, key=len)


def _judged(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> tuple[Array, list[int]]:
    """Return the judge's logits `(B, K)` of images `(B, 3, H, W)` and the index `(B,)` of each prompt's animal.

    The last group of images is filled up with black ones.
    """
    import torch

    judge = embedded_judge()
    label_B = [judge.labels.index(animal_of(p, m, judge.labels)) for p, m in zip(prompts, metadata, strict=True)]
    logits = []
    for group in torch.split(images, GROUP):
        black = group.new_zeros(GROUP - len(group), *group.shape[1:])
        logits.append(judge(torch.cat([group, black]))[: len(group)])
    return torch.cat(logits).detach().cpu().double().numpy(), label_B


@functools.cache
def embedded_judge() -> Judge:
    """Return the judge, loaded once per process."""
    from ddpo.embedded.judge import load_judge

    return load_judge()
