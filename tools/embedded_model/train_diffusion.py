"""Train the UNet and the text encoder on the encoded pictures."""

from collections.abc import Callable

import text
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from latents import Latents
from torch import Tensor, nn
from train_autoencoder import LATENT_CHANNELS
from transformers import CLIPTokenizer

import training

DECAY_FROM = 0.5  # the part done after which the rate falls linearly to zero
CAPTION_DROPOUT = 0.1
MIN_SNR_GAMMA = 5.0


def build_unet() -> UNet2DConditionModel:
    """5 million parameters on 8x8 latents. The prompt enters twice: by cross-attention at 4x4 (attention at 8x8 would
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


class Model(nn.Module):
    """UNet and text encoder as one set of parameters."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet, self.text_encoder = build_unet(), text.build_encoder(tokenizer)
        self.unet.set_attn_processor(AttnProcessor())  # its backward pass is faster on CPU than SDPA's

    def forward(self, noisy: Tensor, timestep_B: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(noisy, timestep_B, self.text_encoder(tokens)[0]).sample


def rate(done: float) -> float:
    """Constant, then linear to zero."""
    return min(1.0, (1 - done) / (1 - DECAY_FROM))


def make_loss(model: nn.Module, machine: training.Machine, seed: int) -> Callable[[], tuple[Tensor, int]]:
    """v-prediction; clean pictures weigh less, as in Min-SNR-5 (Hang et al. 2023); prompts are dropped for guidance.

    v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0; weight = min(SNR + 1, 6) / (SNR + 1).
    """
    torch.manual_seed(seed)
    data, batch = Latents(machine.cache, machine.device), machine.pick(cpu=128, cuda=2048)
    empty = text.token_ids(text.load_tokenizer(machine.cache), [""]).to(machine.device)
    alpha_bar = build_scheduler().alphas_cumprod.to(machine.device)

    def loss() -> tuple[Tensor, int]:
        latents, tokens = data.batch(batch)
        tokens = torch.where((torch.rand(batch, device=machine.device) < CAPTION_DROPOUT)[:, None], empty, tokens)
        timestep_B = torch.randint(len(alpha_bar), (batch,), device=machine.device)
        alpha = alpha_bar[timestep_B][:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with machine.autocast():
            predicted = model(noisy, timestep_B, tokens)
        error = (predicted.float() - alpha.sqrt() * noise + (1 - alpha).sqrt() * latents).square().mean((1, 2, 3))
        snr_plus_1 = 1 / (1 - alpha).flatten()
        return (error * snr_plus_1.clamp(max=MIN_SNR_GAMMA + 1) / snr_plus_1).mean(), batch

    return loss


def train(machine: training.Machine) -> None:
    model = Model(text.load_tokenizer(machine.cache))
    training.fit(training.Stage("diffusion", make_loss, rate), model, machine)
