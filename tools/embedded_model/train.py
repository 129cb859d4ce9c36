"""Train the embedded model from the package registries: `python train.py all`, or one stage at a time.

Stages: data, autoencoder, decoder, judge, judge-held-out, latents, diffusion, export, evaluate. Every stage reads and
writes the cache folder; `autoencoder`, `decoder` and `diffusion` go on from where they stopped. See README.md.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

import torch
import training

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def machine(options: argparse.Namespace, part: str) -> training.Machine:
    """This machine, with the stage's minutes: those asked for, or in `all` its share of them."""
    minutes = options.minutes * (SHARES[part] / sum(SHARES.values()) if options.stage == "all" else 1)
    return training.Machine(options.cache, torch.device(options.device), options.processes, minutes)


def data(options: argparse.Namespace) -> None:
    import drawings
    import text

    if not (options.cache / "drawings.npz").exists():
        drawings.gather(options.cache, options.processes)
    text.train_tokenizer(drawings.load_records(options.cache), options.cache / "tokenizer")


def autoencoder(options: argparse.Namespace) -> None:
    import train_autoencoder

    train_autoencoder.train(machine(options, "autoencoder"))


# How `all` divides its minutes.
SHARES = {"autoencoder": 6.0, "decoder": 1.5, "judge": 1.5, "gold-judge": 1.5, "latents": 1.5, "diffusion": 12.0}


def everything(options: argparse.Namespace) -> None:
    for stage in STAGES:
        STAGES[stage](options)


STAGES = {"data": data, "autoencoder": autoencoder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "ddpo-embedded")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--minutes", type=float, default=24, help="time of the whole stage, or of all, on this machine")
    parser.add_argument("--plan-minutes", type=float, default=52, help="diffusion: length of the whole training")
    parser.add_argument("--source", default="diffusion.pt", help="diffusion, export: the state to read")
    parser.add_argument("--weights", choices=("average", "model"), default="average", help="export: which weights")
    parser.add_argument("--target", default="diffusion.pt", help="diffusion: the state to write")
    parser.add_argument("--seed", type=int, default=0, help="latents: number of the first shard")
    parser.add_argument("--number", type=int, default=8, help="evaluate: pictures an animal")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--eta", type=float, nargs="+", default=[0.0])
    parser.add_argument("--grid", type=Path, help="evaluate: write a grid of samples here")
    options = parser.parse_args()
    everything(options) if options.stage == "all" else STAGES[options.stage](options)


if __name__ == "__main__":
    main()
