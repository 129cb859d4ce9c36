"""`ddpo list`: what can be named in a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from ddpo.errors import ConfigError


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
