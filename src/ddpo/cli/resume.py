"""`ddpo resume`: go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpo.cli.train import report_result


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, such as iterations=200.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Its name, or `best`. Default: the latest.")] = None,
    allow_config_change: Annotated[
        bool, typer.Option("--allow-config-change", help="Go on even with settings that make it another run.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Go on with a run that was interrupted or failed, exactly as if nothing had happened; or make it longer."""
    from ddpo.report.progress import make_display
    from ddpo.training.run import resume as go_on

    result = go_on(
        run,
        list(overrides or []),
        checkpoint=checkpoint,
        allow_config_change=allow_config_change,
        display=make_display(quiet),
    )
    report_result(result)
