"""Describers answer a question about pictures in words: a local model, an OpenAI-compatible server, or the judge.

A failure is an error and never an answer.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo.media.image import to_pictures
from ddpo.rewards.http_client import NoAnswerError, exchange, in_event_loop, problem_of_address
from ddpo.rewards.judge import OTHER, embedded_judge
from ddpo.rewards.pretrained import load_network, loading
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

LLAVA = "llava-hf/llava-1.5-7b-hf"
JUDGE = "judge"
_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
Describer = Callable[["Tensor", str], list[str]]
"""Returns an answer to a question about each picture `(B, 3, H, W)` in [0, 1]."""


def choose_describer(
    describer: str,
    endpoint: str | None,
    key_variable: str | None,
    *,
    timeout: float,
    precision: str,
    max_tokens: int,
    jpeg_quality: int | None,
    device: str,
    batch_size: int,
) -> Describer:
    """Return the describer that a reward's options stand for; no model is loaded and no server asked yet.

    With `endpoint`, `describer` is the model's name on that server; else it is `judge`, or a folder or hub id.
    """
    if endpoint is not None:
        return EndpointDescriber(endpoint, describer, timeout, batch_size, max_tokens, jpeg_quality, key_variable)
    if describer == JUDGE:
        return judged_animals
    return LocalDescriber(describer, device, precision, batch_size, max_tokens, jpeg_quality)


def ask(describe: Describer, images: Tensor, question: str, prompts: Sequence[str]) -> list[str]:
    """Return a describer's answers about pictures `(B, 3, H, W)` in [0, 1] without white space around them.

    Raises RewardError, naming the picture's prompt, when one is empty, and whatever the describer raises.
    """
    answers = [answer.strip() for answer in describe(images, question)]
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer:
            raise RewardError(f"describer: it said nothing about the picture for '{prompt}'; ask another.")
    return answers


def append_log(file: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append a JSON object a line; raises RewardError when the file cannot be written."""
    try:
        with Path(file).expanduser().open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise RewardError(
            f"log: {file} cannot be written ({error.strerror}); give a file in a folder that is there."
        ) from error


def judged_animals(images: Tensor, question: str) -> list[str]:
    """Return the embedded judge's first choices, `a cat` or `something else`; it hears no question."""
    del question
    judge = embedded_judge()
    labels = [judge.labels[index] for index in judge.probabilities(images).argmax(1).tolist()]
    return ["something else" if x == OTHER else f"{'an' if x[0] in 'aeiou' else 'a'} {x}" for x in labels]


@dataclass(frozen=True)
class LocalDescriber:
    """A transformers image-text-to-text model with a chat template, decoding greedily."""

    model: str = LLAVA
    """Folder or hub id."""
    device: str = "auto"
    precision: str = "fp32"
    batch_size: int = 8
    max_tokens: int = 64
    jpeg_quality: int | None = None
    """Show the model the pictures as JPEGs of this quality; losslessly without."""

    def __call__(self, images: Tensor, question: str) -> list[str]:
        """Return an answer to the question about each picture; raises RewardError when the model cannot be loaded."""
        import torch
        from PIL import Image

        network, processor = _load_describer(self.model, self.device, self.precision)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        files = picture_files(images, self.jpeg_quality)
        answers: list[str] = []
        for first in range(0, len(files), self.batch_size):
            shown = [Image.open(io.BytesIO(file)).convert("RGB") for file in files[first : first + self.batch_size]]
            # Same question and pictures of one size: the rows are equally long and nothing is padded.
            inputs = processor(text=[prompt] * len(shown), images=shown, return_tensors="pt")
            inputs = inputs.to(network.device, network.dtype)
            with torch.no_grad():
                tokens = network.generate(**inputs, do_sample=False, max_new_tokens=self.max_tokens)
            answers += processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers


@functools.cache
def _load_describer(model: str, device: str, precision: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if precision not in _PRECISIONS:
        raise RewardError(f"precision: '{precision}' is none of {', '.join(_PRECISIONS)}.")
    dtype = getattr(torch, _PRECISIONS[precision])
    network = load_network(AutoModelForImageTextToText, model, device, option="describer", dtype=dtype)
    with loading(model, "describer"):
        return network, AutoProcessor.from_pretrained(model)


@dataclass(frozen=True)
class EndpointDescriber:
    """A server that speaks OpenAI's chat completions, such as vLLM, llama.cpp or Ollama."""

    endpoint: str
    """Up to the version: `http://localhost:8000/v1`."""
    model: str = LLAVA
    """The name that the server knows the model by."""
    timeout: float = 60.0
    """Seconds to wait for an answer."""
    parallel: int = 8
    """Questions asked at once."""
    max_tokens: int = 64
    jpeg_quality: int | None = None
    """Send JPEGs of this quality; PNGs without."""
    key_variable: str | None = None
    """The environment variable that holds the server's key, where it wants one; it is read at each question."""

    def __call__(self, images: Tensor, question: str) -> list[str]:
        """Return the server's answer about each picture; raises RewardError when one does not come: never a zero."""
        if problem_of_address(self.endpoint):
            raise RewardError(f"endpoint: '{self.endpoint}' is no address; give one such as http://localhost:8000/v1.")
        key = os.environ.get(self.key_variable) if self.key_variable is not None else None
        if self.key_variable is not None and not key:
            raise RewardError(f"key_variable: the environment has no {self.key_variable}; set it or leave it out.")

        async def ask_all() -> list[str]:
            free = asyncio.Semaphore(self.parallel)

            async def ask_one(picture: bytes) -> str:
                async with free:
                    return await self._ask(question, picture, key)

            return await asyncio.gather(*map(ask_one, picture_files(images, self.jpeg_quality)))

        return in_event_loop(ask_all)

    async def _ask(self, question: str, picture: bytes, key: str | None) -> str:
        address = f"{self.endpoint.rstrip('/')}/chat/completions"
        kind = "png" if self.jpeg_quality is None else "jpeg"
        shown = {"url": f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"}
        content = [{"type": "image_url", "image_url": shown}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0.0}
        try:
            answer = await exchange(address, json.dumps(body).encode(), token=key, seconds=self.timeout, proxies=True)
        except NoAnswerError as error:
            raise RewardError(
                f"endpoint: {address} did not answer ({error}); start the server or raise 'timeout'."
            ) from error
        if answer.status != 200:
            said = " ".join(answer.body[:2000].decode(errors="replace").split())[:300]
            raise RewardError(f"endpoint: {address} answered {answer.status}: {said}; mend the request or the server.")
        try:
            text = json.loads(answer.body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise RewardError(
                f"endpoint: {address} sent no chat completion; give an OpenAI-compatible server."
            ) from error
        if not isinstance(text, str):
            raise RewardError(f"endpoint: {address} sent an answer without text; give a model that answers in words.")
        return text


def picture_files(images: Tensor, jpeg_quality: int | None) -> list[bytes]:
    """Return each picture `(3, H, W)` in [0, 1] as the bytes of a PNG, or of a JPEG of the given quality."""
    files = []
    for picture in to_pictures(images):
        file = io.BytesIO()
        if jpeg_quality is None:
            picture.save(file, "PNG")
        else:
            picture.save(file, "JPEG", quality=jpeg_quality)
        files.append(file.getvalue())
    return files
