"""What keeps a run from learning, read from its folder: the signs of the report, and what the run's prompts add.

Never imports torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import prod

from pydantic import ValidationError

from ddpo.doctor.architecture import find_architecture
from ddpo.policies.loading import ModelSource
from ddpo.prompts import PromptSource, load_prompts
from ddpo.report.findings import ENOUGH_ITERATIONS, Finding, clear, section, sign, unknown
from ddpo.report.signs import findings, ordered
from ddpo.report.wording import count, share
from ddpo.runs.folder import RunFolder
from ddpo.runs.record import RunRecord, finite
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
    def warnings(self) -> int:
        """Number of the other signs."""
        return sum(finding.level == "sign" for finding in self.findings) - self.problems

    @property
    def verdict(self) -> str:
        """One sentence on the run."""
        told = [(self.problems, "problem"), (self.warnings, "warning")]
        if self.problems or self.warnings:
            return f"{' and '.join(count(*each) for each in told if each[0])}; a warning is a reason to look."
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
        architecture, _ = find_architecture(ModelSource.model_validate(section(run, "model")))
        return None if architecture is None else prod(architecture.latent_shape)
    except (DDPOError, ValidationError):
        return None


def baseline(run: RunRecord) -> list[Finding]:
    """Look how many of the samples were normalised by the rewards of their own prompt, as F.3 means it.

    Prompts depend on nothing but seed and iteration, so those of the run are drawn again and counted.
    """
    subject, advantage = "Running statistics of the prompts", section(run, "advantage")
    regression = str(section(run, "algorithm").get("name")).startswith("rwr")
    if not run.done or regression or advantage.get("name") != "running":
        return []
    settings = [finite(run.config.get(key)) for key in ("samples_per_iteration", "seed", "samples_per_prompt")]
    least = finite(advantage.get("min_count"))
    if least is None or any(value is None or value < 0 for value in settings) or not settings[0] or not settings[2]:
        return [unknown(subject, "the configuration does not say how many samples were drawn of a prompt")]
    try:
        source = load_prompts(run.config["prompts"])
    except (DDPOError, KeyError, TypeError) as error:
        return [unknown(subject, f"the run's prompts cannot be loaded: {error}")]
    samples, seed, each = (int(value) for value in settings if value is not None)
    warm = _share_of_warm(source, run.done, samples=samples, seed=seed, each=each, least=int(least))
    numbers = (
        f"{share(warm)} of the {run.done * samples:,} samples were drawn for prompts with {least:.0f} rewards or more"
    )
    keys = ("advantage.min_count", "samples_per_iteration")
    if warm >= WARM:
        return [clear(subject, numbers, *keys)]
    text = (
        f"The baseline is not warmed up: only {numbers} (advantage.min_count); the others were normalised by the mean "
        f"of the whole iteration. With {len(source):,} prompts and {samples:,} samples an iteration a prompt is drawn "
        f"{samples / len(source):.2g} times an iteration."
    )
    advice = "Lower advantage.min_count, raise samples_per_prompt, take fewer prompts, or train on."
    return [sign("The baseline is not warmed up", text, *keys, advice=advice)]


def _share_of_warm(source: PromptSource, iterations: int, *, samples: int, seed: int, each: int, least: int) -> float:
    """Return the share of samples whose prompt had `least` rewards, those of the same iteration included."""
    rewards, warm = Counter[str](), 0
    for iteration in range(1, iterations + 1):
        prompts = source.draw(samples, seed=seed, iteration=iteration, samples_per_prompt=each)
        texts = [prompt.text for prompt in prompts]
        rewards.update(texts)
        warm += sum(rewards[text] >= least for text in texts)
    return warm / (iterations * samples)
