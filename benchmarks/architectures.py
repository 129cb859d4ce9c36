"""Stable Diffusion v1.4 at random weights: what a GPU computes does not depend on the weights, so none are downloaded.

The configurations are those of CompVis/stable-diffusion-v1-4. `sd14-tiny` has the same structure a hundredth the size,
to try the path out on a CPU; `1.5m` and `23m`, named after their UNet's parameters, are to be measured there.
"""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""860 million parameters; 803 GFLOP forward a latent."""

VAE: dict[str, Any] = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}

TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
"""CLIP ViT-L/14's text model."""

SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "prediction_type": "epsilon",
}

_THREE_LEVELS: dict[str, Any] = {
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
_SMALL_TEXT_ENCODER = {"intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}

SMALLER: dict[str, dict[str, dict[str, Any]]] = {
    "sd14": {"unet": {}, "vae": {}, "text_encoder": {}},
    "sd14-tiny": {
        "unet": {"sample_size": 16, "block_out_channels": (32, 64, 96, 96), "cross_attention_dim": 32},
        "vae": {"sample_size": 128, "block_out_channels": (32, 32, 32, 32)},
        "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    },
    "1.5m": {  # 64x64 pixels
        "unet": {"sample_size": 8, "block_out_channels": (32, 64, 64), "cross_attention_dim": 32, **_THREE_LEVELS},
        "vae": {"sample_size": 64, "block_out_channels": (32, 32, 32, 32)},
        "text_encoder": {"hidden_size": 32, **_SMALL_TEXT_ENCODER},
    },
    "23m": {  # 128x128 pixels
        "unet": {"sample_size": 16, "block_out_channels": (128, 256, 256), "cross_attention_dim": 128, **_THREE_LEVELS},
        "vae": {"sample_size": 128, "block_out_channels": (32, 32, 32, 32)},
        "text_encoder": {"hidden_size": 128, **_SMALL_TEXT_ENCODER},
    },
}
"""What an architecture changes in the configurations above."""


def saved_pipeline(architecture: str, cache: Path) -> Path:
    """Return the folder of the architecture's pipeline under `cache`, written in fp16 at the first call."""
    folder, partial = cache / architecture, cache / f"{architecture}.partial"
    if not folder.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        _build(architecture, partial)
        partial.replace(folder)
    return folder


def _build(architecture: str, folder: Path) -> None:
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    smaller = SMALLER[architecture]
    tokenizer = _tokenizer(folder / "tokenizer")
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(**UNET | smaller["unet"]),
        vae=AutoencoderKL(**VAE | smaller["vae"]),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER | smaller["text_encoder"] | marks)),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(folder)


def _tokenizer(folder: Path) -> Any:
    """Return a tokenizer that spells: CLIP's vocabulary is a download, and 77 tokens are 77 tokens."""
    from transformers import CLIPTokenizer

    marks = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase), *marks]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
