"""`ddpo reward`: a reward on its own."""

from __future__ import annotations

import typer

from ddpo.cli.reward_score import score
from ddpo.cli.reward_serve import serve

reward_app = typer.Typer(help="Use a reward on its own.", no_args_is_help=True, rich_markup_mode=None)
reward_app.command(
    epilog="Example: ddpo reward score '{jpeg-compressibility: 0.5, judge: 10}' fox.png --prompt 'a fox'"
)(score)
reward_app.command(epilog="Example: ddpo reward serve judge --port 8000")(serve)
