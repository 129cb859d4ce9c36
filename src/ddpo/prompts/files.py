"""The user's own prompts: a text file, a JSONL file, or a list."""

from __future__ import annotations

import json
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
    suffix = file.suffix.lower()
    if is_folder(file):
        raise PromptError(f"Prompts '{path}': is a folder; give a .txt or .jsonl file.")
    if suffix not in (".txt", ".jsonl"):
        raise PromptError(f"Prompts '{path}': expected a .txt or .jsonl file.")
    if not is_file(file):
        siblings = [p.name for p in file.parent.glob("*")] if is_folder(file.parent) else []
        raise PromptError(f"Prompts '{path}': no such file.{nearest(file.name, siblings)}")
    prompts = []
    for number, line in enumerate(_lines(file, str(path)), 1):
        where, text = f"Prompts '{path}', line {number}", line.strip()
        if text and suffix == ".jsonl":
            prompts.append(_prompt(_json_object(text, where), where))
        elif text and not text.startswith("#"):
            prompts.append(_prompt(text, where))
    return PromptSource(str(path), tuple(prompts))


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


def _lines(file: Path, path: str) -> list[str]:
    """Return the lines of a file, without what ends them."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise PromptError(f"Prompts '{path}' cannot be read: {error.strerror}.") from error
    for number, line in enumerate(lines, 1):
        if not line.isascii() and any("\udc80" <= character <= "\udcff" for character in line):
            raise PromptError(f"Prompts '{path}', line {number}: not UTF-8 text; save the file as UTF-8.")
    return lines


def _json_object(text: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except json.JSONDecodeError as error:
        raise PromptError(f"{where}: not JSON ({error.msg} at column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; thousands of brackets
        raise PromptError(f"{where}: JSON too large to be read; a line is one prompt and its metadata.") from error
    if not isinstance(entry, dict):
        raise PromptError(f'{where}: expected an object like {{"prompt": "a cat"}}.')
    return entry


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
    if "\0" in text:
        raise PromptError(f"{where}: holds a NUL character; give text, in a file saved as UTF-8.")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # no text encoder knows half a character
        half = f"\\u{ord(text[error.start]):04x}"
        raise PromptError(f"{where}: holds half a character ({half}); write the whole one.") from error
    return Prompt(text.strip(), metadata)
