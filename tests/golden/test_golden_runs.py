"""Golden runs: tiny trainings whose metrics and weights were recorded, so that no change moves a bit unnoticed.

On the processor they were recorded on the bits must be the same; another one rounds differently, and there numbers must
only be near: a JPEG may be a byte larger, a pair may just be clipped. `python tests/golden/test_golden_runs.py` records
them anew: do that only for a change of arithmetic that is meant, and say in the commit what it changes.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_pipeline import build_pipeline

from ddpo import load_config, resume, train
from ddpo.config import parse_config

GOLDEN = Path(__file__).with_name("golden.json")
SETTINGS: dict[str, Any] = {
    "prompts": ["a cat", "a dog", "an ant"],
    "reward": "jpeg-incompressibility",
    "iterations": 3,
    "samples_per_iteration": 12,
    "samples_per_prompt": 2,
    "updates_per_iteration": 2,
    "batch_size": 5,
    "sampler": {"steps": 4},
    "learning_rate": 1e-3,
    "advantage": {"buffer_size": 8, "min_count": 3},
    "evaluation": {"number": 3, "every": 2, "kl_to_base": True},
    "checkpoint_every": 1,
    "threads": 1,
    "device": "cpu",
}
IS = {"name": "ddpo-is", "clip_nats": 1.64}
RUNS: dict[str, dict[str, Any]] = {
    "ddpo-is": {"algorithm": IS},
    "ddpo-is-lora": {"algorithm": IS, "lora": {"rank": 2}},
    "ddpo-is-sum-epochs": {
        "algorithm": {"name": "ddpo-is", "log_prob": "sum", "clip_range": 0.2},
        "inner_epochs": 2,
        "timestep_fraction": 0.5,
        "advantage": {"name": "group", "clip": 1.0},
        "sampler": {"name": "ancestral", "steps": 5},
    },
    "ddpo-sf": {"algorithm": "ddpo-sf", "updates_per_iteration": 1, "cfg_training": False},
    "rwr": {"algorithm": {"name": "rwr", "beta": 5.0, "samples_per_update": 7}, "updates_per_iteration": 3},
    "rwr-sparse": {
        "algorithm": {"name": "rwr-sparse", "percentile": 0.5, "samples_per_update": 7, "fresh_optimizer": False},
        "updates_per_iteration": 3,
        "lora": {"rank": 2},
        "guidance_scale": 1.0,
    },
    "combined": {
        "algorithm": IS,
        "reward": {
            "name": "sum",
            "rewards": [
                {"name": "jpeg-compressibility", "weight": 0.5, "normalise": "z-score"},
                {"name": "jpeg-incompressibility", "clip": [0.3, 0.9]},
            ],
        },
        "evaluation": {"number": 3, "every": 1, "rewards": ["jpeg-compressibility"]},
    },
}


def _tiny(folder: Path, name: str, **changes: Any) -> Any:
    model = folder / "pipeline"
    if not model.exists():
        build_pipeline().save_pretrained(model)
    tree = {"name": "golden", "model": str(model), "output": folder / "run", **SETTINGS, **RUNS[name], **changes}
    return parse_config(tree)


def _whole(name: str) -> Callable[[Path], Path]:
    def run(folder: Path) -> Path:
        return train(_tiny(folder, name)).folder.path

    return run


def _resumed(folder: Path) -> Path:
    """Two iterations, then the third in a run that goes on."""
    path = train(_tiny(folder, "ddpo-is", iterations=2)).folder.path
    return resume(path, ["iterations=3"]).folder.path


def _embedded(folder: Path) -> Path:
    """The default recipe, smaller."""
    small = ("iterations=1", "samples_per_iteration=8", "samples_per_prompt=4", "updates_per_iteration=2")
    also = ("precision=fp32", "batch_size=4", "sampler.steps=3", "evaluation.number=2", "evaluation.every=1")
    config = load_config(None, [*small, *also, "device=cpu", f"output={folder / 'run'}"])
    return train(config).folder.path


CASES: dict[str, Callable[[Path], Path]] = {
    **{name: _whole(name) for name in RUNS},
    "resumed": _resumed,
    "embedded": _embedded,
}


def record(run: Path) -> dict[str, Any]:
    """Return what is compared of a run: metrics without times, fixed samples' rewards, weights and moments."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    name = (run / "checkpoints" / "latest").read_text().strip()
    tensors = load_file(run / "checkpoints" / name / "training.safetensors")
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].contiguous().numpy().tobytes())
    samples = [json.loads(file.read_text()) for file in sorted((run / "samples").glob("*.json"))]
    return {
        "metrics": [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows],
        "fixed_samples": [[sample["rewards"] for sample in each["samples"]] for each in samples],
        "weights_norm": float(sum(value.double().square().sum() for value in tensors.values()) ** 0.5),
        "weights_sha256": digest.hexdigest(),
    }


def processor() -> str:
    """Return what decides how sums round: processor, PyTorch and its instruction set."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    words = model.partition(":")[2].strip(), torch.__version__, torch.backends.cpu.get_cpu_capability()
    return ", ".join((platform.machine(), *words))


@pytest.mark.parametrize("case", CASES)
def test_run_is_the_recorded_one(case: str, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found, wanted = json.loads(json.dumps(record(CASES[case](tmp_path)))), golden["runs"][case]
    if golden["processor"] == processor():
        assert found == wanted
    else:
        del found["weights_sha256"], wanted["weights_sha256"]
        assert_close(found, wanted)


def assert_close(found: Any, wanted: Any, where: str = "") -> None:
    """Compare two trees of numbers as another processor would compute them."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_close(found[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_close(*pair, f"{where}/{index}")
    else:
        assert found == pytest.approx(wanted, rel=0.05, abs=0.1), where


def main() -> None:
    torch.set_num_threads(1)
    runs = {}
    for case, run in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            runs[case] = record(run(Path(folder)))
    GOLDEN.write_text(json.dumps({"processor": processor(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
