"""The model card: what a trained model is and how it was made, for whoever is given its folder."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from ddpo.report.fixed_samples import change
from ddpo.report.wording import count, with_interval
from ddpo.runs.folder import RunFolder
from ddpo.runs.record import RunRecord
from ddpo.runtime.version import __version__

FILE = "README.md"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_TEMPLATE = """\
---
{{ header }}---

# {{ run.name }}

{{ base }} fine-tuned by reinforcement learning to score higher: {{ run.label(run.trained_reward or "reward") }}.
Trained with ddpo {{ version }} by {{ algorithm }} ([Black et al., 2023](https://arxiv.org/abs/2305.13301)):
{{ count(run.done, "iteration") }}{{ ", " + queries + " reward queries" if queries }}.
{% if changes %}

| {{ number }} samples, same prompts and seeds | before | after | change |
|---|---|---|---|
{% for each in changes %}
| {{ run.label(each.reward) }} | {{ "%.3f"|format(each.before) }} | {{ "%.3f"|format(each.after) }} | \
{{ with_interval(each.difference, sign=True) }} |
{% endfor %}
{% endif %}
{% for picture, words in pictures %}

![{{ words }}]({{ picture }})
{% endfor %}
{% if loadable %}

## Use

```python
{% if base == "embedded" %}
import ddpo
{% endif %}
from diffusers import DDIMScheduler, StableDiffusionPipeline{{ ", UNet2DConditionModel" if not lora }}

{% set folder = "ddpo.embedded_model()" if base == "embedded" else '"' + base + '"' %}
pipeline = StableDiffusionPipeline.from_pretrained({{ folder }})
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
{% if lora %}
pipeline.load_lora_weights("{{ source }}")
{% else %}
pipeline.unet = UNet2DConditionModel.from_pretrained("{{ source }}")
{% endif %}
image = pipeline("{{ prompt }}", num_inference_steps={{ steps }}, guidance_scale={{ guidance }}, eta=1.0).images[0]
```
{% endif %}

## Training

| setting | value |
|---|---|
{% for name, value in settings %}
| `{{ name }}` | {{ value }} |
{% endfor %}

## Licence

The licence of the base model applies to this one too.
"""
_TOLD = (
    *("algorithm", "learning_rate", "lora.rank", "samples_per_iteration", "updates_per_iteration"),
    *("sampler.name", "sampler.steps", "sampler.eta", "guidance_scale", "precision", "seed"),
)


def write_card(folder: RunFolder, *, repository: str | None = None) -> None:
    """Write the card of a finished run, with the pictures it shows, into the folder of its model. Raises OSError.

    `repository` is where the folder will be loaded from; None: from where it is.
    """
    run = folder.read()
    pictures = [(folder.before_after, "Before and after training"), (folder.curve, "Reward in the course of training")]
    there = [(file, words) for file, words in pictures if file.is_file()]
    for file, _ in there:
        shutil.copyfile(file, folder.model / file.name)
    text = model_card(run, [(file.name, words) for file, words in there], source=repository or "path/to/this/folder")
    (folder.model / FILE).write_text(text, encoding="utf-8")


def model_card(run: RunRecord, pictures: Sequence[tuple[str, str]], *, source: str) -> str:
    """Return the card in Markdown; `pictures` are names of files beside it, with a description each.

    `source` is what diffusers is to load it from. Paths of the machine it was trained on are not told.
    """
    config, evaluations = run.config, run.evaluations
    rewards = evaluations[-1].rewards if evaluations else []
    prompts = [sample.prompt for sample in evaluations[-1].samples] if evaluations else [""]
    queries = f"{run.axis[-1]:,.0f}" if run.metrics and run.counts_queries else ""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE).render(
        run=run,
        header=yaml.safe_dump(_header(config)),
        base=_base(config),
        version=__version__,
        algorithm=str(_value(config, "algorithm.name")).upper(),
        queries=queries,
        count=count,
        changes=[found for reward in rewards if (found := change(run, reward)) is not None],
        number=len(prompts),
        with_interval=with_interval,
        pictures=pictures,
        loadable=config.get("policy") is None,
        lora=_value(config, "lora.rank") is not None,
        source=source,
        prompt=prompts[0],
        steps=_value(config, "sampler.steps"),
        guidance=_value(config, "guidance_scale"),
        settings=[(name, _value(config, name)) for name in _TOLD if _value(config, name) is not None],
    )


def _header(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the hub reads: tags, library, base model."""
    adapters = ["lora"] if _value(config, "lora.rank") is not None else []
    header: dict[str, Any] = {"tags": ["ddpo", "reinforcement-learning", *adapters]}
    if config.get("policy") is None:
        header |= {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    base = _base(config)
    return header | ({"base_model": base} if _HUB_ID.fullmatch(base) else {})


def _base(config: dict[str, Any]) -> str:
    """Return the base model's hub id or name; of a folder its last part."""
    model = str(_value(config, "model.name"))
    return "A policy" if config.get("policy") is not None else Path(model).name if Path(model).is_absolute() else model


def _value(config: Any, key: str) -> Any:
    """Return a setting by its dotted key, of a section with a name the name; None where it is not there.

    Of what is found in a file of the user's own, `path/to/file.py:Name`, the name alone.
    """
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    value = config.get("name") if isinstance(config, dict) else config
    return value.rpartition(":")[2] if isinstance(value, str) else value
