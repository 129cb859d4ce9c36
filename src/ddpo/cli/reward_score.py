"""`ddpo reward score`: what a reward says of picture files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddpo.cli.values import parsed
from ddpo.runtime.errors import ConfigError

if TYPE_CHECKING:
    from ddpo.rewards.contract import Array

UNBOUNDED = 10_000
"""Characters in a line where there is no terminal to fit it to: a picture's row is one line."""


def score(
    reward: Annotated[
        str, typer.Argument(metavar="REWARD", help="As in a configuration: a name, my.py:function, {judge: 10, ...}.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, WebP, or folders of them.")],
    prompt: Annotated[str, typer.Option(help="What the pictures should show.")] = "",
    metadata: Annotated[str, typer.Option(metavar="JSON", help='The prompt\'s metadata: {"animal": "fox"}.')] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score pictures with a reward and each of its components; higher is better."""
    from ddpo.rewards import Scorer, check_media, load_reward
    from ddpo.rewards.pictures import find_pictures, score_pictures

    about = _metadata(metadata)
    chosen = load_reward(parsed(reward))
    check_media(chosen, "image")
    scorer = Scorer([chosen], [])
    files = find_pictures(images)
    scores = score_pictures(scorer, files, prompt, about)
    if as_json:
        typer.echo(json.dumps(_record(files, scores, scorer.labels, prompt), indent=1, allow_nan=False))
    else:
        _print_table(files, scores, scorer.labels)


def _metadata(text: str) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f'--metadata is not JSON ({error}); write it as \'{{"animal": "fox"}}\'.') from None
    if not isinstance(metadata, dict):
        raise ConfigError(f'--metadata {text} is not a JSON object; write it as \'{{"animal": "fox"}}\'.')
    return metadata


def _record(files: list[Path], scores: dict[str, Array], labels: dict[str, str], prompt: str) -> dict[str, Any]:
    pictures = [
        {"file": str(file), "rewards": {key: float(score_B[index]) for key, score_B in scores.items()}}
        for index, file in enumerate(files)
    ]
    return {"reward": next(iter(scores)), "labels": labels, "prompt": prompt, "pictures": pictures}


def _print_table(files: list[Path], scores: dict[str, Array], labels: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("picture", overflow="fold")
    for key in scores:
        table.add_column(Text(labels[key]), justify="right")
    for index, file in enumerate(files):
        table.add_row(Text(str(file)), *(f"{score_B[index]:.4f}" for score_B in scores.values()))
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table)
