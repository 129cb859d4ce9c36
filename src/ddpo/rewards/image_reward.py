"""The reward `image-reward`: ImageReward's BLIP, read from its own checkpoint into transformers' BLIP."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddpo.rewards.clip import clip_pixels
from ddpo.rewards.contract import Array
from ddpo.rewards.pretrained import (
    Head,
    apply_head,
    filled,
    in_batches,
    load_tokenizer,
    loading,
    read_checkpoint,
    read_head,
    renamed,
    resolve_device,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "THUDM/ImageReward"
_FILE = "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"
RAW_MEAN, RAW_STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the head's output over ImageReward's own data; the reward is in these units."""
_TOKENS = 35
_HEAD_WIDTH = 64
"""Numbers in one attention head, in ViT-L and in BERT-base."""


def image_reward(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    weights: str = WEIGHTS,
    tokenizer: str = TOKENIZER,
    device: str = "auto",
    batch_size: int = 16,
) -> Array:
    """Return `(head_B - 0.167) / 1.033`: people's liking of a picture for its prompt, in standard deviations.

    Unbounded, usually -2.5 to 2.

    BLIP's ViT-L reads the picture at 224x224, BERT the prompt's first 35 tokens while it attends to the picture, and
    affine layers 768-1024-128-64-16-1 the first token. Xu et al., ImageReward (arXiv:2304.05977), Apache-2.0.
    `weights` is a file, folder or hub id of its checkpoint, `tokenizer` a folder or hub id of BERT's.
    Raises RewardError when they cannot be loaded.
    """
    del metadata
    vision, text, head, read_prompts = _load(weights, tokenizer, device)

    def raw(images: Tensor, prompts: list[str]) -> Tensor:
        pixels = clip_pixels(images, vision.config.image_size).to(vision.device)
        tokens = read_prompts(
            prompts, padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt"
        ).to(vision.device)
        patches_BPE = vision(pixel_values=pixels).last_hidden_state
        hidden_BLE = text(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], encoder_hidden_states=patches_BPE
        ).last_hidden_state
        return apply_head(head, hidden_BLE[:, 0])

    return (in_batches(raw, batch_size, images, prompts) - RAW_MEAN) / RAW_STD


@functools.cache
def _load(weights: str, tokenizer: str, device: str) -> tuple[Any, Any, Head, Any]:
    """Return ImageReward's vision transformer, text encoder, head and tokenizer."""
    place = resolve_device(device)
    tensors = read_checkpoint(weights, _FILE)
    with loading(weights, "weights"):
        vision, text = _build_vision(tensors, place), _build_text(tensors, place)
    head = read_head(tensors, "mlp.layers.", text.config.hidden_size, weights, place)
    return vision, text, head, load_tokenizer(tokenizer, "tokenizer")


_VISION_NAMES = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj", "embeddings.patch_embedding"),
    (r"blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv", ".self_attn.qkv"),
    (r"\.attn\.proj", ".self_attn.projection"),
    (r"^norm\.", "post_layernorm."),
)
"""From the names of BLIP's own vision transformer, timm's, to those of transformers'."""


def _build_vision(tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return BLIP's vision transformer with the sizes and weights of the tensors `blip.visual_encoder.*`."""
    from transformers import BlipVisionConfig, BlipVisionModel

    own = _below("blip.visual_encoder.", tensors)
    width, _, patch, _ = own["patch_embed.proj.weight"].shape
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=own["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_count("blocks", own),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=round((own["pos_embed"].shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # timm's; transformers' default for BLIP is 1e-5
    )
    own = {renamed(name, _VISION_NAMES): tensor for name, tensor in own.items()}
    return filled(BlipVisionModel(config), own, device)


def _build_text(tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return BLIP's text encoder with cross-attention, with the sizes and weights of `blip.text_encoder.*`."""
    from transformers import BlipTextConfig, BlipTextModel

    own = _below("blip.text_encoder.", tensors)
    own.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: not a weight
    vocabulary, width = own["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=own["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=own["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_count("encoder.layer", own),
        num_attention_heads=width // _HEAD_WIDTH,
        max_position_embeddings=own["embeddings.position_embeddings.weight"].shape[0],
        is_decoder=True,  # gives it the cross-attention; each call still reads in both directions
    )
    return filled(BlipTextModel(config, add_pooling_layer=False), own, device)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _count(name: str, tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers stand behind `name` in the tensors' names."""
    matches = (re.match(rf"{re.escape(name)}\.(\d+)\.", key) for key in tensors)
    return len({match[1] for match in matches if match})
