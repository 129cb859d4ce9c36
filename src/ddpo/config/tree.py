"""The configuration of a run: one strict, typed tree; YAML in, YAML out.

Defaults are the paper's (F.1, F.3, F.6) wherever the paper states a value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from ddpo.algorithms import Advantage, Algorithm, DDPOImportanceSampling
from ddpo.algorithms.algorithm import check_divides
from ddpo.config.conditions import parse_condition
from ddpo.config.explanations import algorithm_section
from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA
from ddpo.runtime.errors import nearest
from ddpo.runtime.plugins import is_plugin

FLOW_SAMPLERS = ("flow-sde", "flow-ddim", "flow-dance", "flow-cps")
SAMPLERS = ("ddim", "ancestral", *FLOW_SAMPLERS)
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class SamplerConfig(_Section):
    """How samples are drawn: the denoising run that becomes the MDP."""

    name: str = "ddim"
    """For diffusion models `ddim`, or `ancestral`, the paper's, which equals `ddim` with eta 1; for flow-matching
    models `flow-sde` (Flow-GRPO's), `flow-ddim`, `flow-dance` (DanceGRPO's) or `flow-cps`; or
    `path/to/file.py:function`, which returns a kernel when called with the model's schedule, `steps`, and the
    `options`."""
    steps: int = Field(default=50, ge=1)
    """Denoising steps T."""
    eta: float = Field(default=1.0, le=1)
    """Noise of the DDIM steps, above 0 and at most 1."""
    level: float | None = Field(default=None, gt=0)
    """Noise of flow-matching steps; null: 0.7 of flow-sde and flow-cps, 0.3 of flow-dance, 1 of flow-ddim."""
    window: tuple[int, int] | None = None
    """The first flow-matching step with noise, and the first without again; null: all but the last step have it. Only
    steps with noise are trained on."""
    options: dict[str, Any] = {}
    """Keyword arguments of a function of your own."""

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
    def _settings_of_the_name(self) -> SamplerConfig:
        if self.name not in SAMPLERS and not is_plugin(self.name):
            raise ValueError(
                f"name '{self.name}' is unknown.{nearest(self.name, SAMPLERS)} Known: {', '.join(SAMPLERS)}, or your "
                "own as path/to/file.py:function"
            )
        if self.name != "ddim" and self.eta != 1:
            raise ValueError(f"the {self.name} sampler has no eta; leave it out or use name=ddim")
        if self.name not in FLOW_SAMPLERS and (self.level is not None or self.window is not None):
            raise ValueError(f"level and window are of {', '.join(FLOW_SAMPLERS)}, not of {self.name}")
        if self.name in SAMPLERS and self.options:
            raise ValueError(f"sampler.options are for a function of your own; the {self.name} sampler has none")
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
    """Rewards measured on the fixed samples besides the trained one and its components."""
    kl_to_base: bool = False
    """Measure the divergence from the base model in nats per trajectory: one more pass of the network a step, and a
    copy of the trained parameters in the CPU's memory."""


class ScoringConfig(_Section):
    """How the trained reward is called."""

    workers: int = Field(default=1, ge=1)
    """Threads that score batches of samples while the next are drawn; more than one only for rewards that may be
    called several times at once, such as servers."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds that training waits for the scores of a batch; null: as long as it takes."""
    on_error: Literal["stop", "retry", "skip-group"] = "stop"
    """What a reward that fails does: `stop` the run, which can be resumed; `retry` and then stop; `skip-group`: leave
    out the samples of the prompts it fails on. Never a score of zero."""
    retries: int = Field(default=3, ge=1)
    """Calls made again, after 1 s, 2 s, 4 s ... (retry)."""


class TrainConfig(_Section):
    """A run of `ddpo train`."""

    name: str | None = Field(default=None, pattern=r"^[\w][\w. -]*$")
    """Name of the run: the default of its folder under `runs/` and the title of its figures."""
    output: Path | None = None
    """The run folder; null: `runs/NAME`, numbered if taken."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the run."""

    model: ModelSource = ModelSource()
    """The model to fine-tune."""
    policy: str | dict[str, Any] | None = None
    """A policy of your own in place of the model, `path/to/file.py:Name`, or `name` and options; see
    docs/extending.md."""
    prompts: str | list[str | dict[str, Any]] | dict[str, Any] = "simple-animals"
    """A prompt source: a name of `ddpo list prompts`, a .txt or .jsonl file, a list, `path/to/file.py:function`, or
    `none` for an unconditional model."""
    reward: str | dict[str, Any] = "jpeg-compressibility"
    """A reward: a name of `ddpo list rewards`, `path/to/file.py:function`, `package.module:function` or a server,
    `http://host:port`; or a mapping: a name with options, the weights of several rewards, or a combinator
    (docs/rewards.md)."""
    algorithm: SerializeAsAny[Algorithm] = DDPOImportanceSampling()
    """The algorithm with its settings; see `ddpo list algorithms`, or your own as `path/to/file.py:Name`."""

    iterations: int = Field(default=200, ge=1)
    """Rollout and update phases."""
    samples_per_iteration: int = Field(default=256, ge=1)
    """Samples drawn, and rewards queried, in an iteration, over all processes."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Consecutive samples that share a drawn prompt."""
    updates_per_iteration: int | None = Field(default=None, ge=1)
    """Optimizer steps in one inner epoch; null: the algorithm's (4 for ddpo-is, 1 for ddpo-sf, 400 for rwr)."""
    inner_epochs: int = Field(default=1, ge=1)
    """Passes over an iteration's samples."""
    timestep_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of each sample's denoising steps that is trained on, drawn anew per sample."""
    batch_size: int = Field(default=8, ge=1)
    """Samples in one pass of the network (doubled by guidance), the same in rollout and replay."""

    sampler: SamplerConfig = SamplerConfig()
    """The denoising run."""
    guidance_scale: float = Field(default=5.0, ge=1)
    """Classifier-free guidance weight w (eq. 5) in rollout and replay; 1: no guidance."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Shares of the denoising run at which guidance begins and ends; outside, the network is evaluated once a sample
    and not twice."""
    cfg_training: bool = True
    """Train through both branches of the guided prediction (G.1)."""
    advantage: Advantage = Advantage()
    """Normalisation of rewards for policy gradients; rwr and rwr-sparse weigh samples instead."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Learning rate of AdamW."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Other settings of AdamW."""
    max_gradient_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; null: not at all."""
    lora: LoRA = LoRA()
    """Low-rank adapters; `lora.rank` null trains the whole network."""

    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = "fp32"
    """Arithmetic of the network; trained weights and log-probabilities are float32 always. `tf32`: fp32 with products
    of 10 bits of mantissa, on CUDA. `auto`: fp16 on CUDA, on a CPU bf16 where it has units for it, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the network with torch.compile."""
    device: str | None = None
    """`cpu`, `cuda`, ...; null: a GPU if there is one."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads of torch; null: as many as are fastest for this model on this machine, measured before training and
    written into the run's config.yaml: a run repeats bit for bit with the same number."""

    scoring: ScoringConfig = ScoringConfig()
    """How the reward is called: threads, time limit, errors."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """An update whose log-probabilities, loss or gradient are not finite changes no weight and ends the run, or is
    skipped."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Fixed samples drawn through training."""
    checkpoint_every: int | None = Field(default=10, ge=1)
    """Iterations between checkpoints, from which `ddpo resume` goes on exactly; the last iteration has one too. null:
    only when the run is interrupted or fails."""
    keep_last: int = Field(default=2, ge=1)
    """Checkpoints that are kept, the newest."""
    keep_best: bool = False
    """Also keep the checkpoint with the highest reward on the fixed samples, saved when they are drawn."""
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = None
    """Also send metrics there, through accelerate; the run folder is written either way."""
    callbacks: list[str | dict[str, Any]] = []
    """Called after each iteration: `path/to/file.py:Name`, or `name` and options; see docs/extending.md."""
    stop_when: list[str] = []
    """Conditions under which the run ends early, such as `evaluation/kl_to_base > 60`: a metric, a sign, a number."""

    @field_validator("model", mode="before")
    @classmethod
    def _model_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str | Path) else value

    @field_validator("sampler", "advantage", mode="before")
    @classmethod
    def _section_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm_by_name(cls, value: Any) -> Any:
        return algorithm_section(value)

    @field_validator("guidance_interval")
    @classmethod
    def _begins_before_it_ends(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] >= interval[1]:
            raise ValueError(f"guidance would end at {interval[1]:g}, before it begins at {interval[0]:g}")
        return interval

    @field_validator("stop_when")
    @classmethod
    def _conditions(cls, conditions: list[str]) -> list[str]:
        for condition in conditions:
            parse_condition(condition)
        return conditions

    @model_validator(mode="after")
    def _sizes_fit(self) -> TrainConfig:
        updates = self.algorithm.default_updates if self.updates_per_iteration is None else self.updates_per_iteration
        object.__setattr__(self, "updates_per_iteration", updates)
        samples = self.samples_per_iteration
        self.algorithm.check_sizes(samples, updates, self.inner_epochs, self.timestep_fraction)
        check_divides("samples_per_prompt", self.samples_per_prompt, samples)
        if self.algorithm.uses_advantages and self.advantage.compares_groups and self.samples_per_prompt == 1:
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

    @property
    def samples_per_update(self) -> int:
        """Samples that an update sees: a part of the iteration's, or as many noised ones as a regression wants."""
        return self.algorithm.samples_in_update(self.samples_per_iteration, self.updates)

    def to_yaml(self) -> str:
        """Return the resolved configuration; `load_config` of it gives this configuration again."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
