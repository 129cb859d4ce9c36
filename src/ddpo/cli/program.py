"""The program `ddpo`. Errors a user can cause end with one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, TextIO

import typer

from ddpo.cli.catalogue import list_names
from ddpo.cli.doctor import doctor
from ddpo.cli.evaluate import evaluate
from ddpo.cli.new import new
from ddpo.cli.push import push
from ddpo.cli.report import report
from ddpo.cli.reproduce import reproduce
from ddpo.cli.resume import resume
from ddpo.cli.reward import reward_app
from ddpo.cli.sample import sample
from ddpo.cli.train import train
from ddpo.runtime.errors import DDPOError, DDPOWarning
from ddpo.runtime.signals import Interrupted

app = typer.Typer(
    help="Fine-tune diffusion models with reinforcement learning: a model, prompts, a reward, higher scores.",
    epilog="Example: ddpo train reward=jpeg-incompressibility iterations=20",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; the console script `ddpo`."""
    for library in ("DIFFUSERS", "TRANSFORMERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting stall on a busy machine
    warnings.showwarning = _show_warning
    try:
        app()
    except DDPOError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except Interrupted as stopped:
        typer.echo("Interrupted before the run had begun: nothing was written; give the same command again.", err=True)
        sys.exit(stopped.exit_code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning of ddpo as one sentence, any other as Python does."""
    if issubclass(category, DDPOWarning):
        typer.echo(f"Warning: {message}", err=True)
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def _version(shown: bool) -> None:
    if shown:
        from ddpo.runtime.version import __version__

        typer.echo(f"ddpo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of `ddpo` itself."""


app.command(epilog="Example: ddpo train reward=my.py:redness prompts=my.txt learning_rate=1e-4 --output runs/red")(
    train
)
app.command(epilog="Example: ddpo new red --model path/to/my-model --reward my.py:redness --prompts my.txt")(new)
app.command(epilog="Example: ddpo resume runs/emoji-compressibility iterations=40")(resume)
app.command(epilog="Example: ddpo sample runs/emoji-compressibility --prompt 'a fox' --number 9 --output foxes.png")(
    sample
)
app.command(epilog="Example: ddpo reproduce figure-3 --seeds 1 --budget 0.25")(reproduce)
app.command(epilog="Example: ddpo evaluate runs/emoji-compressibility --prompts activities --seeds 8")(evaluate)
app.command(epilog="Example: ddpo report runs/emoji-compressibility")(report)
app.command(epilog="Example: ddpo push runs/red my-name/red-lora --private")(push)
app.command(epilog="Example: ddpo doctor aesthetic-lora batch_size=4; ddpo doctor runs/emoji-compressibility")(doctor)
app.add_typer(reward_app, name="reward")
app.command("list", epilog="Example: ddpo list rewards")(list_names)
