"""The configuration of a run: one strict, typed tree; YAML in, YAML out.

Defaults are the paper's (F.1, F.3, F.6) wherever the paper states a value.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ddpo.algorithms import Algorithm, DDPOImportanceSampling
from ddpo.errors import ConfigError, nearest
from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA

RECIPES = resources.files("ddpo") / "recipes"
DEFAULT_RECIPE = "emoji-compressibility"
"""What `ddpo train` runs when given nothing."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class SamplerConfig(_Section):
    """How samples are drawn: the denoising run that becomes the MDP."""

    name: Literal["ddim", "ancestral"] = "ddim"
    """`ancestral` is the paper's sampler and equals `ddim` with eta 1."""
    steps: int = Field(default=50, ge=1)
    """Denoising steps T."""
    eta: float = Field(default=1.0, le=1)
    """Noise of the DDIM steps, above 0 and at most 1."""

    @field_validator("eta")
    @classmethod
    def _stochastic(cls, eta: float) -> float:
        if eta <= 0:
            raise ValueError(
                f"eta {eta:g} makes every denoising step deterministic, without a likelihood to train on; "
                "use a value above 0 and at most 1"
            )
        return eta

    @model_validator(mode="after")
    def _ancestral_has_no_eta(self) -> SamplerConfig:
        if self.name == "ancestral" and self.eta != 1:
            raise ValueError("the ancestral sampler has no eta; leave it out or use name=ddim")
        return self


class AdvantageConfig(_Section):
    """How rewards become advantages (F.3)."""

    name: Literal["running", "batch", "group", "leave-one-out"] = "running"
    """`running`: per-prompt running mean and std; `group` and `leave-one-out` need samples_per_prompt > 1."""
    buffer_size: int = Field(default=32, ge=2)
    """Rewards kept a prompt (running)."""
    min_count: int = Field(default=16, ge=1)
    """Rewards a prompt needs before its own statistics count; the batch's are used till then (running)."""
    clip: float | None = Field(default=5.0, gt=0)
    """Advantages are clipped to +- this; null: not at all, as in the paper's text."""

    @model_validator(mode="after")
    def _buffer_holds_min_count(self) -> AdvantageConfig:
        if self.min_count > self.buffer_size:
            raise ValueError(
                f"min_count {self.min_count} is never reached with a buffer_size of {self.buffer_size}; "
                "make the buffer at least as large"
            )
        return self


class OptimizerConfig(_Section):
    """AdamW (F.6)."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Decoupled weight decay."""


class EvaluationConfig(_Section):
    """The same fixed prompts and seeds, drawn again through training."""

    number: int = Field(default=16, ge=1)
    """Fixed samples."""
    every: int | None = Field(default=10, ge=1)
    """Iterations between evaluations; null: only before and after training."""
    rewards: list[str | dict[str, Any]] = []
    """Rewards measured on the fixed samples besides the trained one."""


class TrainConfig(_Section):
    """A run of `ddpo train`."""

    name: str | None = None
    """Name of the run: the default of its folder under `runs/` and the title of its figures."""
    output: Path | None = None
    """The run folder; null: `runs/NAME`, numbered if taken."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""

    model: ModelSource = ModelSource()
    """The model to fine-tune."""
    prompts: str | list[str | dict[str, Any]] | dict[str, Any] = "simple-animals"
    """A prompt source: a name of `ddpo list prompts`, a .txt or .jsonl file, or a list."""
    reward: str | dict[str, Any] = "jpeg-compressibility"
    """A reward: a name of `ddpo list rewards`, `path/to/file.py:function` or `package.module:function`."""
    algorithm: Algorithm = DDPOImportanceSampling()
    """The algorithm with its settings; see `ddpo list algorithms`."""

    iterations: int = Field(default=200, ge=1)
    """Rollout and update phases."""
    samples_per_iteration: int = Field(default=256, ge=1)
    """Samples drawn, and rewards queried, in an iteration, over all processes."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Consecutive samples that share a drawn prompt."""
    updates_per_iteration: int | None = Field(default=None, ge=1)
    """Optimizer steps in one inner epoch; null: the algorithm's (4 for ddpo-is, 1 for ddpo-sf)."""
    inner_epochs: int = Field(default=1, ge=1)
    """Passes over an iteration's samples."""
    timestep_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each sample's denoising steps that is trained on, drawn anew per sample."""
    batch_size: int = Field(default=8, ge=1)
    """Samples in one pass of the network (doubled by guidance), the same in rollout and replay."""

    sampler: SamplerConfig = SamplerConfig()
    """The denoising run."""
    guidance_scale: float = Field(default=5.0, ge=0)
    """Classifier-free guidance weight w (eq. 5) in rollout and replay; 1: no guidance."""
    cfg_training: bool = True
    """Train through both branches of the guided prediction (G.1)."""
    advantage: AdvantageConfig = AdvantageConfig()
    """Normalisation of rewards."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Learning rate of AdamW."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Other settings of AdamW."""
    max_gradient_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; null: not at all."""
    lora: LoRA = LoRA()
    """Low-rank adapters; `lora.rank` null trains the whole network."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the network; trained weights and log-probabilities are float32 always."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the network with torch.compile."""
    device: str | None = None
    """`cpu`, `cuda`, ...; null: a GPU if there is one."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; null: 2 at most on a CPU, where small networks slow down with more."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """Fixed samples drawn through training."""
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = None
    """Also send metrics there, through accelerate; the run folder is written either way."""

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str | Path) else value

    @field_validator("algorithm", "sampler", "advantage", mode="before")
    @classmethod
    def _section_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sizes_fit(self) -> TrainConfig:
        updates = self.algorithm.default_updates if self.updates_per_iteration is None else self.updates_per_iteration
        object.__setattr__(self, "updates_per_iteration", updates)
        limit = self.algorithm.max_updates
        if limit is not None and updates * self.inner_epochs > limit:
            raise ValueError(
                f"updates_per_iteration: {self.algorithm.name} is on-policy and makes {limit} update an iteration, "
                f"not {updates * self.inner_epochs}; use algorithm=ddpo-is for more"
            )
        for name, divisor in (
            ("updates_per_iteration", updates),
            ("samples_per_prompt", self.samples_per_prompt),
        ):
            if self.samples_per_iteration % divisor:
                raise ValueError(
                    f"samples_per_iteration: {self.samples_per_iteration} does not divide by {name} ({divisor}); "
                    f"{self.samples_per_iteration // divisor * divisor or divisor} would"
                )
        if self.advantage.name in ("group", "leave-one-out") and self.samples_per_prompt == 1:
            raise ValueError(
                f"advantage.name: '{self.advantage.name}' compares samples of one prompt; set samples_per_prompt to "
                "2 or more"
            )
        return self

    @property
    def updates(self) -> int:
        """Optimizer steps in one inner epoch."""
        assert self.updates_per_iteration is not None
        return self.updates_per_iteration

    def to_yaml(self) -> str:
        """Return the resolved configuration; `from_yaml` of it gives this configuration again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of a recipe's name or a YAML file, with `key.path=value` overrides on top.

    Naming another algorithm, reward, prompt source or model (`algorithm.name=ddpo-sf`, or `algorithm=ddpo-sf` for
    short) drops the section's other settings, which belong to the former name.

    Raises:
        ConfigError: no such recipe or file, malformed YAML or override, or a configuration that cannot run.
    """
    name = str(source) if source is not None else DEFAULT_RECIPE
    tree = _read(name)
    recipe = copy.deepcopy(tree)
    for override in overrides:
        _apply(tree, override)
    if tree.get("name") is None:
        tree["name"] = _run_name(Path(name).stem, recipe, tree)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a tree of plain values.

    Raises:
        ConfigError: unknown key, wrong type or impossible combination, with the path of the key.
    """
    try:
        return TrainConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def recipes() -> Iterator[tuple[str, str]]:
    """Yield each shipped recipe's name and the first comment line of its file, by name."""
    for file in sorted(RECIPES.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            yield file.name.removesuffix(".yaml"), first.lstrip("# ")


def _read(name: str) -> dict[str, Any]:
    names = [recipe for recipe, _ in recipes()]
    path = Path(name).expanduser()
    if name in names:
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8")
    elif path.suffix in (".yaml", ".yml") or "/" in name:
        raise ConfigError(f"There is no configuration file {path}.")
    else:
        raise ConfigError(f"There is no recipe '{name}'.{nearest(name, names)} `ddpo list recipes` shows them.")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold keys and values, not a {type(tree).__name__}.")
    return tree or {}


def _run_name(recipe_name: str, recipe: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    """Return the recipe's name, or what the run trains where that differs: `redness`, `redness-ddpo-sf`."""

    def name_of(section: Any) -> str:
        return str(section.get("name") if isinstance(section, dict) else section)

    reward, algorithm = name_of(tree.get("reward")), name_of(tree.get("algorithm"))
    name = recipe_name if reward == name_of(recipe.get("reward")) else reward.rpartition(":")[2]
    changed = algorithm != name_of(recipe.get("algorithm"))
    return re.sub(r"[^\w.-]+", "-", f"{name}-{algorithm}" if changed else name).strip("-")


_NAMED_SECTIONS = ("algorithm", "reward", "prompts", "model")
"""Sections whose `name` decides what else they may hold: naming another drops the rest."""
_SECTIONS_WITH_NAME = (*_NAMED_SECTIONS, "sampler", "advantage")
"""Sections for which a bare value is their name."""
_EXCLUSIVE = {"clip_range": "clip_nats", "clip_nats": "clip_range"}
"""Settings of an algorithm of which an override of one drops the other."""


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the tree."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"'{override}' is not of the form key=value, such as learning_rate=3e-4.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    section = keys[0]
    if section in _SECTIONS_WITH_NAME:
        if isinstance(tree.get(section), str):
            tree[section] = {"name": tree[section]}
        if len(keys) == 1 and isinstance(value, str):
            keys = [section, "name"]
        if section in _NAMED_SECTIONS and keys[1:] == ["name"]:
            _keep_if_named(tree, section, value)
    _set(tree, keys, value)


def _keep_if_named(tree: dict[str, Any], section: str, name: Any) -> None:
    """Empty a section unless it already has this name."""
    present = tree.get(section)
    if not (isinstance(present, dict) and present.get("name") == name):
        tree[section] = {}


def _set(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])}: is a single value and has no key '{keys[depth + 1]}'.")
    if keys[0] == "algorithm" and keys[-1] in _EXCLUSIVE:
        tree.pop(_EXCLUSIVE[keys[-1]], None)
    tree[keys[-1]] = value


def _explain(error: ValidationError) -> str:
    """Put the first problem of a validation into one sentence with the path of its key."""
    problem = error.errors()[0]
    tags = set(_algorithm_names())
    path = [str(part) for part in problem["loc"] if not (part in tags and "algorithm" in problem["loc"])]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = _fields_at(path[:-1], problem)
        hint = nearest(path[-1], valid) or f" Valid: {', '.join(valid)}."
        return f"{where}: unknown key.{hint}"
    if problem["type"] == "union_tag_invalid":
        name, names = problem["ctx"]["tag"], _algorithm_names()
        return f"{where}.name: unknown algorithm '{name}'.{nearest(name, names)} Known: {', '.join(names)}."
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r})"
    return f"{where}: {message}{given}." if where else f"{message}{given}."


def _algorithm_names() -> list[str]:
    from ddpo.algorithms import ALGORITHMS

    return list(ALGORITHMS)


def _fields_at(path: Sequence[str], problem: Any) -> list[str]:
    """Return the valid keys of the section at `path`."""
    from ddpo.algorithms import ALGORITHMS

    if list(path) == ["algorithm"]:
        name = next(part for part in problem["loc"] if part in ALGORITHMS)
        return list(ALGORITHMS[name].model_fields)
    section: Any = TrainConfig
    for key in path:
        annotation = section.model_fields[key].annotation
        section = next((kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")), None)
    return list(section.model_fields)
