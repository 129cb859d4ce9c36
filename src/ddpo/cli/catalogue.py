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
        typer.Argument(
            metavar="[recipes|rewards|combinators|prompts|algorithms|models|settings]",
            help="Default: all but the settings.",
        ),
    ] = None,
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only what begins so: `settings lora`.")] = "",
) -> None:
    """List what can be named in a configuration, and its settings."""
    from ddpo.runtime.errors import nearest

    if what == "settings":
        _print_settings(prefix)
        return
    catalogue = _catalogue()
    if what is not None and what not in catalogue:
        known = [*catalogue, "settings"]
        raise ConfigError(f"There is no list '{what}'.{nearest(what, known)} Known: {', '.join(known)}.")
    for heading in catalogue if what is None else [what]:
        entries = [entry for entry in catalogue[heading] if entry[0].startswith(prefix)]
        if not entries:
            raise ConfigError(f"No name in {heading} begins with '{prefix}'; `ddpo list {heading}` shows them.")
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


def _print_settings(prefix: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from ddpo.config.reference import settings
    from ddpo.runtime.errors import nearest

    found = [setting for setting in settings() if setting.key.startswith(prefix)]
    if not found:
        raise ConfigError(f"No setting begins with '{prefix}'.{nearest(prefix, [each.key for each in settings()])}")
    table = Table("setting", "default", "what it is", box=None, pad_edge=False)
    for setting in found:
        table.add_row(setting.key, setting.default, setting.text)
    Console().print(table, markup=False)


def _needs(reward: Entry) -> str:
    """Return ` [weights: hub id; licence]`, or ` [no weights]`."""
    return f" [weights: {reward.weights}; {reward.licence}]" if reward.weights else " [no weights]"
