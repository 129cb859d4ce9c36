"""The small text-to-image model that ships with the package (see `MODEL_CARD.md`), and its judge (`judge.py`)."""

from pathlib import Path


def embedded_model() -> Path:
    """Folder of the embedded model, loadable with `StableDiffusionPipeline.from_pretrained`."""
    return Path(__file__).parent / "model"
