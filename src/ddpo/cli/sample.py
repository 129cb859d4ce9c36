"""`ddpo sample`: draw pictures from a model or a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpo.runtime.errors import ConfigError


def sample(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN|CHECKPOINT", help="`embedded`, a folder, a hub id, a run, or one of its checkpoints."
        ),
    ],
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to draw; may be given several times. None for unconditional models.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Pictures of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first picture; the next have the next seeds.")] = 0,
    output: Annotated[
        Path,
        typer.Option(help="A .png: the picture, or a grid. A .npy: numbers. Otherwise a folder of pictures."),
    ] = Path("samples.png"),
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the run's.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(min=1, help="Guidance weight. Default: the run's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... Default: a GPU if there is one.")] = None,
) -> None:
    """Draw pictures from a model or a finished run; diffusers with the same seed draws the same."""
    from ddpo.evaluation.sampling import draw_to_files, sampling_config

    config, weights = sampling_config(source, steps=steps, guidance_scale=guidance_scale, device=device)
    if not prompt and config.prompts != "none":
        raise ConfigError("--prompt: say what to draw, such as --prompt 'a cat'.")
    for path in draw_to_files(config, weights, prompt or [""], number=number, seed=seed, output=output):
        typer.echo(path)
