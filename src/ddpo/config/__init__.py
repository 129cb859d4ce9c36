"""The configuration of a run: a strict, typed tree (`tree`), read from recipes (`layers`) and overrides (`loading`)."""

from ddpo.config.changes import changes, check_changes
from ddpo.config.layers import recipes
from ddpo.config.loading import DEFAULT_RECIPE, load_config, with_settings
from ddpo.config.tree import TrainConfig
from ddpo.config.validation import parse_config

__all__ = [
    "DEFAULT_RECIPE",
    "TrainConfig",
    "changes",
    "check_changes",
    "load_config",
    "parse_config",
    "recipes",
    "with_settings",
]
