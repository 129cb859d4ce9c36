"""The configurations of a model's parts: of a folder, of the hub's cache, or of a hub id that `ddpo` knows by heart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.policies.loading import ModelSource
from ddpo.runtime.errors import ModelError

Config = Mapping[str, Any]
"""The configuration of a part, as in its config.json."""

_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
_PIPELINE = "StableDiffusionPipeline"


@dataclass(frozen=True)
class Architecture:
    """The configurations of a Stable Diffusion 1.x/2.x pipeline's parts."""

    unet: Config
    vae: Config
    text_encoder: Config
    scheduler: Config

    @classmethod
    def read(cls, folder: Path) -> Architecture:
        """Return the architecture of the pipeline in `folder`; no weights are needed.

        Raises:
            ModelError: a configuration cannot be read, or it is another kind of pipeline.
        """
        found = _read(folder / "model_index.json").get("_class_name")
        if found != _PIPELINE:
            raise ModelError(f"model: {folder} holds a {found}; ddpo trains {_PIPELINE} (SD 1.x and 2.x).")
        return cls(**{part: _read(folder / file) for part, file in _FILES.items()})

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of one sample, `(C, H, W)`, by the UNet's configuration.

        Raises:
            ModelError: the configuration does not say it.
        """
        channels, size = self.unet.get("in_channels"), self.unet.get("sample_size")
        height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
        if not all(isinstance(number, int) for number in (channels, height, width)):
            raise ModelError("model: its UNet's configuration gives no in_channels and sample_size.")
        return channels, height, width  # type: ignore[return-value]


def find_architecture(source: ModelSource) -> tuple[Architecture | None, str]:
    """Return the architecture of a model, without asking a network, and a sentence on what had to be assumed, if any.

    None: a hub id that is neither in the hub's cache nor known by heart.

    Raises:
        ModelError: neither a folder in diffusers format nor the form of a hub id, or not a pipeline that ddpo trains.
    """
    from huggingface_hub import try_to_load_from_cache

    location = source.resolve()
    folder = Path(location)
    if not folder.is_dir():
        index = try_to_load_from_cache(location, "model_index.json", revision=source.revision)
        folder = Path(index).parent if isinstance(index, str) else folder
    if folder.is_dir() and (folder == Path(location) or all((folder / file).is_file() for file in _FILES.values())):
        return Architecture.read(folder), ""
    if location in (known := known_architectures()):
        return known[location], f"{location} is not on this machine: figures are those ddpo knows of its architecture."
    return None, (
        f"{location} is not on this machine and its architecture is not among those ddpo knows: FLOPs and memory are "
        "not known, and every denoising step is taken to have a likelihood."
    )


def known_architectures() -> dict[str, Architecture]:
    """Return the architectures of hub ids that `ddpo` knows; what they leave out is the default of the libraries."""
    return {name: Architecture(**parts) for name, parts in _read(Path(__file__).with_name("known_models.json")).items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model: {file} cannot be read ({error}); give a folder saved by diffusers.") from error
    if not isinstance(config, dict):
        raise ModelError(f"model: {file} holds no configuration; give a folder saved by diffusers.")
    return config
