"""Whether a recipe can train on this machine: the checks of `ddpo doctor`, each told as soon as it is done."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement

from ddpo.config import load_config
from ddpo.doctor.dry_run import DryRun, prepare
from ddpo.doctor.rehearsal import Rehearsal, rehearse
from ddpo.media import Image
from ddpo.report.signs import NEAR_TOLERANCE
from ddpo.report.wording import number
from ddpo.rewards import LoadedReward, score_components
from ddpo.runtime.errors import DDPOError, ModelError, RewardError

_DOWNLOAD = "Where there is a network `ddpo train` downloads what is missing; the doctor does not."


@dataclass(frozen=True)
class Check:
    """What came of one look at one thing."""

    name: str
    status: Literal["ok", "warning", "failed"]
    """`warning`: a run would start, and something is worth a look; `failed`: a run would not work."""
    text: str
    """What was seen, as a sentence."""
    advice: str = ""
    """What to do, as a sentence, where there is something; an error's own sentence says it."""


def examine(source: str | None, overrides: Sequence[str]) -> Iterator[Check]:
    """Yield every check of a recipe or file with `key=value` overrides; those that need one that failed are left out.

    Nothing is downloaded if HF_HUB_OFFLINE is set in this process.
    """
    yield _guarded("packages", look_at_packages)
    dry: list[DryRun] = []
    yield _guarded("configuration", lambda: _look_at_configuration(source, overrides, dry))
    for run in dry:
        yield _guarded("reward", partial(_score, run, run.reward, trained=True))
        for measured in run.measured:
            yield _guarded("measured reward", partial(_score, run, measured, trained=False))
        yield _guarded("rehearsal", partial(_rehearse, run))


def _guarded(name: str, action: Callable[[], Check]) -> Check:
    """Return what came of `action`, whatever it raises."""
    try:
        return action()
    except DDPOError as error:
        return Check(name, "failed", str(error))
    except (Exception, SystemExit) as error:  # a user's reward may do anything
        return Check(name, "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def look_at_packages(
    requirements: Iterable[str] | None = None, version: Callable[[str], str] = metadata.version
) -> Check:
    """Compare the installed packages with the requirements, those of the installed `ddpo` unless others are given."""
    try:
        given = requirements or metadata.requires("ddpo") or []
    except metadata.PackageNotFoundError:
        seen = "ddpo runs from a folder without being installed, so nothing says which packages it needs."
        return Check("packages", "warning", seen, "Install it: `pip install -e .` in its folder.")
    wanted = [each for each in map(Requirement, given) if each.marker is None or each.marker.evaluate()]
    problems = {f"'{each.name}{each.specifier}'": text for each in wanted if (text := _problem(each, version))}
    if problems:
        return Check("packages", "failed", f"{'; '.join(problems.values())}.", f"`pip install {' '.join(problems)}`")
    return Check("packages", "ok", f"the {len(wanted)} that ddpo needs are installed, in versions that it works with")


def _problem(requirement: Requirement, version: Callable[[str], str]) -> str | None:
    try:
        present = version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    fits = requirement.specifier.contains(present, prereleases=True)
    return None if fits else f"{requirement.name} is {present}, needed is {requirement.specifier}"


def _look_at_configuration(source: str | None, overrides: Sequence[str], found: list[DryRun]) -> Check:
    """Load everything that a recipe names except the model's weights, and leave it in `found`."""
    dry = prepare(load_config(source, overrides))
    found.append(dry)
    config, model = dry.config, dry.config.policy or dry.config.model.name
    seen = (
        f"{config.name}: {config.algorithm.name} on {model}, {config.precision} on {config.device}; "
        f"{dry.distinct_prompts:,} prompts, such as '{dry.prompts.prompts[0].text}'"
    )
    return Check("configuration", "ok", f"{seen}. {dry.note}" if dry.note else seen)


def _score(dry: DryRun, reward: LoadedReward, *, trained: bool) -> Check:
    """Score one picture of colours that change smoothly; without a measured reward training goes on."""
    import torch

    if dry.config.policy is not None:
        return Check("reward", "ok", f"{reward.key}: not tried, what a policy of your own draws is not known yet")
    name, prompt = "reward" if trained else "measured reward", dry.prompts.prompts[0]
    ramp = torch.linspace(0, 1, 512).expand(512, 512)
    picture = torch.stack([ramp, ramp.T, 0.5 * (ramp + ramp.T)])[None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = score_components(reward, Image(), picture, [prompt.text], [prompt.metadata])
    except RewardError as error:
        if trained and not _not_in_cache(error):
            raise
        return Check(name, "warning", str(error), _DOWNLOAD if trained else "Training goes on without it.")
    told = ", ".join(f"{reward.components[key].label} {score_B[0]:.4g}" for key, score_B in scores.items())
    return Check(name, "ok", f"{reward.key}: a test picture for '{prompt.text}' scores {told}")


def _not_in_cache(error: BaseException | None) -> bool:
    """Return whether one of the errors behind `error` is a file that the hub's cache does not hold."""
    while error is not None and type(error).__name__ not in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
        error = error.__cause__ or error.__context__
    return error is not None


def _rehearse(dry: DryRun) -> Check:
    """Train on one small batch, if the memory that an update of the run needs is there."""
    model, needed = dry.config.model, dry.plan.memory.get("together", 0)
    present = _memory_of(dry.runtime.device.type)
    if present is not None and needed > present:
        seen = f"An update needs about {number(needed / 1e9, 3)} GB, here are {number(present / 1e9, 3)} GB."
        advice = "Lower batch_size, or set gradient_checkpointing=true or lora.rank=4."
        return Check("rehearsal", "failed", seen, advice)
    try:
        return judge(rehearse(dry.config, dry.prompts, dry.runtime))
    except ModelError as error:
        if model.local_files_only or not _not_in_cache(error):
            raise
        return Check("rehearsal", "warning", str(error), _DOWNLOAD)


def _memory_of(device: str) -> int | None:
    """Return the bytes that are free on a GPU, or the machine has; None: not known."""
    import torch

    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def judge(rehearsal: Rehearsal) -> Check:
    """Return whether the run would train on what it drew."""
    config, error, tolerance = rehearsal.config, rehearsal.ratio_error, rehearsal.tolerance
    seen = f"{config.samples_per_iteration} samples, {config.sampler.steps} denoising steps, an update"
    if error is not None and tolerance is not None:
        seen += f"; largest |ratio - 1| before it {number(error, 2)}, tolerated are {number(tolerance, 2)}"
    if not rehearsal.finite:
        return Check("rehearsal", "failed", f"The weights are not finite after it: {seen}.", "Lower learning_rate.")
    if rehearsal.skipped:
        return Check("rehearsal", "ok", f"{seen}; fp16 left the update out, as it does until it finds its loss scale")
    if rehearsal.gradient_norm == 0:
        advice = "See that lora.target_modules names layers of the network."
        return Check("rehearsal", "failed", f"No gradient reached the trained weights: {seen}.", advice)
    seen += f"; gradient norm {number(rehearsal.gradient_norm, 3)}"
    if error is not None and tolerance is not None and error > NEAR_TOLERANCE * tolerance:
        advice = "Use precision=fp32 and compile=false, or a wider clip."
        return Check("rehearsal", "warning", f"The replay is barely exact enough: {seen}.", advice)
    return Check("rehearsal", "ok", seen)
