"""`ddpo list`: what can be named in a configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.runtime.errors import ConfigError

if TYPE_CHECKING:
    from ddpo.rewards.registry import Entry


def list_names(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[recipes|rewards|combinators|prompts|algorithms|models]", help="Default: all."),
    ] = None,
) -> None:
    """List what can be named in a configuration."""
    from ddpo.runtime.errors import nearest

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
    from ddpo.rewards import available_combinators, reward_entries

    def first_line(documented: type) -> str:
        return (documented.__doc__ or "").partition("\n")[0]

    return {
        "recipes": recipes(),
        "rewards": [(name, f"{entry.description}{_needs(entry)}") for name, entry in reward_entries().items()],
        "combinators": available_combinators(),
        "prompts": available_prompts(),
        "algorithms": [(name, first_line(kind)) for name, kind in ALGORITHMS.items()],
        "models": KNOWN_MODELS.items(),
    }


def _needs(reward: Entry) -> str:
    """Return ` [weights: hub id; licence]`, or ` [no weights]`."""
    return f" [weights: {reward.weights}; {reward.licence}]" if reward.weights else " [no weights]"
