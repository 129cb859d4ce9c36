"""Callbacks: told of every iteration, allowed to end the run, and one sentence when they fail."""

from __future__ import annotations

import re
from functools import partial

import pytest
import yaml
from quiet_runs import resume, train
from tiny_run import Signalling

from ddpo.config import load_config, parse_config
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runtime.errors import ConfigError

SETTINGS = {
    "name": "tiny",
    "prompts": ["a cat", "a dog"],
    "iterations": 4,
    "samples_per_iteration": 4,
    "batch_size": 4,
    "updates_per_iteration": 1,
    "algorithm": "ddpo-sf",
    "evaluation": {"number": 2, "every": 2},
    "checkpoint_every": None,
    "threads": 1,
    "device": "cpu",
}


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def build(tmp_path_factory, conv_policy, ddim_config):
    """Return a function that gives a configuration in a folder of its own, and the policy to train."""

    def settings(**changes):
        config = parse_config(SETTINGS | {"output": tmp_path_factory.mktemp("runs") / "run"} | changes)
        return config, conv_policy(ddim_config(), steps=3)

    return settings


@pytest.fixture(scope="module")
def run(build):
    """Train once for each way; return the result, what its callbacks were told, and what the run said."""

    def trained(*callbacks, **changes):
        config, policy = build(**changes)
        display = Signalling()
        result = train(config, policy=policy, reward=brightness, callbacks=callbacks, display=display)
        return result, policy, display.said

    return trained


# --- what they are told ---


@pytest.fixture(scope="module")
def told(run):
    """A whole run, its policy, and the moments that two callbacks were told of."""
    moments = []
    result, policy, _ = run(lambda moment: moments.append(("first", moment)), partial(_note, moments))
    return result, policy, moments


def _note(moments, moment):
    moments.append(("second", moment))


def test_callbacks_are_called_after_each_iteration_in_order(told):
    _, _, moments = told
    assert [(name, moment.iteration) for name, moment in moments] == [
        (name, number) for number in (1, 2, 3, 4) for name in ("first", "second")
    ]
    assert [moment.is_last for name, moment in moments if name == "first"] == [False, False, False, True]


def test_they_see_the_metrics_as_written(told):
    result, _, moments = told
    seen = [moment.metrics for name, moment in moments if name == "first"]
    assert seen == result.metrics == result.folder.read_metrics()
    assert all(row["reward/mean"] and "gradient_norm" in row for row in seen)


def test_they_see_the_fixed_samples_where_they_were_drawn(told):
    result, _, moments = told
    seen = [moment.evaluation for name, moment in moments if name == "first"]
    assert [one and one.iteration for one in seen] == [None, 2, None, 4]
    assert seen[3].scores["brightness"].shape == (2,)
    assert seen[3].metrics.items() <= result.metrics[3].items()
    assert seen[3] is result.after


def test_they_see_the_policy_and_the_run_folder(told):
    result, policy, moments = told
    assert all(moment.policy is policy and moment.folder == result.folder for _, moment in moments)
    assert result.ended_early is None


# --- ending a run ---


@pytest.fixture(scope="module")
def stopped(run):
    """A run that a callback ended after its third iteration of a hundred."""

    def enough(moment):
        if moment.iteration == 3:
            moment.stop("that is enough")

    return run(enough, iterations=100, checkpoint_every=10)


def test_a_run_that_is_stopped_ends_as_with_its_last_iteration(stopped):
    result, _, said = stopped
    assert [row["iteration"] for row in result.metrics] == [1, 2, 3]
    assert result.ended_early == "that is enough"
    assert "The run ends after iteration 3: that is enough." in said
    assert Checkpoints(result.folder.checkpoints).get().name == "iteration-000003"
    assert result.after.iteration == 3
    assert (result.folder.model / "model.safetensors").is_file()
    for file in (result.folder.report, result.folder.curve, result.folder.before_after):
        assert file.is_file()
    assert result.interrupted is None


def test_a_run_that_was_stopped_can_go_on(stopped):
    result, policy, _ = stopped
    longer = resume(result.folder.path, ["iterations=5"], policy=policy, reward=brightness)
    assert [row["iteration"] for row in longer.metrics] == [1, 2, 3, 4, 5]
    assert longer.ended_early is None


@pytest.mark.parametrize(
    ("condition", "last"),
    [
        ("reward/mean > -1000", 1),
        ("evaluation/brightness/mean >= -1", 2),  # not measured before
        ("iteration>2", 3),
        ("reward/mean < -1000", 4),
    ],
)
def test_a_condition_in_the_configuration_ends_the_run(run, condition, last):
    result, _, said = run(stop_when=["reward/std > 1e9", condition])
    assert len(result.metrics) == last
    if last < 4:
        metric = re.split("[<>]", condition)[0].strip()
        assert result.ended_early.startswith(f"{metric} ")
        assert f"({result.metrics[-1][metric]:.4g})" in result.ended_early
        assert f"The run ends after iteration {last}: {result.ended_early}." in said
    else:
        assert result.ended_early is None
    assert not any("nothing measures" in text for text in said)


def test_a_condition_that_nothing_measures_is_said(run):
    _, _, said = run(stop_when=["evaluation/brightnes/mean > 1"], iterations=2)
    assert (
        "stop_when: nothing measures 'evaluation/brightnes/mean', so 'evaluation/brightnes/mean > 1' never holds. "
        "Did you mean 'evaluation/brightness/mean'?"
    ) in said


def test_the_first_reason_is_the_one_that_is_told(run):
    result, _, _ = run(lambda moment: moment.stop("mine"), lambda moment: moment.stop("other"), iterations=3)
    assert (len(result.metrics), result.ended_early) == (1, "mine")


# --- failing ---


def test_a_callback_that_fails_is_one_sentence_and_the_run_is_saved(build):
    def fails(moment):
        if moment.iteration == 2:
            raise ZeroDivisionError("not\nmine")

    (config, policy), display = build(), Signalling()
    with pytest.raises(ConfigError) as raised:
        train(config, policy=policy, reward=brightness, callbacks=[fails], display=display)
    said = rf"callbacks: 'a Python object, \S*fails' raised ZeroDivisionError: not mine \({__file__}, line \d+\)"
    assert re.fullmatch(said, str(raised.value))
    assert Checkpoints(config.output / "checkpoints").get().name == "iteration-000002"
    assert f"Saved iteration-000002. Once the error is mended, go on with: ddpo resume {config.output}" in display.said
    mended = resume(config.output, policy=policy, reward=brightness)
    assert [row["iteration"] for row in mended.metrics] == [1, 2, 3, 4]


def test_callbacks_of_one_name_are_all_called(run):
    calls = []
    run(*[lambda moment, number=number: calls.append(number) for number in range(3)], iterations=1)
    assert calls == [0, 1, 2]


# --- by name ---

FILE = '''
from pathlib import Path

class Upto:
    """Ends the run after some iterations."""

    def __init__(self, last, reason="far enough"):
        self.last, self.reason = last, reason
        if last < 1:
            raise ValueError("last must be at least 1")

    def __call__(self, moment):
        if moment.iteration >= self.last:
            moment.stop(self.reason)

def log(moment, word="iteration"):
    with (moment.folder.path / "log.txt").open("a") as file:
        file.write(f"{word} {moment.iteration}\\n")

class Useless:
    pass

number = 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Callbacks in a file of the working folder."""
    (tmp_path / "mine.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("mine")
def test_callbacks_are_found_by_name_with_options_also_in_a_run_that_goes_on(run, tmp_path):
    callbacks = ["mine.py:log", {"name": "mine.py:Upto", "last": 2, "reason": "two"}]
    result, policy, _ = run({"name": "mine.py:log", "word": "again"}, callbacks=callbacks, checkpoint_every=9)
    log = result.folder.path / "log.txt"
    assert (len(result.metrics), result.ended_early) == (2, "two")
    log_file = f"{tmp_path}/mine.py:log"
    upto = {"name": f"{tmp_path}/mine.py:Upto", "last": 2, "reason": "two"}
    assert load_config(result.folder.config).callbacks == [log_file, upto, {"name": log_file, "word": "again"}]
    assert log.read_text().split("\n")[:-1] == ["iteration 1", "again 1", "iteration 2", "again 2"]
    log.unlink()
    longer = resume(result.folder.path, policy=policy, reward=brightness)
    assert (len(longer.metrics), longer.ended_early, log.read_text()) == (3, "two", "iteration 3\nagain 3\n")


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("mine.py:Up", r"callbacks: 'mine.py:Up': 'mine.py' has no 'Up'. Did you mean 'Upto'\?"),
        ("mine.py:Upto", r"callbacks: 'mine.py:Upto' raised TypeError: .*missing 1 required .*'last'"),
        ({"name": "mine.py:Upto", "last": 0}, r"raised ValueError: last must be at least 1"),
        ("mine.py:number", "callbacks: 'mine.py:number' "),
        ("mine.py:Useless", "is not a function of a Moment, nor a class whose objects are"),
        ({"last": 2}, "callbacks: .*name"),
        ("no/such/file.py:f", "no file"),
    ],
)
def test_callbacks_that_cannot_be_loaded_are_refused_before_anything_is_made(build, callback, message):
    config, policy = build(callbacks=[callback])
    with pytest.raises(ConfigError, match=message) as raised:
        train(config, policy=policy, reward=brightness)
    assert len(str(raised.value).splitlines()) == 1
    assert not config.output.exists()


class Counting:
    """Counts the iterations that it saw; there is one for each run."""

    seen = 0

    def __call__(self, moment):
        type(self).seen += 1


def test_a_class_is_called_once_to_make_a_callback_and_one_need_not_be_in_a_list(build):
    config, policy = build()
    result = train(config, policy=policy, reward=brightness, callbacks=Counting, quiet=True)
    assert Counting.seen == len(result.metrics) > 0


def test_callbacks_that_are_none_are_refused(build):
    config, policy = build()
    with pytest.raises(ConfigError, match="3 is not a function of a Moment"):
        train(config, policy=policy, reward=brightness, callbacks=[3], quiet=True)


def test_callbacks_by_name_are_recorded_for_a_run_that_goes_on(run, tmp_path):
    (tmp_path / "own.py").write_text("def nothing(moment):\n    pass\n")
    result, _, _ = run(f"{tmp_path}/own.py:nothing")
    assert yaml.safe_load(result.folder.config.read_text())["callbacks"] == [f"{tmp_path}/own.py:nothing"]
