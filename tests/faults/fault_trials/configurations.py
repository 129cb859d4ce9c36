"""Trial 10: wrong configurations end with exit code 2 and one sentence, before a model is loaded or a file written.

Every mutation is certain to be wrong: keys are checked against the section's fields, values are of a type that the
field's annotation does not take, or lie beyond the field's own bounds.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from ddpo.algorithms import ALGORITHMS
from ddpo.config import TrainConfig, load_config, recipes
from ddpo.config.layers import SECTIONS_WITH_NAME
from fault_trials.refusals import Ending, Reached, flaw_of_ending, no_model_may_load, run_apart, run_here
from fault_trials.registry import Cases, trial

SEED = 10
LONGEST_SECONDS = 5.0
"""Processor time in which a wrong configuration must be refused."""
FREE_FORM = ("reward", "prompts")
"""Sections whose keys the configuration does not know."""


@dataclass(frozen=True)
class Wrong:
    """A configuration that is certain to be wrong."""

    case: str
    arguments: list[str]
    """Of `ddpo train`."""
    says: tuple[str, ...] = ()
    """What the refusal must say."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Files in the working folder."""


@trial(
    10,
    "configurations",
    "A wrong configuration ends with exit code 2 and one sentence that names the key, before a model is loaded.",
    fast=50,
    full=200,
)
def wrong_configurations(size: int, folder: Path) -> Cases:
    """The curated ones and mutations of the shipped recipes, `size` mutations; at full size each eleventh in
    a process of its own, in the fast one each 23rd."""
    apart = 11 if size >= 200 else 23
    for number, wrong in enumerate([*mutations(size), *curated()]):
        here = folder / str(number)
        here.mkdir()
        yield f"{number}: {wrong.case}", flaw(wrong, here, apart=number < size and number % apart == 0)


def flaw(wrong: Wrong, folder: Path, *, apart: bool) -> str | None:
    """Return what is wrong with how a configuration is refused."""
    for name, content in wrong.files.items():
        (folder / name).write_bytes(content)
    before, start = sorted(folder.rglob("*")), time.process_time()
    try:
        ending = _train(wrong.arguments, folder, apart)
    except Reached as reached:
        return f"{reached}: {wrong.arguments}"
    seconds = time.process_time() - start
    if sorted(folder.rglob("*")) != before:
        return f"wrote into the working folder: {wrong.arguments}"
    if seconds > LONGEST_SECONDS:
        return f"took {seconds:.1f} s: {wrong.arguments}"
    problem = flaw_of_ending(ending, *wrong.says)
    return problem and f"{wrong.arguments}: {problem}"


def _train(arguments: Sequence[str], folder: Path, apart: bool) -> Ending:
    if apart:
        return run_apart(["train", *arguments], folder)
    with no_model_may_load():
        return run_here(["train", *arguments], folder)


# --- mutations of the shipped recipes ---


def mutations(number: int) -> Iterator[Wrong]:
    """Yield mutated recipes, the same for the same number."""
    chance = random.Random(SEED)
    names = [name for name, _ in recipes()]
    for index in range(number):
        recipe = names[index % len(names)]
        mutate = (wrong_key, wrong_type, out_of_range, contradiction)[index % 4]
        path, value, says = mutate(chance, load_config(recipe))
        yield _given(chance, index, recipe, path, value, (f"{mutate.__name__} {recipe}"), says)


def _given(
    chance: random.Random, index: int, recipe: str, path: str, value: Any, kind: str, says: tuple[str, ...]
) -> Wrong:
    """Write a mutation as an override, or as a file that extends the recipe."""
    case = f"{kind} {path}={value!r}"[:120]
    keys = path.split(".")
    if chance.random() < 0.5 or keys[0] == "algorithm":
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
        return Wrong(case, [recipe, f"{path}={text}"], says)
    tree: Any = value
    for key in reversed(keys):
        tree = {key: tree}
    content = yaml.safe_dump({"extends": recipe, **tree}).encode()
    return Wrong(f"{case} in a file", ["mine.yaml"], says, {"mine.yaml": content})


Mutation = tuple[str, Any, tuple[str, ...]]
"""Path, value, and what the refusal must say."""


def wrong_key(chance: random.Random, config: TrainConfig) -> Mutation:
    """Misspell a key of a random section."""
    path, section = chance.choice(list(_sections(config, ())))
    valid = list(type(section).model_fields)
    if not path:
        valid += ["extends", "algorithms"]
    while True:
        key = chance.choice(list(type(section).model_fields))
        place = chance.randrange(len(key))
        wrong = chance.choice([key[:place] + key[place + 1 :], key[:place] + "x" + key[place:], key + "s", f"my_{key}"])
        if wrong and wrong not in valid:
            return ".".join([*path, wrong]), chance.choice([1, "text", 0.5]), (wrong, "unknown key")


def wrong_type(chance: random.Random, config: TrainConfig) -> Mutation:
    """Give a random setting a value of a type that it does not take."""
    path, annotation = chance.choice([(path, info.annotation) for path, info, _ in _leaves(config)])
    return ".".join(path), chance.choice(wrong_values(annotation)), (".".join(path),)


def out_of_range(chance: random.Random, config: TrainConfig) -> Mutation:
    """Put a random number beyond its bounds, or name something that is not there."""
    path, wrong = chance.choice([(path, values) for path, info, _ in _leaves(config) if (values := beyond(info))])
    return ".".join(path), chance.choice(wrong), (".".join(path),)


def contradiction(chance: random.Random, config: TrainConfig) -> Mutation:
    """Change one setting so that it contradicts others of the recipe."""
    samples, buffer = config.samples_per_iteration, config.advantage.buffer_size
    indivisible = next(number for number in range(chance.randrange(3, 40), 100) if samples % number)
    possible: list[Mutation] = [
        ("samples_per_prompt", indivisible, ("samples_per_iteration", "does not divide", str(indivisible))),
        ("updates_per_iteration", indivisible, ("samples_per_iteration", "does not divide", str(indivisible))),
        ("advantage.min_count", buffer + chance.randrange(1, 100), ("advantage", "min_count", "buffer_size")),
        ("sampler", {"name": "ancestral", "steps": 10, "eta": 0.5}, ("sampler", "eta")),
        ("algorithm", {"name": "ddpo-is", "clip_range": 1e-4, "clip_nats": 1.0}, ("algorithm", "not both")),
        ("algorithm", {"name": "ddpo-is", "clip_nats": 1.0, "log_prob": "sum"}, ("algorithm", "log_prob")),
        ("reward", {"jpeg-compressibility": 1, "no-such-reward": 1}, ("no-such-reward",)),
        ("prompts", {"name": "simple-animals", "wording": "paper"}, ("wording",)),
        ("model", "./no/such/folder", ("no/such/folder",)),
    ]
    if config.samples_per_prompt == 1:
        possible.append(("advantage", {"name": "group"}, ("advantage.name", "samples_per_prompt")))
    return chance.choice(possible)


def _sections(section: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], BaseModel]]:
    yield path, section
    for key in type(section).model_fields:
        if isinstance(inner := getattr(section, key), BaseModel):
            yield from _sections(inner, (*path, key))


def _leaves(config: TrainConfig) -> Iterator[tuple[tuple[str, ...], Any, BaseModel]]:
    """Yield path and field of every setting that is no section; the names of algorithms decide about their section."""
    for path, section in _sections(config, ()):
        for key, info in type(section).model_fields.items():
            free = not path and key in FREE_FORM
            if not isinstance(getattr(section, key), BaseModel) and not free and (*path, key) != ("algorithm", "name"):
                yield (*path, key), info, section


def wrong_values(annotation: Any) -> list[Any]:
    """Return values of types that a setting with this annotation does not take."""
    kinds = {get_origin(kind) or kind for kind in (annotation, *get_args(annotation))}
    wrong: list[Any] = [{"a": 1}, {"a": {"b": []}}]
    if list not in kinds:
        wrong += [[1, 2], [[]]]
    if not kinds & {str, Path} and Literal not in kinds:
        wrong += ["many", "1,000", "3 apples", ""]
    if Literal in kinds:
        wrong += ["no-such-name", "DDIM ", 7]
    if kinds & {str, Path}:
        wrong += [3, 0.5, True]
    if kinds & {int, float}:
        wrong += [True, False, math.nan, math.inf]
    if int in kinds and float not in kinds:
        wrong += [2.5]
    if bool in kinds:
        wrong += ["perhaps", 2, 0.5]
    if list in kinds:
        wrong += [3, "text", True, [1]]
    return wrong if type(None) in kinds else [*wrong, None]


def beyond(info: Any) -> list[Any]:
    """Return numbers beyond the bounds of a field; names where it takes some; none where it has no bounds."""
    if get_origin(info.annotation) is Literal:
        return [f"{name}s" for name in get_args(info.annotation)]
    bounds: dict[type, Callable[[Any], list[Any]]] = {
        Ge: lambda bound: [bound.ge - 1, bound.ge - 1000],
        Gt: lambda bound: [bound.gt, bound.gt - 1],
        Le: lambda bound: [bound.le + 1, bound.le + 1000],
        Lt: lambda bound: [bound.lt, bound.lt + 1],
    }
    return [value for bound in info.metadata if type(bound) in bounds for value in bounds[type(bound)](bound)]


# --- those thought of one by one ---

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A YAML of nine lines that stands for 387 million words."""


def curated() -> Iterator[Wrong]:
    """Yield what users and mishaps do: files that are no configuration, overrides that are none, what is not there."""
    for name, content, *says in FILES:
        yield Wrong(f"file, {name}", ["mine.yaml"], tuple(says), {"mine.yaml": content})
    for arguments, *says in COMMANDS:
        yield Wrong(f"{' '.join(arguments)}"[:80], arguments, tuple(says))
    files = {"my.py": b"def f(images, prompts, metadata):\n    return 1\nraise RuntimeError('mine')\n"}
    yield Wrong("a reward whose import fails", ["reward=my.py:f"], ("my.py", "mine"), files)
    full = {"taken": b"mine"}
    yield Wrong("an output that is a file", ["output=taken"], ("output", "taken"), full)


FILES: list[tuple[Any, ...]] = [
    ("empty list", b"[]", "mine.yaml", "keys and values"),
    ("a number", b"3", "mine.yaml", "keys and values"),
    ("false", b"false", "mine.yaml", "keys and values"),
    ("text", b"iterations", "mine.yaml", "keys and values"),
    ("numbers as keys", b"1: 2\n", "mine.yaml", "keys"),
    ("null as key", b"? \n: 2\n", "mine.yaml", "keys"),
    ("a list as key", b"[a, b]: 2\n", "mine.yaml", "YAML"),
    ("an open bracket", b"iterations: [1\n", "mine.yaml", "YAML"),
    ("tabs", b"evaluation:\n\tnumber: 3\n", "mine.yaml", "YAML"),
    ("two documents", b"iterations: 1\n---\niterations: 2\n", "mine.yaml", "YAML"),
    ("zeros", bytes(4096), "mine.yaml", "YAML"),
    ("noise", random.Random(SEED).randbytes(4096), "mine.yaml"),
    ("a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "mine.yaml"),
    ("a day that is none", b"name: 2024-02-31\n", "mine.yaml", "YAML"),
    ("a tagged number that is none", b"iterations: !!int many\n", "mine.yaml", "YAML"),
    ("a tag", b"iterations: !mine 3\n", "mine.yaml", "YAML"),
    ("deep nesting", b"iterations: " + b"[" * 20_000, "mine.yaml", "nested"),
    ("an unknown alias", b"iterations: *other\n", "mine.yaml", "YAML"),
    ("a bomb as a number", BOMB.encode() + b"iterations: *i\n"),
    ("a bomb as prompts", BOMB.encode() + b"prompts: *i\n"),
    ("a bomb as reward", b"reward: &r {name: judge, x: &x [*r, *r]}\n", "no option 'x'"),
    ("a section within itself", b"evaluation: &e {number: *e}\n", "evaluation"),
    ("extends itself", b"extends: mine.yaml\n", "extends", "itself"),
    ("extends nothing", b"extends: other.yaml\n", "other.yaml"),
    ("extends an unknown recipe", b"extends: emoji-compresibility\n", "emoji-compressibility"),
    ("extends a list", b"extends: [emoji]\n", "extends"),
    ("algorithms as a list", b"algorithms: [rwr]\n", "algorithms"),
    ("algorithms of unknown name", b"algorithms: {rwrr: {}}\n", "algorithms", "rwrr", "rwr"),
    ("algorithms with an unknown key", b"algorithms: {rwr: {iteration: 3}}\n", "algorithms.rwr.iteration"),
    ("algorithms with text", b"algorithms: {rwr: text}\n", "algorithms"),
    *((f"{key} as a number", f"{key}: 3\n".encode(), key) for key in (*SECTIONS_WITH_NAME, "lora", "optimizer")),
    *((f"{key} as true", f"{key}: true\n".encode(), key) for key in (*SECTIONS_WITH_NAME, "evaluation")),
    *(
        (f"{name} with a number as key", f"algorithm: {{name: {name}, 3: 4}}\n".encode(), "algorithm")
        for name in ALGORITHMS
    ),
    ("evaluation.rewards with a number", b"evaluation: {rewards: [judge, 3]}\n", "evaluation.rewards"),
    ("prompts with a number", b"prompts: [a cat, 3]\n", "prompts"),
    ("prompts, empty", b"prompts: []\n", "hold no prompt"),
    ("prompts, an empty one", b"prompts: [a cat, '']\n", "entry 2"),
    ("prompts without a name", b"prompts: {part: train}\n", "'name'"),
    ("prompts with a wrong part", b"prompts: {name: simple-animals, part: [train]}\n", "part"),
    ("prompts with a wrong article", b"prompts: {name: imagenet-animals, article: maybe}\n", "article"),
    ("reward, empty", b"reward: {}\n", "reward"),
    ("reward without a name", b"reward: {weight: text}\n", "name"),
    ("reward with an option it has not", b"reward: {name: judge, sharpness: 3}\n", "sharpness"),
    ("reward with a weight that is no number", b"reward: {judge: much, jpeg-compressibility: 1}\n"),
    ("a measured reward that is not there", b"evaluation: {rewards: [no-such-reward]}\n", "no-such-reward"),
]
"""Name, content, and what the refusal must say."""

COMMANDS: list[tuple[Any, ...]] = [
    (["missing.yaml"], "missing.yaml"),
    (["."], "."),
    (["no/such/recipe"], "no/such/recipe"),
    (["a recipe that is a sentence " * 20],),
    (["emoji-judge", "emoji-judge"], "emoji-judge"),
    (["=3"], "key=value"),
    (["iterations="], "iterations"),
    (["iterations==3"], "iterations"),
    (["iterations=3=4"], "iterations"),
    (["sampler..steps=3"], "key=value"),
    ([".steps=3"], "key=value"),
    (["iterations.x=3"], "iterations"),
    (["seed.x.y=3"], "seed"),
    (["iterations=[[[[[["], "iterations"),
    (["iterations=" + "[" * 20_000], "iterations"),
    (["iterations=1e400"], "iterations"),
    (["iterations=" + "9" * 5000], "iterations"),
    (["iterations=true"], "iterations", "whole number"),
    (["learning_rate=true"], "learning_rate", "number"),
    (["evaluation.number=yes"], "evaluation.number", "whole number"),
    (["algorithm={name: ddpo-is, clip_nats: true}"], "algorithm.clip_nats", "number"),
    (["learning_rate=.nan"], "learning_rate"),
    (["learning_rate=-.inf"], "learning_rate"),
    (["evaluation={1: 2}"], "evaluation"),
    (["lora.rank=4", "lora.target_modules=[3]"], "lora.target_modules"),
    (["algorithm=rwr", "timestep_fraction=0.5"], "timestep_fraction"),
    (["algorithm=rwr", "inner_epochs=2"], "inner_epochs"),
    (["algorithm=ddpo-sf", "inner_epochs=2"], "on-policy"),
    (["algorithm=rwr", "algorithm.percentile=0.9"], "algorithm.percentile", "unknown key"),
    (["algorithm={clip_nats: 1, name: [ddpo-is]}"], "algorithm"),
    (["algorithm={name: 3}"], "algorithm"),
    (["algorithm=null"], "algorithm"),
    (["model=no-slash"], "no-slash"),
    (["model="], "model"),
    (["model=" + "long" * 100], "model"),
    (["device=tpu-of-my-own"], "device"),
    (["reward=no_such_module:f"], "no_such_module"),
    (["reward=my.py:"], "my.py"),
    (["reward=" + "long" * 100 + ".py:f"],),
    (["reward={name: weighted}"], "weighted"),
    (["prompts=none.jsonl"], "none.jsonl"),
    (["prompts=."], "folder"),
    (["sampler=dimm"], "sampler", "Did you mean 'ddim'"),
    (["sampler.name=no.py:kernel"], "sampler.name", "no.py"),
    (["sampler.options={a: 1}"], "sampler", "options"),
    (["advantage=runing"], "advantage", "Did you mean 'running'"),
    (["advantage.name=no.py:mine"], "advantage", "no.py"),
    (["algorithm.name=no.py:Mine"], "algorithm", "no.py"),
    (["policy=no.py:Mine"], "policy", "no.py"),
    (["policy=embedded"], "policy", "embedded"),
    (["policy={a: 1}"], "policy"),
    (["policy=3"], "policy"),
    (["callbacks=[no.py:f]"], "callbacks", "no.py"),
    (["callbacks=[{last: 2}]"], "callbacks"),
    (["callbacks=no.py:f"], "callbacks", "list"),
    (["stop_when=[reward/mean]"], "stop_when", "is no condition"),
    (["stop_when=[reward/mean == 3]"], "stop_when", "is no condition"),
    (["stop_when=reward/mean > 3"], "stop_when", "list"),
    (["name=a/b"], "name"),
    (["name=''"], "name"),
    (["output=3"], "output"),
]
"""Arguments of `ddpo train`, and what the refusal must say."""
