"""`ddpo train`: fine-tune a model."""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.runtime.errors import ConfigError
from ddpo.runtime.logs import shown_by

if TYPE_CHECKING:
    from ddpo.training.run_loop import TrainResult


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE|FILE.yaml] [KEY=VALUE]...", help="What to train; see `ddpo list recipes`."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder; must be empty. Default: runs/NAME.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run if its folder holds it; else begin it.")
    ] = False,
    allow_config_change: Annotated[
        bool, typer.Option("--allow-config-change", help="With --resume: even if that makes it another run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would do and cost; train and write nothing.")
    ] = False,
) -> None:
    """Fine-tune a model; without arguments, the embedded one towards smaller JPEGs."""
    from ddpo.config import load_config

    given = list(arguments or [])
    source = given.pop(0) if given and "=" not in given[0] else None
    extra = next((argument for argument in given if "=" not in argument), None)
    if extra is not None:
        raise ConfigError(f"'{extra}': give one recipe or file, first, and then settings as key=value.")
    with nullcontext() if quiet else shown_by(typer.echo):
        config = load_config(source, given)
    if output is not None:
        config = config.model_copy(update={"output": output})
    if dry_run:
        from ddpo.cli.plan import print_plan

        print_plan(config)
        return

    from ddpo.report.progress import make_display
    from ddpo.training.run import train as begin
    from ddpo.training.run import train_or_resume

    display = make_display(quiet)
    if resume:
        result = train_or_resume(config, allow_config_change=allow_config_change, display=display)
    else:
        result = begin(config, display=display)
    report_result(result)


def report_result(result: TrainResult) -> None:
    """Say what the run did and where it is; one that was interrupted ends with the signal's exit code."""
    if result.interrupted is not None:
        raise typer.Exit(result.interrupted.exit_code)
    if result.is_main:
        _print_result(result)


def _print_result(result: TrainResult) -> None:
    """Say what training did to the fixed samples and where everything is."""
    from rich.console import Console
    from rich.table import Table

    console, folder = Console(soft_wrap=True), result.folder
    number = len(result.before)
    table = Table("", "before", "after", "change", title=f"{number} fixed samples, same prompts and seeds")
    for name, label in result.labels.items():
        before, after = result.before.means[name], result.after.means[name]
        change = f"{100 * (after - before) / abs(before):+.1f} %" if before else "-"
        table.add_row(label, f"{before:.3f}", f"{after:.3f}", change)
    console.print(table)
    if folder.before_after.is_file():
        console.print(f"pictures  {folder.before_after}")
    console.print(f"curve     {folder.curve}\nmodel     {folder.model}")
    if folder.report.is_file():
        console.print(f"report    {folder.report.resolve().as_uri()}")
    prompt = f" --prompt {shlex.quote(_most_improved(result))}" if any(result.prompts) else ""
    console.print(f"try it    ddpo sample {folder.path}{prompt} --number 9", highlight=False)
    loaders = {
        "config.json": f"UNet2DConditionModel.from_pretrained('{folder.model}')",
        "pytorch_lora_weights.safetensors": f"pipe.load_lora_weights('{folder.model}')",
    }
    for file, loader in loaders.items():
        if (folder.model / file).is_file():
            console.print(f"diffusers {loader}", highlight=False)


def _most_improved(result: TrainResult) -> str:
    """Return the prompt of the fixed sample whose trained reward has risen most."""
    trained = next(iter(result.after.scores))
    return result.prompts[int((result.after.scores[trained] - result.before.scores[trained]).argmax())]
