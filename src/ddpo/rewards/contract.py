"""The contract of a reward and the one function that calls it and checks what comes back.

A reward is a plain callable `(samples, prompts, metadata) -> scores`: it sees decoded samples, never the policy
(paper, appendix D: the reward is a black box). What it sees of them, their medium says: of a picture what a file shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ddpo.media import Medium
from ddpo.runtime.errors import DDPOError, RewardError
from ddpo.runtime.plugins import describe, text_of

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]


class Reward(Protocol):
    """A callable that scores samples; higher is better.

    Takes samples `(B, ...)` (a CPU tensor; images are `(B, 3, H, W)`, float32 in [0, 1], in steps of 1/255), the `B`
    prompts and the `B` metadata dictionaries; returns `B` finite numbers as a NumPy array, a tensor on any device or a
    list, of shape `(B,)` or `(B, 1)`. An attribute `media`, such as `("array",)`, says which media it takes.
    """

    def __call__(
        self, samples: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /
    ) -> npt.ArrayLike | Tensor:
        """Return the scores `(B,)` of samples `(B, ...)`."""
        ...


@dataclass(frozen=True)
class ComponentScores:
    """What the components of a reward gave for `B` samples, before they are combined."""

    prompts: list[str]
    """The `B` prompts."""
    by_key: dict[str, Array]
    """Raw scores `(B,)` of each component."""


@dataclass(frozen=True)
class NamedReward:
    """A reward with the name it has in configurations and the words it has in tables and figures."""

    name: str
    """As in a configuration, e.g. `jpeg-compressibility` or `my.py:redness`."""
    function: Reward
    label: str
    """Short words with the unit, e.g. `negative JPEG size (kB)`."""
    media: tuple[str, ...] | None = None
    """Names of the media that it can score; None: any."""

    @property
    def key(self) -> str:
        """The name in metrics: without the file or module of a function."""
        return self.name.rpartition(":")[2]

    @property
    def components(self) -> Mapping[str, NamedReward]:
        """This reward alone."""
        return {self.key: self}

    def value(self, scores: ComponentScores, _: ComponentScores, /) -> Array:
        """Return its scores `(B,)` as they are."""
        return scores.by_key[self.key]


@dataclass(frozen=True)
class CombinedReward:
    """A reward made of rewards."""

    name: str
    """That of its outermost combinator; also the name in metrics."""
    label: str
    """The formula in short: `0.5 jpeg-compressibility + 10 judge`."""
    value: Callable[[ComponentScores, ComponentScores], Array]
    """Returns the rewards `(B,)` of the samples in the first; normalisations are over those in the second."""
    components: Mapping[str, NamedReward]
    """What the formula names, each of which scores every sample once."""
    spec: Mapping[Any, Any]
    """What it was loaded from."""

    @property
    def key(self) -> str:
        """The name in metrics."""
        return self.name

    @property
    def media(self) -> tuple[str, ...] | None:
        """Names of the media that every component can score; None: any."""
        limited = [reward.media for reward in self.components.values() if reward.media is not None]
        return tuple(name for name in limited[0] if all(name in media for media in limited)) if limited else None


LoadedReward = NamedReward | CombinedReward
"""What `load_reward` returns: components that score samples, and how their scores become one number a sample.

Samples are scored in parts and by several processes; `combine` sees those of all parts and processes together.
"""


def check_media(reward: LoadedReward, medium: str) -> None:
    """Raise RewardError unless the reward can score samples of the medium of that name."""
    for component in reward.components.values():
        if component.media is not None and medium not in component.media:
            takes = " or ".join(f"'{name}'" for name in component.media)
            raise RewardError(
                f"Reward '{component.name}' scores samples of the medium {takes}, not '{medium}': choose another "
                "reward or model; a function of your own says what it takes in its attribute `media`."
            )


def score(
    reward: LoadedReward,
    medium: Medium,
    samples: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    first_index: int = 0,
) -> Array:
    """Return the rewards `(B,)`, float64, of samples `(B, ...)` as one whole batch.

    Raises RewardError as `score_components` and `combine` do.
    """
    by_key = score_components(reward, medium, samples, prompts, metadata, first_index=first_index)
    return combine(reward, ComponentScores(list(prompts), by_key))


def combine(reward: LoadedReward, scores: ComponentScores, reference: ComponentScores | None = None) -> Array:
    """Return the rewards `(B,)` of all samples of a batch from the scores of the reward's components.

    A normalised component is normalised over `reference` (None: the batch itself); the fixed samples take those of
    the untrained model, so that their reward can change. Raises RewardError when a reward is not a finite number.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is an error of its own
        reward_B = reward.value(scores, scores if reference is None else reference)
    _check_finite(reward.name, reward_B, scores.prompts, first_index=0)
    return reward_B


def score_components(
    reward: LoadedReward,
    medium: Medium,
    samples: Tensor,
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    *,
    first_index: int = 0,
) -> dict[str, Array]:
    """Return the scores `(B,)`, float64, that each component gives to samples `(B, ...)` on the CPU.

    `first_index` is the number of the first sample, for messages. A component sees what the medium shows
    (`Medium.as_seen`), in process as on a server. It gets copies, so that one that changes its input changes nothing
    else. Integers become float64 (integer rewards truncate advantages in the public codes).

    Raises RewardError when a sample holds NaN or an infinity and, naming the component, when it raises, returns
    something else than `B` numbers, or returns NaN or an infinity (naming the sample and its prompt).
    """
    number = len(prompts)
    if len(samples) != number or len(metadata) != number:
        raise ValueError(f"{len(samples)} samples, {number} prompts and {len(metadata)} metadata: must be equal")
    _check_samples(reward.name, medium, samples, prompts, first_index)

    by_key = {}
    for key, component in reward.components.items():
        seen, told = medium.as_seen(samples), [dict(about) for about in metadata]
        try:
            by_key[key] = to_scores(component.function(seen, list(prompts), told), number)
        except DDPOError as error:
            raise RewardError(f"Reward '{component.name}': {error}") from error
        except (Exception, SystemExit) as error:
            raise RewardError(f"Reward '{component.name}' raised {describe(error)}") from error
        _check_finite(component.name, by_key[key], prompts, first_index)
    return by_key


def _check_samples(name: str, medium: Medium, samples: Tensor, prompts: Sequence[str], first_index: int) -> None:
    for index, sample in enumerate(samples.detach().numpy()):
        if not np.isfinite(sample).all():
            raise RewardError(
                f"Reward '{name}' cannot score sample {first_index + index}, prompt '{prompts[index]}': the "
                f"{medium.name} holds NaN or an infinity; use precision=fp32 or a lower learning_rate."
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

    Of a pair `(scores, {...})`, which other codes' rewards return, the scores.

    Raises RewardError, saying what came instead.
    """
    if isinstance(scores, tuple) and len(scores) == 2 and isinstance(scores[1], Mapping):
        scores = scores[0]
    expected = f"a reward returns one number per sample, here {number}"
    try:
        array = np.asarray(_to_host(scores))
        if array.dtype.kind not in "biufO":
            raise TypeError(f"dtype {array.dtype}")
        for item in array.flat if array.dtype.kind == "O" else ():
            if not isinstance(item, Real | np.bool_ | None):  # "3", out of which NumPy would read a number
                raise TypeError(f"holding {type(item).__name__}")
        score_B = array.astype(np.float64)
    except Exception as error:  # NumPy, torch and the user's own types raise what they like
        kind = type(scores).__name__
        raise RewardError(f"it returned {kind}, not numbers ({text_of(error)}): {expected}.") from error
    if score_B.shape == (number, 1):
        score_B = score_B[:, 0]
    if score_B.shape != (number,):
        raise RewardError(f"it returned an array of shape {score_B.shape}: {expected}.")
    return score_B


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
