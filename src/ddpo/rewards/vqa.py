"""The reward `vqa`: whether a vision-language model gives the expected answers to questions about the picture."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpo.rewards.contract import Array
from ddpo.rewards.describers import LLAVA, Describer, append_log, ask
from ddpo.runtime.errors import RewardError
from ddpo.runtime.number_words import with_digits

if TYPE_CHECKING:
    from torch import Tensor


class Question(NamedTuple):
    """A question about a picture with the answer that satisfies it."""

    question: str
    answer: str


def vqa(
    images: Tensor,
    prompts: list[str],
    metadata: list[dict[str, Any]],
    *,
    strict: bool = True,
    describer: str = LLAVA,
    endpoint: str | None = None,
    key_variable: str | None = None,
    timeout: float = 60.0,
    precision: str = "fp32",
    max_tokens: int = 64,
    jpeg_quality: int | None = None,
    device: str = "auto",
    batch_size: int = 8,
    log: str | None = None,
) -> Array:
    """Return 1.0 where all expected answers are given, else 0.0; the share of them, in [0, 1], unless `strict`.

    `metadata["questions"]` is a list of `{question: ..., answer: ...}`; `agrees` compares the describer's words with
    the answer. After the strict satisfaction of the authors' code, where LLaVA counts animals and the reward is the
    share. The describer's options are those of `alignment`; the default, LLaVA-1.5, is under Llama 2's licence.
    `log` is a file to which each answer is appended, a JSON object a line.

    Raises RewardError for a prompt without questions, when the model cannot be loaded, the server does not answer or
    an answer is empty: a failure is never a score.
    """
    questions_B = [questions_of(*sample) for sample in zip(prompts, metadata, strict=True)]
    describe = Describer(
        describer, endpoint, key_variable, timeout, precision, max_tokens, jpeg_quality, device, batch_size
    )
    answers = _answers(describe, images, prompts, questions_B)
    rows_B = [
        [
            {"prompt": prompt, "question": asked, "expected": expected, "answer": answers[index, asked]}
            | {"agrees": agrees(answers[index, asked], expected)}
            for asked, expected in questions
        ]
        for index, (prompt, questions) in enumerate(zip(prompts, questions_B, strict=True))
    ]
    if log is not None:
        append_log(log, itertools.chain.from_iterable(rows_B))
    share_B = np.array([np.mean([row["agrees"] for row in rows]) for rows in rows_B])
    return (share_B == 1).astype(np.float64) if strict else share_B


def questions_of(prompt: str, metadata: Mapping[str, Any]) -> list[Question]:
    """Return the questions in a prompt's metadata.

    Raises RewardError, naming the prompt, unless `questions` is a list of mappings with a question and an answer.
    """
    entries = metadata.get("questions")
    if not isinstance(entries, list | tuple) or not entries:
        raise RewardError(
            f"the prompt '{prompt}' has no questions; give its metadata 'questions' as a list of "
            "{question: ..., answer: ...}, or take the prompts 'counting'."
        )
    return [_question(prompt, entry) for entry in entries]


def _question(prompt: str, entry: Any) -> Question:
    question, answer = (entry.get("question"), entry.get("answer")) if isinstance(entry, Mapping) else (None, None)
    if isinstance(answer, bool):  # YAML reads yes and no as such
        answer = "yes" if answer else "no"
    if not isinstance(question, str) or not question.strip() or answer is None or not _words(str(answer)):
        raise RewardError(
            f"the prompt '{prompt}' has the question {entry!r}; give {{question: text, answer: text or a number}}."
        )
    return Question(question, str(answer))


def _answers(
    describe: Describer, images: Tensor, prompts: Sequence[str], questions_B: Sequence[Sequence[Question]]
) -> dict[tuple[int, str], str]:
    """Return the describer's answer by sample and question; a question is put to all of its pictures at once."""
    answers = {}
    for question in dict.fromkeys(q.question for questions in questions_B for q in questions):
        asked = [i for i, questions in enumerate(questions_B) if any(q.question == question for q in questions)]
        said = ask(describe, images[asked], question, [prompts[index] for index in asked])
        answers.update({(index, question): answer for index, answer in zip(asked, said, strict=True)})
    return answers


def agrees(answer: str, expected: str) -> bool:
    """Return whether the expected words stand one after the other, as whole words, in the answer.

    Case and punctuation do not count, and number words up to ninety-nine are their digits. Where the expected answer
    is one number, it must be the first number in the answer; where it is yes or no, the first of these two: "2 or 3"
    is not 3, and "Yes, there is no dog" is yes.
    """
    said, wanted = _words(answer), _words(expected)
    for kind in (r"\d+(\.\d+)?", "yes|no"):
        if len(wanted) == 1 and re.fullmatch(kind, wanted[0]):
            said = [word for word in said if re.fullmatch(kind, word)][:1]
    return any(said[first : first + len(wanted)] == wanted for first in range(len(said)))


def _words(text: str) -> list[str]:
    """Return the words of a text in lower case, numbers as digits: `3`, `1000`, `2.5`."""
    plain = with_digits(unicodedata.normalize("NFKC", text).casefold())
    return re.findall(r"\d+\.\d+|\w+", re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain))
