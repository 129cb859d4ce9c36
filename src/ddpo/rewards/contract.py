"""The contract of a reward and the one function that calls it and checks what comes back.

A reward is a plain callable `(images, prompts, metadata) -> scores`: it sees decoded samples, never the policy
(paper, appendix D: the reward is a black box).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ddpo.errors import DDPOError, RewardError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor


class Reward(Protocol):
    """A callable that scores samples; higher is better.

    Takes images `(B, 3, H, W)` (a float32 CPU tensor in [0, 1]), the `B` prompts and the `B` metadata
    dictionaries; returns `B` finite numbers as a NumPy array, a tensor on any device or a list,
    of shape `(B,)` or `(B, 1)`.
    """

    def __call__(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /) -> npt.ArrayLike | Tensor:
        """Return the scores `(B,)` of images `(B, 3, H, W)`."""
        ...


@dataclass(frozen=True)
class NamedReward:
    """A reward with the name it has in configurations and the words it has in tables and figures."""

    name: str
    """As in a configuration, e.g. `jpeg-compressibility` or `my.py:redness`."""
    function: Reward
    label: str
    """Short words with the unit, e.g. `negative JPEG size (kB)`."""

    @property
    def key(self) -> str:
        """The name in metrics: without the file or module of a function."""
        return self.name.rpartition(":")[2]


def score(
    reward: NamedReward,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    first_index: int = 0,
) -> npt.NDArray[np.float64]:
    """Return the rewards `(B,)`, float64, of images `(B, 3, H, W)`, float32 in [0, 1].

    `first_index` is the number of the first sample, for messages. The reward gets copies, so that one that changes
    its input changes nothing else. Integers become float64 (integer rewards truncate advantages in the public codes).

    Raises RewardError, naming the reward, when it raises, returns something else than `B` numbers, or returns
    NaN or an infinity (naming the sample and its prompt).
    """
    number = len(prompts)
    if len(images) != number or len(metadata) != number:
        raise ValueError(f"{len(images)} images, {number} prompts and {len(metadata)} metadata: must be equal")
    try:
        scores = reward.function(images.detach().clone(), list(prompts), [dict(m) for m in metadata])
    except DDPOError as error:
        raise RewardError(f"Reward '{reward.name}': {error}") from error
    except Exception as error:
        raise RewardError(f"Reward '{reward.name}' raised {describe(error)}") from error
    score_B = _to_array(reward.name, scores, number)
    finite_B = np.isfinite(score_B)
    if not finite_B.all():
        index = int(np.argmin(finite_B))
        others = number - int(finite_B.sum()) - 1
        more = f" (and {others} more)" if others else ""
        raise RewardError(
            f"Reward '{reward.name}' returned {score_B[index]} for sample {first_index + index}, prompt "
            f"'{prompts[index]}'{more}: every reward must be a finite number."
        )
    return score_B


def describe(error: BaseException) -> str:
    """Return `Kind: text (file, line n)`, the place being where the exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = str(error)
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _to_array(name: str, scores: object, number: int) -> npt.NDArray[np.float64]:
    """Return `scores` as a new float64 array `(B,)`, or raise a RewardError that says what came instead."""
    expected = f"a reward returns one number per sample, here {number}"
    try:
        array = np.asarray(_to_host(scores))
        if array.dtype.kind not in "biufO":
            raise TypeError(f"dtype {array.dtype}")
        score_B = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"Reward '{name}' returned {type(scores).__name__}, not numbers ({error}): {expected}."
        ) from error
    if score_B.shape == (number, 1):
        score_B = score_B[:, 0]
    if score_B.shape != (number,):
        raise RewardError(f"Reward '{name}' returned an array of shape {score_B.shape}: {expected}.")
    return score_B


def _to_host(scores: object) -> object:
    """Return `scores` with every tensor, on its own or in a list, as a float64 NumPy array on the CPU."""
    if isinstance(scores, list | tuple):
        return [_to_host(item) for item in scores]
    if hasattr(scores, "detach"):
        return scores.detach().cpu().double().numpy()
    return scores
