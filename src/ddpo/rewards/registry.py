"""The rewards that have a name, and loading of any reward from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ddpo.rewards.aesthetic import aesthetic
from ddpo.rewards.alignment import alignment
from ddpo.rewards.clip import clip_score, pickscore
from ddpo.rewards.combinators import available_combinators, is_combination, load_combination
from ddpo.rewards.contract import CombinedReward, LoadedReward, NamedReward, Reward
from ddpo.rewards.custom import media_of, with_options
from ddpo.rewards.hpsv2 import hpsv2
from ddpo.rewards.image_reward import image_reward
from ddpo.rewards.jpeg import jpeg_compressibility, jpeg_incompressibility
from ddpo.rewards.judge import judge_probability, judge_recognition
from ddpo.rewards.nsfw import nsfw_penalty
from ddpo.rewards.ocr import ocr
from ddpo.rewards.remote import SCHEMES, load_remote
from ddpo.rewards.vqa import vqa
from ddpo.runtime.errors import RewardError, nearest
from ddpo.runtime.plugins import load_object

RewardSpec = str | Reward | LoadedReward | Mapping[Any, Any]
"""Anything that stands for a reward in a configuration or in Python."""


@dataclass(frozen=True)
class Entry:
    """A reward that has a name."""

    function: Callable[..., Any]
    label: str
    """Short words with the unit."""
    description: str
    """One line."""
    licence: str = ""
    """Of the weights and the code that they need; empty where it needs none."""
    weights: str = ""
    """Hub id of the weights, or where else they come from; empty where it needs none."""


_REGISTRY = {
    "jpeg-compressibility": Entry(
        jpeg_compressibility,
        "negative JPEG size (kB)",
        "minus the size in kB as a JPEG of quality 95: smooth, plain pictures score high (paper D.1)",
    ),
    "jpeg-incompressibility": Entry(
        jpeg_incompressibility,
        "JPEG size (kB)",
        "the size in kB as a JPEG of quality 95: detailed, noisy pictures score high (paper D.1)",
    ),
    "judge": Entry(
        judge_probability,
        "judge's probability",
        "the probability that the embedded judge gives to the animal in the prompt",
        licence="MIT",
        weights="shipped with ddpo",
    ),
    "judge-recognition": Entry(
        judge_recognition,
        "judge's recognition",
        "1 where the embedded judge's first choice is the animal in the prompt, else 0",
        licence="MIT",
        weights="shipped with ddpo",
    ),
    "aesthetic": Entry(
        aesthetic,
        "LAION aesthetic score",
        "the LAION aesthetic predictor's rating of the picture, about 1 to 10 (paper D.2)",
        licence="MIT (CLIP), Apache-2.0 (head)",
        weights="openai/clip-vit-large-patch14, trl-lib/ddpo-aesthetic-predictor",
    ),
    "alignment": Entry(
        alignment,
        "BERTScore recall",
        "how much of the prompt a vision-language model's description of the picture covers (paper D.3)",
        licence="Llama 2 (LLaVA), MIT (DeBERTa)",
        weights="llava-hf/llava-1.5-7b-hf, microsoft/deberta-xlarge-mnli",
    ),
    "clip-score": Entry(
        clip_score,
        "CLIP score (100 cos)",
        "100 times the cosine between CLIP's embeddings of the picture and the prompt",
        licence="MIT",
        weights="openai/clip-vit-large-patch14",
    ),
    "pickscore": Entry(
        pickscore,
        "PickScore",
        "PickScore: how much users of Pick-a-Pic would prefer the picture for the prompt",
        licence="MIT (code)",
        weights="yuvalkirstain/PickScore_v1",
    ),
    "hpsv2": Entry(
        hpsv2,
        "HPS v2.1 (cos)",
        "Human Preference Score v2.1 of the picture for the prompt",
        licence="Apache-2.0",
        weights="xswu/HPSv2",
    ),
    "image-reward": Entry(
        image_reward,
        "ImageReward (std)",
        "ImageReward of the picture for the prompt, in standard deviations",
        licence="Apache-2.0",
        weights="THUDM/ImageReward",
    ),
    "ocr": Entry(
        ocr,
        "legible text (share)",
        "how much of the text that stands in quotes in the prompt can be read in the picture",
        licence="Apache-2.0",
        weights="PaddlePaddle/PP-OCRv6_small_det_onnx, PaddlePaddle/PP-OCRv6_small_rec_onnx (in the package rapidocr)",
    ),
    "vqa": Entry(
        vqa,
        "expected answers",
        "1 where a vision-language model answers the questions of the prompt's metadata as expected, else 0",
        licence="Llama 2 (LLaVA)",
        weights="llava-hf/llava-1.5-7b-hf",
    ),
    "nsfw-penalty": Entry(
        nsfw_penalty,
        "negative NSFW probability",
        "minus the probability that the picture is not safe for work; to add to another reward",
        licence="Apache-2.0",
        weights="Falconsai/nsfw_image_detection",
    ),
}


REMOTE = "remote"
"""Name of the rewards of servers, whose option `url` says where they are."""


def available_rewards() -> list[tuple[str, str]]:
    """Return `(name, one-line description)` of every reward that has a name."""
    return [(name, entry.description) for name, entry in _REGISTRY.items()]


def reward_entries() -> Mapping[str, Entry]:
    """Return every reward that has a name."""
    return _REGISTRY


def names_rewards(section: object) -> bool:
    """Return whether a mapping names rewards: its keys are those of a weighted sum, not options of a reward."""
    return isinstance(section, Mapping) and any(key in _REGISTRY or ":" in str(key) for key in section)


def load_reward(spec: RewardSpec) -> LoadedReward:
    """Return the reward that `spec` stands for.

    `spec` is a name of `available_rewards()`, `path/to/file.py:function`, `package.module:function`, the address of
    a reward server, a callable, a mapping `{name: ..., option: value, ...}` whose options are passed as keyword
    arguments, `{name: remote, url: ..., ...}` for a reward of one or several servers, a mapping from rewards to the
    weights of their sum, or one of `available_combinators()` with its options.

    Raises RewardError for an unknown name or option, when the user's function cannot be loaded, and when a server
    cannot be reached.
    """
    if isinstance(spec, CombinedReward):
        return spec
    return load_combination(spec, _load_plain) if is_combination(spec) else _load_plain(spec)


def without_token(spec: Any) -> Any:
    """Return the reward of a configuration as it may be written down: without the tokens of servers."""
    if isinstance(spec, list):
        return [without_token(each) for each in spec]
    if not isinstance(spec, dict):
        return spec
    name = str(spec.get("name"))
    secret = ("token",) if name == REMOTE or name.startswith(SCHEMES) else ()
    return {key: without_token(value) for key, value in spec.items() if key not in secret}


def _load_plain(spec: Any) -> NamedReward:
    """Return the reward that `spec`, no combination, stands for."""
    if isinstance(spec, NamedReward):
        return spec
    if isinstance(spec, str):
        return _load_name(spec, {})
    if not isinstance(spec, Mapping):
        return _load_function(getattr(spec, "__name__", type(spec).__name__), spec, {})
    options = dict(spec)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise RewardError(
            f"A reward given as a mapping needs a 'name' that is text, not {name!r}, or, as a weighted sum, a "
            f"number for each reward; given: {dict(spec)!r}."
        )
    return _load_name(name, options)


def _load_name(name: str, options: dict[str, Any]) -> NamedReward:
    if name == REMOTE:
        return load_remote(options)
    if name.startswith(SCHEMES):
        return load_remote({**options, "url": name})
    if name in _REGISTRY:
        entry = _REGISTRY[name]
        return NamedReward(name, with_options(name, entry.function, options), entry.label, ("image",))
    if ":" in name:
        return _load_function(name, load_object(name, "Reward", RewardError), options)
    if name.endswith(".py"):
        raise RewardError(f"Reward '{name}' is a file: name its function too, '{name}:function'.")
    combinators = [combinator for combinator, _ in available_combinators()]
    if name in combinators:
        raise RewardError(f"Reward '{name}' combines others: give it as {{name: {name}, ...}} with its options.")
    raise RewardError(
        f"Unknown reward '{name}'.{nearest(name, [*_REGISTRY, *combinators])} Known: {', '.join(_REGISTRY)}, "
        "your own as path/to/file.py:function, or a server as http://host:port."
    )


def _load_function(name: str, function: Any, options: dict[str, Any]) -> NamedReward:
    """Return a user's function as a reward, labelled by its attribute `label` or else by its name in words."""
    label = getattr(function, "label", None)
    if not isinstance(label, str):
        label = name.rpartition(":")[2].replace("_", " ").strip()
    return NamedReward(name, with_options(name, function, options), label, media_of(name, function))
