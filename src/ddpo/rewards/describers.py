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
from collections.abc import Iterable, Mapping, Sequence
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


def append_log(file: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append a JSON object a line; raises RewardError when the file cannot be written."""
    try:
        with Path(file).expanduser().open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise RewardError(
            f"log: {file} cannot be written ({error.strerror}); give a file in a folder that is there."
        ) from error


@dataclass(frozen=True)
class Describer:
    """A transformers image-text-to-text model, here or behind an endpoint, or the embedded judge."""

    model: str = LLAVA
    """Folder or hub id of one with a chat template, `judge`, or the name that the endpoint's server knows it by."""
    endpoint: str | None = None
    """An OpenAI-compatible server, such as vLLM, llama.cpp or Ollama, up to its version: `http://localhost:8000/v1`."""
    key_variable: str | None = None
    """The environment variable that holds the server's key, where it wants one; it is read at each question."""
    timeout: float = 60.0
    """Seconds to wait for the server's answer."""
    precision: str = "fp32"
    """Of a model here; it decodes greedily."""
    max_tokens: int = 64
    """Length of an answer."""
    jpeg_quality: int | None = None
    """Show the pictures as JPEGs of this quality; as PNGs without."""
    device: str = "auto"
    batch_size: int = 8
    """Pictures that the model sees, or questions that the server is asked, at once."""

    def __call__(self, images: Tensor, question: str) -> list[str]:
        """Return an answer to the question about each picture `(B, 3, H, W)` in [0, 1].

        Raises RewardError when the model cannot be loaded or an answer does not come: never a zero.
        """
        if self.endpoint is not None:
            return self._of_server(self.endpoint, images, question)
        return judged_animals(images) if self.model == JUDGE else self._of_model(images, question)

    def _of_model(self, images: Tensor, question: str) -> list[str]:
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

    def _of_server(self, endpoint: str, images: Tensor, question: str) -> list[str]:
        if problem_of_address(endpoint):
            raise RewardError(f"endpoint: '{endpoint}' is no address; give one such as http://localhost:8000/v1.")
        key = os.environ.get(self.key_variable) if self.key_variable is not None else None
        if self.key_variable is not None and not key:
            raise RewardError(f"key_variable: the environment has no {self.key_variable}; set it or leave it out.")

        async def ask_all() -> list[str]:
            free = asyncio.Semaphore(self.batch_size)

            async def ask_one(picture: bytes) -> str:
                body = self._body(question, picture)
                async with free:
                    return await _completion(f"{endpoint.rstrip('/')}/chat/completions", body, key, self.timeout)

            return await asyncio.gather(*map(ask_one, picture_files(images, self.jpeg_quality)))

        return in_event_loop(ask_all)

    def _body(self, question: str, picture: bytes) -> bytes:
        kind = "png" if self.jpeg_quality is None else "jpeg"
        shown = {"url": f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"}
        content = [{"type": "image_url", "image_url": shown}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0.0}
        return json.dumps(body).encode()


def ask(describe: Describer, images: Tensor, question: str, prompts: Sequence[str]) -> list[str]:
    """Return a describer's answers about pictures `(B, 3, H, W)` in [0, 1] without white space around them.

    Raises RewardError, naming the picture's prompt, when one is empty, and whatever the describer raises.
    """
    answers = [answer.strip() for answer in describe(images, question)]
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer:
            raise RewardError(f"describer: it said nothing about the picture for '{prompt}'; ask another.")
    return answers


def judged_animals(images: Tensor) -> list[str]:
    """Return the embedded judge's first choices: `a cat`, or `something else`."""
    judge = embedded_judge()
    labels = [judge.labels[index] for index in judge.probabilities(images).argmax(1).tolist()]
    return ["something else" if x == OTHER else f"{'an' if x[0] in 'aeiou' else 'a'} {x}" for x in labels]


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


async def _completion(address: str, body: bytes, key: str | None, seconds: float) -> str:
    try:
        answer = await exchange(address, body, token=key, seconds=seconds, proxies=True)
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
        raise RewardError(f"endpoint: {address} sent no chat completion; give an OpenAI-compatible server.") from error
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
