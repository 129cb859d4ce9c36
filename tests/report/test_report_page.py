"""The report page without a browser: what is in it, what cannot break it, what it weighs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import pytest
from command_line import ddpo
from synthetic_run import change_record, write_run

from ddpo.report.page import render_page, write_page
from ddpo.report.wording import MINUS
from ddpo.runs.folder import RunFolder, distinct_names
from ddpo.runs.record import RunRecord
from ddpo.runtime.errors import RunFolderError

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """Elements and text of a page; it complains about tags that do not close each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.unmatched: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.unmatched += self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.unmatched.append(f"/{tag}")

    def handle_data(self, data):
        if not {"script", "style"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in (attributes.get("class") or "").split()]


def page_of(*folders: RunFolder) -> Page:
    names = distinct_names([folder.path for folder in folders])
    page = Page(render_page([folder.read(name) for folder, name in zip(folders, names, strict=True)]))
    assert page.unmatched == []
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("runs") / "emoji")


@pytest.mark.parametrize("odd", ["1" + 400 * "0", "1e308", "-1e308", "-4", "NaN"])
@pytest.mark.parametrize("key", ["iteration", "reward_queries", "reward/mean", "kl/step", "time/update"])
def test_a_number_that_no_run_has_does_not_keep_the_page_from_being_made(key, odd):
    metrics = [{"iteration": n, "reward_queries": 8 * n, "reward/mean": 1.0 * n, "kl/step": 0.1} for n in (1, 2)]
    metrics[1][key] = json.loads(odd)
    page = Page(render_page([RunRecord("odd", {"iterations": json.loads(odd)}, "", metrics)]))
    assert page.unmatched == []


def test_an_odd_evaluation_does_not_keep_the_page_from_being_made(tmp_path):
    folder = write_run(tmp_path / "run", iterations=2, every=1, samples=2, size=8)
    change_record(folder, 1, diversity=10**400, kl_to_base=1e308, not_measured=["Reward 'judge' is tired."])
    record = folder.sample_files(2).record
    record.write_text(record.read_text().replace('"iteration": 2,', '"iteration": -3,'))
    score = json.loads(record.read_text())["samples"]
    score[0]["rewards"]["jpeg-compressibility"] = 1e308
    change_record(folder, 2, samples=score)
    assert "Not measured: Reward 'judge' is tired." in page_of(folder).text


def test_the_page_has_all_its_parts(run):
    page = page_of(run)
    for heading in (
        "What to be careful about", "Reward", "The fixed samples through training",
        "Measured on the fixed samples", "Diagnostics", "Where the time went", "Everything else that was logged",
        "Configuration",
    ):  # fmt: skip
        assert heading in page.words, heading
    slider = next(attributes for tag, attributes in page.elements if tag == "input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "6", "6")  # iterations 0, 4, ... 24
    tiles = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(tiles) == 16
    assert all(tile["alt"] for tile in tiles)
    assert all(area["aria-label"] for area in page.all("area"))


def test_the_headline_says_the_result_with_its_error(run):
    first, last = (json.loads(run.sample_files(iteration).record.read_text()) for iteration in (0, 24))
    before, after = (
        sum(sample["rewards"]["jpeg-compressibility"] for sample in record["samples"]) / 16 for record in (first, last)
    )
    text = page_of(run).text
    assert f"{MINUS}{-before:.2f} → {MINUS}{-after:.2f} kB" in text
    assert f"+{after - before:.3f} ± 0.0" in text


def test_the_best_sample_comes_first(run):
    record = json.loads(run.sample_files(24).record.read_text())
    best = max(record["samples"], key=lambda sample: sample["rewards"]["jpeg-compressibility"])
    tile = next(attributes for tag, attributes in page_of(run).elements if tag == "img")
    assert tile["alt"] == f"{best['prompt']}, after 24 iterations, 3,072 reward queries"


def test_nothing_is_fetched(run):
    page = page_of(run)
    policy = next(attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "script-src 'sha256-" in policy
    for tag, attributes in page.elements:
        assert (attributes.get("src") or "data:").startswith("data:"), tag
        assert (attributes.get("href") or "#").startswith(("#", "data:")), tag


def test_text_from_the_folder_is_never_markup(tmp_path):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
    folder = write_run(
        tmp_path / "<b>run", iterations=4, samples=4, prompts=(evil,), changes={"reward": evil, evil: {"nested": evil}}
    )
    change_record(folder, 4, labels={"jpeg-compressibility": evil})
    folder.append_metrics({"iteration": 5, "reward_queries": 640, evil: 1.0, "note": evil})  # type: ignore[dict-item]
    html = render_page([folder.read()])
    page = Page(html)
    assert page.unmatched == []
    assert "<script>alert" not in html
    assert not [attributes for tag, attributes in page.elements if tag == "b" or "onerror" in attributes]
    assert page.text.count("<script>alert(1)</script>") >= 6  # captions, labels, table and configuration show it
    assert "49" not in [word.strip() for word in page.words]
    assert [tag for tag, _ in page.elements].count("script") == html.count("<script")


def test_known_metrics_have_charts_and_all_others_are_listed(run):
    page = page_of(run)
    for title in ("Clip fraction", "Divergence of a step", "Error of the importance ratio", "Gradient norm"):
        assert title in page.words
    assert "something/new" in page.words
    assert "updates_skipped" in page.words  # always 0: in the table
    assert "Denoising loss" not in page.words
    assert {"bucket-1", "bucket-5"} <= {name for _, a in page.elements for name in (a.get("class") or "").split()}
    for key in run.read().keys:
        known = key.startswith(("clip_fraction", "kl/step", "ratio/", "time/", "reward", "gradient_norm", "iteration"))
        assert known or key in page.words, key


@pytest.mark.parametrize("key", ["reward_queries", "reward/mean", "reward/standard_error", "iteration", "time/update"])
def test_a_missing_key_breaks_nothing(tmp_path, key):
    folder = write_run(tmp_path / "run", iterations=6, samples=3)
    rows = [{name: value for name, value in row.items() if name != key} for row in folder.read_metrics()]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = page_of(folder)
    assert "Diagnostics" in page.words
    assert ("iterations" in [word.strip() for word in page.words if word.strip()]) or key != "reward_queries"


@pytest.mark.parametrize(
    "changes",
    [
        {"tiles": None}, {"diversity": None, "kl_to_base": None}, {"labels": None}, {"trained_reward": None},
        {"samples": [{"prompt": "a cat"}]}, {"samples": [{}, {"rewards": {"jpeg-compressibility": None}}]},
        {"tiles": {"file": "../../config.yaml", "columns": 1, "width": 8, "height": 8}},
        {"tiles": {"file": "iteration-000000-tiles.png", "columns": 4, "width": 9999, "height": 8}},
    ],
)  # fmt: skip
def test_a_record_that_says_less_breaks_nothing(tmp_path, changes):
    folder = write_run(tmp_path / "run", iterations=4, samples=4)
    for iteration in (0, 4):
        change_record(folder, iteration, **changes)
    assert "Diagnostics" in page_of(folder).words


def test_tiles_come_from_the_run_folder_only(tmp_path):
    folder = write_run(tmp_path / "run", iterations=4, samples=4)
    outside = tmp_path / "outside.png"
    folder.sample_files(4).tiles.rename(outside)
    for name in ("../../outside.png", str(outside)):
        change_record(folder, 4, tiles={"file": name, "columns": 2, "width": 64, "height": 64})
        assert "There are no tiles of iteration 4." in page_of(folder).text


def test_a_record_that_cannot_be_read_is_said(tmp_path):
    folder = write_run(tmp_path / "run", iterations=8, samples=4)
    folder.sample_files(4).record.write_text("[1, 2")
    folder.sample_files(8).tiles.write_bytes(b"no picture")
    text = page_of(folder).text
    assert "iteration-000004.json cannot be read and is left out" in text
    assert "The samples of iteration 8 are left out: iteration-000008-tiles.png is no readable picture." in text


def test_other_prompts_are_not_compared(tmp_path):
    folder = write_run(tmp_path / "run", iterations=8, samples=4)
    change_record(folder, 0, samples=[{"prompt": "a house", "seed": 1, "rewards": {"jpeg-compressibility": -9}}])
    text = page_of(folder).text
    assert "The fixed samples of iteration 0 have other prompts or seeds and are left out." in text
    assert "After 8 iterations" in text


def test_a_run_that_has_just_begun(tmp_path):
    folder = write_run(tmp_path / "run", iterations=0, planned=40)
    text = page_of(folder).text
    assert "No iteration has finished yet" in text
    assert "The fixed samples were drawn once only, at iteration 0." in text


def test_a_run_without_evaluations_that_goes_on(tmp_path):
    folder = write_run(tmp_path / "run", iterations=4, planned=40)
    for path in folder.samples.iterdir():
        path.unlink()
    with folder.metrics.open("a") as file:
        file.write('{"iteration": 5, "rew')  # being written
    page = page_of(folder)
    assert "4 of 40 iterations are done" in page.text
    assert "There is no evaluation of fixed samples" in page.text
    assert not page.all("gallery")


def test_a_run_whose_samples_cannot_be_seen_has_curves_scores_and_tables(tmp_path):
    folder = write_run(tmp_path / "points", iterations=8, samples=4)
    for path in folder.samples.glob("*-tiles.png"):
        path.unlink()
    page = page_of(folder)
    assert "This run has no tiles to show: only the scores of its samples." in page.text
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert len(page.all("score")) == 4
    assert {"Reward through training", "Diagnostics"} <= set(page.words)


def test_several_runs_are_laid_side_by_side(tmp_path, run):
    slow = write_run(tmp_path / "emoji", gain=0.4, forgets=False, seed=1, changes={"learning_rate": 3e-5})
    page = page_of(run, slow)
    assert len(page.all("results")) == 1
    names = distinct_names([run.path, slow.path])
    assert len(set(names)) == 2
    assert all(name.endswith("/emoji") and name in page.words for name in names)
    differing = page.text.split("What differs")[1].split("Reward through training")[0]
    assert "learning_rate 0.0001 3e-05" in differing
    assert "iterations" not in differing
    assert {"run-1", "run-2"} <= {attributes["id"] for attributes in page.all("run")}
    assert "Reward against divergence" in page.words


def test_runs_with_other_rewards_get_a_curve_each(tmp_path, run):
    other = write_run(tmp_path / "judge", iterations=4)
    for iteration in (0, 4):
        change_record(other, iteration, trained_reward="judge-recognition")
    assert page_of(run, other).words.count("Reward through training") == 2
    assert page_of(run, write_run(tmp_path / "same", iterations=4)).words.count("Reward through training") == 1


def test_one_path_twice_is_numbered(tmp_path):
    assert distinct_names([tmp_path / "a", tmp_path / "a"])[1].endswith("/a (2)")
    assert distinct_names([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]


def test_a_long_run_stays_a_page(tmp_path):
    run = write_run(tmp_path / "run", iterations=30, every=15, samples=2, size=8).read()
    rows = [row | {"iteration": n, "reward_queries": 128 * n} for n, row in enumerate(100 * run.metrics, 1)]
    assert len(render_page([replace(run, metrics=rows)])) < 0.7e6


def test_many_large_tiles_stay_a_page(tmp_path):
    folder = write_run(tmp_path / "run", iterations=4, every=1, samples=100, size=192)
    html = render_page([folder.read()])
    assert len(html) < 15e6
    assert "Of the 100 fixed samples" in html
    assert "data:image/jpeg" in html


def test_the_command_writes_one_file(tmp_path, run):
    report = partial(ddpo, "report", folder=tmp_path)
    done = report(run.path)
    assert (done.returncode, done.stdout.strip()) == (0, str(run.report))
    assert run.report.read_text().startswith("<!DOCTYPE html>")
    run.report.unlink()
    assert report(run.path, run.path).stdout.strip() == "report.html"
    assert (tmp_path / "report.html").is_file()
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["empty"], "empty is not a run folder: it has no config.yaml; give a folder that `ddpo train` wrote."),
        (["nowhere"], "nowhere is not a run folder"),
        ([run.path, "--output", "empty"], "output: empty is a folder; give a file, such as empty/report.html."),
    ):
        refused = report(*arguments)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1


def test_the_page_never_imports_torch(tmp_path, run):
    code = (
        "import sys; from pathlib import Path;"
        "from ddpo.runs.folder import RunFolder; from ddpo.report.page import write_page;"
        f"write_page([RunFolder.open(Path({str(run.path)!r})).read()], Path({str(tmp_path / 'page.html')!r}));"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_broken_metrics_and_configuration_are_refused(tmp_path):
    folder = write_run(tmp_path / "run", iterations=2)
    good = folder.metrics.read_text()
    folder.metrics.write_text("{broken\n" + good)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: line 1 is not a JSON object"):
        folder.read()
    folder.metrics.write_text(good)
    folder.config.write_text("a: [")
    with pytest.raises(RunFolderError, match=r"config\.yaml is not valid YAML"):
        folder.read()
    folder.config.write_text("[1]")
    with pytest.raises(RunFolderError, match="must hold keys and values, not a list"):
        folder.read()


def test_a_file_that_cannot_be_written_is_refused(tmp_path, run):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_page([run.read()], tmp_path / "file" / "report.html")
