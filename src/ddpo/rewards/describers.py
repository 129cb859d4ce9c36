"""Describers answer a question about pictures in words: a local model, an OpenAI-compatible server, or the judge.

A failure is an error and never an answer.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ddpo.media.image import to_pictures
from ddpo.rewards.judge import OTHER
from ddpo.rewards.pretrained import load_network, loading
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo.embedded.judge import Judge

LLAVA = "llava-hf/llava-1.5-7b-hf"
JUDGE = "judge"
_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Describer(Protocol):
    """Describes pictures."""

    def __call__(self, images: Tensor, question: str, /) -> list[str]:
        """Return an answer to the question about each picture `(B, 3, H, W)` in [0, 1]."""
        ...


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
        return JudgeDescriber()
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


@dataclass(frozen=True)
class JudgeDescriber:
    """The embedded judge's first choice, behind its article: `a cat`; it hears no question."""

    def __call__(self, images: Tensor, question: str) -> list[str]:
        """Return the name of the animal in each picture, or `something else`."""
        del question
        judge = _load_judge()
        labels = [judge.labels[index] for index in judge.probabilities(images).argmax(1).tolist()]
        return ["something else" if x == OTHER else f"{'an' if x[0] in 'aeiou' else 'a'} {x}" for x in labels]


@functools.cache
def _load_judge() -> Judge:
    from ddpo.embedded.judge import load_judge

    return load_judge()


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
        from PIL import Image

        files = picture_files(images, self.jpeg_quality)
        pictures = [Image.open(io.BytesIO(file)).convert("RGB") for file in files]
        return [
            answer
            for first in range(0, len(pictures), self.batch_size)
            for answer in self._answers(pictures[first : first + self.batch_size], question)
        ]

    def _answers(self, pictures: Sequence[Any], question: str) -> list[str]:
        import torch

        network, processor = _load_describer(self.model, self.device, self.precision)
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        # Same question and pictures of one size: the rows are equally long and nothing is padded.
        inputs = processor(text=[prompt] * len(pictures), images=list(pictures), return_tensors="pt")
        inputs = inputs.to(network.device, network.dtype)
        with torch.no_grad():
            tokens = network.generate(**inputs, do_sample=False, max_new_tokens=self.max_tokens)
        new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
        answers: list[str] = processor.batch_decode(new_tokens, skip_special_tokens=True)
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
        if not self.endpoint.startswith(("http://", "https://")):
            raise RewardError(f"endpoint: '{self.endpoint}' is no address; give one such as http://localhost:8000/v1.")
        ask = functools.partial(self._ask, question)
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(ask, picture_files(images, self.jpeg_quality)))

    def _ask(self, question: str, picture: bytes) -> str:
        address = f"{self.endpoint.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, self._body(question, picture), self._headers())
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = json.load(response)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            said = " ".join(error.read(2000).decode(errors="replace").split())[:300]
            raise RewardError(
                f"endpoint: {address} answered {error.code}: {said}; mend the request or the server."
            ) from error
        except OSError as error:  # a refused connection, a name that leads nowhere, a time that ran out
            raise RewardError(
                f"endpoint: {address} did not answer within {self.timeout:g} s ({error}); start the server or raise "
                "'timeout'."
            ) from error
        except (ValueError, LookupError, TypeError) as error:
            raise RewardError(
                f"endpoint: {address} sent no chat completion; give an OpenAI-compatible server."
            ) from error
        if not isinstance(content, str):
            raise RewardError(f"endpoint: {address} sent an answer without text; give a model that answers in words.")
        return content

    def _body(self, question: str, picture: bytes) -> bytes:
        kind = "png" if self.jpeg_quality is None else "jpeg"
        address = f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
        content = [{"type": "image_url", "image_url": {"url": address}}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        body = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens, "temperature": 0.0}
        return json.dumps(body).encode()

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            key = os.environ.get(self.key_variable)
            if not key:
                raise RewardError(f"key_variable: the environment has no {self.key_variable}; set it or leave it out.")
            headers["Authorization"] = f"Bearer {key}"
        return headers


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
