"""Train the embedded model from the package registries: `python train.py all`, or one stage at a time.

Every stage reads and writes the cache folder and goes on from where it stopped, here or on another machine. README.md
says what each does.
"""

import argparse
import importlib
import itertools
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import training

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


# The stages that train for some minutes: module, function, and the share of the minutes of `all`.
TRAINED = {
    "autoencoder": ("train_autoencoder", "train", 6.0),
    "judge": ("train_judge", "train_judge", 1.5),
    "gold-judge": ("train_judge", "train_gold_judge", 1.5),
    "latents": ("latents", "produce", 2.0),
    "diffusion": ("train_diffusion", "train", 12.0),
}


def data(options: argparse.Namespace) -> None:
    import drawings
    import text

    if not (options.cache / "drawings.npz").exists():
        drawings.gather(options.cache, options.processes)
    if not (options.cache / "tokenizer").exists():
        text.train_tokenizer(drawings.load_records(options.cache), options.cache / "tokenizer")


def trained(name: str, options: argparse.Namespace) -> None:
    """Run a stage of TRAINED with its minutes: those asked for, or in `all` its share of them."""
    module, function, share = TRAINED[name]
    whole = sum(part for *_, part in TRAINED.values())
    minutes = options.minutes * (share / whole if options.stage == "all" else 1)
    machine = training.Machine(options.cache, torch.device(options.device), options.processes, minutes, options.done)
    getattr(importlib.import_module(module), function)(machine)


def export(options: argparse.Namespace) -> None:
    import export

    export.export(options.cache, options.package or options.cache / "package", options.weights)


def evaluate(options: argparse.Namespace) -> None:
    import evaluate

    torch.set_num_threads(options.processes)
    package = options.package or options.cache / "package"
    settings = itertools.product(options.guidance, options.steps, options.eta)
    rows = evaluate.measure(package, options.number, settings, torch.device(options.device))
    (options.cache / "evaluation.json").write_text(json.dumps(rows, indent=1))
    best = max(rows, key=lambda row: row["judge"])
    print(f"best: guidance {best['guidance']}, {best['steps']} steps, eta {best['eta']}; worst: {evaluate.worst(best)}")
    if options.grid:
        evaluate.grid(package, options.grid, best["guidance"], best["steps"], best["eta"])


def pack(options: argparse.Namespace) -> None:
    import export

    export.pack(options.cache, options.target)


STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "data": data,
    **{name: partial(trained, name) for name in TRAINED},
    "export": export,
    "evaluate": evaluate,
}


def everything(options: argparse.Namespace) -> None:
    for stage in STAGES.values():
        stage(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all", "pack"])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "ddpo-embedded")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="on the CPU, of one thread each")
    parser.add_argument(
        "--minutes", type=float, default=24, help="what the whole stage, or `all`, takes on this machine"
    )
    parser.add_argument("--done", type=float, help="go back to this part of the stage, in [0, 1]: to train longer")
    parser.add_argument("--package", type=Path, help="export, evaluate: the folder of model/ and the judges")
    parser.add_argument("--weights", choices=("average", "model"), default="average", help="export: which weights")
    parser.add_argument("--number", type=int, default=8, help="evaluate: pictures an animal")
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--eta", type=float, nargs="+", default=[0.0])
    parser.add_argument("--grid", type=Path, help="evaluate: write a grid of samples here")
    parser.add_argument("--target", type=Path, help="pack: the folder to write")
    options = parser.parse_args()
    {**STAGES, "all": everything, "pack": pack}[options.stage](options)


if __name__ == "__main__":
    main()
