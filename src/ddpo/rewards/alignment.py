"""The reward `alignment`: BERTScore says how much of the prompt a description of the picture covers. Paper D.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.rewards.bertscore import SCORER, load_scorer
from ddpo.rewards.contract import Array
from ddpo.rewards.describers import LLAVA, Describer, append_log, ask
from ddpo.runtime.errors import RewardError, nearest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Preset:
    """What the describer is asked and shown, and what its answer is compared with."""

    question: str
    reference: str
    """`{prompt}` stands for the prompt."""
    jpeg_quality: int | None
    """Quality of the JPEG that the describer sees; lossless without."""


PRESETS = {
    "paper": Preset("what is happening in this image?", "{prompt}", None),
    "reference-code": Preset("Answer concisely: what is going on in this image?", "The image contains {prompt}", 80),
}
"""The words of the paper (D.3), and those of the authors' code."""


def alignment(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    preset: str = "paper",
    question: str | None = None,
    describer: str = LLAVA,
    endpoint: str | None = None,
    key_variable: str | None = None,
    timeout: float = 60.0,
    precision: str = "fp32",
    max_tokens: int = 64,
    scorer: str = SCORER,
    layer: int | None = None,
    device: str = "auto",
    batch_size: int = 8,
    log: str | None = None,
) -> Array:
    """Return `recall_B`, BERTScore recall of the prompt by the description, at most 1; usually 0.5 to 0.95. Paper D.3.

    `describer` is a folder or hub id of a transformers image-text-to-text model (the default, LLaVA-1.5, is under
    Llama 2's licence), `judge` for the embedded one, or, with `endpoint`, the model's name on an OpenAI-compatible
    server. `preset` is `paper` or `reference-code`; `question` replaces its question. `scorer` is a text encoder's
    folder or hub id (the default is MIT), or `minilm` (Apache-2.0); IDF and baseline rescaling are off. `log` is a
    file to which each description is appended with its precision, recall and F1, a JSON object a line.

    Raises RewardError when a model cannot be loaded, the server does not answer or a description is empty: a failure
    is never a score.
    """
    del metadata
    if preset not in PRESETS:
        raise RewardError(f"preset: there is no '{preset}'.{nearest(preset, PRESETS)} Known: {', '.join(PRESETS)}.")
    words = PRESETS[preset]
    describe = Describer(
        describer, endpoint, key_variable, timeout, precision, max_tokens, words.jpeg_quality, device, batch_size
    )
    descriptions = ask(describe, images, question or words.question, prompts)
    references = [words.reference.replace("{prompt}", prompt) for prompt in prompts]
    matches = load_scorer(scorer, layer, device).match(descriptions, references, batch_size)
    if log is not None:
        rows = zip(prompts, descriptions, matches, strict=True)
        append_log(log, ({"prompt": p, "description": d} | m._asdict() | {"f1": m.f1} for p, d, m in rows))
    return np.array([match.recall for match in matches])
