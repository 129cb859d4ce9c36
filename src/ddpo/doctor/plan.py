"""What a run will do and what it will cost, without running it (docs/planning.md).

`make_plan` is arithmetic on a configuration and a model's figures. `prepare` finds these, loading no weights, and
`expected_seconds` times a few real steps where the weights are on this machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ddpo.algorithms import WeightedRegression
from ddpo.config import TrainConfig
from ddpo.core.forward_process import NoiseSchedule
from ddpo.core.kernel import Sampler
from ddpo.core.policy import Policy
from ddpo.evaluation.sampling import load_policy
from ddpo.policies.architectures import BUILT_IN, Architecture, Figures, count, has_weights, local_folder
from ddpo.prompts import PromptSource, load_prompts
from ddpo.rewards import LoadedReward, load_reward
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import ConfigError
from ddpo.runtime.processes import Runtime

_FLOAT32 = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Passes:
    """Passes of the network."""

    number: int
    rows: int
    """Rows in all of them together: with guidance a sample is two rows; short batches are filled up."""


@dataclass(frozen=True)
class Flops:
    """FLOPs; 1 multiply-add = 2 FLOPs."""

    rollout: int
    """Of an iteration, as are the next two."""
    update: int
    decode: int
    encode: int
    """Of the whole run: a prompt is encoded once."""
    fixed_samples: int
    """Of the whole run."""

    @property
    def iteration(self) -> int:
        """FLOPs of an iteration."""
        return self.rollout + self.update + self.decode


@dataclass(frozen=True)
class Memory:
    """Bytes of one process when it needs most, in an update."""

    weights: int
    gradients: int
    optimizer: int
    samples: int
    """What an iteration's rollout stores on the device."""
    activations: int
    clean_samples: int
    """What a regression keeps in main memory."""
    base_copy: int
    """The base model's trained parameters, in main memory, for the divergence from it."""

    @property
    def total(self) -> int:
        """All of it together."""
        return sum(asdict(self).values())

    @property
    def main(self) -> int:
        """What is in main memory, whatever the device."""
        return self.clean_samples + self.base_copy


@dataclass(frozen=True)
class Plan:
    """What a run will do; what it will cost where the model's figures are known."""

    iterations: int
    samples: int
    """Samples an iteration."""
    updates: int
    """Optimizer steps an iteration, over all inner epochs."""
    trained: int
    """(sample, timestep) pairs that an iteration trains on."""
    rollout: Passes
    """Of an iteration."""
    training: Passes
    """Forward and backward passes of an iteration."""
    evaluations: int
    """How often the fixed samples are drawn."""
    evaluation: Passes
    """Of drawing them once."""
    encoded_prompts: int
    """Prompts that pass the text encoder, at most."""
    flops: Flops | None
    memory: Memory | None
    result_bytes: int | None
    """Size of the trained weights on disk."""

    @property
    def reward_queries(self) -> int:
        """Samples scored to train, in the whole run."""
        return self.iterations * self.samples

    @property
    def total_flops(self) -> int | None:
        """FLOPs of the whole run."""
        if self.flops is None:
            return None
        return self.iterations * self.flops.iteration + self.flops.encode + self.flops.fixed_samples


def make_plan(config: TrainConfig, *, prompts: int, steps_with_likelihood: int, figures: Figures | None) -> Plan:
    """Return the plan of a run that has `prompts` distinct prompts; without `figures` its costs are None.

    `steps_with_likelihood` is L, the denoising steps that can be trained on.
    """
    trained, training = _training(config, steps_with_likelihood)
    rollout = _drawing(config.samples_per_iteration, config.batch_size, config.sampler.steps, _branches(config))
    number = config.evaluation.number
    steps = config.sampler.steps + (steps_with_likelihood if config.evaluation.kl_to_base else 0)
    evaluation = _drawing(number, min(config.batch_size, number), steps, _branches(config))
    evaluations = _evaluations(config)
    drawn = number + config.iterations * config.samples_per_iteration // config.samples_per_prompt
    encoded = min(prompts, drawn) + _branches(config) - 1
    flops = memory = None
    if figures is not None:
        flops = Flops(
            rollout=rollout.rows * figures.forward_flops,
            update=training.rows * (figures.forward_flops + figures.backward_flops),
            decode=config.samples_per_iteration * figures.decode_flops,
            encode=encoded * figures.encode_flops,
            fixed_samples=evaluations * (evaluation.rows * figures.forward_flops + number * figures.decode_flops),
        )
        memory = _memory(config, steps_with_likelihood, figures)
    return Plan(
        iterations=config.iterations,
        samples=config.samples_per_iteration,
        updates=config.updates * config.inner_epochs,
        trained=trained,
        rollout=rollout,
        training=training,
        evaluations=evaluations,
        evaluation=evaluation,
        encoded_prompts=encoded,
        flops=flops,
        memory=memory,
        result_bytes=None if figures is None else _FLOAT32 * figures.trainable_parameters,
    )


def training_rows(config: TrainConfig) -> int:
    """Return the rows of the network in one training pass."""
    regression_on_one_branch = isinstance(config.algorithm, WeightedRegression) and not config.cfg_training
    return config.batch_size * (1 if regression_on_one_branch else _branches(config))


def _branches(config: TrainConfig) -> int:
    """Return the rows of the network for one sample: guidance needs the unconditional prediction too."""
    return 1 if config.guidance_scale == 1 else 2


def _drawing(number: int, batch_size: int, steps: int, branches: int) -> Passes:
    """Return the passes that draw `number` samples; the last batch is filled up."""
    passes = math.ceil(number / batch_size) * steps
    return Passes(passes, passes * batch_size * branches)


def _training(config: TrainConfig, steps_with_likelihood: int) -> tuple[int, Passes]:
    """Return the (sample, timestep) pairs that an iteration trains on, and the passes that takes.

    DDPO replays a share of the steps of every sample (F.1) in full batches; regression draws its own noised samples,
    one timestep each (F.2), and does not fill up.
    """
    algorithm, batch = config.algorithm, config.batch_size
    updates = config.updates * config.inner_epochs
    branches = training_rows(config) // batch
    if isinstance(algorithm, WeightedRegression):
        size = algorithm.samples_per_update
        return updates * size, Passes(updates * math.ceil(size / batch), updates * size * branches)
    kept = max(1, round(steps_with_likelihood * config.timestep_fraction))
    pairs = config.samples_per_iteration // config.updates * kept
    passes = updates * math.ceil(pairs / batch)
    return updates * pairs, Passes(passes, passes * batch * branches)


def _evaluations(config: TrainConfig) -> int:
    """Return how often the fixed samples are drawn: before, every so many iterations, and after."""
    every = config.evaluation.every
    if every is None:
        return 2
    return 1 + math.ceil(config.iterations / every)


def _memory(config: TrainConfig, steps_with_likelihood: int, figures: Figures) -> Memory:
    trained = _FLOAT32 * figures.trainable_parameters
    D, embedding = math.prod(figures.sample_shape), math.prod(figures.embedding_shape)
    # Trajectory: T + 1 states, L means and log-probabilities, embeddings of prompt and, with guidance, of "".
    steps, L = config.sampler.steps, steps_with_likelihood
    trajectory = _FLOAT32 * ((steps + 1 + L) * D + L + embedding * _branches(config))
    samples, clean = config.samples_per_iteration, 0
    if isinstance(config.algorithm, WeightedRegression):
        clean = min(_FLOAT32 * samples * D, int(config.algorithm.memory_gb * 1e9))
        samples = min(samples, (1 + config.scoring.workers) * config.batch_size)  # being drawn and being scored
    return Memory(
        weights=figures.weight_bytes,
        gradients=trained,
        optimizer=2 * trained,  # AdamW keeps two moments
        samples=samples * trajectory,
        activations=figures.activation_bytes,
        clean_samples=clean,
        base_copy=trained if config.evaluation.kl_to_base else 0,
    )


@dataclass(frozen=True)
class DryRun:
    """A run that was looked at and not started."""

    config: TrainConfig
    """With the precision, device and threads it would run with."""
    reward: LoadedReward
    prompts: PromptSource
    plan: Plan
    weights_here: bool
    """Whether the model's weights are on this machine, so that `expected_seconds` can time them."""
    notes: list[str]
    """Sentences about what is not known or was assumed."""


def prepare(config: TrainConfig) -> DryRun:
    """Look at everything a run would look at before it loads the model, and plan it. Writes nothing, asks no network.

    Raises:
        DDPOError: what the run would refuse too.
    """
    reward = load_reward(config.reward)
    for spec in config.evaluation.rewards:
        load_reward(spec)
    source = load_prompts(config.prompts)
    config.model.resolve()
    RunFolder.check(config.output)
    runtime = Runtime(device=config.device, threads=config.threads, precision=config.precision, tracker=config.tracker)
    runtime.share(config.samples_per_iteration)
    runtime.share(config.samples_per_update, "samples in an update")
    config = config.model_copy(
        update={"precision": runtime.precision, "device": runtime.device.type, "threads": runtime.threads}
    )
    outlook = look_ahead(config, source)
    return DryRun(config, reward, source, outlook.plan, outlook.weights_here, outlook.notes)


@dataclass(frozen=True)
class Outlook:
    """What is known of a run from its configuration and from what is on this machine of its model."""

    plan: Plan
    architecture: Architecture | None
    """None: not on this machine and not built in."""
    weights_here: bool
    """Whether the model's weights are on this machine."""
    notes: list[str]
    """Sentences about what is not known or was assumed."""


def look_ahead(config: TrainConfig, source: PromptSource) -> Outlook:
    """Plan a run whose precision, device and threads are resolved. Loads no weights, asks no network.

    Raises:
        ModelError: the model is neither a folder in diffusers format nor has the form of a hub id.
    """
    folder, notes = local_folder(config.model), list[str]()
    if folder is not None:
        architecture: Architecture | None = Architecture.read(folder)
    else:
        architecture = BUILT_IN.get(config.model.name)
        notes.append(_assumed(config, architecture is not None))
    plan = make_plan(
        config,
        prompts=len({prompt.text for prompt in source.prompts}),
        steps_with_likelihood=_steps_with_likelihood(config, architecture),
        figures=None if architecture is None else _figures(config, architecture),
    )
    here = folder is not None and has_weights(folder, config.model.variant)
    return Outlook(plan, architecture, here, notes)


def _assumed(config: TrainConfig, is_built_in: bool) -> str:
    if is_built_in:
        return f"{config.model.name} is not on this machine: figures are those of its architecture as ddpo knows it."
    return (
        f"{config.model.name} is not on this machine and its architecture is not among those ddpo knows: FLOPs and "
        "memory are not known, and every denoising step is taken to have a likelihood."
    )


def _steps_with_likelihood(config: TrainConfig, architecture: Architecture | None) -> int:
    if architecture is None:
        return config.sampler.steps
    schedule, sampler = NoiseSchedule.from_config(architecture.scheduler), config.sampler
    return Sampler.create(schedule, sampler.name, sampler.steps, sampler.eta).steps_with_likelihood


def _figures(config: TrainConfig, architecture: Architecture) -> Figures:
    assert config.device is not None
    return count(
        architecture,
        lora=config.lora,
        precision=config.precision,
        device_type=config.device,
        gradient_checkpointing=config.gradient_checkpointing,
        rows=training_rows(config),
    )


@dataclass(frozen=True)
class Timings:
    """Seconds on this machine."""

    rollout_pass: float
    """A denoising step of `batch_size` samples."""
    training_pass: float
    """Forward and backward pass of `batch_size` samples."""
    decode: float
    """Decoding one sample."""


def expected_seconds(config: TrainConfig, plan: Plan) -> float:
    """Load the model from this machine, time a few steps, and return the seconds that the run should take.

    The rewards' own time, loading, text encoding and pictures are not in it.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: a training pass does not fit the device's memory.
    """
    import torch

    local = config.model.model_copy(update={"local_files_only": True})
    policy = load_policy(config.model_copy(update={"model": local}), torch.device(config.device or "cpu"))
    try:
        return duration(config, plan, measure(policy, config))
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"batch_size: a training pass of {training_rows(config)} rows does not fit the memory of {config.device}; "
            "lower batch_size or set gradient_checkpointing=true."
        ) from error


def duration(config: TrainConfig, plan: Plan, timings: Timings) -> float:
    """Return the seconds that passes, decoding and updates of the run take with these timings."""
    per_row = timings.rollout_pass / (config.batch_size * _branches(config))
    iteration = (
        plan.rollout.number * timings.rollout_pass
        + plan.training.number * timings.training_pass
        + plan.samples * timings.decode
    )
    fixed_samples = plan.evaluation.rows * per_row + config.evaluation.number * timings.decode
    return plan.iterations * iteration + plan.evaluations * fixed_samples


def measure(policy: Policy, config: TrainConfig) -> Timings:
    """Time a denoising step, a training pass and decoding of one batch, as the run makes them."""
    import torch

    size, device = config.batch_size, policy.device
    x = torch.randn(size, *policy.sample_shape, generator=torch.Generator().manual_seed(0)).to(device)
    step_B = torch.zeros(size, dtype=torch.int64, device=device)
    conditioning = policy.encode(["a cat"] * size)

    @torch.no_grad()
    def rollout_pass() -> None:
        gaussian = policy.step(x, step_B, conditioning)
        gaussian.log_prob(gaussian.sample(x))

    def training_pass() -> None:
        if isinstance(config.algorithm, WeightedRegression):
            loss = policy.predict(x, policy.sampler.timestep(step_B), conditioning).square().mean()
        else:
            loss = policy.step(x, step_B, conditioning).log_prob(x).mean()
        loss.backward()  # type: ignore[no-untyped-call]

    return Timings(
        _mean_seconds(rollout_pass, device.type),
        _mean_seconds(training_pass, device.type),
        _mean_seconds(lambda: policy.decode(x), device.type) / size,
    )


def _mean_seconds(action: Callable[[], object], device_type: str) -> float:
    """Return the mean seconds of `action`, after a warm-up, over half a second or two repetitions.

    A warm-up of more than ten seconds is the measurement: what is slow the first time is nothing against it.
    """
    first = _seconds(action, device_type)
    if first > 10:
        return first
    laps = [_seconds(action, device_type), _seconds(action, device_type)]
    while sum(laps) < 0.5:
        laps.append(_seconds(action, device_type))
    return sum(laps) / len(laps)


def _seconds(action: Callable[[], object], device_type: str) -> float:
    import torch

    start = time.perf_counter()
    action()
    if device_type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start
