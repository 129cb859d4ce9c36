"""The reward `hpsv2`: the Human Preference Score, version 2, read from its open_clip checkpoint."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddpo.rewards.clip import Clip
from ddpo.rewards.contract import Array
from ddpo.rewards.pretrained import filled, load_tokenizer, loading, read_checkpoint, renamed, resolve_device

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "xswu/HPSv2"
FILE = "HPS_v2.1_compressed.pt"
ARCHITECTURE = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def hpsv2(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    weights: str = WEIGHTS,
    file: str = FILE,
    architecture: str = ARCHITECTURE,
    device: str = "auto",
    batch_size: int = 16,
) -> Array:
    """Return `cos_B` in [-1, 1] of a CLIP ViT-H/14 tuned on people's choices among pictures; usually 0.2 to 0.35.

    Wu et al., Human Preference Score v2 (arXiv:2306.09341), Apache-2.0; version 2.1 unless `file` is
    `HPS_v2_compressed.pt`. `weights` is a file, folder or hub id of the open_clip checkpoint; `architecture` the
    folder or hub id with the CLIPConfig and tokenizer for it. Raises RewardError when they cannot be loaded or do
    not belong together.
    """
    del metadata
    return _load(weights, file, architecture, device).cosines(images, prompts, batch_size)


@functools.cache
def _load(weights: str, file: str, architecture: str, device: str) -> Clip:
    from transformers import CLIPConfig, CLIPModel

    place = resolve_device(device)
    with loading(architecture, "architecture"):
        network = CLIPModel(CLIPConfig.from_pretrained(architecture))
    tensors = read_checkpoint(weights, file)
    with loading(weights, "weights"):
        return Clip(filled(network, from_open_clip(tensors), place), load_tokenizer(architecture, "architecture"))


_NAMES = (
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^text_projection$", "text_projection.weight"),
    (r"^visual\.", "vision_model."),
    (r"^(?=token_embedding|positional_embedding|transformer|ln_final)", "text_model."),
    (r"(?=token_embedding|class_embedding)", "embeddings."),
    (r"positional_embedding", "embeddings.position_embedding.weight"),
    (r"conv1", "embeddings.patch_embedding"),
    (r"ln_pre", "pre_layrnorm"),
    (r"ln_post", "post_layernorm"),
    (r"ln_final", "final_layer_norm"),
    (r"transformer\.resblocks", "encoder.layers"),
    (r"\.ln_([12])", r".layer_norm\1"),
    (r"\.attn\.", ".self_attn."),
    (r"mlp\.c_fc", "mlp.fc1"),
    (r"mlp\.c_proj", "mlp.fc2"),
)
"""From open_clip's names to those of transformers."""


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an open_clip CLIP's tensors under the names and in the layout of transformers' CLIPModel.

    open_clip multiplies by its two projections from the right and keeps query, key and value in one matrix.
    """
    converted = {}
    for old, tensor in tensors.items():
        name = renamed(old, _NAMES)
        if ".in_proj_" in name:
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                converted[name.replace(".in_proj_", f".{letter}_proj.")] = third
        else:
            converted[name] = tensor.T if old in ("visual.proj", "text_projection") else tensor
    return converted
