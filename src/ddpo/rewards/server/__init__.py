"""A reward as an HTTP server: `ddpo reward serve`. Needs the extra `serve`; importing this package does not.

`run` starts it, `application` is its answers, `gate` what is refused unread, `batching` the one thread with the reward.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a server accepts; everything beyond is refused with a sentence."""

    max_batch: int = 64
    """Samples that the reward sees at once, and that a request may hold."""
    max_pixels: int = 2048 * 2048
    """Width times height of an image."""
    max_body_bytes: int = 64_000_000
    """Of a request."""
    body_seconds: float = 60.0
    """For which a request may take to arrive."""
    wait_seconds: float = 0.005
    """For which the first sample of a batch waits for others."""
    waiting_samples: int = 1024
    """That may wait for the reward; then clients are asked to come back."""
    waiting_pixels: int = 128 * 2**20
    """Of all images that wait: 3 bytes of memory each."""
