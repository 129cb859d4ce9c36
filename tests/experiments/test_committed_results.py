"""Every committed figure and page is what its tables give."""

from __future__ import annotations

from pathlib import Path

from ddpo.experiments.definition import experiment_names, load_experiment
from ddpo.experiments.figures import redraw
from ddpo.experiments.page import page

RESULTS = Path(__file__).parents[2] / "results"


def test_every_embedded_experiment_has_its_results():
    embedded = {name for name in experiment_names() if "embedded" in load_experiment(name).scales}
    assert embedded <= {path.parent.name for path in RESULTS.glob("*/about.json")}


def test_figures_and_pages_are_those_of_the_tables():
    differing = []
    for folder in sorted(path.parent for path in RESULTS.glob("*/about.json")):
        experiment = load_experiment(folder.name)
        made = {name: content for name, content in redraw(experiment, folder).items() if name.endswith(".svg")}
        made["README.md"] = page(experiment, folder).encode()
        committed = {file.name: file.read_bytes() for file in [*folder.glob("*.svg"), folder / "README.md"]}
        differing += [f"{folder.name}/{n}" for n in made.keys() | committed.keys() if made.get(n) != committed.get(n)]
    assert not differing
