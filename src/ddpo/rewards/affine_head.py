"""The head that the LAION aesthetic predictor and ImageReward put on an embedding: affine layers, nothing between."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Head = list[tuple["Tensor", "Tensor"]]
"""Weight `(O, I)` and bias `(O,)` of each layer, in order."""


def read_head(tensors: Mapping[str, Tensor], prefix: str, width: int, source: str, device: torch.device) -> Head:
    """Return the layers `{prefix}N.weight`, `{prefix}N.bias` in the order of N, in float32.

    The gaps in the numbers are dropout layers, which do nothing when a picture is scored. Raises RewardError, naming
    their `source`, unless they lead from `width` numbers to one.
    """
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.weight")
    numbers = sorted(int(match[1]) for match in map(pattern.fullmatch, tensors) if match)
    layers = [(tensors[f"{prefix}{n}.weight"], tensors.get(f"{prefix}{n}.bias")) for n in numbers]
    sizes = [width, *(weight.shape[0] for weight, _ in layers)]
    fits = all(
        bias is not None and tuple(weight.shape) == (outputs, inputs) and tuple(bias.shape) == (outputs,)
        for (weight, bias), inputs, outputs in zip(layers, sizes, sizes[1:], strict=False)
    )
    if not layers or not fits or sizes[-1] != 1:
        raise RewardError(
            f"weights: {source} holds no layers '{prefix}N' from {width} numbers to one; give the head for this "
            "embedding."
        )
    return [(weight.float().to(device), bias.float().to(device)) for weight, bias in layers if bias is not None]


def apply_head(head: Head, embedding_BE: Tensor) -> Tensor:
    """Return the number `(B,)` that the head makes of each embedding `(B, E)`."""
    from torch.nn import functional

    for weight, bias in head:
        embedding_BE = functional.linear(embedding_BE, weight, bias)
    return embedding_BE[:, 0]
