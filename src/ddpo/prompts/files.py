"""The user's own prompts: a text file, a JSONL file, or a list."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo.core.prompt import Prompt
from ddpo.prompts.source import PromptSource
from ddpo.runtime.errors import PromptError, nearest
from ddpo.runtime.files import expanded, is_file, is_folder
from ddpo.runtime.plugins import describe


def from_file(path: str | Path) -> PromptSource:
    """Return the prompts of a `.txt` or `.jsonl` file (UTF-8).

    Text: a prompt a line; blank lines and lines that begin with # are skipped. JSONL: an object a line, its
    key `prompt` the prompt, its other keys the metadata; blank lines are skipped. Lines end in LF, CRLF or CR; a byte
    order mark at the beginning is no part of the first.

    Raises PromptError, with path and line number, when the file is missing, unreadable, malformed or empty.
    """
    file = expanded(path)
    readers = {".txt": _text_lines, ".jsonl": _jsonl_lines}
    if is_folder(file):
        raise PromptError(f"Prompts '{path}': is a folder; give a .txt or .jsonl file.")
    if file.suffix.lower() not in readers:
        raise PromptError(f"Prompts '{path}': expected a .txt or .jsonl file.")
    if not is_file(file):
        siblings = [p.name for p in file.parent.glob("*")] if is_folder(file.parent) else []
        raise PromptError(f"Prompts '{path}': no such file.{nearest(file.name, siblings)}")
    lines = _lines(str(path), file)
    return PromptSource(str(path), tuple(readers[file.suffix.lower()](str(path), lines)))


def from_list(entries: Sequence[str | Mapping[str, Any] | Prompt], name: str = "inline") -> PromptSource:
    """Return the prompts of a list of strings, of mappings as in a JSONL file, or of `Prompt`s.

    Raises PromptError, with the position in the list, for an entry that is none of these.
    """
    return PromptSource(name, tuple(_prompt(entry, f"Prompts, entry {i}") for i, entry in enumerate(entries, 1)))


def from_function(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> PromptSource:
    """Return the prompts that the user's function gives when called with `options`.

    Raises PromptError when it fails or returns no list of prompts.
    """
    try:
        given = function(**options)
    except Exception as error:
        raise PromptError(f"Prompts '{name}' raised {describe(error)}") from error
    if isinstance(given, PromptSource):
        return given
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise PromptError(f"Prompts '{name}' returned {type(given).__name__}; return a list of texts or of Prompts.")
    return from_list(given, name)


def no_prompts() -> PromptSource:
    """Return the one empty prompt of unconditional models."""
    return PromptSource("none", (Prompt(),))


def _lines(path: str, file: Path) -> list[str]:
    """Return the lines of a file, without what ends them."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PromptError(f"Prompts '{path}' cannot be read: {error.strerror}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _line_number(content, error.start)
        raise PromptError(f"Prompts '{path}', line {place}: not UTF-8 text; save the file as UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _line_number(content: bytes, place: int) -> int:
    """Return the number of the line that the byte at `place` stands in, from 1."""
    return 1 + len(re.findall(rb"\r\n|\r|\n", content[:place]))


def _text_lines(path: str, lines: list[str]) -> list[Prompt]:
    texts = [line.strip() for line in lines]
    return [
        Prompt(_printable(text, f"Prompts '{path}', line {number}"))
        for number, text in enumerate(texts, 1)
        if text and not text.startswith("#")
    ]


def _jsonl_lines(path: str, lines: list[str]) -> list[Prompt]:
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"Prompts '{path}', line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise PromptError(f"{where}: not JSON ({error.msg} at column {error.colno}).") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
            raise PromptError(f"{where}: JSON too large to be read; a line is one prompt and its metadata.") from error
        if not isinstance(entry, dict):
            raise PromptError(f'{where}: expected an object like {{"prompt": "a cat"}}.')
        prompts.append(_prompt(entry, where))
    return prompts


def _prompt(entry: object, where: str) -> Prompt:
    if isinstance(entry, Prompt):
        return entry
    if isinstance(entry, Mapping):
        if "prompt" not in entry:
            raise PromptError(f"{where}: no key 'prompt'.{nearest('prompt', map(str, entry))}")
        metadata = {str(key): value for key, value in entry.items() if key != "prompt"}
        text = entry["prompt"]
    else:
        text, metadata = entry, {}
    if not isinstance(text, str) or not (text.strip() or metadata):
        raise PromptError(f"{where}: a prompt must be text that is not empty, not {text!r}.")
    return Prompt(_printable(text.strip(), where), metadata)


def _printable(text: str, where: str) -> str:
    """Return a prompt that can be tokenized, written and shown; no text encoder knows NUL or half a character."""
    if "\0" in text:
        raise PromptError(f"{where}: holds a NUL character; give text, in a file saved as UTF-8.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise PromptError(f"{where}: holds half a character ({half}); write the whole one.") from error
    return text
