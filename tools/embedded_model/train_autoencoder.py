"""Train the autoencoder: 64x64x3 pictures <-> 8x8x16 latents whose channels are uncorrelated, mean 0, variance 1.

White latents matter: a diffusion model learns correlated ones far more slowly. The change of basis that makes them
white is folded into the convolutions next to the latents when the training is over.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from compose import Composer
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

import training

LATENT_CHANNELS = 16
KL_WEIGHT = 2e-5
POSTERIOR_LOG_VARIANCE = -5.0


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


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 and squared error at full, half and quarter size, and L1 of the gradients, which keeps edges sharp."""
    loss = torch.zeros((), device=output.device)
    for level in range(3):
        difference = output - target
        loss = loss + difference.abs().mean() + difference.square().mean()
        if level == 0:
            loss = loss + difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        output, target = functional.avg_pool2d(output, 2), functional.avg_pool2d(target, 2)
    return loss


def make_loss(model: nn.Module, machine: training.Machine, seed: int) -> Callable[[], tuple[Tensor, int]]:
    composer, batch = Composer(machine.cache, seed, machine.device), machine.pick(cpu=16, cuda=256)
    assert isinstance(model, AutoencoderKL)

    def loss() -> tuple[Tensor, int]:
        images = (composer.batch(batch)[0] * 2 - 1).contiguous(memory_format=torch.channels_last)
        with machine.autocast():
            posterior = model.encode(images).latent_dist
            output = model.decode(posterior.sample()).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return picture_loss(output.float(), images) + KL_WEIGHT * kl, batch

    return loss


def train(machine: training.Machine) -> None:
    if (machine.cache / "autoencoder-white.pt").exists():
        return
    state = training.fit(training.Stage("autoencoder", make_loss, training.cosine), build(), machine)
    training.save(white(state["average"], machine.cache).state_dict(), machine.cache / "autoencoder-white.pt")
    print("autoencoder:", report(load(machine.cache), machine.cache), flush=True)


@torch.no_grad()
def white(weights: dict[str, Tensor], cache: Path, number: int = 1024) -> AutoencoderKL:
    """The autoencoder with its latents turned and scaled to principal directions of variance 1, strongest first.

    Both changes of basis are folded into the 1x1 convolutions next to the latents.
    """
    model, count = build(), LATENT_CHANNELS
    model.load_state_dict(weights)
    images = Composer(cache, 998, torch.device("cpu")).batch(number)[0] * 2 - 1
    latents = torch.cat([model.encode(part).latent_dist.mean for part in images.split(32)]).permute(0, 2, 3, 1)
    latents = latents.reshape(-1, count)
    mean = latents.mean(0)
    variances, directions = torch.linalg.eigh((latents - mean).T @ (latents - mean) / len(latents))
    print("latent variances:", [round(float(v), 3) for v in variances.flip(0)])
    deviations, directions = variances.flip(0).sqrt(), directions.flip(1)
    forth, back = (directions / deviations).T, directions * deviations
    into, out = model.quant_conv, model.post_quant_conv
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight[:, :, 0, 0] = out.weight[:, :, 0, 0] @ back
    into.weight[:count, :, 0, 0] = forth @ into.weight[:count, :, 0, 0]
    into.bias[:count] = forth @ (into.bias[:count] - mean)
    into.weight[count:], into.bias[count:] = 0, POSTERIOR_LOG_VARIANCE
    return model.eval().requires_grad_(False)


def load(cache: Path) -> AutoencoderKL:
    """The white autoencoder."""
    model = build()
    model.load_state_dict(torch.load(cache / "autoencoder-white.pt", weights_only=True))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def report(model: AutoencoderKL, cache: Path) -> str:
    """Over 256 new pictures: the mean of each one's PSNR."""
    images = Composer(cache, 999, torch.device("cpu")).batch(256)[0]
    latents = torch.cat([model.encode(part * 2 - 1).latent_dist.mean for part in images.split(32)])
    output = torch.cat([model.decode(part).sample for part in latents.split(32)])
    psnr = -10 * ((output / 2 + 0.5).clamp(0, 1) - images).square().mean((1, 2, 3)).log10()
    return f"PSNR {psnr.mean():.2f} dB, latent deviation {latents.std((0, 2, 3)).mean():.3f}"
