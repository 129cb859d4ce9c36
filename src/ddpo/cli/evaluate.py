"""`ddpo evaluate`: compare a run's model with its base model at the same prompts and seeds."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.cli.values import parsed
from ddpo.runtime.errors import ConfigError, RunFolderError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ddpo.evaluation.comparison import Comparison, Paired

WIDTH_OF_A_FILE = 120
"""Characters in a line of the table where there is no terminal to fit it to."""


def evaluate(
    source: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run, `embedded`, a folder or a hub id.")],
    prompts: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Or '{name: ..., option: ...}'. Default: the run's prompts."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="May be given several times. Default: all that the run measures."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Samples of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Another number gives other samples.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Write the result as JSON to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of a table.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
) -> None:
    """Compare a finished run with its base model, sample by sample; a model alone is only measured."""
    from ddpo.evaluation.comparison import compare
    from ddpo.runtime.files import write_atomically

    if output is not None:
        _check_writable(output)
    with _Bar() as bar:
        comparison = compare(
            source,
            prompts=None if prompts is None else parsed(prompts),
            rewards=None if reward is None else [parsed(text) for text in reward],
            seeds=seeds,
            seed=seed,
            device=device,
            progress=bar,
        )
    for reason in comparison.not_measured:
        typer.echo(f"Not measured: {reason}", err=True)
    text = json.dumps(comparison.record(), indent=1, allow_nan=False)
    if output is not None:
        try:
            write_atomically(output, text.encode())
        except OSError as error:
            typer.echo(text)
            raise _not_written(output, error, "the result stands on stdout instead") from None
    if as_json:
        typer.echo(text)
    else:
        _print_table(comparison)


def _check_writable(output: Path) -> None:
    """Make the folder of a file and see, before anything is sampled, that it can be written into."""
    if output.is_dir():
        raise ConfigError(f"--output {output} is a folder; give the name of a file.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise _not_written(output, error, "give another file") from None


def _not_written(output: Path, error: OSError, advice: str) -> RunFolderError:
    return RunFolderError(f"--output {output} cannot be written: {error.strerror}; {advice}.")


class _Bar:
    """Progress on stderr: a bar on a terminal, elsewhere a line for each model."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._progress: Progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, model: str, done: int, total: int) -> None:
        """Show that `done` of `total` samples of a model are drawn."""
        if model not in self._tasks:
            self._tasks[model] = self._progress.add_task(model, total=total)
        self._progress.update(self._tasks[model], completed=done)
        if done == total and self._progress.disable:
            from ddpo.report.wording import count

            typer.echo(f"{model}: {count(total, 'sample')}", err=True)


def _print_table(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    from ddpo.report.intervals import LEVEL
    from ddpo.report.wording import count

    prompts, seeds = len(comparison.prompts), comparison.seeds
    title = f"{count(prompts, 'prompt')} x {count(seeds, 'seed')} = {count(prompts * seeds, 'sample')}"
    headings = ["mean"] if comparison.trained is None else ["base", "trained", f"change [{100 * LEVEL:.0f} % interval]"]
    table = Table("", *headings, title=title)
    for key, label in comparison.labels.items():
        table.add_row(label, *_cells(comparison.reward(key)))
    if (diverse := comparison.diversity()) is not None:
        table.add_row("diversity within a prompt", *_cells(diverse))
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE).print(table)


def _cells(paired: Paired) -> list[str]:
    from ddpo.report.wording import plain, with_error, with_interval

    cells = [with_error(mean.mean, mean.error) for mean in (paired.base, paired.trained) if mean is not None]
    if paired.difference is not None:
        cells.append(with_interval(paired.difference, sign=True))
    return [plain(cell) for cell in cells]
