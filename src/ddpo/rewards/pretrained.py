"""Pretrained networks of the rewards: found in a folder or on the hub, loaded without pickle, in float32, in eval mode.

Everything that can go wrong here is a RewardError that says which option to change.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from ddpo.rewards.contract import Array
from ddpo.runtime.errors import RewardError, connection_failed

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Head = list[tuple["Tensor", "Tensor"]]
"""Affine layers, nothing between: weight `(O, I)` and bias `(O,)` of each, in order."""


def resolve_device(device: str) -> torch.device:
    """Return the device that `device` names; `auto` is the GPU of this process where there is one, else the CPU.

    Raises RewardError for a device that torch does not know or that is not there.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise RewardError(f"device: '{device}' cannot be used here; give auto, cpu or a GPU that exists.") from error
    return torch.device(device)


def load_network(
    kind: Any, source: str, device: str, *, option: str = "model", dtype: torch.dtype | None = None
) -> Any:
    """Return the transformers model of class `kind` in `source`, a folder or hub id, float32 unless `dtype` is given.

    Only safetensors are read. Raises RewardError when it cannot be found or lacks weights: transformers alone would
    draw missing weights at random and only warn.
    """
    import torch

    place = resolve_device(device)
    with loading(source, option):
        network, report = kind.from_pretrained(
            source, dtype=dtype or torch.float32, use_safetensors=True, output_loading_info=True
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise RewardError(f"{option}: {source} has no weights '{missing[0]}'; give a {kind.__name__}.")
        return network.to(place).eval().requires_grad_(False)


def filled(network: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """Return a network with its weights from a checkpoint, all of them, in float32 on the device, to be used only."""
    network.load_state_dict(tensors)
    return network.float().to(device).eval().requires_grad_(False)


def renamed(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    """Return a tensor's name after each regular expression was replaced, in order."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def in_batches(function: Callable[..., Tensor], batch_size: int, *columns: Any) -> Array:
    """Return the values `(B,)` that a network gives to `B` rows of the columns, `batch_size` at a time, in float64."""
    import torch

    starts = range(0, len(columns[0]), batch_size)
    with torch.no_grad():
        parts = [function(*(column[first : first + batch_size] for column in columns)) for first in starts]
    value_B: Array = torch.cat(parts).double().cpu().numpy()
    return value_B


def load_tokenizer(source: str, option: str = "model") -> Any:
    """Return the tokenizer in `source`, a folder or hub id; raises RewardError when it cannot be found."""
    from transformers import AutoTokenizer

    with loading(source, option):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def read_checkpoint(weights: str, name: str) -> dict[str, Tensor]:
    """Return the tensors `{name: tensor}` of a safetensors or .pt/.pth file, the latter also below `state_dict`.

    `weights` is the file, a hub id or folder with the file `name`, or a folder with one safetensors file.
    Raises RewardError when it cannot be found or read, or holds something else.
    """
    import torch
    from safetensors.torch import load_file

    path = _find_file(weights, name)
    with loading(str(path), "weights"):
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        # Safe although the format is a pickle: weights_only interprets it with torch's own reader, which builds
        # tensors and plain containers and refuses every other name, so a hostile file raises instead of running.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols that a hostile file may have
                content = torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:  # whose own text tells people to switch the protection off
            raise RewardError(
                f"weights: {path} is damaged or holds more than tensors, and was not read, since a pickle may run any "
                f"program; give the file as its authors publish it, or a safetensors file."
            ) from error
        content = content.get("state_dict", content) if isinstance(content, dict) else {}
        return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _find_file(weights: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        candidates = [path / name] if (path / name).is_file() else sorted(path.glob("*.safetensors"))
        if len(candidates) != 1:
            raise RewardError(f"weights: {path} holds neither {name} nor exactly one safetensors file; give the file.")
        return candidates[0]
    with loading(weights, "weights"):
        return Path(hf_hub_download(weights, name))


def read_head(tensors: Mapping[str, Tensor], prefix: str, width: int, source: str, device: torch.device) -> Head:
    """Return the layers `{prefix}N.weight`, `{prefix}N.bias` in the order of N, in float32.

    The gaps in the numbers are dropout layers, which do nothing when a picture is scored. Raises RewardError, naming
    their `source`, unless they lead from `width` numbers to one.
    """
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.weight")
    numbers = sorted(int(match[1]) for match in map(pattern.fullmatch, tensors) if match)
    layers = [(tensors[f"{prefix}{n}.weight"], tensors.get(f"{prefix}{n}.bias")) for n in numbers]
    sizes = [width, *(weight.shape[0] for weight, _ in layers)]
    fits = all(
        bias is not None and tuple(weight.shape) == (outputs, inputs) and tuple(bias.shape) == (outputs,)
        for (weight, bias), inputs, outputs in zip(layers, sizes, sizes[1:], strict=False)
    )
    if not layers or not fits or sizes[-1] != 1:
        raise RewardError(
            f"weights: {source} holds no layers '{prefix}N' from {width} numbers to one; give the head for this "
            "embedding."
        )
    return [(weight.float().to(device), bias.float().to(device)) for weight, bias in layers if bias is not None]


def apply_head(head: Head, embedding_BE: Tensor) -> Tensor:
    """Return the number `(B,)` that the head makes of each embedding `(B, E)`."""
    from torch.nn import functional

    for weight, bias in head:
        embedding_BE = functional.linear(embedding_BE, weight, bias)
    return embedding_BE[:, 0]


@contextmanager
def loading(source: str, option: str) -> Iterator[None]:
    """Keep transformers quiet and make a RewardError of what fails while `source`, `option`'s value, is loaded."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except RewardError:
        raise
    except Exception as error:
        if not Path(source).exists() and connection_failed(error):
            raise RewardError(
                f"{option}: {source} is not in the local cache and the hub cannot be reached; "
                f"download it where there is a network, or give a folder as '{option}'."
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise RewardError(f"{option}: {source} cannot be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
