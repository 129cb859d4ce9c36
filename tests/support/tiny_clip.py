"""Small random CLIP checkpoints in the formats of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_pipeline import build_tokenizer


def build_clip(seed: int = 0) -> Any:
    """Return a transformers CLIPModel: 28x28 pictures in 14x14 patches, embeddings of 12 numbers, GELU as in CLIP-H."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    tower = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    text = tower | {"hidden_size": 16, "vocab_size": len(build_tokenizer()), "max_position_embeddings": 16}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = tower | {"hidden_size": 20, "image_size": 28, "patch_size": 14}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    with torch.no_grad():  # freshly built weights are so small that every picture would get the same score
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def save_clip(folder: Path, seed: int = 0) -> Any:
    """Save such a model with its tokenizer; return the model."""
    model = build_clip(seed)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return model
