"""What a model costs, counted on its own networks without their weights: torch's FLOP counter on the meta device.

1 multiply-add = 2 FLOPs. On the meta device tensors have shapes and no numbers, so nothing is computed or allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ddpo.doctor.architecture import Architecture
from ddpo.policies.lora import LoRA, add_adapter
from ddpo.runtime.errors import ModelError


@dataclass(frozen=True)
class Figures:
    """What one model costs as it is trained. FLOPs and activations are those of one row, a sample without guidance."""

    sample_shape: tuple[int, int, int]
    """Shape of a latent, `(C, H, W)`."""
    embedding_shape: tuple[int, int]
    """Shape of a prompt's embedding, `(S, E)`."""
    forward_flops: int
    """Of the network's forward pass."""
    backward_flops: int
    """Of its backward pass; with gradient checkpointing the repeated forward pass is among them."""
    decode_flops: int
    """Of decoding one latent."""
    encode_flops: int
    """Of encoding one prompt."""
    activation_bytes: int
    """What the forward pass keeps for the backward pass, in float32 and with fused attention."""
    trained: int
    """Trained numbers."""
    frozen: int
    """Numbers that are held and not trained: of the network and the VAE."""
    text_encoder: int
    """Numbers of the text encoder."""


def count(architecture: Architecture, lora: LoRA, *, gradient_checkpointing: bool) -> Figures:
    """Count what training the model of `architecture` costs; takes seconds and no memory.

    Raises:
        ModelError: no model can be built from the configurations, or LoRA targets match nothing.
    """
    try:
        network, vae, text_encoder = build_networks(architecture, lora, gradient_checkpointing=gradient_checkpointing)
        tokens, width = text_encoder.config.max_position_embeddings, text_encoder.config.hidden_size
        with torch.device("meta"):
            latent, prompt = torch.empty(1, *architecture.latent_shape), torch.zeros(1, tokens, dtype=torch.int64)
            inputs = latent, torch.zeros(1, dtype=torch.int64), torch.empty(1, tokens, width)
        activations = _Activations(network)
        with activations:
            prediction, forward_flops = _flops(lambda: network(*inputs, return_dict=False)[0])
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        return Figures(
            sample_shape=architecture.latent_shape,
            embedding_shape=(tokens, width),
            forward_flops=forward_flops,
            backward_flops=_flops(lambda: prediction.sum().backward())[1],
            decode_flops=_flops(lambda: vae.decode(latent))[1],
            encode_flops=_flops(lambda: text_encoder(prompt))[1],
            activation_bytes=activations.total,
            trained=trained,
            frozen=_size(network) + _size(vae) - trained,
            text_encoder=_size(text_encoder),
        )
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"model: its configuration describes no text-to-image model: {reason}") from error


def build_networks(architecture: Architecture, lora: LoRA, *, gradient_checkpointing: bool) -> tuple[Any, Any, Any]:
    """Return UNet, VAE and text encoder on the meta device, the UNet adapted as the policy does it."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(dict(architecture.unet)).eval()
        vae = AutoencoderKL.from_config(dict(architecture.vae)).eval().requires_grad_(False)
        text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(dict(architecture.text_encoder)))
    if lora.rank is not None:
        add_adapter(network, lora, seed=0)
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network, vae, text_encoder.eval().requires_grad_(False)


def _flops(action: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of `action` and its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        result = action()
    return result, counter.get_total_flops()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Activations(saved_tensors_hooks):
    """Adds up what autograd keeps under it, each storage once and the network's weights not at all.

    Attention is taken apart into matrix products on the meta device, and autograd keeps the maps between positions; the
    fused kernels of CPUs and GPUs do not. So a square matrix for each head is left out.
    """

    def __init__(self, network: nn.Module) -> None:
        self._kept: dict[int, int] = {}
        self._left_out = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._kept[storage._cdata] = storage.nbytes()
        if tensor.ndim == 3 and tensor.shape[1] == tensor.shape[2]:
            self._left_out.add(storage._cdata)
        return tensor

    @property
    def total(self) -> int:
        """Bytes kept."""
        return sum(size for storage, size in self._kept.items() if storage not in self._left_out)
