"""Fine-tune diffusion models with reinforcement learning (Black et al., 2023).

    from ddpo import load_config, train
    result = train(load_config("emoji-compressibility", ["iterations=20"]))

Names are imported when first used, so that `import ddpo` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddpo.runtime.version import __version__

if TYPE_CHECKING:
    from ddpo.config import TrainConfig, load_config
    from ddpo.embedded import embedded_model
    from ddpo.runtime.errors import DDPOError
    from ddpo.training.run import resume, train
    from ddpo.training.run_loop import TrainResult

_PLACES = {
    "DDPOError": "ddpo.runtime.errors",
    "TrainConfig": "ddpo.config",
    "TrainResult": "ddpo.training.run_loop",
    "embedded_model": "ddpo.embedded",
    "load_config": "ddpo.config",
    "resume": "ddpo.training.run",
    "train": "ddpo.training.run",
}

__all__ = ["DDPOError", "TrainConfig", "TrainResult", "__version__", "embedded_model", "load_config", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'ddpo' has no attribute '{name}'")
