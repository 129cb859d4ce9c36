"""The reward `ocr`: whether the text that the prompt asks for can be read in the picture."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media.image import to_pictures
from ddpo.rewards.contract import Array
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from torch import Tensor

SIDE = 512
"""In pixels: at 512 px a picture of Stable Diffusion is searched as it is, one of 64 px enlarged eight times."""
_QUOTED = (re.compile('["“]([^"“”]*)["”]'), re.compile(r"(?<!\w)['\u2018](.*?)['\u2019](?!\w)"))
"""Text in double quotes; text in single ones, none of which is an apostrophe inside a word."""


def ocr(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    side: int = SIDE,
    threads: int = 1,
) -> Array:
    """Return `score_B` in [0, 1], the share of the wanted text that is read in the picture: 1 where all of it is.

    The wanted text is `metadata["text"]`, or what stands in the prompt's first quotes. The score is `legibility` of it
    in what RapidOCR (extra `ocr`, Apache-2.0) reads, as in Flow-GRPO (arXiv:2505.05470), which uses PaddleOCR.
    `side` is how many pixels the shorter side has at least when text is looked for: smaller pictures are enlarged,
    which takes longer. `threads` is for the two networks.

    Raises RewardError when RapidOCR is not installed, and for a prompt without a text.
    """
    wanted_B = [wanted_text(*sample) for sample in zip(prompts, metadata, strict=True)]
    read = _load(side, threads)
    score_B = [legibility(wanted, read(picture)) for wanted, picture in zip(wanted_B, to_pictures(images), strict=True)]
    return np.array(score_B)


def wanted_text(prompt: str, metadata: dict[str, Any]) -> str:
    """Return `metadata["text"]`, or the text in the prompt's first double quotes, or else in its first single ones.

    Raises RewardError naming the prompt when there is none.
    """
    quoted = [match[1] for pattern in _QUOTED if (match := pattern.search(prompt))]
    given = metadata.get("text")
    text = next(iter(quoted), "") if given is None else str(given)
    if not _compared(text):
        raise RewardError(
            f"the prompt '{prompt}' asks for no text; put it in quotes, 'a sign that says \"open\"', or into the "
            "metadata 'text'."
        )
    return text


def legibility(wanted: str, read: str) -> float:
    """Return 1 where `wanted` stands somewhere in `read`, else `max(0, 1 - distance / length of wanted)`.

    The distance is Levenshtein's between the two whole texts, so other words count against what is nearly right but
    not against what is right. Case, white space and Unicode's compatible forms (full width) make no difference.
    """
    wanted, read = _compared(wanted), _compared(read)
    if wanted in read:
        return 1.0
    return max(0.0, 1 - edit_distance(wanted, read) / len(wanted))


def edit_distance(first: str, second: str) -> int:
    """Return the fewest insertions, deletions and replacements of a character that turn `first` into `second`."""
    above = list(range(len(second) + 1))  # from the empty text to each beginning of `second`
    for row, character in enumerate(first, 1):
        current = [row]
        for column, other in enumerate(second, 1):
            replaced = above[column - 1] + (character != other)
            current.append(min(replaced, above[column] + 1, current[-1] + 1))
        above = current
    return above[-1]


def _compared(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


@functools.cache
def _load(side: int, threads: int) -> Callable[[Picture], str]:
    """Return what reads a picture: its lines from top to bottom, joined. The networks are in RapidOCR's package."""
    try:
        import cv2
        from rapidocr import RapidOCR
    except ImportError as error:
        advice = "pip install -e '.[ocr]' in a clone of ddpo"
        raise RewardError(f"RapidOCR cannot be imported ({error}); {advice}.") from error
    cv2.setNumThreads(threads)
    reader = RapidOCR(
        params={
            "Global.log_level": "critical",  # or every picture without text is a warning
            "Global.use_cls": False,  # does not turn what is upside down
            "Det.limit_side_len": side,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    return lambda picture: "".join(reader(picture).txts or ())
