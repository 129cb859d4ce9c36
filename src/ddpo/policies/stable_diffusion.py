"""Stable Diffusion 1.x and 2.x: a text-conditioned UNet on the latents of a VAE, with classifier-free guidance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddpo.core.forward_process import NoiseSchedule
from ddpo.core.kernel import Gaussian, Sampler, SamplerName
from ddpo.core.trajectory import Conditioning
from ddpo.policies.loading import ModelSource, load_pipeline
from ddpo.policies.lora import LoRA, add_adapter, save_adapter
from ddpo.runtime.errors import DDPOWarning, ModelError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StableDiffusionSettings:
    """How the model is sampled and trained."""

    sampler: SamplerName = "ddim"
    steps: int = 50
    eta: float = 1.0
    guidance_scale: float = 5.0
    """w of eq. 5; 1 switches guidance off."""
    cfg_training: bool = True
    """Train the guided prediction through both branches (G.1). False: replay holds the unconditional one fixed, and
    regression trains the conditional one alone."""
    precision: Precision = "fp32"
    """Arithmetic of the UNet; trainable weights, latents and log-probabilities stay in float32."""
    lora: LoRA = field(default_factory=LoRA)
    seed: int = 0
    """Seed of the adapters' first weights."""
    gradient_checkpointing: bool = False
    compile: bool = False
    decode_batch: int = 8
    """Latents decoded at a time."""


class StableDiffusionPolicy:
    """The policy of a `StableDiffusionPipeline`: UNet, guidance and sampler.

    Rollout and replay evaluate the same guided prediction in one batched pass. The network is in eval mode
    throughout: dropout would make the two phases differ. `scale_model_input` is the identity for the
    schedulers whose schedules `ddpo` reads.
    """

    def __init__(self, pipeline: Any, settings: StableDiffusionSettings, *, device: torch.device) -> None:
        """Take over a loaded pipeline; freezes everything but the weights to be trained.

        Raises:
            ModelError: the UNet takes more than the latents (inpainting, depth) or LoRA targets match nothing.
            ConfigError: sampler settings under which no step has a likelihood.
        """
        self._settings, self.device = settings, device
        self._pipeline, self._unet, self._vae = pipeline, pipeline.unet, pipeline.vae
        if self._unet.config.in_channels != self._vae.config.latent_channels:
            raise ModelError(
                f"model: its UNet takes {self._unet.config.in_channels} channels but latents have "
                f"{self._vae.config.latent_channels}; ddpo trains text-to-image models, not inpainting or depth."
            )
        self.schedule = NoiseSchedule.from_config(pipeline.scheduler.config)
        self.sampler = Sampler.create(self.schedule, settings.sampler, settings.steps, settings.eta)
        size = self._unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.sample_shape: tuple[int, ...] = (self._unet.config.in_channels, height, width)
        self._embeddings: dict[str, Tensor] = {}
        self._memory_format = torch.contiguous_format
        self._told_of_long_prompts = False
        self._place(DTYPES[settings.precision])

    @classmethod
    def load(
        cls,
        source: ModelSource,
        settings: StableDiffusionSettings,
        *,
        device: torch.device,
        weights: Path | None = None,
    ) -> StableDiffusionPolicy:
        """Load a pipeline folder or hub id; `weights` is a `model/` folder written by `save`, put on top.

        Raises:
            ModelError: it does not exist, is incomplete, or is not a Stable Diffusion 1.x/2.x pipeline.
        """
        return cls(load_pipeline(source, weights), settings, device=device)

    def _place(self, dtype: torch.dtype) -> None:
        settings = self._settings
        for part in (self._vae, self._pipeline.text_encoder, self._unet):
            part.requires_grad_(False).to(self.device).eval()
        if self._decode_dtype(dtype) != torch.float32:
            self._vae.to(self._decode_dtype(dtype))
        if settings.lora.rank is None:
            self._unet.requires_grad_(True)
        else:
            if dtype != torch.float32:
                self._unet.to(dtype)
            add_adapter(self._unet, settings.lora, settings.seed)
        if self.device.type == "cpu" and dtype == torch.bfloat16:
            self._suit_bfloat16_on_cpu()
        if settings.gradient_checkpointing:
            self._unet.enable_gradient_checkpointing()
        if settings.compile:
            self._unet.compile()

    def _suit_bfloat16_on_cpu(self) -> None:
        """Choose the kernels that make bfloat16 worth while on a CPU.

        The backward pass of fused attention is slow there, and convolutions want their channels last.
        """
        from diffusers.models.attention_processor import AttnProcessor

        self._unet.set_attn_processor(AttnProcessor())
        self._memory_format = torch.channels_last
        self._unet.to(memory_format=self._memory_format)

    def _decode_dtype(self, dtype: torch.dtype) -> torch.dtype:
        # bfloat16 has 8 bits of mantissa, fewer than a picture: half precision decodes in float16 on a GPU.
        half = dtype != torch.float32 and self.device.type == "cuda"
        return torch.float16 if half else torch.float32

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline whose UNet is being trained."""
        return self._pipeline

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters, float32."""
        return [parameter for parameter in self._unet.parameters() if parameter.requires_grad]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Return `{"prompt": (B, S, E), "negative": (B, S, E)}` text embeddings; the negative prompt is "".

        Each distinct prompt passes through the text encoder once in the life of the policy, and alone: its embedding
        does not depend on which prompts came before it, as in a run that is resumed.
        """
        wanted = dict.fromkeys([*prompts, *([""] if self._guided else [])])
        for prompt in wanted:
            if prompt not in self._embeddings:
                self._embeddings[prompt] = self._embed(prompt)
        conditioning = {"prompt": self._stack(prompts)}
        if self._guided:
            conditioning["negative"] = self._stack([""] * len(prompts))
        return conditioning

    @property
    def _guided(self) -> bool:
        return self._settings.guidance_scale != 1.0

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        self._tell_if_long(prompt)
        embeddings, _ = self._pipeline.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)
        embedding: Tensor = embeddings[0].float()
        return embedding

    def _tell_if_long(self, prompt: str) -> None:
        """Warn, once in the life of the policy, of a prompt that the text encoder cuts off."""
        if self._told_of_long_prompts:
            return
        tokenizer = self._pipeline.tokenizer
        number = len(tokenizer(prompt, verbose=False).input_ids)  # with those of beginning and end
        if number > tokenizer.model_max_length:
            self._told_of_long_prompts = True
            warnings.warn(
                f"The prompt '{prompt[:40]}...' has {number} tokens: the text encoder reads the first "
                f"{tokenizer.model_max_length} of this and of any other long prompt; rewards see the whole prompt.",
                DDPOWarning,
                stacklevel=2,
            )

    def _stack(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def step(self, x: Tensor, step_B: Tensor, conditioning: Conditioning) -> Gaussian:
        """Return the Gaussian of denoising step `step_B` `(B,)` at latents `x` `(B, C, H, W)`."""
        prediction = self._guided_prediction(x, self.sampler.timestep(step_B), conditioning)
        return self.sampler.gaussian(x, prediction, step_B)

    def predict(self, x: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction that regression trains: guided with CFG training (G.1), else the conditional one."""
        if self._settings.cfg_training:
            return self._guided_prediction(x, timestep_B, conditioning)
        return self._forward(x, timestep_B, conditioning["prompt"])

    def _guided_prediction(self, x: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the guided prediction w eps(x, c) + (1 - w) eps(x) of eq. 5, float32."""
        if not self._guided:
            return self._forward(x, timestep_B, conditioning["prompt"])
        unconditional, conditional = self._forward(
            torch.cat([x, x]),
            torch.cat([timestep_B, timestep_B]),
            torch.cat([conditioning["negative"], conditioning["prompt"]]),
        ).chunk(2)
        if not self._settings.cfg_training:
            unconditional = unconditional.detach()
        return unconditional + self._settings.guidance_scale * (conditional - unconditional)

    def _forward(self, x: Tensor, timestep_B: Tensor, embedding: Tensor) -> Tensor:
        with self._autocast():
            prediction: Tensor = self._unet(x, timestep_B, embedding, return_dict=False)[0]
        return prediction.float()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES[self._settings.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor:
        """Return images `(B, 3, H, W)` float32 in [0, 1] on the CPU of latents `(B, C, h, w)`, decoded in chunks."""
        images = []
        for latents in samples.split(self._settings.decode_batch):
            scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
            images.append((self._vae.decode(scaled, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1).cpu())
        return torch.cat(images)

    def save(self, folder: Path) -> None:
        """Write the trained weights.

        LoRA: `pipe.load_lora_weights(folder)` loads them. Full: `UNet2DConditionModel.from_pretrained(folder)`.
        """
        if self._settings.lora.rank is None:
            self._unet.to(memory_format=torch.contiguous_format).save_pretrained(folder)
            self._unet.to(memory_format=self._memory_format)  # training goes on as before, bit for bit
        else:
            save_adapter(type(self._pipeline), self._unet, folder)
