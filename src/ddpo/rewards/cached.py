"""Remembering the scores of samples that were scored before."""

from __future__ import annotations

import hashlib
import json
import threading
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
    """A reward that scores the same sample with the same prompt and metadata once; of `size` scores the latest stay.

    Right for rewards whose score of a sample depends on that sample alone and not on chance.
    """

    function: Reward
    size: int = SIZE
    _kept: dict[bytes, float] = field(default_factory=dict, repr=False, compare=False)
    """The one used longest ago first."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Rewards are called by several threads."""

    def __call__(self, samples: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /) -> Array:
        """Return the scores `(B,)` of samples `(B, ...)`; only those that are not kept reach the reward.

        Raises RewardError when the reward returns something else than a number a sample, and for metadata that JSON
        cannot hold.
        """
        key_B = [_key(*sample) for sample in zip(samples.numpy(), prompts, metadata, strict=True)]
        with self._lock:
            known = {key: self._kept[key] for key in key_B if key in self._kept}
        new = {key: index for index, key in enumerate(key_B) if key not in known}  # of equal samples one
        if new:
            indices = list(new.values())
            scores = self.function(samples[indices], [prompts[i] for i in indices], [metadata[i] for i in indices])
            known |= dict(zip(new, to_scores(scores, len(indices)), strict=True))
        with self._lock:
            for key, value in known.items():
                self._kept.pop(key, None)
                self._kept[key] = value
            while len(self._kept) > self.size:
                del self._kept[next(iter(self._kept))]
        return np.array([known[key] for key in key_B])


def _key(sample: np.ndarray[Any, Any], prompt: str, metadata: dict[str, Any]) -> bytes:
    """Return a digest of everything that a reward sees of a sample: the same in every process.

    Raises RewardError, naming the prompt, unless JSON holds the metadata exactly: none may look alike.
    """
    try:
        written = json.dumps([prompt, metadata], sort_keys=True, allow_nan=False)
        exact = json.loads(written) == [prompt, metadata]
    except (TypeError, ValueError, RecursionError):
        exact = False
    if not exact:
        raise RewardError(
            f"its scores cannot be cached: the metadata of the prompt '{prompt}' are no JSON; give text, finite "
            "numbers, true, false, null, lists, and mappings with text as keys."
        )
    content = f"{sample.dtype} {sample.shape} {written}".encode() + sample.tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
