"""The reward `aesthetic`: the LAION aesthetic predictor. Paper D.2."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ddpo.rewards.clip import MODEL, load_clip
from ddpo.rewards.contract import Array
from ddpo.rewards.pretrained import Head, apply_head, in_batches, read_checkpoint, read_head, resolve_device

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "trl-lib/ddpo-aesthetic-predictor"
_FILE = "aesthetic-model.pth"


def aesthetic(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    weights: str = WEIGHTS,
    model: str = MODEL,
    device: str = "auto",
    batch_size: int = 16,
) -> Array:
    """Return `rating_B`, the beauty that people would see on a scale of 1 to 10; unbounded, usually 4 to 7. Paper D.2.

    CLIP ViT-L/14's image embedding, L2-normalised, in float32, then the affine layers 768-1024-128-64-16-1 of
    "sac+logos+ava1-l14-linearMSE" (christophschuhmann/improved-aesthetic-predictor, Apache-2.0). `weights` is the
    head, a file, folder or hub id; `model` the CLIP (OpenAI's, MIT), a folder or hub id. The paper's own
    numbers came from an inexact CLIP on TPU and are not comparable (kvablack/ddpo-pytorch#3).

    Raises RewardError when either cannot be loaded.
    """
    del prompts, metadata
    clip = load_clip(model, model, device)
    head = load_head(weights, clip.network.config.projection_dim, device)
    return in_batches(lambda batch: rate(head, clip.embed_images(batch)), batch_size, images)


def rate(head: Head, embedding_BE: Tensor) -> Tensor:
    """Return the ratings `(B,)` of CLIP image embeddings `(B, E)` of any length."""
    from torch.nn import functional

    return apply_head(head, functional.normalize(embedding_BE.float(), dim=-1))


@functools.cache
def load_head(weights: str, width: int, device: str) -> Head:
    """Return the predictor's layers for embeddings of `width` numbers; raises RewardError when they are not there."""
    return read_head(read_checkpoint(weights, _FILE), "layers.", width, weights, resolve_device(device))
