"""Trainable parameters and the optimizer's moments in one safetensors file, by their order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ddpo.runtime.errors import CheckpointError

FILE = "training.safetensors"
_PARAMETER = "parameter"


def save_parameters(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write the parameters, float32, and what the optimizer keeps of each, into `folder`.

    Raises OSError or SafetensorError when the disk takes no more.
    """
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(parameters):
        for name, value in {_PARAMETER: parameter, **optimizer.state.get(parameter, {})}.items():
            tensors[f"{index:05d}.{name}"] = value.detach().cpu().contiguous()
    save_file(tensors, folder / FILE)


def load_parameters(parameters: Sequence[nn.Parameter], folder: Path) -> dict[str, Tensor]:
    """Give `parameters` the values in a folder and return all its tensors.

    Raises:
        CheckpointError: it holds other parameters than these; none is changed.
    """
    tensors: dict[str, Tensor] = load_file(folder / FILE)
    stored = [value for name, value in sorted(tensors.items()) if name.endswith(f".{_PARAMETER}")]
    if [value.shape for value in stored] != [parameter.shape for parameter in parameters]:
        raise CheckpointError(
            f"{folder} holds {len(stored)} parameters that are not the {len(parameters)} of this model and its "
            "adapters; go on with the model and lora settings it was written with."
        )
    with torch.no_grad():
        for parameter, value in zip(parameters, stored, strict=True):
            parameter.copy_(value)
    return tensors


def load_training(parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Give `parameters` the values in a folder and a fresh `optimizer` what it kept of each.

    Raises as `load_parameters` does.
    """
    tensors = load_parameters(parameters, folder)
    for index, parameter in enumerate(parameters):
        prefix = f"{index:05d}."
        kept = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        del kept[_PARAMETER]
        for name, value in kept.items():
            # moments lie in memory as their parameter does; the step count stays on the CPU
            like = value if name == "step" else torch.empty_like(parameter)
            optimizer.state[parameter][name] = like.copy_(value)
