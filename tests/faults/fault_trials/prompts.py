"""Trial 9: prompt files of every kind either give the prompts that docs/prompts.md says, or one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddpo.prompts import load_prompts
from ddpo.runtime.errors import PromptError
from fault_trials.refusals import flaw_of_refusal
from fault_trials.registry import Cases, trial

LONG = "a very long cat " * 625
"""A prompt of 10,000 characters."""
SCRIPTS = ["кошка", "猫", "قطة", "बिल्ली", "고양이", "γάτα", "חתול", "แมว", "🐈‍⬛", "naïve café", "e\u0301t\u00e9"]

ACCEPTED: dict[str, tuple[str, bytes, list[str]]] = {
    "blank lines": ("p.txt", b"\n\na cat\n \t \n\na dog\n\n", ["a cat", "a dog"]),
    "comments": ("p.txt", b"# animals\na cat\n#a dog\na dog # 2\n", ["a cat", "a dog # 2"]),
    "CRLF": ("p.txt", b"a cat\r\na dog\r\n", ["a cat", "a dog"]),
    "CR": ("p.txt", b"a cat\ra dog\r", ["a cat", "a dog"]),
    "no last line end": ("p.txt", b"a cat\na dog", ["a cat", "a dog"]),
    "byte order mark": ("p.txt", b"\xef\xbb\xbfa cat\n", ["a cat"]),
    "byte order mark, JSONL": ("p.jsonl", b'\xef\xbb\xbf{"prompt": "a cat"}\r\n\r\n', ["a cat"]),
    "10,000 characters": ("p.txt", f"{LONG}\na cat\n".encode(), [LONG.strip(), "a cat"]),
    "the same twice": ("p.txt", b"a cat\na cat\na dog\n", ["a cat", "a cat", "a dog"]),
    "other scripts": ("p.txt", "\n".join(SCRIPTS).encode(), SCRIPTS),
    "other scripts, escaped": ("p.jsonl", "\n".join(json.dumps({"prompt": s}) for s in SCRIPTS).encode(), SCRIPTS),
    "unusual line separators": ("p.txt", "a\u2028cat\na\x0bdog\n".encode(), ["a\u2028cat", "a\x0bdog"]),
    "capital suffix": ("p.TXT", b"a cat\n", ["a cat"]),
}
"""File, content, and the prompts that it stands for."""

REFUSED: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "empty": ("p.txt", b"", ("p.txt", "hold no prompt")),
    "only blank lines": ("p.txt", b"\n \n\r\n", ("p.txt", "hold no prompt")),
    "empty JSONL": ("p.jsonl", b"\n", ("p.jsonl", "hold no prompt")),
    "NUL": ("p.txt", b"a cat\na\0dog\n", ("p.txt', line 2", "NUL")),
    "NUL in JSONL": ("p.jsonl", b'{"prompt": "a\\u0000cat"}', ("line 1", "NUL")),
    "UTF-16": ("p.txt", "a cat\na dog".encode("utf-16"), ("line 1", "UTF-8")),
    "UTF-16 without mark": ("p.txt", "a cat\na dog".encode("utf-16-le"), ("line 1", "UTF-8")),
    "Latin-1": ("p.txt", "a cat\r\na dog\r\na café\r\n".encode("latin-1"), ("line 3", "UTF-8")),
    "a picture": ("p.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ("line 1", "UTF-8")),
    "half a character": ("p.jsonl", b'{"prompt": "a \\ud83d cat"}', ("line 1", "half a character", "\\ud83d")),
    "not JSON": ("p.jsonl", b'{"prompt": "a cat"}\na dog\n', ("line 2", "not JSON")),
    "cut off": ("p.jsonl", b'{"prompt": "a cat"}\n{"prompt": "a', ("line 2", "not JSON")),
    "another format": ("p.csv", b"a cat\n", (".txt or .jsonl",)),
    "deep nesting": ("p.jsonl", b'{"prompt": "a", "x": ' + b"[" * 100_000, ("line 1", "too large")),
    "number of 10,000 digits": ("p.jsonl", b'{"prompt": "a", "x": ' + b"1" * 10_000 + b"}", ("line 1", "too large")),
    **{
        f"JSONL of {kind}": ("p.jsonl", b'{"prompt": "a cat"}\n' + line, ("p.jsonl', line 2", *says))
        for kind, line, says in [
            ("text", b'"a dog"', ("expected an object",)),
            ("a list", b'["a dog"]', ("expected an object",)),
            ("a number", b"3", ("expected an object",)),
            ("null", b"null", ("expected an object",)),
            ("no prompt", b'{"promt": "a dog"}', ("no key 'prompt'",)),
            ("a number as prompt", b'{"prompt": 3}', ("must be text",)),
            ("null as prompt", b'{"prompt": null}', ("must be text",)),
            ("true as prompt", b'{"prompt": true}', ("must be text",)),
            ("a list as prompt", b'{"prompt": ["a dog"]}', ("must be text",)),
            ("an object as prompt", b'{"prompt": {"text": "a dog"}}', ("must be text",)),
            ("an empty prompt", b'{"prompt": " "}', ("must be text",)),
        ]
    },
}  # fmt: skip
"""File, content, and what the refusal says: where, and what is wrong."""


@trial(
    9,
    "prompts",
    "A prompt file gives exactly the prompts that docs/prompts.md says, or one sentence with file and line.",
    fast=20_000,
    full=1_000_000,
)
def prompt_files(size: int, folder: Path) -> Cases:
    """Files good and bad; `size` is the number of lines in the largest."""
    for case, (name, content, expected) in ACCEPTED.items():
        (folder / name).write_bytes(content)
        yield case, difference(lambda name=name: load_prompts(str(folder / name)), expected)
    for case, (name, content, says) in REFUSED.items():
        (folder / name).write_bytes(content)
        yield case, refusal(str(folder / name), *says)
    yield from places(folder)
    yield from many_lines(size, folder)


def places(folder: Path) -> Cases:
    """What stands where a file is expected."""
    (folder / "deep.txt").mkdir()
    (folder / "animals.txt").write_text("a cat\n")
    (folder / "away.txt").symlink_to(folder / "nowhere.txt")
    yield "a folder", refusal(str(folder), "is a folder")
    yield "a folder with a file's name", refusal(str(folder / "deep.txt"), "is a folder")
    yield "missing", refusal(str(folder / "animal.txt"), "no such file", "Did you mean 'animals.txt'")
    yield "in a missing folder", refusal(str(folder / "none" / "animals.txt"), "no such file")
    yield "a link to nothing", refusal(str(folder / "away.txt"), "no such file")
    yield "a sentence as name", refusal("a cat " * 100, "Unknown prompts")
    yield "a long file name", refusal("a cat " * 100 + ".txt", "no such file")
    yield "an unknown home", refusal("~no-such-user-here/p.txt", "no such file")
    yield "a name with NUL", refusal("p\0.txt", "no such file")


def many_lines(size: int, folder: Path) -> Cases:
    """A large file, as text and as JSONL: all of it, the last included, and drawn from at once."""
    expected = [f"a cat number {index}" for index in range(size)]
    (folder / "many.txt").write_text("\n".join(expected))
    (folder / "many.jsonl").write_text("\n".join(json.dumps({"prompt": text, "n": 1}) for text in expected))
    for name in ("many.txt", "many.jsonl"):
        source = load_prompts(str(folder / name))
        drawn = source.draw(64, seed=0, iteration=0)
        problem = None if [p.text for p in source.prompts] == expected else "other prompts than in the file"
        yield name, problem if len({prompt.text for prompt in drawn}) > 32 else "draws the same prompts"
        (folder / name).unlink()


def difference(load: Callable[[], Any], expected: list[str]) -> str | None:
    """Return how the prompts that `load` gives differ from the expected ones."""
    try:
        found = [prompt.text for prompt in load().prompts]
    except Exception as error:
        return f"raised {type(error).__name__}: {str(error)[:300]}"
    return None if found == expected else f"gave {str(found)[:200]}"


def refusal(name: str, *says: str) -> str | None:
    """Return what is wrong with how the prompts `name` are refused."""
    return flaw_of_refusal(lambda: load_prompts(name), *says, error=PromptError)
