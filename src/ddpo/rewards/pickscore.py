"""The reward `pickscore`: the preferences of Pick-a-Pic's users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddpo.rewards.clip import load_clip
from ddpo.rewards.contract import Array

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "yuvalkirstain/PickScore_v1"
TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def pickscore(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    model: str = MODEL,
    tokenizer: str = TOKENIZER,
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
