"""Train the autoencoder: 64x64x3 pictures <-> 8x8x8 latents whose channels are uncorrelated, mean 0, variance 1.

It starts with 16 channels; of those, training uses few, so that `narrow` keeps the 8 strongest principal directions and
training goes on. White latents matter: a diffusion model learns correlated ones far more slowly.
"""

import math
import time
from pathlib import Path

import drawings
import parallel
import torch
from compose import Composer
from diffusers import AutoencoderKL
from torch.nn import functional

WIDE_CHANNELS = 16
LATENT_CHANNELS = 8
BATCH = 16
PEAK_RATE = 2e-3
RESUMED_PEAK_RATE = 1.2e-3
KL_WEIGHT = 5e-4
POSTERIOR_LOG_VARIANCE = -5.0
DECODER_NOISE = 0.15  # of a latent's deviation, at most


def build(latent_channels: int) -> AutoencoderKL:
    """1.7 million parameters, stock class, f = 8."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=latent_channels,
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


def train(cache: Path, processes: int, minutes: float) -> None:
    """Two thirds of the time with 16 channels (skipped if `autoencoder-wide.pt` is there), then 8 for the rest."""
    wide = build(WIDE_CHANNELS)
    if (cache / "autoencoder-wide.pt").exists():
        wide.load_state_dict(torch.load(cache / "autoencoder-wide.pt", weights_only=True))
    else:
        parallel.launch(_work, processes, wide.share_memory(), PEAK_RATE, cache, minutes * 2 / 3, False)
        parallel.save(wide.state_dict(), cache / "autoencoder-wide.pt")
    composer = Composer(*drawings.load(cache), seed=999)
    model = narrow(wide, *principal_directions(wide, composer))
    print("narrowed:", report(model, composer), flush=True)
    parallel.launch(_work, processes, model.share_memory(), RESUMED_PEAK_RATE, cache, minutes / 3, False)
    model = narrow(model, *principal_directions(model, composer))
    parallel.save(model.state_dict(), cache / "autoencoder.pt")
    print("autoencoder:", report(model, composer))


def train_decoder(cache: Path, processes: int, minutes: float) -> None:
    """Make the decoder sturdier against noise on latents, which stay as they are: the diffusion model stays valid."""
    model = load(cache).train().requires_grad_(True)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    parallel.launch(_work, processes, model.share_memory(), RESUMED_PEAK_RATE, cache, minutes, True)
    parallel.save(model.state_dict(), cache / "autoencoder.pt")
    print("decoder:", report(model.eval(), Composer(*drawings.load(cache), seed=999)))


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
def principal_directions(model: AutoencoderKL, composer: Composer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean (C,), variances (C,) in falling order and directions (C, C), one a column, of the latents."""
    model.eval()
    images = composer.batch(1024)[0] * 2 - 1
    latents = torch.cat([model.encode(part).latent_dist.mean for part in images.split(32)]).permute(0, 2, 3, 1)
    latents = latents.reshape(-1, latents.shape[-1])
    mean = latents.mean(0)
    variances, directions = torch.linalg.eigh((latents - mean).T @ (latents - mean) / len(latents))
    print("latent variances:", [round(float(v), 4) for v in variances.flip(0)])
    return mean, variances.flip(0), directions.flip(1)


@torch.no_grad()
def narrow(wide: AutoencoderKL, mean: torch.Tensor, variances: torch.Tensor, directions: torch.Tensor) -> AutoencoderKL:
    """The same autoencoder on its LATENT_CHANNELS strongest directions, each scaled to variance 1.

    Both changes of basis are folded into the convolutions next to the latents; the 1x1 convolutions become identities.
    """
    count, width = LATENT_CHANNELS, len(mean)
    model = build(count)
    outer = ("encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in")
    model.load_state_dict({k: v for k, v in wide.state_dict().items() if not k.startswith(outer)}, strict=False)
    to_narrow = (directions[:, :count] / variances[:count].sqrt()).T
    from_narrow = directions[:, :count] * variances[:count].sqrt()
    before = wide.quant_conv.weight[:width, :, 0, 0]
    new, old = model.encoder.conv_out, wide.encoder.conv_out
    new.weight.zero_()
    new.weight[:count] = torch.einsum("nm,mo,oihw->nihw", to_narrow, before, old.weight)
    new.bias[:count] = to_narrow @ (before @ old.bias + wide.quant_conv.bias[:width] - mean)
    new.bias[count:] = POSTERIOR_LOG_VARIANCE
    after = wide.post_quant_conv.weight[:, :, 0, 0]
    shift = after @ mean + wide.post_quant_conv.bias
    model.decoder.conv_in.weight[:] = torch.einsum("oihw,im,mn->onhw", wide.decoder.conv_in.weight, after, from_narrow)
    model.decoder.conv_in.bias[:] = wide.decoder.conv_in.bias + wide.decoder.conv_in.weight.sum((2, 3)) @ shift
    for identity in (model.quant_conv, model.post_quant_conv):
        torch.nn.init.dirac_(identity.weight)
        identity.bias.zero_()
    return model.eval()


@torch.no_grad()
def report(model: AutoencoderKL, composer: Composer) -> str:
    images = composer.batch(256)[0]
    latents = model.encode(images * 2 - 1).latent_dist.mean
    error = ((model.decode(latents).sample / 2 + 0.5).clamp(0, 1) - images).square().mean((1, 2, 3))
    return f"PSNR {(-10 * error.log10()).mean():.2f} dB, latent deviation {latents.std((0, 2, 3)).mean():.3f}"


def load(cache: Path) -> AutoencoderKL:
    model = build(LATENT_CHANNELS)
    model.load_state_dict(torch.load(cache / "autoencoder.pt", weights_only=True))
    return model.eval().requires_grad_(False)
