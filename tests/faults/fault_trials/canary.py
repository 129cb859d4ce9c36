"""Trial 6: a program hidden in a file or an answer never runs; each place where one could be offered is tried.

The canary is a pickle, a tag of YAML or a module that would create a file when it is loaded, and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from quiet_runs import resume, train
from reward_servers import ScriptedServer
from tiny_clip import save_clip
from tiny_pipeline import build_pipeline
from tiny_run import Signalling, by_content, tiny_run

from ddpo.media import Image
from ddpo.policies.loading import ModelSource, load_pipeline
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward, score
from ddpo.runs.checkpoints import CHECKSUMS, Checkpoints
from ddpo.runtime.errors import DDPOError
from fault_trials.refusals import flaw_of_ending, flaw_of_refusal, no_model_may_load, run_here
from fault_trials.registry import Cases, trial

Attempt = Callable[[], Any]
UNET = "diffusion_pytorch_model"


class Canary:
    """Creates the file `path` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")

    @property
    def sang(self) -> bool:
        """Whether it was unpickled since the last time this was asked."""
        found = self.path.exists()
        self.path.unlink(missing_ok=True)
        return found

    def pickles(self) -> Iterator[tuple[str, bytes]]:
        """Yield it as a bare pickle, and as torch writes one, alone and among tensors."""
        yield "bare", pickle.dumps(self)
        for form, content in {"torch": self, "torch, among tensors": {"x": torch.zeros(1), "y": self}}.items():
            buffer = io.BytesIO()
            torch.save(content, buffer)
            yield form, buffer.getvalue()


@trial(
    6,
    "canary",
    "A program hidden in weights, checkpoints, prompts, configurations or a server's answer never runs; each is "
    "refused.",
    fast=1,
    full=1,
)
def hidden_programs(size: int, folder: Path) -> Cases:
    """Every place that takes a file or an answer from outside; the size does not matter."""
    del size
    canary = Canary(folder / "canary")
    for form, content in canary.pickles():
        torch.load(io.BytesIO(content), weights_only=False) if form != "bare" else pickle.loads(content)
        yield f"the canary itself, {form}", None if canary.sang else "does not run when it is unpickled"
    for place in PLACES:
        yield from place(canary, folder)


def _tried(canary: Canary, attempt: Attempt, *says: str) -> str | None:
    """Return what is wrong with how an attempt to load the canary ends."""
    problem = flaw_of_refusal(attempt, *says, error=DDPOError)
    return "THE PROGRAM RAN" if canary.sang else problem


# --- models and adapters ---


def models(canary: Canary, folder: Path) -> Cases:
    """Pickles and modules in a pipeline's folder, instead of its weights and beside them."""
    whole = folder / "pipeline"
    build_pipeline().save_pretrained(whole)
    files = {"unet": UNET, "vae": UNET, "text_encoder": "pytorch_model"}
    for form, content in canary.pickles():
        for part, name in files.items():
            broken = _without_weights(whole, folder / "broken", part)
            (broken / part / f"{name}.bin").write_bytes(content)
            yield f"{part}.bin, {form}", _tried(canary, _loading(broken), "is a pickle", ".bin", "save_file")
            safe = f"{name.removeprefix('pytorch_')}.safetensors"
            (broken / part / safe).write_bytes(content)
            yield f"{part}.safetensors, {form}", _tried(canary, _loading(broken), "damaged", safe)
    broken = _without_weights(whole, folder / "broken", "unet")
    (broken / "unet" / f"{UNET}.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": f"{UNET}.bin"}})
    )
    (broken / "unet" / f"{UNET}.bin").write_bytes(pickle.dumps(canary))
    yield "an index of pickles", _tried(canary, _loading(broken))
    beside = shutil.copytree(whole, folder / "beside")
    (beside / "unet" / f"{UNET}.bin").write_bytes(pickle.dumps(canary))
    load_pipeline(ModelSource(name=str(beside)))
    yield "a pickle beside safetensors", "THE PROGRAM RAN" if canary.sang else None
    (folder / "model.ckpt").write_bytes(pickle.dumps(canary))
    yield "a single file", _tried(canary, _loading(folder / "model.ckpt"), "single file")
    yield from _modules(canary, whole, folder)


def _modules(canary: Canary, whole: Path, folder: Path) -> Cases:
    """Python files that a pipeline's index asks for."""
    program = (
        f"open({str(canary.path)!r}, 'w')\nclass Evil:\n    @classmethod\n    def from_pretrained(*a, **k): pass\n"
    )
    for part in ("unet", "tokenizer", "scheduler", "image_encoder"):
        broken = shutil.copytree(whole, folder / f"module-{part}")
        index = json.loads((broken / "model_index.json").read_text()) | {part: ["evil", "Evil"]}
        (broken / "model_index.json").write_text(json.dumps(index))
        (broken / part).mkdir(exist_ok=True)
        (broken / part / "evil.py").write_text(program)
        yield f"a module as {part}", _tried_or_ignored(canary, _loading(broken))
    broken = shutil.copytree(whole, folder / "module-pipeline")
    index = json.loads((broken / "model_index.json").read_text()) | {"_class_name": ["pipeline", "Evil"]}
    (broken / "model_index.json").write_text(json.dumps(index))
    (broken / "pipeline.py").write_text(program)
    yield "a module as pipeline", _tried(canary, _loading(broken))


def _tried_or_ignored(canary: Canary, attempt: Attempt) -> str | None:
    """As `_tried`, but loading without what holds the canary is right too."""
    problem = _tried(canary, attempt)
    return None if problem is not None and problem.startswith("was accepted") else problem


def _without_weights(whole: Path, target: Path, part: str) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(whole, target)
    for file in (target / part).glob("*.safetensors"):
        file.unlink()
    return target


def _loading(model: Path, weights: Path | None = None) -> Attempt:
    return lambda: load_pipeline(ModelSource(name=str(model)), weights)


def adapters(canary: Canary, folder: Path) -> Cases:
    """Pickles in the place of a run's trained weights."""
    for form, content in canary.pickles():
        for name in ("pytorch_lora_weights.bin", "pytorch_lora_weights.safetensors"):
            place = folder / "adapter" / form / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            yield f"{name}, {form}", _tried(canary, _loading(folder / "pipeline", place.parent), name)


def checkpoints(canary: Canary, folder: Path) -> Cases:
    """Pickles as each file of a checkpoint, with their right checksum, and beside the files."""
    config = tiny_run(folder / "pipeline", folder / "interrupted")
    run = train(config, reward=by_content, display=Signalling("rollout", 1)).folder
    (checkpoint,) = Checkpoints(run.checkpoints).all()
    sums, going_on = checkpoint.folder / CHECKSUMS, partial(resume, run.path, reward=by_content)
    files = sorted(path for path in checkpoint.folder.rglob("*") if path.is_file() and path != sums)
    for form, content in canary.pickles():
        for file in files:
            whole = file.read_bytes()
            file.write_bytes(content)
            sums.write_text("".join(_sum(each, checkpoint.folder) for each in files))
            name = file.relative_to(checkpoint.folder)
            yield f"{name} of a checkpoint, {form}", _tried(canary, going_on, checkpoint.name)
            file.write_bytes(whole)
        sums.write_text("".join(_sum(each, checkpoint.folder) for each in files))
        beside = checkpoint.folder / "optimizer.pt"
        beside.write_bytes(content)
        yield f"a pickle beside the files of a checkpoint, {form}", _tried(canary, going_on, str(beside))
        beside.unlink()
        sums.write_bytes(content)
        yield f"the checksums of a checkpoint, {form}", _tried(canary, going_on, str(sums))


def _sum(file: Path, folder: Path) -> str:
    """Return a file's line in `CHECKSUMS`."""
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n"


# --- rewards ---


def reward_weights(canary: Canary, folder: Path) -> Cases:
    """Pickles as the weights that rewards are given."""
    clip = folder / "clip"
    save_clip(clip)
    files = {"aesthetic": "aesthetic-model.pth", "hpsv2": "HPS_v2.1_compressed.pt", "image-reward": "ImageReward.pt"}
    options = {"aesthetic": {"model": str(clip)}, "hpsv2": {"architecture": str(clip)}, "image-reward": {}}
    for form, content in canary.pickles():
        for name, file in files.items():
            (folder / file).write_bytes(content)
            spec = {"name": name, "weights": str(folder / file), "device": "cpu", **options[name]}
            yield f"{file}, {form}", _tried(canary, _scoring(spec), f"'{name}'", file)
        pickled = shutil.copytree(clip, folder / f"clip, {form}")  # a model once loaded stays loaded
        (pickled / "model.safetensors").unlink()
        (pickled / "pytorch_model.bin").write_bytes(content)
        spec = {"name": "clip-score", "model": str(pickled), "device": "cpu"}
        yield f"pytorch_model.bin of clip-score, {form}", _tried(canary, _scoring(spec), "'clip-score'")


def _scoring(spec: Any) -> Attempt:
    images, prompts = torch.full((2, 3, 32, 32), 0.5), ["a cat", "a dog"]
    return lambda: score(load_reward(spec), Image(), images, prompts, [{}, {}])


def server_answers(canary: Canary, folder: Path) -> Cases:
    """Pickles as what a reward server answers, to the scores and to the question what it is."""
    del folder
    for form, content in canary.pickles():
        with ScriptedServer(otherwise=lambda handler, body, content=content: handler.answer(200, content)) as server:
            spec = {"name": "remote", "url": server.url, "retries": 0, "timeout": 5}
            yield f"a server's scores, {form}", _tried(canary, _scoring(spec), "an answer that cannot be used")


# --- text ---


def prompt_files(canary: Canary, folder: Path) -> Cases:
    """Pickles as prompt files."""
    for form, content in canary.pickles():
        for name in ("prompts.txt", "prompts.jsonl", "prompts.pkl"):
            (folder / name).write_bytes(content)
            yield f"{name}, {form}", _tried(canary, lambda name=name: load_prompts(str(folder / name)), name)


def configurations(canary: Canary, folder: Path) -> Cases:
    """Tags of YAML that call functions, in every text that is read as YAML."""
    tags = {
        "apply": f"!!python/object/apply:builtins.open [{canary.path}, w]",
        "new": f"!!python/object/new:io.FileIO [{canary.path}, w]",
        "apply, with keywords": f"!!python/object/apply:builtins.open {{args: [{canary.path}], kwds: {{mode: w}}}}",
        "system": f"!!python/object/apply:os.system ['touch {canary.path}']",
    }
    run = folder / "run"
    (run / "model").mkdir(parents=True)
    for form, tag in tags.items():
        (folder / "evil.yaml").write_text(f"name: mine\nreward: {tag}\n")
        (run / "config.yaml").write_text(f"reward: {tag}\n")
        for arguments in (
            ["train", "evil.yaml"],
            ["train", f"reward={tag}"],
            ["train", f"prompts=[{tag}]"],
            ["sample", str(run), "--prompt", "a cat"],
            ["evaluate", str(run)],
            ["evaluate", "embedded", "--prompts", f"[{tag}]"],
            ["evaluate", "embedded", "--reward", f"{{name: {tag}}}"],
        ):
            with no_model_may_load():
                problem = flaw_of_ending(run_here(arguments, folder))
            case = f"ddpo {' '.join(arguments)}".replace(tag, "TAG").replace(str(folder), "")
            yield f"{case}, {form}", "THE PROGRAM RAN" if canary.sang else problem


PLACES = (models, adapters, checkpoints, reward_weights, server_answers, prompt_files, configurations)
"""Each takes the canary and a folder and yields cases."""
