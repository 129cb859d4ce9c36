"""Embeddings of prompts, kept off the device and bounded: a run may have more prompts than memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LIMIT = 1_000_000_000
"""Bytes of embeddings that are kept, some 4,000 of Stable Diffusion's; those used longest ago go first."""


class EmbeddingCache:
    """Each distinct prompt passes through the text encoder once, as long as there is room for it."""

    def __init__(self, embed: Callable[[Sequence[str]], list[Tensor]], limit: int = LIMIT) -> None:
        """`embed` returns the embedding of each prompt; it is called with those that are not known."""
        self._embed, self._limit = embed, limit
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def rows(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the distinct embeddings `(R, ...)` and the row of each text `(B,)`, both on `device`."""
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        found = {text: self._kept[text] for text in place if text in self._kept}
        missing = [text for text in place if text not in found]
        if missing:
            found |= {text: value.cpu() for text, value in zip(missing, self._embed(missing), strict=True)}
        rows = torch.stack([found[text] for text in place]).to(device)
        self._keep(found)
        return rows, torch.tensor([place[text] for text in texts], device=device)

    def _keep(self, found: dict[str, Tensor]) -> None:
        for text, value in found.items():
            self._kept[text] = value
            self._kept.move_to_end(text)
        size = sum(value.nbytes for value in self._kept.values())
        while size > self._limit:
            size -= self._kept.popitem(last=False)[1].nbytes
