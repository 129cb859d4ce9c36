"""Train the autoencoder: 64x64x3 pictures <-> 8x8x16 latents, each latent channel of mean 0 and variance 1."""

import math
import time
from pathlib import Path

import drawings
import parallel
import torch
from compose import Composer
from diffusers import AutoencoderKL
from torch.nn import functional

LATENT_CHANNELS = 16
BATCH = 16
PEAK_RATE = 2e-3
RESUMED_PEAK_RATE = 1.2e-3
KL_WEIGHT = 5e-4
DECODER_NOISE = 0.15  # of a latent's deviation, at most


def build() -> AutoencoderKL:
    """1.7 million parameters, stock class, f = 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 and squared error at full, half and quarter size, and L1 of the gradients, which keeps edges sharp."""
    loss = torch.zeros(())
    for level in range(3):
        difference = output - target
        loss = loss + difference.abs().mean() + difference.square().mean()
        if level == 0:
            loss = loss + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        output, target = functional.avg_pool2d(output, 2), functional.avg_pool2d(target, 2)
    return loss


def learning_rate(progress: float, peak: float) -> float:
    """Short warm-up, then a cosine to zero; progress in [0, 1]."""
    return peak * min(1.0, progress / 0.02 + 0.01) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def train(cache: Path, processes: int, minutes: float, *, decoder_only: bool = False) -> None:
    """Train for some minutes, on from `autoencoder.pt` if there is one, and write it.

    With decoder_only the latents stay what they are, so that a diffusion model trained on them stays valid: the decoder
    becomes sharper, and sturdier against the small errors of generated latents. Otherwise new latents must follow.
    """
    model, peak = build(), PEAK_RATE
    if (cache / "autoencoder.pt").exists():
        model, peak = load(cache).train(), RESUMED_PEAK_RATE
    model.requires_grad_(True)
    if decoder_only:
        model.encoder.requires_grad_(False)
        model.quant_conv.requires_grad_(False)
    parallel.launch(_work, processes, model.share_memory(), peak, cache, minutes, decoder_only)
    model.eval().requires_grad_(False)
    composer = Composer(*drawings.load(cache), seed=999)
    if not decoder_only:
        normalise(model, composer)
    parallel.save(model.state_dict(), cache / "autoencoder.pt")
    print("autoencoder:", report(model, composer))


def _work(rank: int, model: AutoencoderKL, peak: float, cache: Path, minutes: float, decoder_only: bool) -> None:
    """One process's share: steps on the shared weights."""
    torch.manual_seed(rank)
    composer = Composer(*drawings.load(cache), seed=int(time.time()) * 8 + rank)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-4, betas=(0.9, 0.98), fused=True)
    start, losses = time.monotonic(), []
    while (elapsed := time.monotonic() - start) < minutes * 60:
        optimizer.param_groups[0]["lr"] = learning_rate(elapsed / (minutes * 60), peak)
        images = composer.batch(BATCH)[0] * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(images).latent_dist
            latents = posterior.sample()
            if decoder_only:
                latents = posterior.mean + DECODER_NOISE * torch.rand(BATCH, 1, 1, 1) * torch.randn_like(latents)
            output = model.decode(latents).sample
        loss = picture_loss(output.float(), images)
        if not decoder_only:
            loss = loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if len(losses) == 100:
            print(f"{rank}: {elapsed:.0f} s loss {sum(losses) / 100:.4f}", flush=True)
            losses.clear()


@torch.no_grad()
def normalise(model: AutoencoderKL, composer: Composer) -> None:
    """Fold each latent channel's mean and deviation into the 1x1 convolutions on either side of the latents."""
    means = torch.cat([model.encode(composer.batch(64)[0] * 2 - 1).latent_dist.mean for _ in range(24)])
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    before, after = model.quant_conv, model.post_quant_conv
    assert before.bias is not None
    assert after.bias is not None
    count = LATENT_CHANNELS
    before.bias[:count] -= mean
    before.weight[:count] /= deviation[:, None, None, None]
    before.bias[:count] /= deviation
    before.bias[count:] -= 2 * deviation.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= deviation[None, :, None, None]


@torch.no_grad()
def report(model: AutoencoderKL, composer: Composer) -> str:
    images = composer.batch(256)[0]
    latents = model.encode(images * 2 - 1).latent_dist.mean
    error = ((model.decode(latents).sample / 2 + 0.5).clamp(0, 1) - images).square().mean((1, 2, 3))
    return f"PSNR {(-10 * error.log10()).mean():.2f} dB, latent deviation {latents.std((0, 2, 3)).mean():.3f}"


def load(cache: Path) -> AutoencoderKL:
    model = build()
    model.load_state_dict(torch.load(cache / "autoencoder.pt", weights_only=True))
    return model.eval().requires_grad_(False)
