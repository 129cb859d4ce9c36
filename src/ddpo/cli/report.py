"""`ddpo report`: run folders as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpo.runtime.errors import RunFolderError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; several are laid side by side.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The HTML file. Default: report.html, in the run folder or, of several runs, here."),
    ] = None,
) -> None:
    """Write one HTML file that shows the runs and needs nothing else to be looked at."""
    from ddpo.report.page import write_page
    from ddpo.runs.folder import RunFolder, distinct_names

    folders = [RunFolder.open(path) for path in runs]
    path = output or (folders[0].report if len(folders) == 1 else Path(folders[0].report.name))
    if path.is_dir():
        raise RunFolderError(f"output: {path} is a folder; give a file, such as {path / folders[0].report.name}.")
    write_page([folder.read(name) for folder, name in zip(folders, distinct_names(runs), strict=True)], path)
    typer.echo(path)
