"""The rewards that have a name, and loading of any reward from its configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ddpo.errors import RewardError, nearest
from ddpo.rewards.aesthetic import aesthetic
from ddpo.rewards.alignment import alignment
from ddpo.rewards.clip import clip_score
from ddpo.rewards.contract import NamedReward, Reward
from ddpo.rewards.custom import check_signature, load_function
from ddpo.rewards.hpsv2 import hpsv2
from ddpo.rewards.image_reward import image_reward
from ddpo.rewards.jpeg import jpeg_compressibility, jpeg_incompressibility
from ddpo.rewards.judge import judge_probability, judge_recognition
from ddpo.rewards.pickscore import pickscore


@dataclass(frozen=True)
class _Entry:
    function: Callable[..., Any]
    label: str
    description: str


_REGISTRY = {
    "jpeg-compressibility": _Entry(
        jpeg_compressibility,
        "negative JPEG size (kB)",
        "minus the size in kB as a JPEG of quality 95: smooth, plain pictures score high (paper D.1)",
    ),
    "jpeg-incompressibility": _Entry(
        jpeg_incompressibility,
        "JPEG size (kB)",
        "the size in kB as a JPEG of quality 95: detailed, noisy pictures score high (paper D.1)",
    ),
    "judge": _Entry(
        judge_probability,
        "judge's probability",
        "the probability that the embedded judge gives to the animal in the prompt",
    ),
    "judge-recognition": _Entry(
        judge_recognition,
        "judge's recognition",
        "1 where the embedded judge's first choice is the animal in the prompt, else 0",
    ),
    "aesthetic": _Entry(
        aesthetic,
        "LAION aesthetic score",
        "the LAION aesthetic predictor's rating of the picture, about 1 to 10 (paper D.2)",
    ),
    "alignment": _Entry(
        alignment,
        "BERTScore recall",
        "how much of the prompt a vision-language model's description of the picture covers (paper D.3)",
    ),
    "clip-score": _Entry(
        clip_score,
        "CLIP score (100 cos)",
        "100 times the cosine between CLIP's embeddings of the picture and the prompt",
    ),
    "pickscore": _Entry(
        pickscore,
        "PickScore",
        "PickScore: how much users of Pick-a-Pic would prefer the picture for the prompt",
    ),
    "hpsv2": _Entry(
        hpsv2,
        "HPS v2.1 (cos)",
        "Human Preference Score v2.1 of the picture for the prompt",
    ),
    "image-reward": _Entry(
        image_reward,
        "ImageReward (std)",
        "ImageReward of the picture for the prompt, in standard deviations",
    ),
}


def available_rewards() -> list[tuple[str, str]]:
    """Return `(name, one-line description)` of every reward that has a name."""
    return [(name, entry.description) for name, entry in _REGISTRY.items()]


def load_reward(spec: str | Reward | NamedReward | Mapping[str, Any]) -> NamedReward:
    """Return the reward that `spec` stands for.

    `spec` is a name of `available_rewards()`, `path/to/file.py:function`, `package.module:function`, a callable,
    or a mapping `{name: ..., option: value, ...}` whose options are passed as keyword arguments.

    Raises RewardError for an unknown name or option, and when the user's function cannot be loaded.
    """
    if isinstance(spec, NamedReward):
        return spec
    if isinstance(spec, Mapping):
        options = dict(spec)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise RewardError(f"A reward given as a mapping needs a 'name' that is text, not {name!r}.")
        return _load_name(name, options)
    if isinstance(spec, str):
        return _load_name(spec, {})
    function_name = getattr(spec, "__name__", type(spec).__name__)
    check_signature(function_name, spec, {})
    return NamedReward(function_name, spec, _label(spec, function_name))


def _load_name(name: str, options: dict[str, Any]) -> NamedReward:
    if name in _REGISTRY:
        entry = _REGISTRY[name]
        function, label = entry.function, entry.label
    elif ":" in name:
        function = load_function(name)
        label = _label(function, name.rpartition(":")[2])
    elif name.endswith(".py"):
        raise RewardError(f"Reward '{name}' is a file: name its function too, '{name}:function'.")
    else:
        raise RewardError(
            f"Unknown reward '{name}'.{nearest(name, _REGISTRY)} Known: {', '.join(_REGISTRY)}, "
            "or your own as path/to/file.py:function."
        )
    check_signature(name, function, options)
    return NamedReward(name, functools.partial(function, **options) if options else function, label)


def _label(function: object, name: str) -> str:
    """Return the function's own `label` attribute if it has one, else its name in words."""
    label = getattr(function, "label", None)
    return label if isinstance(label, str) else name.replace("_", " ").strip()
