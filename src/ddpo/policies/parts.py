"""The networks of a pipeline folder, read from safetensors alone and refused when anything of them is missing.

diffusers and transformers read pickles where there are no safetensors, draw weights that a file lacks at random, and
leave out the part of an adapter that fits nowhere, all of it with a warning at most. Here each is a ModelError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ddpo.runtime.errors import ModelError

PARTS = ("unet", "vae", "text_encoder")
"""The folders of a pipeline that hold weights that are used."""
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_AGAIN = "download or copy it again"
_FIRST_MATRIX = re.compile(r"\.(lora_A|lora\.down|lora_down)\b")
"""In the names of an adapter's tensors: one of them for each layer that it changes."""


def load_parts(folder: Path, index: Mapping[str, Any], variant: str | None) -> dict[str, Any]:
    """Return the networks of a pipeline folder by their names in `PARTS`; `index` is its model_index.json.

    A part that has no weights of the variant is read without it, as diffusers does.

    Raises:
        ModelError: a part cannot be read whole, holds pickles only, or none has weights of the variant.
    """
    kinds = {part: _kind(folder, index, part) for part in PARTS}
    variants = {part: variant if _has_weights(folder / part, variant) else None for part in PARTS}
    if variant is not None and not any(variants.values()):
        raise ModelError(f"model.variant: {folder} has no weights of a variant '{variant}'; leave it out.")
    return {part: load_network(kinds[part], folder / part, variants[part]) for part in PARTS}


def check_tokenizer(folder: Path) -> None:
    """Raise ModelError unless a folder holds a vocabulary: transformers makes up an empty one where it is missing."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ModelError(f"model: {folder} has neither tokenizer.json nor vocab.json; {_AGAIN}.")


def load_network(kind: Any, folder: Path, variant: str | None = None) -> Any:
    """Return the diffusers or transformers network of class `kind` in `folder`, in float32 on the CPU.

    Raises:
        ModelError: it is not there, holds pickles only, or is damaged or incomplete.
    """
    check_safetensors(folder, _has_weights(folder, variant))
    try:
        network, report = kind.from_pretrained(folder, variant=variant, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # each library raises what it likes about files that it cannot use
        raise ModelError(f"model: {folder} cannot be loaded: {one_line(error)}; {_AGAIN}.") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model: the weights in {folder} lack {_named(missing)}; {_AGAIN}.")
    return network


def replace_network(present: Any, folder: Path) -> Any:
    """Return the network in `folder`, which must have the shapes of `present`, the one whose place it takes.

    Raises:
        ModelError: it cannot be read whole or is of another architecture.
    """
    network = load_network(type(present), folder)
    shapes, wanted = _shapes(network), _shapes(present)
    other = sorted(name for name in shapes.keys() | wanted.keys() if shapes.get(name) != wanted.get(name))
    if other:
        raise _of_another_model(folder, _named(other))
    return network


def add_trained_adapter(pipeline: Any, folder: Path) -> None:
    """Put the adapter in `folder` on the UNet of `pipeline`.

    Raises:
        ModelError: it cannot be read whole, is a pickle, or does not fit each layer that it was trained on.
    """
    from safetensors import safe_open

    found = sorted(folder.glob("*.safetensors"))
    check_safetensors(folder, bool(found))
    with safe_open(found[0], "pt") as tensors:
        number = sum(_FIRST_MATRIX.search(name) is not None for name in tensors.keys())  # noqa: SIM118 - no mapping
    try:
        pipeline.load_lora_weights(folder, weight_name=found[0].name, use_safetensors=True)
    except Exception as error:
        raise _of_another_model(folder, one_line(error)) from error
    fitting = _adapted_layers(pipeline.unet)
    if fitting == 0 or fitting != number:
        raise _of_another_model(folder, f"{fitting} of its {number} layers fit")


def check_safetensors(folder: Path, found: bool) -> None:
    """Look at the headers of a folder's safetensors files; `found`: whether the wanted ones are among them.

    Raises:
        ModelError: there are none, only pickles, or one is damaged.
    """
    from safetensors import safe_open

    if not found:
        pickles = [path for path in sorted(folder.glob("*")) if path.suffix in _PICKLES]
        if pickles:
            raise refused_pickle(pickles[0])
        raise ModelError(f"model: {folder} holds no weights (*.safetensors); {_AGAIN}.")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except Exception as error:
            raise ModelError(f"model: {path} is damaged ({one_line(error)}); {_AGAIN}.") from error


def refused_pickle(path: Path) -> ModelError:
    """Return the error for weights in a file format that runs programs."""
    name = "model" if path.stem == "pytorch_model" else path.stem  # transformers' name, without a prefix in safetensors
    target = path.with_name(f"{name}.safetensors")
    return ModelError(
        f"model: {path} is a pickle, which may run any program when it is read, and is not opened; if it holds a "
        f'mapping of tensors, convert it with python -c "import torch, safetensors.torch as s; '
        f"s.save_file(torch.load('{path}', weights_only=True), '{target}', {{'format': 'pt'}})\"."
    )


def one_line(error: BaseException, length: int = 300) -> str:
    """Return what an error says as one line without its full stop."""
    return " ".join(str(error).split())[:length].rstrip(".") or type(error).__name__


def _kind(folder: Path, index: Mapping[str, Any], part: str) -> Any:
    """Return the class that model_index.json names for a part, which must be one of diffusers or transformers."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    match index.get(part):
        case [("diffusers" | "transformers") as library, str(name)] if hasattr(libraries[library], name):
            return getattr(libraries[library], name)
        case entry:
            raise ModelError(
                f"model: {folder / 'model_index.json'} gives {entry!r} as {part}, not a class of diffusers or "
                f"transformers; {_AGAIN}."
            )


def _has_weights(folder: Path, variant: str | None) -> bool:
    """Return whether a folder holds safetensors weights, whole or in shards, of the variant or of none."""
    dot = "" if variant is None else f".{variant}"
    patterns = f"*model{dot}.safetensors", f"*model{dot}-*.safetensors", f"*model-*{dot}.safetensors"
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _adapted_layers(network: Any) -> int:
    """Return how many layers carry an adapter; peft itself refuses one of another shape."""
    from peft.tuners.lora import LoraLayer

    return sum(isinstance(module, LoraLayer) and bool(module.lora_A) for module in network.modules())


def _of_another_model(folder: Path, difference: str) -> ModelError:
    return ModelError(
        f"model: the trained weights in {folder} are of another architecture than the model that they are put on "
        f"({difference}); give the model that they were trained from."
    )


def _named(names: Iterable[str]) -> str:
    first, *more = names
    return f"'{first}'" + (f" and {len(more)} more" if more else "")
