"""What keeps a run from learning, read from its folder: the signs of the report, and what the run's prompts add.

Never imports torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod

from ddpo.config import TrainConfig, parse_config
from ddpo.doctor.architecture import find_architecture
from ddpo.prompts import PromptSource, load_prompts
from ddpo.report.signs import ENOUGH_ITERATIONS, Finding, clear, findings, ordered, sign, unknown
from ddpo.report.wording import count, share
from ddpo.runs.folder import RunFolder
from ddpo.runs.record import RunRecord
from ddpo.runtime.errors import DDPOError

WARM = 0.5
"""Share of a run's samples, normalised by the rewards of their own prompt, under which it is a sign: the others were
compared with other prompts' samples, so that easy prompts were reinforced instead of good samples."""


@dataclass(frozen=True)
class Diagnosis:
    """A run and what was found in it."""

    run: RunRecord
    findings: list[Finding]
    """Signs first, the grave ones before the others."""

    @property
    def problems(self) -> int:
        """Number of signs that nothing is learned, or that it is being lost."""
        return sum(finding.grave for finding in self.findings)

    @property
    def verdict(self) -> str:
        """One sentence on the run."""
        severities = Counter(finding.severity for finding in self.findings)
        told = [count(severities[name], name) for name in ("problem", "warning") if severities[name]]
        if told:
            return f"{' and '.join(told)}; a warning is a reason to look, not a verdict."
        if self.run.done < ENOUGH_ITERATIONS:
            return f"Nothing was found, but {count(self.run.done, 'iteration')} say little about a run."
        return "Healthy: nothing was found that keeps this run from learning."


def diagnose(folder: RunFolder) -> Diagnosis:
    """Return what the metrics and the fixed samples of a run tell.

    Raises:
        RunFolderError: its configuration or metrics cannot be read.
    """
    run = folder.read()
    run = replace(run, dimensions=_dimensions(run))
    return Diagnosis(run, ordered([*findings(run), *baseline(run)]))


def _dimensions(run: RunRecord) -> int | None:
    """Return the scalars in one sample of the run's model, where its architecture is known."""
    try:
        architecture, _ = find_architecture(parse_config(run.config).model)
        return None if architecture is None else prod(architecture.latent_shape)
    except DDPOError:
        return None


def baseline(run: RunRecord) -> list[Finding]:
    """Look how many of the samples were normalised by the rewards of their own prompt, as F.3 means it.

    Prompts depend on nothing but seed and iteration, so those of the run are drawn again and counted.
    """
    subject = "Running statistics of the prompts"
    try:
        config = parse_config(run.config)
        if not run.done or not config.algorithm.uses_advantages or config.advantage.name != "running":
            return []
        source = load_prompts(config.prompts)
    except DDPOError as error:
        return [unknown(subject, str(error))]
    warm, samples = _share_of_warm(source, run.done, config), config.samples_per_iteration
    numbers = (
        f"{share(warm)} of the {run.done * samples:,} samples were drawn for prompts with "
        f"{config.advantage.min_count} rewards or more"
    )
    keys = ("advantage.min_count", "samples_per_iteration")
    if warm >= WARM:
        return [clear(subject, numbers, *keys)]
    text = (
        f"Only {numbers}; the others were normalised by the mean of the whole iteration. "
        f"There are {len(source):,} prompts, and {samples:,} samples an iteration."
    )
    advice = "Lower advantage.min_count, raise samples_per_prompt, take fewer prompts, or train on."
    return [sign("The baseline is not warmed up", text, *keys, advice=advice)]


def _share_of_warm(source: PromptSource, iterations: int, config: TrainConfig) -> float:
    """Return the share of samples whose prompt had enough rewards, those of the same iteration included."""
    number, each = config.samples_per_iteration, config.samples_per_prompt
    rewards, warm = Counter[str](), 0
    for iteration in range(1, iterations + 1):
        prompts = source.draw(number, seed=config.seed, iteration=iteration, samples_per_prompt=each)
        texts = [prompt.text for prompt in prompts]
        rewards.update(texts)
        warm += sum(rewards[text] >= config.advantage.min_count for text in texts)
    return warm / (iterations * number)
