"""The context `c` of a sample: a text with metadata, or nothing at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """What a sample is conditioned on, and what rewards may want to know about it."""

    text: str = ""
    """Empty for an unconditional model, or where the metadata says all."""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    """Anything else: a class, an observation (tensors too), the answer that a reward expects."""
