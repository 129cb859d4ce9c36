"""Train the judges: which of the 45 animals does a picture show, or none of them ("other")?

The first judge knows the drawings that the generator is trained on, and is friendly to it for that. The gold judge is
trained on other artists' sets alone, which neither the generator nor the first judge has seen.
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import drawings
import torch
import train_autoencoder
from compose import MILD, STRONG, Augmentation, Composer, Mixture
from nouns import ANIMALS
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import training

LABELS = [*ANIMALS, "other"]
MIXTURE = Mixture(animals=0.85)


@dataclass(frozen=True)
class Kind:
    """What a judge is trained on, and the sources that it never sees."""

    name: str
    sources: tuple[str, ...]
    unseen: tuple[str, ...]
    augmentation: Augmentation


JUDGE = Kind("judge", drawings.GENERATOR_SOURCES, drawings.GOLD_SOURCES, STRONG)
GOLD = Kind(
    "gold-judge",
    drawings.GOLD_SOURCES,
    drawings.GENERATOR_SOURCES,
    Augmentation(scale=(0.6, 1.1), degrees=20, shift=0.1, colour=0.25),
)


def network() -> ModuleType:
    """The network's one definition, `src/ddpo/embedded/judge.py`, loaded by path: `ddpo` need not be installed."""
    path = Path(__file__).parents[2] / "src" / "ddpo" / "embedded" / "judge.py"
    spec = importlib.util.spec_from_file_location("embedded_judge", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def decoded_pool(kind: Kind, machine: training.Machine) -> tuple[Tensor, Tensor]:
    """Pictures that went through the autoencoder with some noise on the latents: what generated pictures look like."""
    model = train_autoencoder.load(machine.cache).to(machine.device)
    composer = Composer(machine.cache, 77, machine.device, sources=kind.sources, mixture=MIXTURE)
    pictures, labels = [], []
    for _ in range(machine.pick(cpu=24, cuda=256)):
        images, _, label = composer.batch(256)
        with machine.autocast():
            latents = torch.cat([model.encode(part * 2 - 1).latent_dist.mean for part in images.split(32)])
            latents = latents + torch.rand(len(latents), 1, 1, 1, device=machine.device) * torch.randn_like(latents) / 2
            output = torch.cat([model.decode(part).sample for part in latents.split(32)])
        pictures.append((output.float() / 2 + 0.5).clamp(0, 1).half())
        labels.append(label)
    return torch.cat(pictures), torch.cat(labels)


def spoil(images: Tensor) -> Tensor:
    """Blur a third of the pictures, add a little noise to another third."""
    which, strength = torch.rand(2, len(images), 1, 1, 1, device=images.device)
    small = functional.interpolate(images, scale_factor=0.5, mode="area")
    blurred = functional.interpolate(small, scale_factor=2, mode="bilinear")
    noisy = images + strength * 0.08 * torch.randn_like(images)
    return torch.where(which < 1 / 3, blurred, torch.where(which < 2 / 3, noisy, images)).clamp(0, 1)


def make_loss(kind: Kind, model: nn.Module, machine: training.Machine, seed: int) -> Callable[[], tuple[Tensor, int]]:
    """Cross-entropy on composed pictures, three quarters of the batch, and on decoded ones."""
    decoded, decoded_labels = decoded_pool(kind, machine)
    composer = Composer(
        machine.cache, seed, machine.device, sources=kind.sources, augmentation=kind.augmentation, mixture=MIXTURE
    )
    batch = machine.pick(cpu=128, cuda=1024)

    def loss() -> tuple[Tensor, int]:
        images, _, labels = composer.batch(batch * 3 // 4)
        extra = torch.randint(len(decoded), (batch // 4,), device=machine.device)
        images = torch.cat([spoil(images), decoded[extra].float()])
        with machine.autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last))
        target = torch.cat([labels, decoded_labels[extra]])
        return functional.cross_entropy(logits.float(), target, label_smoothing=0.05), batch

    return loss


@torch.no_grad()
def accuracy(
    judge: nn.Module, cache: Path, sources: tuple[str, ...], augmentation: Augmentation, count: int = 4096
) -> dict[str, float]:
    """Top-1 over pictures of animals and over all pictures, new ones of these sources."""
    composer = Composer(cache, 903, torch.device("cpu"), sources=sources, augmentation=augmentation, mixture=MIXTURE)
    right, animal = [], []
    for _ in range(count // 256):
        images, _, labels = composer.batch(256)
        right.append(judge(images).argmax(-1) == labels)
        animal.append(labels < len(ANIMALS))
    hits, animals = torch.cat(right).float(), torch.cat(animal)
    return {"animals": round(float(hits[animals].mean()), 4), "all": round(float(hits.mean()), 4)}


def train(kind: Kind, machine: training.Machine) -> None:
    """Train a judge; write its weights (fp16), labels and measured accuracies."""
    if (machine.cache / f"{kind.name}.json").exists():
        return
    judge: nn.Module = network().Judge(LABELS)
    state = training.fit(training.Stage(kind.name, partial(make_loss, kind), training.cosine), judge, machine)
    judge.load_state_dict(state["model"])
    judge = judge.cpu().eval()
    figures = {
        "mild": accuracy(judge, machine.cache, kind.sources, MILD),
        "as_in_training": accuracy(judge, machine.cache, kind.sources, kind.augmentation),
        "sources_it_never_saw": accuracy(judge, machine.cache, kind.unseen, MILD),
    }
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, machine.cache / f"{kind.name}.safetensors")
    (machine.cache / f"{kind.name}.json").write_text(json.dumps({"labels": LABELS, "accuracy": figures}))
    print(kind.name, figures, flush=True)


train_judge, train_gold_judge = partial(train, JUDGE), partial(train, GOLD)
