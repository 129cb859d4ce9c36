"""The user's own prompts: a text file, a JSONL file, or a list."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo.errors import PromptError, nearest
from ddpo.prompts.source import Prompt, PromptSource


def from_file(path: str | Path) -> PromptSource:
    """Return the prompts of a `.txt` or `.jsonl` file (UTF-8).

    Text: a prompt a line; blank lines and lines that begin with # are skipped. JSONL: an object a line, its
    key `prompt` the prompt, its other keys the metadata; blank lines are skipped.

    Raises PromptError, with path and line number, when the file is missing, unreadable, malformed or empty.
    """
    file = Path(path).expanduser()
    readers = {".txt": _text_lines, ".jsonl": _jsonl_lines}
    if file.suffix.lower() not in readers:
        raise PromptError(f"Prompts '{path}': expected a .txt or .jsonl file.")
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise PromptError(f"Prompts '{path}': no such file.{nearest(file.name, siblings)}")
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"Prompts '{path}' cannot be read as UTF-8 text: {error}.") from error
    return PromptSource(str(path), tuple(readers[file.suffix.lower()](str(path), lines)))


def from_list(entries: Sequence[str | Mapping[str, Any]]) -> PromptSource:
    """Return the prompts of a list of strings, or of mappings as in a JSONL file.

    Raises PromptError, with the position in the list, for an entry that is neither.
    """
    return PromptSource("inline", tuple(_prompt(entry, f"Prompts, entry {i}") for i, entry in enumerate(entries, 1)))


def _text_lines(path: str, lines: list[str]) -> list[Prompt]:
    del path
    texts = [line.strip() for line in lines]
    return [Prompt(text) for text in texts if text and not text.startswith("#")]


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
        if not isinstance(entry, dict):
            raise PromptError(f'{where}: expected an object like {{"prompt": "a cat"}}.')
        prompts.append(_prompt(entry, where))
    return prompts


def _prompt(entry: object, where: str) -> Prompt:
    if isinstance(entry, Mapping):
        if "prompt" not in entry:
            raise PromptError(f"{where}: no key 'prompt'.{nearest('prompt', map(str, entry))}")
        metadata = {str(key): value for key, value in entry.items() if key != "prompt"}
        text = entry["prompt"]
    else:
        text, metadata = entry, {}
    if not isinstance(text, str) or not text.strip():
        raise PromptError(f"{where}: a prompt must be text that is not empty, not {text!r}.")
    return Prompt(text.strip(), metadata)
