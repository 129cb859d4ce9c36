"""Write the trained model as an ordinary `StableDiffusionPipeline` folder, fp16, whole or not at all."""

import copy
import json
import shutil
from pathlib import Path

import text
import torch
import train_autoencoder
import train_diffusion
from diffusers import StableDiffusionPipeline

LIMIT_MB = 15.0
PACKAGE = Path(__file__).parents[2] / "src" / "ddpo" / "embedded"


def build_pipeline(cache: Path, state_name: str, weights: str) -> StableDiffusionPipeline:
    """The weights ("model") or their moving average ("average"), with autoencoder, tokenizer and schedule."""
    tokenizer = text.CLIPTokenizer.from_pretrained(cache / "tokenizer")
    model = train_diffusion.Model(tokenizer)
    model.load_state_dict(torch.load(cache / state_name, weights_only=True)[weights])
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


def export(cache: Path, state_name: str, weights: str = "average", package: Path = PACKAGE) -> None:
    """Replace `model/` and, when there is a judge, `judge.safetensors`; refuse a model above the size limit."""
    target, fresh, old = package / "model", package / "model.new", package / "model.old"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline = copy.deepcopy(build_pipeline(cache, state_name, weights)).to(torch.float16)
    pipeline.save_pretrained(fresh)
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
    if (cache / "judge.safetensors").exists():
        export_judge(cache, package)
    print(f"exported {size:.2f} MB to {target}")


def _load_in_float32(config: Path) -> None:
    """transformers loads a model in the type its config names, diffusers in float32: make a plain load agree."""
    config.write_text(config.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def export_judge(cache: Path, package: Path) -> None:
    """Copy the judge's weights; write its labels and measured accuracies side by side."""
    shutil.copyfile(cache / "judge.safetensors", package / "judge.safetensors")
    (package / "judge.safetensors").chmod(0o644)
    facts = json.loads((cache / "judge.json").read_text())
    if (cache / "judge-held-out.json").exists():
        facts["trained_without_these_sources"] = json.loads((cache / "judge-held-out.json").read_text())
    (package / "judge.json").write_text(json.dumps(facts, indent=1) + "\n")
