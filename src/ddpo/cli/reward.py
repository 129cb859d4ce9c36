"""`ddpo reward`: what is done with rewards alone, without a model."""

from __future__ import annotations

import typer

from ddpo.cli.reward_serve import serve

reward_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

reward_app.command(epilog="Example: ddpo reward serve judge --port 8000")(serve)


@reward_app.callback()
def _rewards() -> None:
    """Use a reward without training."""
