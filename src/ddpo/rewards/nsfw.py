"""The reward `nsfw-penalty`: against pictures that are not safe for work."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ddpo.media.image import to_pictures
from ddpo.rewards.clip import normalise
from ddpo.rewards.contract import Array
from ddpo.rewards.pretrained import in_batches, load_network
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "Falconsai/nsfw_image_detection"
LABEL = "nsfw"
_MEAN = _STD = (0.5, 0.5, 0.5)
"""Those of ViT's image processor: pixels from -1 to 1."""


def nsfw_penalty(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    model: str = MODEL,
    device: str = "auto",
    batch_size: int = 16,
) -> Array:
    """Return `-p_B` in [-1, 0], minus the probability that the picture is not safe for work, as a classifier sees it.

    `model` is a folder or hub id of a transformers ViTForImageClassification of which one class is called `nsfw`; the
    default is Falconsai's ViT-B/16, Apache-2.0. It sees the picture resized to its own size (224 x 224; Pillow,
    bilinear, not cropped). Raises RewardError when it cannot be loaded or has no such class.
    """
    del prompts, metadata
    network, label = _load(model, device)

    def probability(batch: Tensor) -> Tensor:
        pixels = vit_pixels(batch, network.config.image_size).to(network.device)
        probability_BK: Tensor = network(pixel_values=pixels).logits.softmax(-1)
        return probability_BK[:, label]

    return -in_batches(probability, batch_size, images)


@functools.cache
def _load(model: str, device: str) -> tuple[Any, int]:
    """Return the classifier and the number of its class."""
    from transformers import ViTForImageClassification

    network = load_network(ViTForImageClassification, model, device)
    labels: dict[int, str] = network.config.id2label
    for index, label in labels.items():
        if label.lower() == LABEL:
            return network, index
    raise RewardError(f"model: {model} has no class '{LABEL}' among {', '.join(labels.values())}; give one that has.")


def vit_pixels(images: Tensor, size: int) -> Tensor:
    """Return ViT's input `(B, 3, size, size)` in [-1, 1], float32, for pictures `(B, 3, H, W)` in [0, 1].

    8-bit pixels, resized (Pillow, bilinear) whatever their shape.
    """
    from PIL import Image

    resized = [picture.resize((size, size), Image.Resampling.BILINEAR) for picture in to_pictures(images)]
    return normalise(resized, _MEAN, _STD)
