"""The training loop: collect samples, update the policy, repeat (paper sections C.2, C.3, F.1 and F.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ddpo.config import TrainConfig
from ddpo.core.policy import Policy
from ddpo.prompts import PromptSource
from ddpo.rewards import LoadedReward
from ddpo.runtime.processes import Runtime
from ddpo.runtime.signals import StopRequest
from ddpo.training.collector import Collector
from ddpo.training.control import Control
from ddpo.training.experience import Experience, Metrics, Progress
from ddpo.training.updater import Updater


class Trainer:
    """Raises the reward of a policy.

    `prompts -> rollout -> decode -> reward -> advantages or weights -> minibatches -> algorithm.loss -> optimizer`.
    """

    def __init__(
        self,
        config: TrainConfig,
        policy: Policy,
        reward: LoadedReward,
        prompts: PromptSource,
        runtime: Runtime,
        *,
        stop: StopRequest | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """The policy's trainable parameters get a fresh AdamW (F.6).

        `stop` is looked at between microbatches; `say` is told in a sentence of whatever the run got over.
        """
        self.config, self.policy, self.reward, self.runtime = config, policy, reward, runtime
        self.control = Control(runtime, config.batch_size, stop, say)
        self.collector = Collector(config, policy, reward, prompts, self.control)
        self.updater = Updater(config, policy, self.control)
        self.finished = 0
        """Iterations that are finished."""
        self.experience: Experience | None = None
        """The iteration in the making, if any."""
        self.statistics_before = self.collector.credit.statistics
        """The reward statistics before that iteration."""

    def train(self, progress: Progress, scratch: Path) -> Iterator[Metrics]:
        """Yield the metrics of each iteration that is left, after its last update.

        `scratch` is a folder for the samples of a regression that are more than its memory holds.

        Raises:
            Interrupted: the run was told to stop; `finished` and `experience` say how far it is.
            RewardError: the reward failed; nothing was trained on this iteration's samples.
            ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
            DivergenceError: a sample or an update is not finite; the weights are those of the update before.
        """
        for iteration in range(self.finished + 1, self.config.iterations + 1):
            if self.experience is None:
                self.statistics_before = self.collector.credit.statistics
            experience = self.experience = self.experience or self.collector.begin(iteration, scratch)
            self.collector.collect(experience, progress)
            measured = self.updater.update(experience, progress)
            queries = iteration * self.config.samples_per_iteration
            metrics = {"iteration": iteration, "reward_queries": queries, **experience.metrics, **measured}
            self.finished, self.experience = iteration, None
            del experience  # its trajectories need not be there when the next are drawn
            yield metrics

    def forget_iteration(self) -> None:
        """Give up the samples of an iteration that no update was made on: it is as if it had not begun."""
        self.experience = None
        self.collector.credit.statistics = self.statistics_before
