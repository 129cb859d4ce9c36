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
WARM_UP_PICTURES = 60_000
DECAY_FROM = 0.5  # the part of the planned time after which the rate falls linearly to zero
EMA_DECAY = 0.999
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0
SAVE_SECONDS = 240
REPORT_STEPS = 100


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
    """Stable Diffusion's noise schedule; the UNet predicts v.

    At high noise, epsilon is the input itself but for a few thousandths, which a short training does not get right.
    Sampling is spaced from the last timestep down ("trailing") and its last step lands on the clean sample: without
    a last step of tiny variance, to which a policy gradient would be far more sensitive than to all the others.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
    )


class Model(torch.nn.Module):
    """UNet and text encoder as one set of parameters."""

    def __init__(self, tokenizer: text.CLIPTokenizer) -> None:
        super().__init__()
        self.unet, self.text_encoder = build_unet(), text.build_encoder(tokenizer)
        self.unet.set_attn_processor(AttnProcessor())  # its backward pass is faster on CPU than SDPA's

    def forward(self, noisy: torch.Tensor, timestep_B: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.unet(noisy, timestep_B, self.text_encoder(tokens)[0]).sample


def learning_rate(pictures: int, progress: float) -> float:
    """Warm-up, constant, linear to zero; progress is the part of the planned time that is over."""
    return (
        PEAK_RATE
        * min(1.0, (BATCH + pictures) / WARM_UP_PICTURES)
        * min(1.0, max(0.0, (1 - progress) / (1 - DECAY_FROM)))
    )


def diffusion_loss(
    model: Model, latents: torch.Tensor, tokens: torch.Tensor, alpha_bar: torch.Tensor, empty: torch.Tensor
) -> torch.Tensor:
    """v-prediction; clean pictures weigh less, as in Min-SNR-5 (Hang et al. 2023); prompts are dropped for guidance.

    v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0; weight = min(SNR + 1, 6) / (SNR + 1).
    """
    count = len(latents)
    tokens = torch.where((torch.rand(count) < CAPTION_DROPOUT)[:, None], empty, tokens)
    timestep_B = torch.randint(0, len(alpha_bar), (count,))
    alpha = alpha_bar[timestep_B][:, None, None, None]
    noise = torch.randn_like(latents)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(alpha.sqrt() * latents + (1 - alpha).sqrt() * noise, timestep_B, tokens)
    error = (predicted.float() - alpha.sqrt() * noise + (1 - alpha).sqrt() * latents).square().mean((1, 2, 3))
    snr_plus_1 = 1 / (1 - alpha).flatten()
    return (error * snr_plus_1.clamp(max=MIN_SNR_GAMMA + 1) / snr_plus_1).mean()


def train(cache: Path, processes: int, minutes: float, plan_minutes: float, source: str, target: str) -> None:
    """Go on for `minutes` from the state `source` (if it is there), on a plan of `plan_minutes` in all; save `target`.

    The processes share one set of weights and step on their own (see `parallel.launch`).
    """
    tokenizer = text.CLIPTokenizer.from_pretrained(cache / "tokenizer")
    model, optimizer_state = Model(tokenizer), None
    average = copy.deepcopy(model).requires_grad_(False)
    progress: dict[str, Any] = {"pictures": 0, "seconds": 0.0}
    if (cache / source).exists():
        state = torch.load(cache / source, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer_state, progress = state["optimizer"], state["progress"]
    pictures = torch.tensor([progress["pictures"]] + [0] * (processes - 1)).share_memory_()
    plan = (minutes * 60, plan_minutes * 60, progress["seconds"])
    parallel.launch(_work, processes, model.share_memory(), average, optimizer_state, pictures, plan, cache, target)


def _work(
    rank: int,
    model: Model,
    average: Model,
    optimizer_state: dict[str, Any] | None,
    pictures: torch.Tensor,
    plan: tuple[float, float, float],
    cache: Path,
    target: str,
) -> None:
    """One process's share: steps on the shared weights; rank 0 also keeps the average, prints and saves."""
    minutes_s, plan_s, before_s = plan
    tokenizer, data = text.CLIPTokenizer.from_pretrained(cache / "tokenizer"), Latents(cache)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    seed = int(pictures.sum()) + rank
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    alpha_bar, empty = build_scheduler().alphas_cumprod, torch.tensor(text.token_ids(tokenizer, [""]))
    start, saved, losses = time.monotonic(), 0.0, []
    while (elapsed := time.monotonic() - start) < min(minutes_s, plan_s - before_s):
        rate = learning_rate(int(pictures.sum()), (before_s + elapsed) / plan_s)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = diffusion_loss(model, *data.batch(BATCH, random), alpha_bar, empty)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        pictures[rank] += BATCH
        losses.append(loss.item())
        if len(losses) == REPORT_STEPS:
            data.refresh()
            facts = f"{int(pictures.sum())} pictures, rate {rate:.1e}, loss {np.mean(losses):.4f}, {len(data)} latents"
            print(f"{rank}: {before_s + elapsed:.0f} s, {facts}", flush=True)
            losses.clear()
        if rank == 0:
            update_average(average, model, int(pictures.sum()))
            if elapsed - saved > SAVE_SECONDS:
                saved = elapsed
                save(cache / target, model, average, optimizer, pictures, before_s + elapsed)
    if rank == 0:
        save(cache / target, model, average, optimizer, pictures, before_s + time.monotonic() - start)


@torch.no_grad()
def update_average(average: Model, model: Model, pictures: int) -> None:
    """Exponential moving average whose window grows with the training, up to 1 / (1 - EMA_DECAY) steps of rank 0."""
    steps = pictures / BATCH
    decay = min(EMA_DECAY, (1 + steps) / (20 + steps))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def save(
    path: Path, model: Model, average: Model, optimizer: torch.optim.Optimizer, pictures: torch.Tensor, seconds: float
) -> None:
    progress = {"pictures": int(pictures.sum()), "seconds": seconds}
    state = {"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
    parallel.save({**state, "progress": progress}, path)
