"""`ddpo new`: a commented file for a run of one's own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.runtime.errors import ConfigError

if TYPE_CHECKING:
    from ddpo.config import TrainConfig

_QUESTIONS = {
    "model": ("The model: `embedded`, a folder in diffusers format, or a hub id", "embedded"),
    "reward": ("The reward: a name of `ddpo list rewards`, or FILE.py:function", "jpeg-compressibility"),
    "prompts": ("The prompts: a name of `ddpo list prompts`, or a .txt file with a prompt a line", "simple-animals"),
}
"""What is asked for, and what is meant by an empty answer."""


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the run; the file is NAME.yaml.")],
    model: Annotated[str | None, typer.Option(help="Not asked for then.")] = None,
    reward: Annotated[str | None, typer.Option(help="Not asked for then.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Not asked for then.")] = None,
) -> None:
    """Write a commented file for a run of your own, after three questions."""
    from ddpo.config import load_config

    file = Path(f"{name.removesuffix('.yaml')}.yaml")
    if file.exists():
        raise ConfigError(f"{file} is there already and is never overwritten; give another name.")
    given = {"model": model, "reward": reward, "prompts": prompts}
    answers = {key: value if value is not None else _ask(key) for key, value in given.items()}
    text = _text(file, load_config(None, [f"{key}={value}" for key, value in answers.items()]), answers)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
    typer.echo(f"{file} is written. Try it with `ddpo doctor {file}`, train with `ddpo train {file}`.")


def _text(file: Path, config: TrainConfig, answers: Mapping[str, str]) -> str:
    """Return the file: the answers, and what is changed most often as it would be without it, with a comment each."""
    embedded = config.model.name == "embedded"
    rank = "null" if config.lora.rank is None else config.lora.rank
    rows = [
        (f"extends: {'emoji-compressibility' if embedded else 'stable-diffusion'}", "gives what is not said here"),
        *((f"{key}: {answer}", "") for key, answer in answers.items()),
        (f"iterations: {config.iterations}", "`ddpo resume` makes a run longer"),
        (f"samples_per_iteration: {config.samples_per_iteration}", "drawn and scored: more make a steadier curve"),
        (
            f"batch_size: {config.batch_size}",
            "in one pass of the network: fewer need less memory",
        ),
        (
            f"learning_rate: {config.learning_rate:.1e}",
            "reward flat, kl/step tiny: x 3; clip_fraction above half: / 3",
        ),
        (f"lora: {{rank: {rank}}}", "null trains the whole network"),
        ("evaluation:", "the same prompts and seeds, drawn again through training"),
        (f"  number: {config.evaluation.number}", ""),
        (f"  every: {config.evaluation.every}", "iterations"),
        ("  rewards: []", "measured besides the trained one: what must not suffer"),
        ("  kl_to_base: true", "how far the model goes from what it was"),
        ("stop_when: []", "for instance [evaluation/kl_to_base > 60]"),
    ]
    width = max(len(setting) for setting, _ in rows)
    head = (
        f"# ddpo doctor {file} tries it; ddpo train {file} --dry-run says what it costs, without --dry-run it trains.\n"
    )
    head += "# Every setting with its default: ddpo list settings\n\n"
    return head + "".join(f"{f'{setting:<{width}}  # {words}' if words else setting}\n" for setting, words in rows)


def _ask(key: str) -> str:
    """Return the answer to a question, or its default where nobody can be asked."""
    question, default = _QUESTIONS[key]
    return str(typer.prompt(question, default=default, err=True)) if sys.stdin.isatty() else default
