"""Trial 11: models and trained weights that are damaged, incomplete, pickled or of another architecture are refused."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file, save_file
from tiny_pipeline import build_pipeline

from ddpo.config import parse_config
from ddpo.policies.loading import ModelSource, load_pipeline
from ddpo.policies.lora import LoRA, add_adapter, save_adapter
from ddpo.runtime.errors import ModelError
from fault_trials.refusals import Ending, flaw_of_ending, flaw_of_refusal, run_apart, run_here
from fault_trials.registry import Cases, trial

SEED = 11
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
ADAPTER = "pytorch_lora_weights.safetensors"
NOWHERE = "http://127.0.0.1:9"
"""The discard port: connections are refused."""
Damage = Callable[[Path], Any]


@trial(
    11,
    "models",
    "A model that is damaged, incomplete, pickled or of another architecture is refused, never loaded in part.",
    fast=2,
    full=100,
)
def broken_models(size: int, folder: Path) -> Cases:
    """Folders, adapters and hub ids; `size` is the number of random cuts and flipped bits of each weight file."""
    whole = folder / "whole"
    pipeline = build_pipeline()
    pipeline.save_pretrained(whole)
    yield "undamaged", None if _loads_as(whole, whole) else "was refused"
    for case, damage, *says in [*DAMAGES, *_of_each_part(), *_other_networks(pipeline)]:
        broken = _damaged(whole, folder / "broken", damage)
        yield case, _refusal(broken, *says)
    yield from _random_damages(size, whole, folder)
    yield from _trained_weights(size, whole, folder, pipeline)
    yield from _through_the_command_line(whole, folder)
    yield from _without_network(size, folder)


def _damaged(whole: Path, target: Path, damage: Damage) -> Path:
    """Return a copy of the pipeline after the damage; the copy before it is gone."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(whole, target)
    damage(target)
    return target


def _refusal(model: Path | str, *says: str, weights: Path | None = None) -> str | None:
    source = ModelSource(name=str(model))
    return flaw_of_refusal(lambda: load_pipeline(source, weights), "model", *says, error=ModelError)


def _loads_as(folder: Path, whole: Path) -> bool:
    """Return whether a folder gives the weights of the undamaged one."""
    pipelines = [load_pipeline(ModelSource(name=str(place))) for place in (folder, whole)]
    return all(
        torch.equal(tensor, getattr(pipelines[1], part).state_dict()[name])
        for part in WEIGHTS
        for name, tensor in getattr(pipelines[0], part).state_dict().items()
    )


# --- folders ---


def _write(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def _remove(name: str) -> Damage:
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


DAMAGES: list[tuple[Any, ...]] = [
    ("no model_index.json", _remove("model_index.json"), "model_index.json", "give a folder"),
    ("model_index.json cut off", _write("model_index.json", '{"_class_name": "Stab'), "model_index.json"),
    ("model_index.json empty", _write("model_index.json", ""), "model_index.json"),
    ("model_index.json a list", _write("model_index.json", "[]"), "model_index.json"),
    ("model_index.json without class", _write("model_index.json", "{}"), "model_index.json"),
    (
        "another kind of pipeline",
        _write("model_index.json", '{"_class_name": "StableDiffusionXLPipeline"}'),
        "StableDiffusionXLPipeline",
    ),
    (
        "classes from elsewhere",
        _write("model_index.json", '{"_class_name": "StableDiffusionPipeline", "unet": ["os", "system"]}'),
        "unet",
    ),
    ("no tokenizer", _remove("tokenizer"), "tokenizer"),
    ("tokenizer cut off", _write("tokenizer/tokenizer.json", '{"version": '), "cannot be loaded"),
    ("no scheduler", _remove("scheduler"), "scheduler"),
    ("scheduler cut off", _write("scheduler/scheduler_config.json", "{"), "scheduler"),
]
"""Case, what is done to the folder, and what the refusal says."""


def _of_each_part() -> Iterator[tuple[Any, ...]]:
    for part, file in WEIGHTS.items():
        again = "download or copy it again"
        yield f"{part}: gone", _remove(part), part, again
        yield f"{part}: no weights", _remove(f"{part}/{file}"), part, "safetensors", again
        yield f"{part}: no config", _remove(f"{part}/config.json"), part, again
        yield f"{part}: config cut off", _write(f"{part}/config.json", '{"a": '), part, again
        yield f"{part}: weights empty", _write(f"{part}/{file}", ""), file, "damaged", again
        yield f"{part}: weights are a page", _write(f"{part}/{file}", "<html>Not found</html>"), file, "damaged"
        yield f"{part}: a pickle only", _pickled(part), ".bin", "is a pickle", "save_file", file
        yield f"{part}: a tensor renamed", _without_a_tensor(part, rename=True), part, "lack", again
        yield f"{part}: a tensor less", _without_a_tensor(part, rename=False), part, "lack", again
        yield f"{part}: a tensor of another shape", _wider_tensor(part), part


def _pickled(part: str) -> Damage:
    """Put the weights of a part into a pickle, as older checkpoints have them."""

    def damage(folder: Path) -> None:
        file = folder / part / WEIGHTS[part]
        pickled = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
        torch.save(load_file(file), folder / part / pickled)
        file.unlink()

    return damage


def _without_a_tensor(part: str, *, rename: bool) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / part / WEIGHTS[part]
        tensors = load_file(file)
        name = sorted(tensors)[len(tensors) // 2]
        tensor = tensors.pop(name)
        save_file(tensors | ({f"{name}x": tensor} if rename else {}), file, {"format": "pt"})

    return damage


def _wider_tensor(part: str) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / part / WEIGHTS[part]
        tensors = load_file(file)
        name = sorted(tensors)[len(tensors) // 2]
        tensors[name] = torch.cat([tensors[name], tensors[name]])
        save_file(tensors, file, {"format": "pt"})

    return damage


def _other_networks(pipeline: Any) -> Iterator[tuple[Any, ...]]:
    """Weights in shards of which one is missing."""

    def sharded(folder: Path) -> None:
        shutil.rmtree(folder / "unet")
        pipeline.unet.save_pretrained(folder / "unet", max_shard_size="200KB")

    def without(number: int) -> Damage:
        def damage(folder: Path) -> None:
            sharded(folder)
            shards = sorted((folder / "unet").glob("*.safetensors"))
            assert len(shards) > 2
            shards[number].unlink()

        return damage

    def cut(folder: Path) -> None:
        sharded(folder)
        shard = sorted((folder / "unet").glob("*.safetensors"))[1]
        shard.write_bytes(shard.read_bytes()[:-1])

    yield "the first shard missing", without(0), "unet", "00001-of"
    yield "the last shard missing", without(-1), "unet", "-of-"
    yield "a shard cut off", cut, "unet", "damaged", "00002-of"


def _random_damages(size: int, whole: Path, folder: Path) -> Cases:
    """Cut files anywhere, and flip single bits of their headers: refused, or nothing of the weights has changed."""
    chance = random.Random(SEED)
    for part, file in WEIGHTS.items():
        content = (whole / part / file).read_bytes()
        header = 8 + struct.unpack("<Q", content[:8])[0]
        for number in range(size):
            length = chance.randrange(len(content))
            path = f"{part}/{file}"
            broken = _damaged(whole, folder / "broken", lambda to: (to / path).write_bytes(content[:length]))  # noqa: B023
            yield f"{part}: cut after {length} bytes, {number}", _refusal(broken, file, "damaged")
            place, bit = chance.randrange(header), chance.randrange(8)
            flipped = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            broken = _damaged(whole, folder / "broken", lambda to: (to / path).write_bytes(flipped))  # noqa: B023
            yield f"{part}: bit {bit} of byte {place} flipped, {number}", _refused_or_same(broken, whole)


def _refused_or_same(broken: Path, whole: Path) -> str | None:
    problem = _refusal(broken)
    if problem is not None and problem.startswith("was accepted") and _loads_as(broken, whole):
        return None
    return problem


# --- trained weights, put on top of a model ---


def _trained_weights(size: int, whole: Path, folder: Path, pipeline: Any) -> Cases:
    """Adapters and networks in the place of a run's model/."""
    good = folder / "adapter"
    add_adapter(pipeline.unet, LoRA(rank=2), 0)
    save_adapter(type(pipeline), pipeline.unet, good)
    tensors = load_file(good / ADAPTER)
    yield "adapter: undamaged", _loading_problem(whole, good)
    for case, changed, *says in _changed_adapters(tensors):
        place = folder / "other"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        save_file(changed, place / ADAPTER, {"format": "pt"})
        yield f"adapter: {case}", _refusal(whole, str(place), *says, weights=place)
    yield from _broken_adapters(size, whole, folder, (good / ADAPTER).read_bytes())
    for case, changes in {"wider": {"cross_attention_dim": 24}, "deeper": {"layers_per_block": 2}}.items():
        place = folder / f"network-{case}"
        _other_unet(pipeline, changes).save_pretrained(place)
        yield f"network: {case}", _refusal(whole, "another architecture", str(place), weights=place)


def _loading_problem(whole: Path, weights: Path) -> str | None:
    try:
        load_pipeline(ModelSource(name=str(whole)), weights)
    except ModelError as error:
        return f"was refused: {error}"
    return None


def _changed_adapters(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[Any, ...]]:
    other = "another architecture"
    yield "of another family", {k.replace("unet.", "transformer."): v for k, v in tensors.items()}, other
    yield "of layers that are not there", {k.replace("to_k", "to_kk"): v for k, v in tensors.items()}, other
    yield (
        "of blocks that are not there",
        {k.replace("up_blocks.0", "up_blocks.7"): v for k, v in tensors.items()},
        other,
    )
    yield "twice as wide", {k: v.repeat_interleave(2, int("down" in k)) for k, v in tensors.items()}, other
    yield "of no layer", {"x": torch.zeros(2)}, other
    yield "of nothing", {}, other


def _broken_adapters(size: int, whole: Path, folder: Path, content: bytes) -> Cases:
    place, chance = folder / "broken-adapter", random.Random(SEED)
    place.mkdir()
    yield "adapter: an empty folder", _refusal(whole, str(place), "safetensors", weights=place)
    torch.save({"x": torch.zeros(2)}, place / "pytorch_lora_weights.bin")
    yield "adapter: a pickle only", _refusal(whole, "is a pickle", "save_file", ADAPTER, weights=place)
    (place / "pytorch_lora_weights.bin").unlink()
    for number in range(size):
        length = chance.randrange(len(content))
        (place / ADAPTER).write_bytes(content[:length])
        yield f"adapter: cut after {length} bytes, {number}", _refusal(whole, ADAPTER, "damaged", weights=place)


def _other_unet(pipeline: Any, changes: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_config(json.loads(pipeline.unet.to_json_string()) | changes)


# --- the same through the command line, and the hub ---


def _through_the_command_line(whole: Path, folder: Path) -> Cases:
    """`ddpo sample` and `ddpo evaluate` of runs and models that cannot be loaded."""
    run, out = folder / "run", folder / "empty"
    out.mkdir()
    config = parse_config({"model": str(whole), "device": "cpu", "threads": 1, "prompts": ["a cat"]})
    shutil.copytree(folder / "network-wider", run / "model")
    (run / "config.yaml").write_text(config.to_yaml())
    sample = ["--prompt", "a cat", "--device", "cpu"]
    says = "another architecture"
    yield "ddpo sample RUN of another model", _command(["sample", str(run), *sample, "--steps", "1"], out, says)
    yield "ddpo evaluate RUN of another model", _command(["evaluate", str(run), "--seeds", "1"], out, says)
    pickled = _damaged(whole, folder / "pickled", _pickled("unet"))
    yield "ddpo sample a pickle", _command(["sample", str(pickled), *sample], out, "is a pickle")
    yield "ddpo evaluate a pickle", _command(["evaluate", str(pickled), "--seeds", "1"], out, "is a pickle")
    yield "ddpo train a pickle", _command(["train", f"model={pickled}", "device=cpu"], out, "is a pickle")
    yield "ddpo sample an adapter", _command(["sample", str(folder / "adapter"), *sample], out, "model_index.json")
    file = whole / "unet" / WEIGHTS["unet"]
    yield "ddpo sample a file", _command(["sample", str(file), *sample], out, "single file", "save_pretrained")


def _command(arguments: list[str], folder: Path, *says: str) -> str | None:
    problem = flaw_of_ending(_last_line(run_here(arguments, folder)), *says)
    left = [path.name for path in folder.iterdir()]
    return f"left {left} behind" if left and problem is None else problem


def _last_line(ending: Ending) -> Ending:
    """Return the ending without the progress that `ddpo evaluate` shows on stderr before it fails."""
    lines = [line for line in ending.stderr.splitlines() if line.startswith("Error: ")]
    return Ending(ending.code, lines[-1] if lines else ending.stderr)


def _without_network(size: int, folder: Path) -> Cases:
    """A hub id where connections are refused; at full size with the pauses between the hub's own attempts."""
    says = "the hub cannot be reached", "give a folder"
    template = f"{NOWHERE}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    with mock.patch("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template), mock.patch("time.sleep"):
        yield "hub id without network", _refusal("owner/no-such-model", *says)
    source = ModelSource(name="owner/no-such-model", local_files_only=True)
    yield "hub id, local files only", flaw_of_refusal(lambda: load_pipeline(source), *says)
    if size >= 10:
        arguments = ["sample", "owner/no-such-model", "--prompt", "a cat"]
        ending = run_apart(arguments, folder, {"HF_ENDPOINT": NOWHERE, "HF_HOME": str(folder / "cache")})
        yield "ddpo sample of a hub id without network", flaw_of_ending(ending, *says)
