"""One file per model family, on a shared base."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpo.policies.base import NetworkPolicy
    from ddpo.policies.settings import PolicySettings

_PLACES = {"NetworkPolicy": "ddpo.policies.base", "PolicySettings": "ddpo.policies.settings"}

__all__ = ["NetworkPolicy", "PolicySettings"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'ddpo.policies' has no attribute '{name}'")
