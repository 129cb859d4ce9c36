"""The judge: a small network that says which of the paper's 45 animals a picture shows.

It is trained on the drawings that the embedded model is trained on (`tools/embedded_model/`, `MODEL_CARD.md`), so it
knows this art and nothing else: do not use it on photographs. It measures the embedded model (top-1 over the
45 animals; chance is 2 %) and serves as a reward: the probability it gives to the prompt's animal.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

_FOLDER = Path(__file__).parent
SIZE = 64


class _Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        inner = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(inner + self.shortcut(x))


class Judge(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] -> logits (B, len(labels)); the last label is "other".

    Pictures of another size are resized to 64x64 first. Differentiable in the pictures.
    """

    def __init__(self, labels: list[str]) -> None:
        super().__init__()
        self.labels = list(labels)
        self.stem = nn.Conv2d(3, 32, 4, 2, 1)
        self.body = nn.Sequential(
            _Residual(32, 32, 1),
            _Residual(32, 64, 2),
            _Residual(64, 64, 1),
            _Residual(64, 128, 2),
            _Residual(128, 128, 1),
            _Residual(128, 192, 2),
        )
        self.head = nn.Linear(192, len(labels))

    def features(self, images: Tensor) -> Tensor:
        """The 192 numbers (B, 192) in front of the classes."""
        if images.shape[-2:] != (SIZE, SIZE):
            images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        maps: Tensor = self.body(functional.relu(self.stem(images * 4 - 2)))
        return maps.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, len(labels))."""
        logits: Tensor = self.head(self.features(images))
        return logits

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Softmax over all labels, (B, len(labels))."""
        logits: Tensor = self(images)
        return logits.softmax(-1)


def load_judge(folder: Path | None = None) -> Judge:
    """The judge that ships with the package, in evaluation mode, float32, on the CPU."""
    folder = folder or _FOLDER
    judge = Judge(json.loads((folder / "judge.json").read_text())["labels"])
    weights = load_file(folder / "judge.safetensors")
    judge.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    )
    return judge.eval().requires_grad_(False)
