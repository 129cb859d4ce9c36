"""The contract of a reward and the one function that calls it and checks what comes back.

A reward is a plain callable `(images, prompts, metadata) -> scores`: it sees decoded samples, never the policy
(paper, appendix D: the reward is a black box).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ddpo.media.image import as_shown
from ddpo.runtime.errors import DDPOError, RewardError
from ddpo.runtime.plugins import describe, text_of

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]


class Reward(Protocol):
    """A callable that scores samples; higher is better.

    Takes images `(B, 3, H, W)` (a float32 CPU tensor in [0, 1], in steps of 1/255), the `B` prompts and the `B`
    metadata dictionaries; returns `B` finite numbers as a NumPy array, a tensor on any device or a list,
    of shape `(B,)` or `(B, 1)`.
    """

    def __call__(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /) -> npt.ArrayLike | Tensor:
        """Return the scores `(B,)` of images `(B, 3, H, W)`."""
        ...


@dataclass(frozen=True)
class ComponentScores:
    """What the components of a reward gave for `B` samples, before they are combined."""

    prompts: list[str]
    """The `B` prompts."""
    by_key: dict[str, Array]
    """Raw scores `(B,)` of each component."""


class LoadedReward(Protocol):
    """What `load_reward` returns: components that score samples, and how their scores become one number a sample.

    Samples are scored in parts and by several processes; `combine` sees those of all parts and processes together.
    """

    @property
    def name(self) -> str:
        """As in a configuration, e.g. `jpeg-compressibility` or `my.py:redness`."""
        ...

    @property
    def key(self) -> str:
        """The name in metrics."""
        ...

    @property
    def label(self) -> str:
        """Short words with the unit, e.g. `negative JPEG size (kB)`."""
        ...

    @property
    def components(self) -> Mapping[str, NamedReward]:
        """What scores samples, by the component's name in metrics; a plain reward is its own only component."""
        ...

    def combine(self, scores: ComponentScores, reference: ComponentScores | None = None) -> Array:
        """Return the rewards `(B,)`; see `combine`."""
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

    @property
    def components(self) -> Mapping[str, NamedReward]:
        """This reward alone."""
        return {self.key: self}

    def combine(self, scores: ComponentScores, reference: ComponentScores | None = None) -> Array:
        """Return its scores `(B,)` as they are."""
        del reference
        return scores.by_key[self.key]


def score(
    reward: LoadedReward,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    first_index: int = 0,
) -> Array:
    """Return the rewards `(B,)`, float64, of images `(B, 3, H, W)`, float32 in [0, 1], as one whole batch.

    Raises RewardError as `score_components` and `combine` do.
    """
    by_key = score_components(reward, images, prompts, metadata, first_index=first_index)
    return combine(reward, ComponentScores(list(prompts), by_key))


def combine(reward: LoadedReward, scores: ComponentScores, reference: ComponentScores | None = None) -> Array:
    """Return the rewards `(B,)` of all samples of a batch from the scores of the reward's components.

    A normalised component is normalised over `reference` (None: the batch itself); the fixed samples take those of
    the untrained model, so that their reward can change. Raises RewardError when a reward is not a finite number.
    """
    reward_B = reward.combine(scores, reference)
    _check_finite(reward.name, reward_B, scores.prompts, first_index=0)
    return reward_B


def score_components(
    reward: LoadedReward,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    first_index: int = 0,
) -> dict[str, Array]:
    """Return the scores `(B,)`, float64, that each component gives to images `(B, 3, H, W)`, float32 in [0, 1].

    `first_index` is the number of the first sample, for messages. A component sees the pictures as a file shows them
    (`as_shown`), in process as on a server. It gets copies, so that one that changes its input changes nothing else.
    Integers become float64 (integer rewards truncate advantages in the public codes).

    Raises RewardError when an image holds NaN or an infinity and, naming the component, when it raises, returns
    something else than `B` numbers, or returns NaN or an infinity (naming the sample and its prompt).
    """
    number = len(prompts)
    if len(images) != number or len(metadata) != number:
        raise ValueError(f"{len(images)} images, {number} prompts and {len(metadata)} metadata: must be equal")
    _check_images(reward.name, images, prompts, first_index)
    return {
        key: _score_component(component, images, prompts, metadata, first_index)
        for key, component in reward.components.items()
    }


def _score_component(
    reward: NamedReward,
    images: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    first_index: int,
) -> Array:
    try:
        scores = reward.function(as_shown(images), list(prompts), [dict(m) for m in metadata])
    except DDPOError as error:
        raise RewardError(f"Reward '{reward.name}': {error}") from error
    except (Exception, SystemExit) as error:
        raise RewardError(f"Reward '{reward.name}' raised {describe(error)}") from error
    try:
        score_B = to_scores(scores, len(prompts))
    except RewardError as error:
        raise RewardError(f"Reward '{reward.name}' {error}") from error
    _check_finite(reward.name, score_B, prompts, first_index)
    return score_B


def _check_images(name: str, images: Tensor, prompts: Sequence[str], first_index: int) -> None:
    for index, image_CHW in enumerate(images.detach().numpy()):
        if not np.isfinite(image_CHW).all():
            raise RewardError(
                f"Reward '{name}' cannot score sample {first_index + index}, prompt '{prompts[index]}': the image "
                "holds NaN or an infinity; use precision=fp32 or a lower learning_rate."
            )


def _check_finite(name: str, score_B: Array, prompts: Sequence[str], first_index: int) -> None:
    finite_B = np.isfinite(score_B)
    if finite_B.all():
        return
    index = int(np.argmin(finite_B))
    others = len(score_B) - int(finite_B.sum()) - 1
    more = f" (and {others} more)" if others else ""
    raise RewardError(
        f"Reward '{name}' returned {score_B[index]} for sample {first_index + index}, prompt "
        f"'{prompts[index]}'{more}: every reward must be a finite number."
    )


def to_scores(scores: object, number: int) -> Array:
    """Return what a reward returned for `number` samples as a new float64 array `(number,)`.

    Raises RewardError with words that say what came instead, to stand behind the reward's name.
    """
    expected = f"a reward returns one number per sample, here {number}"
    try:
        array = np.asarray(_to_host(scores))
        if array.dtype.kind not in "biufO":
            raise TypeError(f"dtype {array.dtype}")
        if array.dtype.kind == "O":
            _check_items(array)
        score_B = array.astype(np.float64)
    except Exception as error:  # NumPy, torch and the user's own types raise what they like
        kind = type(scores).__name__
        raise RewardError(f"returned {kind}, not numbers ({text_of(error)}): {expected}.") from error
    if score_B.shape == (number, 1):
        score_B = score_B[:, 0]
    if score_B.shape != (number,):
        raise RewardError(f"returned an array of shape {score_B.shape}: {expected}.")
    return score_B


def _check_items(array: npt.NDArray[np.object_]) -> None:
    """Raise TypeError for objects out of which NumPy would read numbers though they are none, such as "3"."""
    for item in array.flat:
        if not isinstance(item, Real | np.bool_ | None):
            raise TypeError(f"holding {type(item).__name__}")


def _to_host(scores: object) -> object:
    """Return `scores` with every tensor, alone or in a list, as a NumPy array on the CPU; what is masked is NaN."""
    if isinstance(scores, list | tuple):
        return [_to_host(item) for item in scores]
    if hasattr(scores, "detach"):
        tensor = scores.detach().cpu()
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(scores, np.ma.MaskedArray):
        return np.ma.filled(scores.astype(np.float64), np.nan)
    return scores
