"""Low-rank adapters on a frozen network, trained in float32 and saved as stock diffusers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from ddpo.runtime.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "default"
"""Name of the trained adapter inside the network."""


class LoRA(BaseModel):
    """Which weights a low-rank adapter is put on; `rank` null trains the whole network."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    rank: int | None = Field(default=None, ge=1)
    """Rank of the adapters; null: full fine-tuning, as in the paper."""
    alpha: float | None = Field(default=None, gt=0)
    """The adapters' output is scaled by alpha / rank; null: alpha = rank."""
    target_modules: list[str] = ["to_q", "to_k", "to_v", "to_out.0"]
    """Names (or name endings) of the linear and convolution layers that get an adapter."""


def add_adapter(network: nn.Module, lora: LoRA, seed: int) -> None:
    """Freeze `network` (a diffusers model) and add trainable float32 adapters that start as the identity.

    Their first matrix is drawn from `seed`, so that every process and a repeated run start alike.

    Raises:
        ModelError: no layer of the network has one of the target names.
    """
    import torch
    from peft import LoraConfig

    assert lora.rank is not None
    network.requires_grad_(False)
    alpha = lora.alpha if lora.alpha is not None else lora.rank
    config = LoraConfig(
        r=lora.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=list(lora.target_modules)
    )
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network.add_adapter(config, adapter_name=ADAPTER)  # type: ignore[operator]
    except ValueError as error:
        raise ModelError(
            f"lora.target_modules: no layer of the model matches {', '.join(lora.target_modules)}."
        ) from error
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def save_adapter(pipeline_class: type, network: nn.Module, folder: Path) -> None:
    """Write the adapter with its alpha so that `pipe.load_lora_weights(folder)` restores it."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    pipeline_class.save_lora_weights(  # type: ignore[attr-defined]
        folder,
        unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(network, adapter_name=ADAPTER)),
        unet_lora_adapter_metadata=network.peft_config[ADAPTER].to_dict(),  # type: ignore[index,union-attr]
    )
