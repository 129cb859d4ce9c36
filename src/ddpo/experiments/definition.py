"""The declarative file of an experiment: what is trained and evaluated at each scale, and which figure it makes.

docs/experiments.md describes every key.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from ddpo.runtime.errors import ExperimentError, nearest

DEFINITIONS = resources.files("ddpo.experiments") / "definitions"

Scale = Literal["embedded", "paper"]
"""`embedded`: the model in the package, on CPUs; `paper`: Stable Diffusion, on GPUs."""

FigureKind = Literal[
    "progression", "before-after", "effectiveness", "prompts", "generalisation", "overoptimisation", "rounds"
]
"""What the tables, the figure and the page of an experiment show."""
OF_PICTURES: tuple[FigureKind, ...] = ("progression", "before-after")
"""Figures that are samples and need no curves."""


def sides(claim: str) -> list[str]:
    """Return the two variants of a claim `left > right` or `left >= right`."""
    return [side.strip() for side in re.split(">=?", claim)]


def _found_beside(name: str, info: ValidationInfo) -> str:
    """Return the path of a YAML file beside the experiment's file, whatever the working folder; a name as it is."""
    if info.context is None or not name.endswith((".yaml", ".yml")):
        return name
    file = (info.context / Path(name).expanduser()).resolve()
    return str(file) if file.is_file() else name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptSet(_Strict):
    """Prompts on which trained models are evaluated besides the fixed samples of their run."""

    label: str
    prompts: str | dict[str, Any] | list[Any]
    """A prompt source as in a configuration: `everyday-objects` or `{name: simple-animals, part: held-out}`."""
    rewards: list[str | dict[str, Any]] = []
    """Rewards to measure besides the trained one."""
    seeds: int = Field(default=2, ge=1)
    """Samples of each prompt and model."""
    show: list[str] = []
    """Prompts to draw with the base model and with the first seed's trained one."""


class Plan(_Strict):
    """Every recipe with every variant and every seed, after equally many reward queries."""

    recipes: list[Annotated[str, AfterValidator(_found_beside)]] = Field(min_length=1)
    variants: dict[str, list[str]] = Field(min_length=1)
    """What tells the runs of a recipe apart: a label and its `key=value` settings."""
    settings: list[str] = []
    """`key=value` settings of all runs."""
    queries: int = Field(ge=1)
    """Reward queries of a run."""
    evaluations: int = Field(ge=1)
    """Evaluations of the fixed samples, evenly spaced, besides that of the base model."""
    seeds: int = Field(default=3, ge=1)
    """Runs of each kind: seeds 0, 1, ...; figures of pictures need the first one only."""
    evaluate: list[PromptSet] = []


class Pictures(_Strict):
    """Which fixed samples of the first seed's runs are shown."""

    prompts: int = Field(ge=1)
    """Samples, spread evenly over the prompts."""
    moments: int = Field(ge=2)
    """Evaluations, the base model and the end of the training among them."""


class Experiment(_Strict):
    """One figure: what is run for it at each scale."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Folder of its results, and its name on the command line."""
    title: str
    summary: str
    figure: FigureKind
    finding_of_paper: str | None = None
    claims: list[str] = []
    """Orders of two variants in the trained reward, `ddpo-is >= ddpo-sf`: the page has their differences."""
    pictures: Pictures | None = None
    embedded: Plan | None = None
    paper: Plan | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Experiment:
        if not self.scales:
            raise ValueError("give what is run under 'embedded', 'paper' or both")
        if self.claims and self.figure in OF_PICTURES:
            raise ValueError(f"claims: figure: {self.figure} has no curves to compare; remove them")
        known = sorted({variant for scale in self.scales for variant in getattr(self, scale).variants})
        for claim in self.claims:
            if len(sides(claim)) != 2:
                raise ValueError(f"claims: '{claim}' is not of the form 'variant > variant' or 'variant >= variant'")
            for variant in sides(claim):
                if variant not in known:
                    raise ValueError(f"claims: there is no variant '{variant}'; there are {', '.join(known)}")
        return self

    @property
    def scales(self) -> list[Scale]:
        """The scales it has a plan for."""
        return [scale for scale in get_args(Scale) if getattr(self, scale) is not None]


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in DEFINITIONS.iterdir() if file.name.endswith(".yaml"))


def load_experiment(source: str) -> Experiment:
    """Return an experiment by its name or from a YAML file; raises ExperimentError when there is none or as below."""
    names = experiment_names()
    if source in names:
        return parse_experiment((DEFINITIONS / f"{source}.yaml").read_text(encoding="utf-8"), source)
    path = Path(source).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        known = f"Known: {', '.join(names)}, all, or a YAML file."
        raise ExperimentError(f"There is no experiment '{source}'.{nearest(source, names)} {known}")
    if not path.is_file():
        raise ExperimentError(f"There is no experiment file {path}.")
    return parse_experiment(path.read_text(encoding="utf-8"), str(path), folder=path.parent)


def parse_experiment(text: str, where: str, folder: Path | None = None) -> Experiment:
    """Return the experiment written in `text`; `where` names it in messages, `folder` is that of relative recipes.
    Raises ExperimentError: not valid YAML, an unknown key or a wrong value.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ExperimentError(f"{where} must hold keys and values, not a {type(tree).__name__}.")
    try:
        return Experiment.model_validate(tree, context=folder)
    except ValidationError as error:
        raise ExperimentError(f"{where}: {_explain(error)}") from None


def plan_of(experiment: Experiment, scale: Scale) -> Plan:
    """Return what an experiment runs at a scale; raises ExperimentError when it has nothing for the scale."""
    plan: Plan | None = getattr(experiment, scale)
    if plan is None:
        other = f"use --scale {' or '.join(experiment.scales)}"
        raise ExperimentError(f"Experiment '{experiment.name}' has no {scale} scale; {other}.")
    return plan


_SECTIONS: dict[str, type[_Strict]] = {"embedded": Plan, "paper": Plan, "evaluate": PromptSet, "pictures": Pictures}


def _explain(error: ValidationError) -> str:
    """Put one problem of a validation into a sentence with the path of its key: an unknown key before a missing one."""
    problem = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        sections = [_SECTIONS[part] for part in path[:-1] if part in _SECTIONS]
        valid = list((sections[-1] if sections else Experiment).model_fields)
        return f"{'.'.join(path)}: unknown key.{nearest(path[-1], valid)} Valid: {', '.join(valid)}."
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(path)}: {message}." if path else f"{message}."
