"""`ddpo doctor RUN`: what is found in run folders, whole and with one thing wrong, and how it is told."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from command_line import ddpo
from synthetic_run import change_record, write_run

from ddpo.doctor.diagnosis import baseline, diagnose
from ddpo.runs.record import RunRecord

PLAIN = {
    "model": {"name": "embedded"},
    "prompts": "simple-animals",
    "samples_per_prompt": 8,
    "advantage": {"name": "running", "min_count": 8},
    "algorithm": {"name": "ddpo-is", "clip_nats": 0.5},
    "sampler": {"steps": 10},
}


@pytest.fixture
def healthy(tmp_path):
    """Return a run whose reward rises and nothing else happens to."""
    folder = write_run(tmp_path / "run", samples=8, size=16, every=12, forgets=False, changes=PLAIN)
    change_record(folder, 24, kl_to_base=9.0)
    change_record(folder, 12, kl_to_base=3.0)
    return folder


def with_metrics(folder, **changes):
    """Replace metrics of every iteration by values, or by functions of the iteration."""
    rows = folder.read_metrics()
    for row in rows:
        for key, value in changes.items():
            row[key.replace("__", "/")] = value(row["iteration"]) if callable(value) else value
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def signs(folder):
    return [finding.subject for finding in diagnose(folder).findings if finding.level == "sign"]


def test_a_healthy_run_has_no_finding(healthy):
    diagnosis = diagnose(healthy)
    assert signs(healthy) == []
    assert diagnosis.problems == 0
    # clip 0.5 nats over the 8 x 8 x 8 numbers of a latent, a tenth of it: 9.77e-5
    ratio = next(f for f in diagnosis.findings if f.subject == "Error of the importance ratio")
    assert diagnosis.run.dimensions == 512
    assert "tolerated are 0.0001" in ratio.text


@pytest.mark.parametrize(
    ("subject", "changes"),
    [
        ("The rewards do not differ", {"reward__std": 0.0}),
        ("Updates hit the clip", {"clip_fraction": 0.7}),
        ("The replay is barely exact enough", {"ratio__max_error_at_start": 5e-5}),
        ("Updates are left out", {"updates_skipped": 1}),
        ("The reward collapsed", {"reward__mean": lambda iteration: -abs(iteration - 12) / 12}),
    ],
)
def test_each_finding_on_a_run_that_is_healthy_otherwise(healthy, subject, changes):
    config = healthy.read_config() | {"max_gradient_norm": 1.0}
    healthy.write_config(json.dumps(config))
    assert signs(with_metrics(healthy, **changes)) == [subject]


def run_of(done, **changes):
    config = {
        "samples_per_iteration": 4, "samples_per_prompt": 1, "seed": 0, "prompts": ["a cat"],
        "advantage": {"name": "running", "min_count": 8}, "algorithm": {"name": "ddpo-is"},
    }  # fmt: skip
    return RunRecord("run", config | changes, "", [{"iteration": index + 1} for index in range(done)])


@pytest.mark.parametrize(("done", "level"), [(1, "sign"), (2, "clear")])
def test_a_baseline_that_is_not_warmed_up(done, level):
    # one prompt, 4 samples an iteration: 4 rewards after the first, 8 and enough after the second
    (found,) = baseline(run_of(done))
    assert found.level == level
    assert f"{'0' if done == 1 else '50'} % of the {4 * done} samples" in found.text


def test_the_share_of_warm_samples_is_that_of_the_baseline_itself():
    from ddpo.core.advantages import RunningStatistics
    from ddpo.prompts import load_prompts

    samples, source, state, warm = 32, load_prompts("simple-animals"), RunningStatistics(min_count=4), 0
    for iteration in range(1, 8):
        drawn = [p.text for p in source.draw(samples, seed=3, iteration=iteration, samples_per_prompt=2)]
        state, _ = state.update(drawn, [0.0] * samples)
        warm += sum(len(state.history[text]) >= 4 for text in drawn)
    changes = {"samples_per_iteration": samples, "samples_per_prompt": 2, "seed": 3, "prompts": "simple-animals"}
    (found,) = baseline(run_of(7, **changes, advantage={"name": "running", "min_count": 4}))
    assert 0 < warm < 7 * samples
    assert f"{100 * warm / (7 * samples):.0f} % of the 224 samples" in found.text


def test_other_advantages_have_no_baseline_to_warm_up():
    assert baseline(run_of(1, advantage={"name": "group"}, samples_per_prompt=2)) == []
    assert baseline(run_of(1, algorithm={"name": "rwr"})) == []
    assert [finding.level for finding in baseline(run_of(1, prompts="gone.txt"))] == ["unknown"]
    assert [finding.level for finding in baseline(run_of(1, samples_per_iteration="many"))] == ["unknown"]


def test_the_command_tells_a_run_that_is_well_from_one_that_is_not(healthy):
    well = ddpo("doctor", healthy.path)
    assert well.returncode == 0, well.stderr
    assert "Healthy: nothing was found" in well.stdout
    assert "\x1b" not in well.stdout
    assert all(line == line.rstrip() and len(line) <= 120 for line in well.stdout.splitlines())
    ill = ddpo("doctor", with_metrics(healthy, reward__std=0.0).path, "--json")
    assert ill.returncode == 1
    told = json.loads(ill.stdout)
    assert told["healthy"] is False
    assert told["findings"][0] | {"text": ""} == {
        "severity": "problem",
        "subject": "The rewards do not differ",
        "text": "",
        "keys": ["reward/std"],
        "advice": "Look at what the reward gives to different pictures with `ddpo reward score`.",
    }


def test_a_real_run_is_read_without_torch(tiny_config):
    from ddpo.training.run import train

    folder = train(tiny_config(prompts="simple-animals")).folder
    code = (
        "import sys; from pathlib import Path; from ddpo.runs.folder import RunFolder;"
        "from ddpo.doctor.diagnosis import diagnose; from ddpo.cli.doctor import print_diagnosis;"
        "print_diagnosis(diagnose(RunFolder.open(Path(sys.argv[1]))));"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "run: 2 iterations, trained on jpeg-compressibility"
    assert "2 iterations: too few to tell a trend from noise" in done.stdout
    assert "Running statistics of the prompts" in done.stdout or "not warmed up" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["."], "is not a run folder: it has no config.yaml"),
        ([".", "iterations=3"], "the settings of a run are those it had"),
        (["runs/nothing"], "There is neither a run folder nor a configuration file runs/nothing."),
        (["emoji-judge", "aesthetic"], "give one recipe, file or run, first"),
    ],
)
def test_what_cannot_be_looked_at_ends_with_one_sentence_and_code_2(arguments, message, tmp_path):
    done = ddpo("doctor", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
