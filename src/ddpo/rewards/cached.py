"""Remembering the scores of pictures that were scored before."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.rewards.contract import Array, Reward, to_scores
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 10_000
"""Scores kept by default: some MB of memory."""


@dataclass(frozen=True)
class Cached:
    """A reward that scores the same picture with the same prompt and metadata once; of `size` scores the latest stay.

    Right for rewards whose score of a sample depends on that sample alone and not on chance.
    """

    function: Reward
    size: int = SIZE
    _kept: OrderedDict[bytes, float] = field(default_factory=OrderedDict, repr=False, compare=False)

    def __call__(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /) -> Array:
        """Return the scores `(B,)` of images `(B, 3, H, W)`; only those that are not kept reach the reward.

        Raises RewardError when the reward returns something else than a number a sample, and for metadata that JSON
        cannot hold.
        """
        key_B = [_key(*sample) for sample in zip(images.numpy(), prompts, metadata, strict=True)]
        new = {key: index for index, key in enumerate(key_B) if key not in self._kept}  # of equal samples one
        known = {key: self._kept[key] for key in key_B if key in self._kept}
        if new:
            indices = sorted(new.values())
            scores = self.function(
                images[indices], [prompts[index] for index in indices], [metadata[index] for index in indices]
            )
            known |= dict(zip(sorted(new, key=new.__getitem__), to_scores(scores, len(indices)), strict=True))
        self._keep(known)
        return np.array([known[key] for key in key_B])

    def _keep(self, scores: dict[bytes, float]) -> None:
        """Make `scores` the latest used and forget those used longest ago."""
        for key, value in scores.items():
            self._kept[key] = value
            self._kept.move_to_end(key)
        while len(self._kept) > self.size:
            self._kept.popitem(last=False)


def _key(image_CHW: np.ndarray[Any, Any], prompt: str, metadata: dict[str, Any]) -> bytes:
    """Return a digest of everything that a reward sees of a sample: the same in every process."""
    content = hashlib.blake2b(str(image_CHW.shape).encode(), digest_size=16)
    content.update(np.ascontiguousarray(image_CHW).tobytes())
    content.update(_as_json([prompt, metadata]).encode())
    return content.digest()


def _as_json(sample: list[Any]) -> str:
    """Return a prompt and its metadata as JSON with sorted keys.

    Raises RewardError, naming the prompt, unless the JSON holds them exactly: metadata that differ must not look alike.
    """
    try:
        written = json.dumps(sample, sort_keys=True, allow_nan=False)
        exact = json.loads(written) == sample
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact:
        raise RewardError(
            f"its scores cannot be cached: the metadata of the prompt '{sample[0]}' are no JSON; give text, finite "
            "numbers, true, false, null, lists, and mappings with text as keys."
        )
    return written
