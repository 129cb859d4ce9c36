"""Train the UNet and the text encoder on the cached latents. Resumable: everything is in `diffusion.pt`."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import parallel
import text
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from latents import Latents
from train_autoencoder import LATENT_CHANNELS

BATCH = 128  # a process
PEAK_RATE = 1e-3
WARM_UP_STEPS = 300
DECAY_FROM = 0.5  # the part of the planned time after which the rate falls linearly to zero
EMA_DECAY = 0.9993
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
SAVE_SECONDS = 240


def build_unet() -> UNet2DConditionModel:
    """4.9 million parameters on 8x8 latents. The prompt enters twice: by cross-attention at 4x4 (attention at 8x8 would
    halve the speed), and pooled into the time embedding (`addition_embed_type="text"`), which reaches every block."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 128),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=128,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


class Model(torch.nn.Module):
    """UNet and text encoder as one set of parameters."""

    def __init__(self, tokenizer: text.CLIPTokenizer) -> None:
        super().__init__()
        self.unet, self.text_encoder = build_unet(), text.build_encoder(tokenizer)
        self.unet.set_attn_processor(AttnProcessor())  # its backward pass is faster on CPU than SDPA's

    def forward(self, noisy: torch.Tensor, timestep_B: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, timestep_B, self.text_encoder(tokens)[0]).sample


def learning_rate(step: int, progress: float) -> float:
    """Warm-up, constant, linear to zero; progress is the part of the planned time that is over."""
    return PEAK_RATE * min(1.0, step / WARM_UP_STEPS) * min(1.0, max(0.0, (1 - progress) / (1 - DECAY_FROM)))


def diffusion_loss(
    model: Model, latents: torch.Tensor, tokens: torch.Tensor, alpha_bar: torch.Tensor, empty: torch.Tensor
) -> torch.Tensor:
    """Epsilon prediction weighted by min(SNR, 5) / SNR (Hang et al. 2023); prompts dropped for guidance."""
    count = len(latents)
    tokens = torch.where((torch.rand(count) < CAPTION_DROPOUT)[:, None], empty, tokens)
    timestep_B = torch.randint(0, len(alpha_bar), (count,))
    alpha = alpha_bar[timestep_B][:, None, None, None]
    noise = torch.randn_like(latents)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, timestep_B, tokens)
    snr = (alpha / (1 - alpha)).flatten()
    error = (predicted.float() - noise).square().mean((1, 2, 3))
    return (error * snr.clamp(max=MIN_SNR_GAMMA) / snr).mean()


def train(rank: int, cache: Path, minutes: float, plan_minutes: float, source: str, target: str) -> None:
    """Go on for `minutes` from the state `source` (if it is there), on a plan of `plan_minutes` in all; rank 0 saves."""
    tokenizer = text.CLIPTokenizer.from_pretrained(cache / "tokenizer")
    data, model = Latents(cache), Model(tokenizer)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    average = copy.deepcopy(model).requires_grad_(False)
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "pictures": 0}
    if (cache / source).exists():
        progress = restore(cache / source, model, average, optimizer)
    parallel.broadcast_parameters(parameters)
    torch.manual_seed(progress["step"] * 2 + rank)
    random = np.random.default_rng(progress["step"] * 2 + rank)
    alpha_bar, empty = build_scheduler().alphas_cumprod, torch.tensor(text.token_ids(tokenizer, [""]))
    before, start, saved, losses = progress["seconds"], time.monotonic(), 0.0, []
    while (elapsed := parallel.agreed_time(start)) < minutes * 60:
        progress["seconds"] = before + elapsed
        rate = learning_rate(progress["step"], progress["seconds"] / (plan_minutes * 60))
        if rate == 0:
            break
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = diffusion_loss(model, *data.batch(BATCH, random), alpha_bar, empty)
        loss.backward()
        parallel.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress["step"] += 1
        progress["pictures"] += BATCH * torch.distributed.get_world_size()
        losses.append(loss.item())
        if rank == 0:
            update_average(average, model, progress["step"])
            if elapsed - saved > SAVE_SECONDS:
                saved = elapsed
                save(cache / target, model, average, optimizer, progress)
        if progress["step"] % 50 == 0:
            data.refresh()
            if rank == 0:
                print(f"{progress} rate {rate:.1e} loss {np.mean(losses):.4f} of {len(data)} latents", flush=True)
            losses.clear()
    if rank == 0:
        save(cache / target, model, average, optimizer, progress)


@torch.no_grad()
def update_average(average: Model, model: Model, step: int) -> None:
    """Exponential moving average whose window grows with the step, up to 1 / (1 - EMA_DECAY)."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def save(
    path: Path, model: Model, average: Model, optimizer: torch.optim.Optimizer, progress: dict[str, Any]
) -> None:
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    parallel.save({**state, "progress": progress}, path)


def restore(path: Path, model: Model, average: Model, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return dict(state["progress"])
