"""The declarative file of an experiment: what is trained and evaluated at each scale, and which figure it makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from ddpo.runtime.errors import ExperimentError, nearest

DEFINITIONS = resources.files("ddpo.experiments") / "definitions"

Scale = Literal["embedded", "paper"]
"""`embedded`: the model in the package, on CPUs; `paper`: Stable Diffusion, on GPUs."""

SCALES: tuple[Scale, ...] = get_args(Scale)

FigureKind = Literal[
    "progression", "before-after", "effectiveness", "prompts", "generalisation", "overoptimisation", "rounds"
]
"""What the tables, the figure and the page of an experiment show."""

CLAIMS_CHECKED: tuple[FigureKind, ...] = ("effectiveness", "prompts", "rounds")
"""Figures whose page checks claims."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim(_Strict):
    """An order of two variants in the trained reward: written `left > right`, or `left >= right`: not clearly below."""

    left: str
    right: str
    strict: bool
    """Whether left has to be clearly above right."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        left, sign, right = value.partition(">=" if ">=" in value else ">")
        if not (left.strip() and right.strip()):
            raise ValueError(f"'{value}' is not of the form 'variant > variant' or 'variant >= variant'")
        return {"left": left.strip(), "right": right.strip(), "strict": sign == ">"}

    def __str__(self) -> str:
        return f"{self.left} {'>' if self.strict else '≥'} {self.right}"


class PromptSet(_Strict):
    """Prompts on which trained models are evaluated besides the fixed samples of their run."""

    label: str
    """Words for tables and figures."""
    prompts: str
    """A prompt source as in a configuration: `everyday-objects` or `{name: simple-animals, part: held-out}`, also as
    the text that `ddpo evaluate --prompts` takes."""
    rewards: list[str] = []
    """Rewards to measure besides the trained one."""
    seeds: int = Field(default=2, ge=1)
    """Samples of each prompt, of the base model and of the trained one."""
    show: list[str] = []
    """Prompts to draw with the base model and with the first seed's trained one."""

    @field_validator("prompts", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return json.dumps(value) if isinstance(value, dict | list) else value


class Plan(_Strict):
    """Every recipe with every variant and every seed, after equally many reward queries."""

    recipes: list[str] = Field(min_length=1)
    """Recipes by name, or configuration files; relative paths count from the experiment's file."""
    variants: dict[str, list[str]] = Field(min_length=1)
    """What tells the runs of a recipe apart: a label and its `key=value` settings."""
    settings: list[str] = []
    """`key=value` settings of all runs."""
    queries: int = Field(ge=1)
    """Reward queries of a run."""
    evaluations: int = Field(ge=1)
    """Evaluations of the fixed samples, evenly spaced, besides that of the base model."""
    seeds: int = Field(default=3, ge=1)
    """Runs of each kind: seeds 0, 1, ..."""
    evaluate: list[PromptSet] = []
    """Prompts to evaluate the trained models on."""


class SharedPlan(_Strict):
    """Runs of another experiment, or some of them."""

    runs_of: str
    """The experiment's name."""
    variants: list[str] | None = None
    """Only these variants."""
    seeds: int | None = Field(default=None, ge=1)
    """Only so many seeds, whatever number is asked for; None: those of the other experiment."""


def _kind_of_plan(value: Any) -> str:
    return "shared" if isinstance(value, SharedPlan) or (isinstance(value, dict) and "runs_of" in value) else "own"


AnyPlan = Annotated[
    Annotated[Plan, Tag("own")] | Annotated[SharedPlan, Tag("shared")],
    Discriminator(_kind_of_plan),
]


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
    """Heading of the page and the figure."""
    summary: str
    """One line for the list of experiments."""
    figure: FigureKind
    """What is made of the runs."""
    finding_of_paper: str | None = None
    """What the paper found, for the page to hold the results against."""
    claims: list[Claim] = []
    """Orders of variants that the page checks: `ddpo-is >= ddpo-sf`."""
    pictures: Pictures | None = None
    """Samples to show besides, or as, the figure."""
    embedded: AnyPlan | None = None
    """On the embedded model."""
    paper: AnyPlan | None = None
    """On the paper's model."""

    @model_validator(mode="after")
    def _claims_can_be_checked(self) -> Experiment:
        if self.claims and self.figure not in CLAIMS_CHECKED:
            raise ValueError(
                f"claims: the page of figure: {self.figure} checks none; remove them, or use one of "
                f"{', '.join(CLAIMS_CHECKED)}"
            )
        named = [getattr(getattr(self, scale), "variants", None) or () for scale in self.scales]
        problem = _unknown_variant(self.claims, {variant for variants in named for variant in variants})
        if problem and all(named):  # else `plan_of` knows
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _has_a_scale(self) -> Experiment:
        if self.embedded is None and self.paper is None:
            raise ValueError("give what is run under 'embedded', 'paper' or both")
        return self

    @property
    def scales(self) -> list[Scale]:
        """The scales it has a plan for."""
        return [scale for scale in SCALES if getattr(self, scale) is not None]


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in DEFINITIONS.iterdir() if file.name.endswith(".yaml"))


def load_experiment(source: str) -> Experiment:
    """Return an experiment by its name or from a YAML file.

    Raises:
        ExperimentError: there is none, it is not valid YAML, or it has an unknown key or a wrong value.
    """
    names = experiment_names()
    if source in names:
        text = (DEFINITIONS / f"{source}.yaml").read_text(encoding="utf-8")
        return parse_experiment(text, source)
    path = Path(source).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ExperimentError(f"There is no experiment file {path}.")
        return parse_experiment(path.read_text(encoding="utf-8"), str(path), folder=path.parent)
    raise ExperimentError(
        f"There is no experiment '{source}'.{nearest(source, names)} Known: {', '.join(names)}, all, or a YAML file."
    )


def parse_experiment(text: str, where: str, folder: Path | None = None) -> Experiment:
    """Return the experiment written in `text`; `where` names it in messages, `folder` is that of relative recipes.

    Raises:
        ExperimentError: not valid YAML, an unknown key or a wrong value.
    """
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ExperimentError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ExperimentError(f"{where} must hold keys and values, not a {type(tree).__name__}.")
    try:
        experiment = Experiment.model_validate(tree)
    except ValidationError as error:
        raise ExperimentError(f"{where}: {_explain(error)}") from None
    return experiment if folder is None else _anchored(experiment, folder)


def plan_of(experiment: Experiment, scale: Scale) -> Plan:
    """Return what an experiment runs at a scale, with plans shared with other experiments filled in.

    Raises:
        ExperimentError: it has no plan for the scale, or shares runs that the other experiment does not have.
    """
    plan = _plan_of(experiment, scale, ())
    _check_claims(experiment)
    return plan


def _plan_of(experiment: Experiment, scale: Scale, sharing: tuple[str, ...]) -> Plan:
    """Return the plan; `sharing` are the experiments that led to this one."""
    plan: AnyPlan | None = getattr(experiment, scale)
    if plan is None:
        raise ExperimentError(
            f"Experiment '{experiment.name}' has no {scale} scale; use --scale {' or '.join(experiment.scales)}."
        )
    if isinstance(plan, Plan):
        return plan
    if plan.runs_of in sharing:
        raise ExperimentError(
            f"Experiment '{experiment.name}' shares runs of '{plan.runs_of}', which leads back to it; name one with "
            "recipes."
        )
    return _some_of(_plan_of(load_experiment(plan.runs_of), scale, (*sharing, plan.runs_of)), plan, experiment.name)


def _check_claims(experiment: Experiment) -> None:
    """Raise ExperimentError for a claim about a variant that no scale has."""
    if not experiment.claims:
        return
    known = {variant for scale in experiment.scales for variant in _plan_of(experiment, scale, ()).variants}
    if problem := _unknown_variant(experiment.claims, known):
        raise ExperimentError(f"Experiment '{experiment.name}': {problem}.")


def _unknown_variant(claims: Sequence[Claim], known: set[str]) -> str | None:
    """Return a sentence on the first claim about a variant that is not known."""
    named = (variant for claim in claims for variant in (claim.left, claim.right))
    unknown = next((variant for variant in named if variant not in known), None)
    return unknown and f"claims: there is no variant '{unknown}'; there are {', '.join(sorted(known))}"


def seeds_of(experiment: Experiment, scale: Scale, wanted: int | None = None) -> int:
    """Return how many seeds an experiment runs when `wanted` are asked for, None: as many as its file says.

    Raises:
        ExperimentError: as `plan_of`.
    """
    plan_of(experiment, scale)
    return _seeds_of(experiment, scale, wanted)


def _seeds_of(experiment: Experiment, scale: Scale, wanted: int | None) -> int:
    plan: AnyPlan = getattr(experiment, scale)
    if isinstance(plan, Plan):
        return plan.seeds if wanted is None else wanted
    there = _seeds_of(load_experiment(plan.runs_of), scale, wanted)
    return there if plan.seeds is None else min(there, plan.seeds)


def _some_of(plan: Plan, part: SharedPlan, name: str) -> Plan:
    wanted = list(plan.variants) if part.variants is None else part.variants
    missing = [variant for variant in wanted if variant not in plan.variants]
    if missing:
        raise ExperimentError(
            f"Experiment '{name}' shares the variant '{missing[0]}' of '{part.runs_of}', which has only "
            f"{', '.join(plan.variants)}; correct 'variants'."
        )
    seeds = plan.seeds if part.seeds is None else min(plan.seeds, part.seeds)
    return plan.model_copy(update={"variants": {variant: plan.variants[variant] for variant in wanted}, "seeds": seeds})


def _anchored(experiment: Experiment, folder: Path) -> Experiment:
    """Make the files beside the experiment's file that it names independent of the working folder."""
    updates: dict[str, AnyPlan] = {}
    for scale in experiment.scales:
        plan = getattr(experiment, scale)
        if isinstance(plan, Plan):
            updates[scale] = plan.model_copy(update={"recipes": [_anchored_file(r, folder) for r in plan.recipes]})
        elif isinstance(plan, SharedPlan):
            updates[scale] = plan.model_copy(update={"runs_of": _anchored_file(plan.runs_of, folder)})
    return experiment.model_copy(update=updates)


def _anchored_file(name: str, folder: Path) -> str:
    file = (folder / Path(name).expanduser()).resolve()
    return str(file) if Path(name).suffix in (".yaml", ".yml") and file.is_file() else name


def _explain(error: ValidationError) -> str:
    """Put one problem of a validation into a sentence with the path of its key: an unknown key before a missing one."""
    problem = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    path = [str(part) for part in problem["loc"] if part not in ("own", "shared")]
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = _keys_beside(problem["loc"])
        return f"{where}: unknown key.{nearest(path[-1], valid)} Valid: {', '.join(valid)}."
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}." if where else f"{message}."


def _keys_beside(location: Sequence[int | str]) -> list[str]:
    """Return the valid keys of the section in which an unknown key was found."""
    sections: dict[int | str, type[_Strict]] = {
        "own": Plan,
        "shared": SharedPlan,
        "evaluate": PromptSet,
        "pictures": Pictures,
        "claims": Claim,
    }
    named = [sections[part] for part in location[:-1] if part in sections]
    return list((named[-1] if named else Experiment).model_fields)
