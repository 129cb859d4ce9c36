"""`ddpo sample`: draw pictures from a model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sample(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|CHECKPOINT", help="`embedded`, a folder, a hub id, a run, or one of its checkpoints."
        ),
    ],
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
    from ddpo.evaluation.sampling import draw_to_files, sampling_config

    config, weights = sampling_config(source, steps=steps, guidance_scale=guidance_scale, device=device)
    for path in draw_to_files(config, weights, prompt, number=number, seed=seed, output=output):
        typer.echo(path)
