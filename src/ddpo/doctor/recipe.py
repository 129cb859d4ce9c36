"""Whether a recipe can train on this machine: every check of `ddpo doctor`, each told as soon as it is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo.config import TrainConfig, load_config
from ddpo.doctor import environment
from ddpo.doctor.checks import Check, Outcome, failed, ok, perform, skipped, warning
from ddpo.doctor.hub import SECONDS, look_at_hub, not_in_cache
from ddpo.doctor.servers import look_at_server, servers
from ddpo.media import Image
from ddpo.prompts import PromptSource, load_prompts
from ddpo.rewards import load_reward, score_components
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    import torch

    from ddpo.doctor.plan import Outlook
    from ddpo.runtime.processes import Runtime

QUICK = 120.0
"""Seconds that a check may take; loading libraries takes most of it on a slow disk."""
PATIENT = 300.0
"""Seconds for what may load a large network: scoring a picture, and the rehearsal."""
PICTURE = (3, 512, 512)
"""Shape of the test picture where the model's is not known."""


def examine(source: str | None, overrides: Sequence[str], *, offline: bool = False) -> Iterator[Check]:
    """Yield the outcome of every check of a recipe or file with `key=value` overrides; none stops the others.

    `offline`: the user forbids to ask the hub. Nothing is downloaded if HF_HUB_OFFLINE is set in this process.
    """
    return iter(_Examination(source, overrides, offline))


class _Examination:
    """What the checks found out that later ones need; None where the one that finds it has failed."""

    def __init__(self, source: str | None, overrides: Sequence[str], offline: bool) -> None:
        self._source, self._overrides, self._offline = source, overrides, offline
        self._config: TrainConfig | None = None
        self._prompts: PromptSource | None = None
        self._runtime: Runtime | None = None
        self._outlook: Outlook | None = None
        self._fits = True
        self._silent: set[str] = set()
        """Addresses of servers that do not answer."""
        self._wanted: list[str] = []
        """What the hub would have to give."""

    def __iter__(self) -> Iterator[Check]:
        yield perform("Python", environment.look_at_python, limit=QUICK)
        yield perform("packages", environment.look_at_packages, limit=QUICK)
        yield perform("extras", environment.look_at_extras, limit=QUICK)
        yield perform("configuration", self._load_config, limit=QUICK)
        if self._config is None:
            return
        yield perform("prompts", self._load_prompts, limit=QUICK)
        yield perform("device", self._find_device, limit=QUICK)
        yield perform("model", self._look_at_model, limit=QUICK)
        yield self._memory()
        yield perform("disk", self._look_at_disk, limit=QUICK)
        for url, spec in servers([self._config.reward, *self._config.evaluation.rewards]).items():
            yield self._server(url, spec)
        yield perform("reward", partial(self._score, self._config.reward, trained=True), limit=PATIENT)
        for measured in self._config.evaluation.rewards:
            yield perform("measured reward", partial(self._score, measured, trained=False), limit=PATIENT)
        yield perform("hub", partial(look_at_hub, self._wanted, offline=self._offline), limit=3 * SECONDS)
        yield perform("dry run", self._rehearse, limit=PATIENT)

    def _load_config(self) -> Outcome:
        self._config = config = load_config(self._source, self._overrides)
        trained = "the whole network" if config.lora.rank is None else f"LoRA of rank {config.lora.rank}"
        return ok(f"{config.name}: {config.algorithm.name} on {config.model.name}, {trained}")

    def _load_prompts(self) -> Outcome:
        self._prompts = load_prompts(self._known.prompts)
        number = len({prompt.text for prompt in self._prompts.prompts})
        return ok(f"{self._prompts.name}: {number:,} distinct, such as '{self._prompts.prompts[0].text}'")

    def _find_device(self) -> Outcome:
        from ddpo.doctor.machine import look_at_processors
        from ddpo.runtime.processes import Runtime

        config = self._known
        runtime = Runtime(
            device=config.device, threads=config.threads, precision=config.precision, tracker=config.tracker
        )
        self._runtime = runtime
        resolved = {"precision": runtime.precision, "device": runtime.device.type, "threads": runtime.threads}
        self._config = config.model_copy(update=resolved)
        return look_at_processors(self._config)

    def _look_at_model(self) -> Outcome:
        from ddpo.doctor.plan import look_ahead

        if self._runtime is None or self._prompts is None:
            return skipped("needs the device and the prompts")
        config = self._known
        self._outlook = outlook = look_ahead(config, self._prompts)
        if outlook.weights_here:
            return ok(f"the weights of {config.model.name} are on this machine")
        if Path(config.model.resolve()).is_dir():
            return failed(f"{config.model.name} lacks weights of its UNet, VAE or text encoder.", "Copy it whole.")
        if config.model.local_files_only:
            return failed(
                f"{config.model.name} is not in the local cache and model.local_files_only forbids to download it.",
                "Set model.local_files_only=false, or download it before.",
            )
        self._wanted.append(config.model.name)
        return skipped(f"the weights of {config.model.name} are not on this machine yet; see 'hub'")

    def _memory(self) -> Check:
        check = perform("memory", self._look_at_memory, limit=QUICK)
        self._fits = check.outcome.status != "failed"
        return check

    def _look_at_memory(self) -> Outcome:
        from ddpo.doctor.machine import look_at_memory

        return _NEEDS_MODEL if self._outlook is None else look_at_memory(self._known, self._outlook)

    def _look_at_disk(self) -> Outcome:
        from ddpo.doctor.machine import look_at_disk

        return _NEEDS_MODEL if self._outlook is None else look_at_disk(self._known, self._outlook)

    def _server(self, url: str, spec: dict[str, Any]) -> Check:
        check = perform("reward server", partial(look_at_server, spec), limit=QUICK)
        if check.outcome.status == "failed":
            self._silent.add(url)
        return check

    def _score(self, spec: str | dict[str, Any], *, trained: bool) -> Outcome:
        """Load a reward and score one picture, asking the hub for nothing; without a measured one training goes on."""
        if self._prompts is None:
            return skipped("needs the prompts")
        if self._silent & servers([spec]).keys():
            return skipped("needs its server, which does not answer")
        prompt, reward = self._prompts.prompts[0], load_reward(spec)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores = score_components(reward, Image(), self._picture(), [prompt.text], [prompt.metadata])
        except RewardError as error:
            if not_in_cache(error):
                self._wanted.append(f"what the reward '{_name(spec)}' needs")
                return skipped(f"{_name(spec)}: its weights are not on this machine yet; see 'hub'")
            if trained:
                raise
            return warning(str(error), "Training goes on without it; take it out of evaluation.rewards.")
        values = {reward.components[key].label: score_B[0] for key, score_B in scores.items()}
        told = ", ".join(f"{label} {value:.4g}" for label, value in values.items())
        return ok(f"{_name(spec)}: a test picture for '{prompt.text}' scores {told}")

    def _picture(self) -> torch.Tensor:
        """Return one picture `(1, 3, H, W)` of colours that change smoothly, of the size that the model draws."""
        import torch

        architecture = None if self._outlook is None else self._outlook.architecture
        _, height, width = PICTURE if architecture is None else architecture.picture_shape
        down, across = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
        return torch.stack([down.expand(height, width), across.expand(height, width), 0.5 * (down + across)])[None]

    def _rehearse(self) -> Outcome:
        from ddpo.doctor.rehearsal import judge, rehearse

        if self._runtime is None or self._prompts is None or self._outlook is None:
            return skipped("needs the device, the prompts and the model")
        if not self._outlook.weights_here:
            return skipped("needs the model's weights on this machine")
        if not self._fits:
            return skipped("does not fit into the memory")
        return judge(rehearse(self._known, self._prompts, self._runtime))

    @property
    def _known(self) -> TrainConfig:
        assert self._config is not None, "no check asks for it that comes before it is loaded"
        return self._config


_NEEDS_MODEL = skipped("needs the model's configuration")


def _name(spec: str | dict[str, Any]) -> str:
    """Return short words for a reward of a configuration."""
    if isinstance(spec, str):
        return spec
    name = spec.get("name")
    return name if isinstance(name, str) else " + ".join(str(key) for key in spec)
