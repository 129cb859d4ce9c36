"""The command line: parse, call, print. Errors a user can cause end with one sentence and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.errors import ConfigError, DDPOError

if TYPE_CHECKING:
    from ddpo.config import TrainConfig
    from ddpo.run import TrainResult

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
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while waiting stall on a busy machine
    try:
        app()
    except DDPOError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)


def _version(shown: bool) -> None:
    if shown:
        from ddpo import __version__

        typer.echo(f"ddpo {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of `ddpo` itself."""


@app.command(epilog="Example: ddpo train reward=my.py:redness prompts=my.txt learning_rate=1e-4 --output runs/red")
def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE|FILE.yaml] [KEY=VALUE]...", help="What to train; see `ddpo list recipes`."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; must be empty. Default: runs/NAME.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Fine-tune a model; without arguments, the embedded one towards smaller JPEGs."""
    from ddpo.config import load_config

    given = list(arguments or [])
    source = given.pop(0) if given and "=" not in given[0] else None
    extra = next((argument for argument in given if "=" not in argument), None)
    if extra is not None:
        raise ConfigError(f"'{extra}': give one recipe or file, first, and then settings as key=value.")
    config = load_config(source, given)
    if output is not None:
        config = config.model_copy(update={"output": output})

    from ddpo.display import make_display
    from ddpo.run import train as run

    result = run(config, display=make_display(quiet))
    if result.is_main:
        _print_result(config, result)
    if result.interrupted:
        raise typer.Exit(130)


def _print_result(config: TrainConfig, result: TrainResult) -> None:
    """Say what training did to the fixed samples and where everything is."""
    from rich.console import Console
    from rich.table import Table

    console, folder = Console(soft_wrap=True), result.folder
    number = len(result.before.pixels)
    table = Table("", "before", "after", "change", title=f"{number} fixed samples, same prompts and seeds")
    for name, label in result.labels.items():
        before, after = result.before.means[name], result.after.means[name]
        change = f"{100 * (after - before) / abs(before):+.1f} %" if before else "-"
        table.add_row(label, f"{before:.3f}", f"{after:.3f}", change)
    console.print(table)
    console.print(f"pictures  {folder.before_after}\ncurve     {folder.curve}\nmodel     {folder.model}")
    console.print(f"try it    ddpo sample {folder.path} --prompt 'a cat' --number 9", highlight=False)
    if config.lora.rank is None:
        loader = f"UNet2DConditionModel.from_pretrained('{folder.model}')"
    else:
        loader = f"pipe.load_lora_weights('{folder.model}')"
    console.print(f"diffusers {loader}", highlight=False)


@app.command(epilog="Example: ddpo sample runs/emoji-compressibility --prompt 'a fox' --number 9 --output foxes.png")
def sample(
    source: Annotated[str, typer.Argument(metavar="MODEL|RUN", help="`embedded`, a folder, a hub id or a run.")],
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be given several times.")],
    number: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture; the next have the next seeds.")] = 0,
    output: Annotated[
        Path, typer.Option(help="A .png: the picture, or a grid of several. Otherwise a folder for single pictures.")
    ] = Path("samples.png"),
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the run's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=1, help="Guidance weight. Default: the run's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
) -> None:
    """Draw pictures from a model or a finished run; diffusers with the same seed draws the same."""
    from ddpo.sampling import draw_pictures, sampling_config

    config, weights = sampling_config(source, steps=steps, guidance_scale=guidance_scale, device=device)
    for path in draw_pictures(config, weights, prompt, number=number, seed=seed, output=output):
        typer.echo(path)


@app.command("list", epilog="Example: ddpo list rewards")
def list_names(
    what: Annotated[
        str | None, typer.Argument(metavar="[recipes|rewards|prompts|algorithms|models]", help="Default: all.")
    ] = None,
) -> None:
    """List what can be named in a configuration."""
    from ddpo.errors import nearest

    catalogue = _catalogue()
    if what is not None and what not in catalogue:
        raise ConfigError(f"There is no list '{what}'.{nearest(what, catalogue)} Known: {', '.join(catalogue)}.")
    for heading in catalogue if what is None else [what]:
        entries = list(catalogue[heading])
        width = max(len(name) for name, _ in entries)
        typer.echo(f"{heading}:")
        for name, line in entries:
            typer.echo(f"  {name:<{width}}  {line}")


def _catalogue() -> dict[str, Iterable[tuple[str, str]]]:
    from ddpo.algorithms import ALGORITHMS
    from ddpo.config import recipes
    from ddpo.policies.loading import KNOWN_MODELS
    from ddpo.prompts import available_prompts
    from ddpo.rewards import available_rewards

    def first_line(documented: type) -> str:
        return (documented.__doc__ or "").partition("\n")[0]

    return {
        "recipes": recipes(),
        "rewards": available_rewards(),
        "prompts": available_prompts(),
        "algorithms": [(name, first_line(kind)) for name, kind in ALGORITHMS.items()],
        "models": KNOWN_MODELS.items(),
    }
