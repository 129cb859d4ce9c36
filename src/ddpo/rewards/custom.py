"""The user's own rewards: `path/to/file.py:function` or `package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ddpo.errors import RewardError, nearest
from ddpo.files import expanded, is_file, is_folder
from ddpo.rewards.contract import describe


def load_function(spec: str) -> Callable[..., Any]:
    """Return the function that `path/to/file.py:function` or `package.module:function` names.

    A file's folder, or for a module the working folder, comes first on `sys.path` during the import, so that
    neighbouring files import; afterwards it stays at the end, so that imports inside the function work too.

    Raises RewardError when the file, module or function is missing, its import fails, or it is not a callable
    of three arguments.
    """
    place, _, function_name = spec.rpartition(":")
    if not place or not function_name:
        raise RewardError(f"Reward '{spec}' is not of the form path/to/file.py:function or module:function.")
    names_file = place.endswith(".py") or "/" in place or "\\" in place
    module = _import_file(spec, expanded(place)) if names_file else _import_module(spec, place)
    return _function(spec, place, module, function_name)


def anchored(spec: str) -> str:
    """Return `spec` with the path of its file, if it names one, made absolute."""
    place, _, function_name = spec.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{function_name}" if place.endswith(".py") else spec


def reference(function: object) -> str:
    """Return the `path/to/file.py:function` that loads a Python function again.

    What has no such name (a lambda, a local function, an object) gives words that `load_reward` refuses.
    """
    name = getattr(function, "__qualname__", type(function).__name__)
    source = inspect.getsourcefile(function) if inspect.isfunction(function) else None
    return f"{Path(source).resolve()}:{name}" if source and name.isidentifier() else f"a Python object, {name}"


CALLING = ("workers", "timeout", "on_error", "retries")
"""What is no option of a reward but of how rewards are called; somebody will look for it there."""


def check_signature(name: str, function: object, options: dict[str, Any]) -> None:
    """Raise RewardError unless `function(images, prompts, metadata, **options)` is a possible call."""
    if not callable(function) or inspect.isclass(function):
        kind = "a class" if inspect.isclass(function) else f"of type {type(function).__name__}"
        raise RewardError(f"Reward '{name}' is {kind}, not a function of (images, prompts, metadata).")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some compiled callables do not tell
        return
    keywords = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    valid = [p.name for p in signature.parameters.values() if p.kind in keywords]
    valid = [option for option in valid if option not in ("images", "prompts", "metadata")]
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    for option in options:
        if option not in valid and not takes_any:
            known = f" Its options: {', '.join(valid)}." if valid else " It has no options."
            hint = (
                f" How rewards are called is set by scoring.{option}." if option in CALLING else nearest(option, valid)
            )
            raise RewardError(f"Reward '{name}' has no option '{option}'.{hint}{known}")
    try:
        signature.bind(None, None, None, **options)
    except TypeError as error:
        raise RewardError(
            f"Reward '{name}' takes {signature}, but is called with (images, prompts, metadata): {error}."
        ) from error


def _import_file(spec: str, path: Path) -> ModuleType:
    if not is_file(path):
        siblings = [p.name for p in path.parent.glob("*.py")] if is_folder(path.parent) else []
        raise RewardError(f"Reward '{spec}': no file '{path}'.{nearest(path.name, siblings)}")
    path = path.resolve()
    name = f"ddpo_reward_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise RewardError(f"Reward '{spec}': '{path}' is not a Python file (.py).")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        with _first_on_path(path.parent):
            module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RewardError(f"Reward '{spec}': importing '{path}' raised {describe(error)}") from error
    return module


def _import_module(spec: str, name: str) -> ModuleType:
    try:
        with _first_on_path(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise RewardError(f"Reward '{spec}': no module '{missing}'; is it installed?") from error
        raise RewardError(f"Reward '{spec}': importing '{name}' raised {describe(error)}") from error
    except Exception as error:
        raise RewardError(f"Reward '{spec}': importing '{name}' raised {describe(error)}") from error


def _function(spec: str, place: str, module: ModuleType, name: str) -> Callable[..., Any]:
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RewardError(f"Reward '{spec}': '{place}' has no function '{name}'.{nearest(name, own)}")
    function: Callable[..., Any] = getattr(module, name)
    check_signature(spec, function, {})
    return function


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    entry = str(folder)
    known = entry in sys.path
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)
        if not known:
            sys.path.append(entry)
