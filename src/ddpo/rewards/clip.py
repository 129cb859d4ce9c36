"""The rewards `clip-score` and `pickscore`, and CLIP's pictures, prompts and cosines for others built on it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media.image import to_pictures
from ddpo.rewards.contract import Array
from ddpo.rewards.pretrained import in_batches, load_network, load_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import Tensor

MODEL = "openai/clip-vit-large-patch14"
PICKSCORE = "yuvalkirstain/PickScore_v1"
PICKSCORE_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own mean and standard deviation of red, green and blue, which its successors kept."""


def clip_score(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    model: str = MODEL,
    device: str = "auto",
    batch_size: int = 16,
) -> Array:
    """Return `100 cos_B` in [-100, 100], the angle between CLIP's embeddings of picture and prompt; usually 15 to 35.

    Unlike Hessel et al.'s CLIPScore (arXiv:2104.08718), `2.5 max(cos, 0)`, it is not cut at zero: 40 times CLIPScore
    wherever that is positive. `model` is a folder or hub id of a transformers CLIPModel; the default's weights are
    OpenAI's ViT-L/14, MIT. Raises RewardError when it cannot be loaded.
    """
    del metadata
    return 100 * load_clip(model, model, device).cosines(images, prompts, batch_size)


def pickscore(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    model: str = PICKSCORE,
    tokenizer: str = PICKSCORE_TOKENIZER,
    device: str = "auto",
    batch_size: int = 16,
) -> Array:
    """Return `exp(logit_scale) cos_B`, a CLIP-H's learnt preference for a picture given its prompt; usually 16 to 26.

    A difference of two pictures' scores is the logit of the probability that a person prefers the first. Kirstain et
    al., Pick-a-Pic (arXiv:2305.01569); code MIT. `model` (a transformers CLIPModel) and `tokenizer` are folders
    or hub ids. Raises RewardError when they cannot be loaded.
    """
    del metadata
    clip = load_clip(model, tokenizer, device)
    scale = float(clip.network.logit_scale.exp())
    return scale * clip.cosines(images, prompts, batch_size)


@dataclass(frozen=True)
class Clip:
    """CLIP's two towers with the tokenizer."""

    network: Any
    tokenizer: Any

    def cosines(self, images: Tensor, prompts: list[str], batch_size: int) -> Array:
        """Return the cosines `(B,)` between the embeddings of pictures `(B, 3, H, W)` in [0, 1] and of their prompts.

        Prompts are cut to the model's number of tokens (77).
        """
        import torch

        def cosine(images: Tensor, prompts: list[str]) -> Tensor:
            return torch.cosine_similarity(self.embed_images(images), self.embed_prompts(prompts))

        return in_batches(cosine, batch_size, images, prompts)

    def embed_images(self, images: Tensor) -> Tensor:
        """Return the projected embeddings `(B, E)` of pictures `(B, 3, H, W)` in [0, 1]."""
        network = self.network
        pixels = clip_pixels(images, network.config.vision_config.image_size).to(network.device)
        embedding_BE: Tensor = network.visual_projection(network.vision_model(pixel_values=pixels).pooler_output)
        return embedding_BE

    def embed_prompts(self, prompts: list[str]) -> Tensor:
        """Return the projected embeddings `(B, E)` of prompts."""
        network = self.network
        length = network.config.text_config.max_position_embeddings
        tokens = self.tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        tokens = tokens.to(network.device)
        outputs = network.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        embedding_BE: Tensor = network.text_projection(outputs.pooler_output)
        return embedding_BE


@functools.cache
def load_clip(model: str, tokenizer: str, device: str) -> Clip:
    """Return the CLIPModel in `model` with the tokenizer in `tokenizer`, folders or hub ids, once per process."""
    from transformers import CLIPModel

    option = "model" if tokenizer == model else "tokenizer"
    return Clip(load_network(CLIPModel, model, device), load_tokenizer(tokenizer, option))


def clip_pixels(images: Tensor, size: int) -> Tensor:
    """Return CLIP's input `(B, 3, size, size)`, float32, for pictures `(B, 3, H, W)` in [0, 1].

    8-bit pixels, shortest side resized to `size` (Pillow, bicubic), centre cropped, normalised, as OpenAI's CLIP does.
    """
    return normalise([_resize_and_crop(picture, size) for picture in to_pictures(images)], MEAN, STD)


def normalise(pictures: Sequence[Picture], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `(x / 255 - mean) / std`, `(B, 3, H, W)` in float32, of pictures of one size; a mean and std a channel."""
    import torch

    pixels_BHWC = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32)
    normalised_BHWC = (pixels_BHWC / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(normalised_BHWC.transpose(0, 3, 1, 2)))


def _resize_and_crop(picture: Picture, size: int) -> Picture:
    from PIL import Image

    width, height = picture.size
    scale = size / min(width, height)
    width, height = (size if side == min(picture.size) else int(side * scale) for side in (width, height))
    left, top = (width - size) // 2, (height - size) // 2
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
