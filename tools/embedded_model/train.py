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

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def data(options: argparse.Namespace) -> None:
    import drawings
    import text

    drawings.gather(options.cache, options.processes)
    text.train_tokenizer(drawings.load(options.cache)[1], options.cache / "tokenizer")


def autoencoder(options: argparse.Namespace) -> None:
    import train_autoencoder

    train_autoencoder.train(options.cache, options.processes, options.minutes or 24)


def decoder(options: argparse.Namespace) -> None:
    import train_autoencoder

    train_autoencoder.train_decoder(options.cache, options.processes, options.minutes or 8)


def judge(options: argparse.Namespace) -> None:
    import train_judge

    train_judge.train(options.cache, options.minutes or 18)


def judge_held_out(options: argparse.Namespace) -> None:
    import train_judge

    train_judge.measure_held_out(options.cache, options.minutes or 8)


def latents(options: argparse.Namespace) -> None:
    import latents
    import parallel

    parallel.launch(latents.produce, options.processes, options.cache, options.minutes or 5, options.seed)


def diffusion(options: argparse.Namespace) -> None:
    import train_diffusion

    minutes = options.minutes or options.plan_minutes
    train_diffusion.train(
        options.cache, options.processes, minutes, options.plan_minutes, options.source, options.target
    )


def export(options: argparse.Namespace) -> None:
    import export

    export.export(options.cache, options.source, options.weights)


def evaluate(options: argparse.Namespace) -> None:
    import evaluate
    import export

    torch.set_num_threads(options.processes)
    settings = itertools.product(options.guidance, options.steps, options.eta)
    rows = evaluate.measure(export.PACKAGE, options.number, settings)
    best = max(rows, key=lambda row: row["top1"])
    print(f"best: guidance {best['guidance']}, {best['steps']} steps, eta {best['eta']}: top-1 {best['top1']}")
    print("worst animals:", evaluate.worst(best))
    (options.cache / "evaluation.json").write_text(json.dumps(rows, indent=1))
    if options.grid:
        chosen = (best["guidance"], best["steps"], best["eta"])
        evaluate.grid(export.PACKAGE, options.grid, *chosen)


def everything(options: argparse.Namespace) -> None:
    for stage in (data, autoencoder, decoder, judge, judge_held_out, latents, diffusion, export, evaluate):
        stage(options)


STAGES = {
    "data": data,
    "autoencoder": autoencoder,
    "decoder": decoder,
    "judge": judge,
    "judge-held-out": judge_held_out,
    "latents": latents,
    "diffusion": diffusion,
    "export": export,
    "evaluate": evaluate,
    "all": everything,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "ddpo-embedded")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, help="time of this stage (each has its own default)")
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
    STAGES[options.stage](options)


if __name__ == "__main__":
    main()
