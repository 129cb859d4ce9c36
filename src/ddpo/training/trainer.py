"""The training loop: collect samples, give them credit, update the policy, repeat (paper C.2, C.3, F.1, F.2).

    prompts -> policy.encode -> rollout -> Trajectory -> policy.decode -> reward -> algorithm.credit -> minibatches
            -> algorithm.loss (replays the stored steps, or noises the samples again) -> optimizer

Around it: `coordination` stops all processes together and makes batches smaller when memory runs out, `scoring` calls
the reward while the next samples are drawn, `checks` refuses what is not finite or not exact. An iteration that was
interrupted goes on where it was (`iteration`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch

from ddpo.config import TrainConfig
from ddpo.core.conditioning import Conditioning
from ddpo.core.experience import Experience, State, UpdateSettings
from ddpo.core.minibatches import Batch
from ddpo.core.policy import Policy
from ddpo.core.prompt import Prompt
from ddpo.core.randomness import Stream, sample_seeds
from ddpo.core.rollout import rollout
from ddpo.core.trajectory import Trajectory
from ddpo.prompts import PromptSource
from ddpo.rewards import LoadedReward
from ddpo.runtime.errors import DivergenceError, RewardError
from ddpo.runtime.processes import Runtime
from ddpo.runtime.signals import StopRequest
from ddpo.training.checks import check_credit, check_pairs, check_replay, check_samples, measure_noise
from ddpo.training.coordination import Coordinator
from ddpo.training.gathering import gather_rewards
from ddpo.training.iteration import Iteration, Metrics, Progress
from ddpo.training.metrics import LOSS, PairMetrics, averages
from ddpo.training.scoring import Part, Scoring
from ddpo.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)


class Trainer:
    """Raises the reward of a policy."""

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        reward: LoadedReward,
        prompts: PromptSource,
        runtime: Runtime,
        *,
        stop: StopRequest | None = None,
    ) -> None:
        """The policy's trainable parameters get a fresh AdamW (F.6). `stop` is polled between microbatches."""
        self.config, self.policy, self.reward, self.prompts, self.runtime = config, policy, reward, prompts, runtime
        self.algorithm = config.algorithm
        self.settings = UpdateSettings(config.updates, config.inner_epochs, config.timestep_fraction, config.advantage)
        self.coordinator = Coordinator(runtime, config.batch_size, stop)
        self.parameters = list(policy.parameters())
        self.optimizer = self._new_optimizer()
        self.finished = 0
        """Iterations that are finished."""
        self.iteration: Iteration | None = None
        """The iteration in the making, if any."""
        self.state: State = {}
        """What the algorithm remembers, such as running reward statistics."""
        self.state_before: State = {}
        """The same before the iteration in the making."""

    def train(self, progress: Progress) -> Iterator[Metrics]:
        """Yield the metrics of each iteration that is left, after its last update.

        Raises:
            Interrupted: the run was told to stop; `finished` and `iteration` say how far it is.
            RewardError: the reward failed; nothing was trained on this iteration's samples.
            ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
            DivergenceError: a sample or an update is not finite; the weights are those of the update before.
        """
        for number in range(self.finished + 1, self.config.iterations + 1):
            if self.iteration is None:
                self.iteration, self.state_before = self.begin(number), self.state
            iteration = self.iteration
            if iteration.credit_S is None:
                self._collect(iteration, progress)
                self._give_credit(iteration)
            measured = self._update(iteration, progress)
            queries = number * self.config.samples_per_iteration
            metrics = {"iteration": number, "reward_queries": queries, **iteration.metrics, **measured}
            self.finished, self.iteration = number, None
            del iteration  # its trajectories need not be there when the next are drawn
            yield metrics

    def begin(self, number: int) -> Iteration:
        """Return an iteration of which nothing is collected yet."""
        own = self.runtime.shard(self.config.samples_per_iteration)
        prompts = self._drawn_prompts(number)[own.start : own.stop]
        return Iteration(number, prompts, own.start, {key: [] for key in self.reward.components})

    def forget_iteration(self) -> None:
        """Give up the samples of an iteration that no update was made on: it is as if it had not begun."""
        self.iteration, self.state = None, self.state_before

    def _drawn_prompts(self, number: int) -> list[Prompt]:
        """Return the prompts of all samples of an iteration."""
        config = self.config
        return self.prompts.draw(
            config.samples_per_iteration,
            seed=config.seed,
            iteration=number,
            samples_per_prompt=config.samples_per_prompt,
        )

    def _collect(self, iteration: Iteration, progress: Progress) -> None:
        """Draw the samples that are left, and score each batch while the next is drawn (C.2, C.3).

        Raises:
            Interrupted: the run was told to stop; the samples that are scored stay in `iteration`.
            RewardError, DivergenceError: a reward failed, or a sample is not finite.
        """
        watch, problem, total = Stopwatch(iteration.metrics), None, len(iteration.prompts)
        policy, coordinator = self.policy, self.coordinator
        scoring = Scoring[Trajectory](
            self.reward,
            policy.medium,
            self.config.scoring,
            group_size=self.config.samples_per_prompt,
            device=policy.device,
            poll=coordinator.poll,
        )
        try:
            conditioning = policy.encode(iteration.prompts)
            for rows in iteration.batches_left(self.config.batch_size):
                prompts, first = iteration.prompts[rows], iteration.first + rows.start
                trajectory = coordinator.retry_smaller(
                    partial(self._rollout, iteration.number, conditioning.take(rows), first)
                )
                watch.lap("time/rollout")
                progress("rollout", rows.stop, total)
                check_samples(trajectory, policy, prompts, first)
                samples = policy.decode(trajectory.final)
                watch.lap("time/decode")
                kept = trajectory if self.algorithm.needs_steps else trajectory.without_steps()
                for scored in scoring.add(Part(kept, samples, prompts, first)):
                    iteration.add(*scored)
                watch.lap("time/reward")
                coordinator.barrier()
            progress("reward", iteration.scored, total)
            for scored in scoring.finish():
                iteration.add(*scored)
                progress("reward", iteration.scored, total)
            watch.lap("time/reward")
        except (RewardError, DivergenceError) as error:
            problem = error
        finally:
            scoring.close()
        coordinator.barrier(problem)

    def _rollout(self, number: int, conditioning: Conditioning, first: int) -> Trajectory:
        """Draw the samples from index `first` on, each from its own seed."""
        seeds = sample_seeds(self.config.seed, Stream.SAMPLE, number, range(first, first + len(conditioning)))
        return rollout(self.policy, conditioning, seeds, batch_size=self.coordinator.batch_size)

    def _give_credit(self, iteration: Iteration) -> None:
        """Turn the rewards of all processes' samples into advantages or weights (F.3, C.2)."""
        prompts = self._drawn_prompts(iteration.number)
        try:
            rewards = gather_rewards(iteration, prompts, self.reward, self.config, self.runtime)
        except RewardError:
            self.forget_iteration()  # its missing scores would be refused again, whatever is mended
            raise
        credit_K, state, metrics = self.algorithm.credit(rewards.texts, rewards.reward_K, self.state, self.settings)
        check_credit(credit_K, len(rewards.texts), state, self.algorithm.name)
        self.state = state
        iteration.credit_S = np.zeros(len(prompts))
        iteration.credit_S[rewards.index_K] = credit_K
        iteration.metrics = rewards.metrics | metrics | iteration.metrics

    def _update(self, iteration: Iteration, progress: Progress) -> Metrics:
        """Make the updates that are left: each accumulates the gradient of its whole minibatch (F.1, F.2).

        Raises:
            Interrupted: the run was told to stop; `iteration.updates` says how far it is.
            ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
            DivergenceError: an update is not finite; the weights are those of the update before.
        """
        watch, state = Stopwatch(iteration.metrics), iteration.updates
        total = self.settings.number * self.settings.inner_epochs
        assert iteration.credit_S is not None
        experience = Experience(
            iteration.trajectory(), iteration.credit_S, iteration.first, self.config.seed, iteration.number
        )
        if self.algorithm.resets_optimizer and not state.done:
            self.optimizer = self._new_optimizer()
        progress("update", state.done, total)
        minibatches = self.algorithm.minibatches(self.policy, experience, self.settings)
        for minibatch in islice(minibatches, state.done, None):
            if iteration.number == 1 and not state.done:
                rows = self.coordinator.batch_size
                iteration.metrics |= measure_noise(self.algorithm, self.policy, minibatch, rows, self.runtime)
            pairs = self.coordinator.retry_smaller(partial(self._accumulate, minibatch))
            norm = self._step(iteration, pairs, experience.trajectory.dimensions)
            state.norms += [] if norm is None else [norm]
            sums = pairs.sums()
            state.sums += sums if np.isfinite([total for _, total, _ in sums]).all() else []  # else it is skipped
            state.done += 1
            watch.lap("time/update")
            progress("update", state.done, total)
            if state.done < total:
                self.coordinator.barrier()
        if not state.norms and self.config.on_nonfinite == "skip" and self.runtime.precision != "fp16":
            raise DivergenceError(f"No update of iteration {iteration.number} was finite; lower learning_rate.")
        return {
            **state.start,
            **averages(self.runtime.gather(state.sums)),
            "gradient_norm": float(np.mean(state.norms)) if state.norms else 0.0,
            "updates_skipped": total - len(state.norms),
        }

    def _accumulate(self, minibatch: Batch) -> PairMetrics:
        """Add up the gradient of a whole minibatch, a microbatch at a time."""
        self.optimizer.zero_grad(set_to_none=True)
        pairs = PairMetrics()
        for batch in minibatch.split(self.coordinator.batch_size):
            self.coordinator.poll()
            loss, metrics = self.algorithm.loss(self.policy, batch)
            self.runtime.backward(loss * (len(batch) / len(minibatch)))
            pairs.add(batch, metrics | {LOSS: loss.expand(len(batch))})
        return pairs

    def _step(self, iteration: Iteration, pairs: PairMetrics, dimensions: int) -> float | None:
        """Update the weights and return the gradient's norm; None, with the weights as they were, if it is skipped."""
        state = iteration.updates
        try:
            check_pairs(pairs, iteration.prompts, iteration.first, self.runtime)
            if not state.start and pairs.has_ratio:
                tolerance = self.algorithm.ratio_tolerance(dimensions)
                state.start = check_replay(pairs, tolerance, self.policy.kernel, self.runtime)
            return self.runtime.optimizer_step(self.optimizer, self.parameters, self.config.max_gradient_norm)
        except DivergenceError as error:
            self.optimizer.zero_grad(set_to_none=True)
            where = f"Iteration {iteration.number}, update {state.done + 1}: {error}"
            if self.config.on_nonfinite == "stop":
                raise DivergenceError(where) from None
            log.warning("%s It is skipped.", where)
            return None

    def _new_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters, its moments at zero (F.6)."""
        settings = self.config.optimizer
        return torch.optim.AdamW(
            self.parameters,
            lr=self.config.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
