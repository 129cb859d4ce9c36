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
BATCH = 24
PEAK_RATE = 2e-3
KL_WEIGHT = 5e-4


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


def learning_rate(progress: float, peak: float = PEAK_RATE) -> float:
    """Short warm-up, then a cosine to zero; progress in [0, 1]."""
    return peak * min(1.0, progress / 0.02 + 0.01) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def train(rank: int, cache: Path, minutes: float) -> None:
    """One process's share; rank 0 writes `autoencoder.pt`."""
    torch.manual_seed(rank)
    composer = Composer(*drawings.load(cache), seed=1000 + rank)
    model = build()
    parameters = list(model.parameters())
    parallel.broadcast_parameters(parameters)
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-4, betas=(0.9, 0.98), fused=True)
    start, step, shown = time.monotonic(), 0, 0.0
    while (elapsed := parallel.agreed_time(start)) < minutes * 60:
        optimizer.param_groups[0]["lr"] = learning_rate(elapsed / (minutes * 60))
        images = composer.batch(BATCH)[0] * 2 - 1
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(images).latent_dist
            output = model.decode(posterior.sample()).sample
        reconstruction = picture_loss(output.float(), images)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        (reconstruction + KL_WEIGHT * divergence).backward()
        parallel.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if rank == 0 and elapsed - shown > 15:
            shown = elapsed
            print(f"{elapsed:.0f} s step {step} loss {reconstruction:.4f} kl {divergence:.2f}", flush=True)
            parallel.save(model.state_dict(), cache / "autoencoder-partial.pt")
    if rank == 0:
        normalise(model.eval(), composer)
        parallel.save(model.state_dict(), cache / "autoencoder.pt")
        print(f"autoencoder: {step} steps, {report(model, composer)}")


@torch.no_grad()
def normalise(model: AutoencoderKL, composer: Composer) -> None:
    """Fold each latent channel's mean and deviation into the 1x1 convolutions on either side of the latents."""
    means = torch.cat([model.encode(composer.batch(64)[0] * 2 - 1).latent_dist.mean for _ in range(24)])
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    before, after = model.quant_conv, model.post_quant_conv
    assert before.bias is not None and after.bias is not None
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
