"""The reward `hpsv2`: the Human Preference Score, version 2, read from its open_clip checkpoint."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.rewards.clip import Clip
from ddpo.rewards.pretrained import find_file, load_tokenizer, loading, read_tensors, resolve_device

if TYPE_CHECKING:
    import numpy.typing as npt
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
) -> npt.NDArray[np.float64]:
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
    path = find_file(weights, file, "weights")
    with loading(str(path), "weights"):
        network.load_state_dict(from_open_clip(read_tensors(path, "weights")))
    network = network.float().to(place).eval().requires_grad_(False)
    return Clip(network, load_tokenizer(architecture, "architecture"))


_OUTSIDE_BLOCKS = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_INSIDE_BLOCKS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)")


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an open_clip CLIP's tensors under the names and in the layout of transformers' CLIPModel.

    open_clip multiplies by its two projections from the right and keeps query, key and value in one matrix.
    Raises KeyError for a name that a CLIP with two plain transformers does not have.
    """
    return {name: value for old, tensor in tensors.items() for name, value in _renamed(old, tensor)}


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    block = _BLOCK.fullmatch(name)
    if not block:
        yield _OUTSIDE_BLOCKS[name], tensor.T if name in ("visual.proj", "text_projection") else tensor
        return
    tower = "vision_model" if block[1] else "text_model"
    layer, part, kind = f"{tower}.encoder.layers.{block[2]}", block[3], block[4]
    if part == "attn.in_proj":
        for letter, third in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{layer}.self_attn.{letter}_proj.{kind}", third
    else:
        yield f"{layer}.{_INSIDE_BLOCKS[part]}.{kind}", tensor
