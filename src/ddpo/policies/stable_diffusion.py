"""Stable Diffusion 1.x and 2.x: a text-conditioned UNet on the latents of a VAE, with classifier-free guidance."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddpo.core.conditioning import Conditioning
from ddpo.core.prompt import Prompt
from ddpo.media.image import Image
from ddpo.media.medium import Medium
from ddpo.policies.base import NetworkPolicy
from ddpo.policies.embeddings import EmbeddingCache
from ddpo.policies.loading import ModelSource, load_pipeline
from ddpo.policies.lora import add_adapter, save_adapter
from ddpo.policies.schedule import read_schedule
from ddpo.policies.settings import DTYPES, PolicySettings
from ddpo.runtime.errors import ConfigError, DDPOWarning, ModelError

DECODE_BATCH = 8
"""Latents decoded at a time."""


class StableDiffusionPolicy(NetworkPolicy):
    """The policy of a `StableDiffusionPipeline`: UNet, guidance and kernel.

    Rollout and replay evaluate the same guided prediction in one batched pass. The network is in eval mode
    throughout: dropout would make the two phases differ. `scale_model_input` is the identity for the
    schedulers whose schedules `ddpo` reads.
    """

    medium: Medium = Image()

    def __init__(self, pipeline: Any, settings: PolicySettings) -> None:
        """Take over a loaded pipeline; freezes everything but the weights to be trained.

        Raises:
            ModelError: the UNet takes more than the latents (inpainting, depth) or LoRA targets match nothing.
            ConfigError: sampler settings under which no step has a likelihood, or none is guided.
        """
        self._settings, self._pipeline = settings, pipeline
        self._unet, self._vae = pipeline.unet, pipeline.vae
        channels, latent_channels = self._unet.config.in_channels, self._vae.config.latent_channels
        if channels != latent_channels:
            raise ModelError(
                f"model: its UNet takes {channels} channels but latents have {latent_channels}; ddpo trains "
                "text-to-image models, not inpainting or depth."
            )
        if settings.lora.rank is not None and getattr(self._unet, "peft_config", None):
            raise ModelError(
                "model: its UNet has adapters already, of an earlier run perhaps; load the pipeline anew, or merge "
                "them first (pipe.fuse_lora(), pipe.unload_lora_weights())."
            )
        schedule = read_schedule(pipeline.scheduler.config)
        kernel = settings.kernel(schedule)
        size = self._unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self._embedding_dtype = torch.float32
        self._told_of_long_prompts = False
        self._embeddings = EmbeddingCache(self._embed)
        self.device = settings.device
        self._place(DTYPES[settings.precision])
        keep_base = settings.keep_base and settings.lora.rank is None
        shape = (channels, height, width)
        super().__init__(self._unet, kernel, schedule, shape, settings.device, keep_base=keep_base)
        self.trains_guidance = settings.cfg_training
        self._first_guided, self._last_guided = self._guided_times()

    @classmethod
    def from_source(
        cls, source: ModelSource, settings: PolicySettings, weights: Path | None = None
    ) -> StableDiffusionPolicy:
        """Load a pipeline folder or hub id; `weights` is a `model/` folder written by `save`, put on top.

        Raises:
            ModelError: it does not exist, is incomplete, or is not a Stable Diffusion 1.x/2.x pipeline.
        """
        return cls(load_pipeline(source, weights), settings)

    def _place(self, dtype: torch.dtype) -> None:
        """Put the parts on the device, in the arithmetic and layout that is fast there."""
        from diffusers.models.attention_processor import AttnProcessor

        settings = self._settings
        for part in (self._vae, self._unet, self._pipeline.text_encoder):
            part.requires_grad_(False).to(torch.float32).eval()  # a loaded pipeline may be in half precision
        for part in (self._vae, self._unet):
            part.to(self.device)
        if self._decode_dtype(dtype) != torch.float32:
            self._vae.to(self._decode_dtype(dtype))
        if settings.lora.rank is None:
            self._unet.requires_grad_(True)
        else:
            self._unet.to(dtype)
            self._embedding_dtype = dtype  # autocast leaves the normalisation of pooled embeddings alone
            add_adapter(self._unet, settings.lora, settings.seed)
        if self.device.type == "cpu" and dtype == torch.bfloat16:
            self._unet.set_attn_processor(AttnProcessor())  # the backward pass of fused attention is slow there
        self._unet.to(memory_format=torch.channels_last)
        if settings.gradient_checkpointing:
            self._unet.enable_gradient_checkpointing()
        if settings.compile:
            self._unet.compile()

    def _decode_dtype(self, dtype: torch.dtype) -> torch.dtype:
        # bfloat16 has 8 bits of mantissa, fewer than a picture: half precision decodes in float16 on a GPU.
        half = dtype != torch.float32 and self.device.type == "cuda"
        return torch.float16 if half else torch.float32

    @property
    def pipeline(self) -> Any:
        """The diffusers pipeline whose UNet is being trained."""
        return self._pipeline

    @contextmanager
    def base_model(self) -> Iterator[None]:
        """Switch the adapters off, or give the parameters the values they had before training."""
        if self._settings.lora.rank is None:
            with super().base_model():
                yield
            return
        self._unet.disable_adapters()
        try:
            yield
        finally:
            self._unet.enable_adapters()

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Return text embeddings: `prompt` `(B, S, E)`, and with guidance `negative`, those of "".

        Each distinct prompt passes through the text encoder alone: its embedding does not depend on which prompts came
        before it, as in a run that is resumed.
        """
        rows, row_B = self._embeddings.rows([prompt.text for prompt in prompts], self.device)
        if not self._guided:
            return Conditioning(row_B, {"prompt": rows})
        negative, _ = self._embeddings.rows([""], self.device)
        return Conditioning(row_B, {"prompt": rows}, {"negative": negative[0]})

    @property
    def _guided(self) -> bool:
        return self._settings.guidance_scale != 1.0

    def _guided_times(self) -> tuple[float, float]:
        """Return the noisiest and the cleanest time at which the prediction is guided.

        Raises:
            ConfigError: the interval holds none of the steps.
        """
        times = self.kernel.time(torch.arange(len(self.kernel))).tolist()
        begin, end = (round(share * len(times)) for share in self._settings.guidance_interval)
        if begin >= end:
            raise ConfigError(f"guidance_interval: it holds none of the {len(times)} steps; widen it.")
        return times[begin] if begin else torch.inf, times[end - 1] if end < len(times) else -torch.inf

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the embedding of each prompt; the text encoder is on a GPU no longer than that."""
        encoder = self._pipeline.text_encoder.to(self.device)
        try:
            return [self._embed_one(text) for text in texts]
        finally:
            encoder.to("cpu")

    def _embed_one(self, text: str) -> Tensor:
        self._tell_if_long(text)
        embeddings, _ = self._pipeline.encode_prompt(text, self.device, 1, do_classifier_free_guidance=False)
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

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        """Return the prediction at latents `x` `(B, C, H, W)`, float32; guided w eps(x, c) + (1 - w) eps(x) (eq. 5).

        Outside the guidance interval it is eps(x, c). A prediction is of B or of 2 B rows whatever its neighbours are,
        so that replay computes what rollout did.
        """
        if not (guided and self._guided):
            return self._forward(x, time_B, conditioning["prompt"])
        if self._settings.guidance_interval == (0, 1):
            return self._guided_forward(x, time_B, conditioning)
        guided_B = (time_B <= self._first_guided) & (time_B >= self._last_guided)
        if guided_B.all():
            return self._guided_forward(x, time_B, conditioning)
        conditional = self._forward(x, time_B, conditioning["prompt"])
        if not guided_B.any():
            return conditional
        return torch.where(guided_B.view(-1, 1, 1, 1), self._guided_forward(x, time_B, conditioning), conditional)

    def _guided_forward(self, x: Tensor, time_B: Tensor, conditioning: Conditioning) -> Tensor:
        unconditional, conditional = self._forward(
            torch.cat([x, x]),
            torch.cat([time_B, time_B]),
            torch.cat([conditioning["negative"], conditioning["prompt"]]),
        ).chunk(2)
        if not self._settings.cfg_training:
            unconditional = unconditional.detach()
        return unconditional + self._settings.guidance_scale * (conditional - unconditional)

    def _forward(self, x: Tensor, time_B: Tensor, embedding: Tensor) -> Tensor:
        with self._autocast():
            prediction: Tensor = self._unet(x, time_B, embedding.to(self._embedding_dtype), return_dict=False)[0]
        return prediction.float()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = DTYPES[self._settings.precision]
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    @torch.no_grad()
    def decode(self, x_0: Tensor) -> Tensor:
        """Return images `(B, 3, H, W)` float32 in [0, 1] on the CPU of latents `(B, C, h, w)`, decoded in chunks."""
        images = []
        for latents in x_0.split(DECODE_BATCH):
            scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
            images.append((self._vae.decode(scaled, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1).cpu())
        return torch.cat(images)

    def save(self, folder: Path) -> None:
        """Write the trained weights.

        LoRA: `pipe.load_lora_weights(folder)` loads them. Full: `UNet2DConditionModel.from_pretrained(folder)`.
        """
        if self._settings.lora.rank is None:
            self._unet.to(memory_format=torch.contiguous_format).save_pretrained(folder)
            self._unet.to(memory_format=torch.channels_last)  # training goes on as before, bit for bit
        else:
            save_adapter(type(self._pipeline), self._unet, folder)
