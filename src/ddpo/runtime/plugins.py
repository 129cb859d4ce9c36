"""What users write themselves, found by name: `path/to/file.py:name` or `package.module:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ddpo.runtime.errors import DDPOError, nearest
from ddpo.runtime.files import expanded, is_file, is_folder

importing: list[str] = []
"""Files that are being imported, the innermost last."""
LONGEST_TEXT = 300
"""Characters of an exception's text that are told."""


def is_plugin(name: object) -> bool:
    """Return whether a name stands for a user's own object: `path/to/file.py:name` or `package.module:name`."""
    return isinstance(name, str) and ":" in name and "://" not in name


def load_object(spec: str, what: str, kind: type[DDPOError]) -> Any:
    """Return the object that `path/to/file.py:name` or `package.module:name` names.

    A file's folder, or for a module the working folder, comes first on `sys.path` during the import, so that
    neighbouring files import; afterwards it stays at the end, so that imports inside a function work too.

    `what` is its word in messages (`Reward`). Raises `kind` when the file, module or object is missing, or its import
    fails.
    """
    place, _, name = spec.rpartition(":")
    where = f"{what} '{spec}'"
    if not place or not name:
        raise kind(f"{where} is not of the form path/to/file.py:name or module:name.")
    names_file = place.endswith(".py") or "/" in place or "\\" in place
    module = _import_file(where, expanded(place), kind) if names_file else _import_module(where, place, kind)
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise kind(f"{where}: '{place}' has no '{name}'.{nearest(name, own)}")
    return getattr(module, name)


def anchored(spec: str) -> str:
    """Return `spec` with the path of its file, if it names one, made absolute."""
    place, _, name = spec.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{name}" if place.endswith(".py") else spec


def reference(thing: object) -> str:
    """Return the `path/to/file.py:name` that loads a Python function or class again.

    What has no such name (a lambda, a local function, an object, what stands in a notebook) gives words that cannot be
    loaded.
    """
    name = getattr(thing, "__qualname__", type(thing).__name__)
    try:
        source = inspect.getsourcefile(thing) if inspect.isfunction(thing) or inspect.isclass(thing) else None
    except (OSError, TypeError):  # defined where there is no file
        source = None
    named = source is not None and is_file(Path(source)) and name.isidentifier()
    return f"{Path(str(source)).resolve()}:{name}" if named else f"a Python object, {name}"


def describe(error: BaseException) -> str:
    """Return `Kind: text (file, line n)` on one line, the place being where the exception was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = text_of(error)
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def text_of(error: BaseException) -> str:
    """Return what an exception of the user's code says, on one line; nothing if it fails to say it."""
    try:
        return " ".join(str(error).split())[:LONGEST_TEXT]
    except Exception:
        return ""


def _import_file(where: str, path: Path, kind: type[DDPOError]) -> ModuleType:
    if not is_file(path):
        siblings = [p.name for p in path.parent.glob("*.py")] if is_folder(path.parent) else []
        raise kind(f"{where}: no file '{path}'.{nearest(path.name, siblings)}")
    path = path.resolve()
    content = str(path).encode() + path.read_bytes()  # a file that was edited is another module
    name = f"ddpo_plugin_{path.stem}_{hashlib.sha256(content).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]  # a policy and a reward of one file share its objects
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise kind(f"{where}: '{path}' is not a Python file (.py).")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    importing.append(str(path))
    try:
        with _first_on_path(path.parent):
            module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        if isinstance(error, DDPOError):
            raise
        raise kind(f"{where}: importing '{path}' raised {describe(error)}") from error
    finally:
        importing.pop()
    return module


def _import_module(where: str, name: str, kind: type[DDPOError]) -> ModuleType:
    try:
        with _first_on_path(Path.cwd()):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise kind(f"{where}: no module '{missing}'; is it installed?") from error
        raise kind(f"{where}: importing '{name}' raised {describe(error)}") from error
    except Exception as error:
        raise kind(f"{where}: importing '{name}' raised {describe(error)}") from error


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
