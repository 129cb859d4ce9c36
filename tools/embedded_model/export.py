"""Write the trained model as an ordinary `StableDiffusionPipeline` folder, fp16, whole or not at all."""

import shutil
from pathlib import Path
from typing import Any

import text
import torch
import train_autoencoder
import train_diffusion
from diffusers import StableDiffusionPipeline

import training

LIMIT_MB = 15.0
PACKAGE = Path(__file__).parents[2] / "src" / "ddpo" / "embedded"


def build_pipeline(cache: Path, weights: str) -> StableDiffusionPipeline:
    """The weights ("model") or their moving average ("average"), with autoencoder, tokenizer and schedule."""
    tokenizer = text.load_tokenizer(cache)
    model = train_diffusion.Model(tokenizer)
    model.load_state_dict(torch.load(cache / "diffusion.pt", weights_only=True, map_location="cpu")[weights])
    return StableDiffusionPipeline(
        vae=train_autoencoder.load(cache),
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=train_diffusion.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export(cache: Path, package: Path, weights: str) -> None:
    """Replace `model/` and the judges in the folder `package`; refuse a model above the size limit."""
    target, fresh, old = package / "model", package / "model.new", package / "model.old"
    shutil.rmtree(fresh, ignore_errors=True)
    build_pipeline(cache, weights).to(torch.float16).save_pretrained(fresh)
    _load_in_float32(fresh / "text_encoder" / "config.json")
    for path in fresh.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file()) / 1e6
    if size > LIMIT_MB:
        raise SystemExit(f"the model has {size:.1f} MB, more than {LIMIT_MB} MB")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    for path in (cache / f"{name}.{kind}" for name in ("judge", "gold-judge") for kind in ("json", "safetensors")):
        if path.exists():
            shutil.copyfile(path, package / path.name)
            (package / path.name).chmod(0o644)
    print(f"exported {size:.2f} MB to {target}")


def pack(cache: Path, folder: Path) -> None:
    """Copy to `folder` all that a training starts or goes on from elsewhere: drawings, tokenizer and what is trained,
    weights as fp16, without optimizers and without the states of autoencoder and judges that are finished."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(cache / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    for path in (*cache.glob("*.npz"), *cache.glob("*judge.[js][sa]*")):
        shutil.copyfile(path, folder / path.name)
    finished = {"autoencoder.pt": "autoencoder-white.pt", "judge.pt": "judge.json", "gold-judge.pt": "gold-judge.json"}
    for path in cache.glob("*.pt"):
        if not (cache / finished.get(path.name, "none")).exists():
            state = torch.load(path, weights_only=True, map_location="cpu")
            training.save(_halved({k: v for k, v in state.items() if k != "optimizers"}), folder / path.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{folder}: {size:.1f} MB")


def _halved(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _halved(part) for name, part in state.items()}
    return state.half() if isinstance(state, torch.Tensor) and state.is_floating_point() else state


def _load_in_float32(config: Path) -> None:
    """transformers loads a model in the type its config names, diffusers in float32: make a plain load agree."""
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))
