"""A run that is interrupted anywhere and resumed is the run that was not: same weights, each iteration once."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from quiet_runs import resume, train, train_or_resume
from tiny_run import Signalling, by_content, difference

from ddpo.config import load_config
from ddpo.evaluation.sampling import draw_to_files, sampling_config
from ddpo.rewards import load_reward
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runtime.errors import CheckpointError, ConfigError, ReplayError, RewardError, RunFolderError
from ddpo.training.iteration import Iteration

ALGORITHMS = {
    "ddpo-is": {"algorithm": {"name": "ddpo-is", "clip_nats": 1.64}, "updates_per_iteration": 2},
    "lora": {"algorithm": {"name": "ddpo-is", "clip_nats": 1.64}, "lora": {"rank": 2}, "inner_epochs": 2},
    "rwr-sparse": {
        "algorithm": {"name": "rwr-sparse", "samples_per_update": 4, "percentile": 0.5, "fresh_optimizer": False},
        "updates_per_iteration": 4,
    },
}
SETTINGS = {
    "advantage": {"buffer_size": 8, "min_count": 2},
    "iterations": 3,
    "checkpoint_every": 1,
    "evaluation": {"number": 2, "every": 2},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train a configuration without interruption, once for each name."""
    runs = {}

    def run(name, config):
        if name not in runs:
            output = tmp_path_factory.mktemp("whole") / name
            runs[name] = train(config.model_copy(update={"output": output}), reward=by_content).folder
        return runs[name]

    return run


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("phase", "at"), [("fixed samples", 2), ("rollout", 3), ("reward", 5), ("update", 8), ("update", 2)]
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tiny_config, whole, algorithm, phase, at):
    config = tiny_config(**SETTINGS, **ALGORITHMS[algorithm])
    display = Signalling(phase, at)
    stopped = train(config, reward=by_content, display=display)
    assert stopped.interrupted is not None
    assert stopped.interrupted.exit_code == 143
    assert f"Go on with: ddpo resume {stopped.folder.path}" in display.said[-1]
    done = resume(stopped.folder.path, reward=by_content)
    assert done.interrupted is None
    assert difference(done.folder, whole(algorithm, config)) is None


def test_a_run_may_be_interrupted_again_and_again(tiny_config, whole):
    config = tiny_config(**SETTINGS, **ALGORITHMS["ddpo-is"])
    result, times = train(config, reward=by_content, display=Signalling("rollout", 1)), 1
    while result.interrupted is not None:
        result = resume(config.output, reward=by_content, display=Signalling("rollout" if times % 2 else "update", 2))
        times += 1
        assert times < 20
    assert times > 4
    assert difference(result.folder, whole("ddpo-is", config)) is None


def test_the_samples_scored_before_the_interruption_are_not_drawn_again(tiny_config):
    config = tiny_config(**SETTINGS | {"evaluation": {"number": 2, "every": None}})
    stopped = train(
        config, reward=by_content, display=Signalling("rollout", 4, signal.SIGUSR1)
    )  # two batches an iteration
    assert stopped.interrupted.exit_code == 128 + signal.SIGUSR1  # after the fourth batch, two an iteration
    (unfinished,) = [each for each in Checkpoints(stopped.folder.checkpoints).all() if not each.position[1]]
    assert unfinished.name == "iteration-000002-unfinished"
    assert len(unfinished.state()["unfinished"][0]["scores"]["by_content"]) == 4  # of 8 samples
    display = Signalling("rollout", 0)
    resume(config.output, reward=by_content, display=display)
    assert display.calls == 1 + 2  # the second batch of iteration 2, and iteration 3


def test_a_failed_reward_is_mended_and_the_run_goes_on(tiny_config, whole, monkeypatch):
    config = tiny_config(**SETTINGS, **ALGORITHMS["ddpo-is"])
    reward, calls = load_reward(by_content), []

    def failing(*batch):
        calls.append(1)
        if len(calls) == 5:  # fixed samples, two batches, then the second of the second iteration
            raise ConnectionError("the server is gone")
        return by_content(*batch)

    display = Signalling("", 0)
    with pytest.raises(RewardError, match="the server is gone"):
        train(config, reward=replace(reward, function=failing), display=display)
    assert f"Saved iteration-000002-unfinished. Once the error is mended, go on with: ddpo resume {config.output}" in (
        display.said
    )
    mended = resume(config.output, reward=by_content, allow_config_change=True)
    assert difference(mended.folder, whole("ddpo-is", config)) is None


def test_samples_that_replay_refuses_are_drawn_again(tiny_config, whole, monkeypatch):
    config, joined, calls = tiny_config(**SETTINGS, **ALGORITHMS["ddpo-is"]), Iteration.trajectory, []

    def corrupted(self):
        trajectory = joined(self)
        calls.append(self)
        if calls[0] is not self:  # the second iteration's
            trajectory.log_prob_BL[:, 1] += 3.0
        return trajectory

    monkeypatch.setattr(Iteration, "trajectory", corrupted)
    with pytest.raises(ReplayError, match="Replay does not reproduce"):
        train(config, reward=by_content)
    monkeypatch.undo()
    assert Checkpoints(config.output / "checkpoints").get().name == "iteration-000001"
    assert difference(resume(config.output, reward=by_content).folder, whole("ddpo-is", config)) is None


def test_a_longer_run_is_a_short_one_resumed(tiny_config, whole):
    config = tiny_config(**SETTINGS, **ALGORITHMS["ddpo-is"])
    short = train(config.model_copy(update={"iterations": 2}), reward=by_content)
    longer = resume(short.folder.path, ["iterations=3"], reward=by_content)
    assert difference(longer.folder, whole("ddpo-is", config)) is None
    assert load_config(longer.folder.config).iterations == 3


def test_the_same_command_begins_goes_on_and_ends(tiny_config, whole, tmp_path):
    (tmp_path / "rewards.py").write_text(
        "import numpy as np\n\n\ndef by_content(images, prompts, metadata):\n"
        "    return images.mean((1, 2, 3)).numpy() + 0.1 * np.array([len(prompt) for prompt in prompts])\n"
    )
    config = tiny_config(reward=f"{tmp_path / 'rewards.py'}:by_content", **SETTINGS, **ALGORITHMS["ddpo-is"])
    assert train_or_resume(config, display=Signalling("update", 4)).interrupted
    assert train_or_resume(config).interrupted is None
    again = train_or_resume(config)  # nothing is left to do
    assert difference(again.folder, whole("ddpo-is", config)) is None


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(tiny_config):
    config = tiny_config()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        resume(config.output)
    config.output.mkdir()
    (config.output / "config.yaml").write_text(config.to_yaml())
    (config.output / "metrics.jsonl").write_text('{"iteration": 1}\n')
    (config.output / ".lock").touch()
    with pytest.raises(CheckpointError, match="no checkpoint: the run was ended before the first one"):
        resume(config.output)
    assert [row["iteration"] for row in train_or_resume(config).metrics] == [1, 2]


def test_a_run_that_was_killed_while_a_checkpoint_was_replaced_has_the_one_before(tiny_config):
    config = tiny_config(iterations=1, evaluation={"number": 2, "every": None})
    folder = train(config).folder
    (checkpoint,) = Checkpoints(folder.checkpoints).all()
    checkpoint.folder.rename(folder.checkpoints / f".{checkpoint.name}.replaced.partial")
    assert len(resume(folder.path, ["iterations=2"]).metrics) == 2


def test_a_checkpoint_that_does_not_fit_the_disk_leaves_nothing_there(tiny_config, monkeypatch):
    def full(parameters, optimizer, folder):
        (folder / "training.safetensors").write_bytes(b"as far as it fitted")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ddpo.training.checkpointing.save_parameters", full)
    config = tiny_config(checkpoint_every=1)
    with pytest.raises(CheckpointError, match=r"No space left on device.*there is none before it"):
        train(config)
    assert list((config.output / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("other", ["thesis.tex", None])
def test_a_folder_that_is_not_of_a_run_alone_is_never_cleared(tiny_config, other):
    config = tiny_config()
    config.output.mkdir()
    (config.output / "config.yaml").write_text(config.to_yaml())
    if other is not None:
        (config.output / ".lock").touch()
        (config.output / other).write_text("years of work")
    there = sorted(config.output.iterdir())
    with pytest.raises(RunFolderError, match=other or "no run that had begun"):
        train_or_resume(config)
    assert sorted(config.output.iterdir()) == there


def test_a_changed_setting_is_listed_or_refused(tiny_config):
    config = tiny_config(iterations=1, evaluation={"number": 2, "every": None})
    folder = train(config).folder
    with pytest.raises(ConfigError, match=r"samples_per_iteration: 8 -> 16.*--allow-config-change"):
        resume(folder.path, ["samples_per_iteration=16", "iterations=2"])
    with pytest.raises(ConfigError, match=r"the run has made 1 already"):
        resume(folder.path, ["iterations=2"], config=config.model_copy(update={"iterations": 0}))
    display = Signalling("", 0)
    result = resume(folder.path, ["iterations=2", "learning_rate=1e-4"], display=display)
    assert "Changed: learning_rate: 0.001 -> 0.0001" in display.said
    assert len(result.metrics) == 2
    allowed = resume(folder.path, ["samples_per_iteration=16", "iterations=3"], allow_config_change=True)
    assert len(allowed.metrics) == 3


@pytest.mark.parametrize("allowed", [False, True])
def test_a_checkpoint_of_an_older_format_is_one_sentence(tiny_config, allowed):
    # The settings that came since are no reason that a user could do anything about: the format is named first.
    folder = train(tiny_config(iterations=1, evaluation={"number": 2, "every": None})).folder
    checkpoint = Checkpoints(folder.checkpoints).get()
    state = checkpoint.state()
    state |= {"format": 1, "versions": {"ddpo": "0.0.9"}}
    del state["config"]["stop_when"], state["config"]["policy"], state["algorithm"]
    (checkpoint.folder / "SHA256SUMS").unlink()
    partial = checkpoint.folder.rename(folder.checkpoints / f".{checkpoint.name}.partial")
    Checkpoints(folder.checkpoints).finish(partial, state)
    with pytest.raises(CheckpointError) as raised:
        resume(folder.path, ["iterations=2"], allow_config_change=allowed)
    assert str(raised.value) == (
        f"{checkpoint.folder} has format 1, this ddpo reads 2; go on with the ddpo that wrote it (0.0.9)."
    )


def test_weights_of_another_model_are_refused_even_when_allowed(tiny_config):
    config = tiny_config(iterations=1, evaluation={"number": 2, "every": None})
    folder = train(config).folder
    with pytest.raises(CheckpointError, match="parameters that are not"):
        resume(folder.path, ["lora.rank=2", "iterations=2"], allow_config_change=True)


def test_the_second_run_on_a_folder_is_refused(tiny_config):
    config = tiny_config(iterations=1, evaluation={"number": 2, "every": None})
    folder = train(config).folder
    with folder.locked(), pytest.raises(RunFolderError, match=rf"being written by process {os.getpid()} on "):
        resume(folder.path, ["iterations=2"])
    assert len(resume(folder.path, ["iterations=2"]).metrics) == 2


def test_the_newest_checkpoints_and_the_best_are_kept(tiny_config):
    values = iter([0.0, 1.0, 3.0, 2.0, 1.5])  # of the fixed samples: before, after 1, 2, 3 and 4

    def scripted(images, prompts, metadata):
        return np.full(len(prompts), next(values)) if len(prompts) == 3 else images.mean((1, 2, 3))

    config = tiny_config(
        iterations=4, checkpoint_every=1, keep_last=1, keep_best=True, evaluation={"number": 3, "every": 1}
    )
    folder = train(config, reward=scripted).folder
    checkpoints = Checkpoints(folder.checkpoints)
    assert [checkpoint.name for checkpoint in checkpoints.all()] == ["iteration-000002", "iteration-000004"]
    assert checkpoints.get("best").name == "iteration-000002"
    assert checkpoints.get().name == "iteration-000004"


@pytest.mark.parametrize("rank", [None, 2])
def test_a_checkpoint_is_sampled_like_the_run(tiny_config, tmp_path, rank):
    folder = train(tiny_config(lora={"rank": rank}, learning_rate=1e-2)).folder
    drawn = []
    for number, source in enumerate([folder.path, Checkpoints(folder.checkpoints).get().folder]):
        config, weights = sampling_config(str(source))
        (file,) = draw_to_files(config, weights, ["a cat"], number=1, seed=0, output=tmp_path / f"{number}.png")
        drawn.append(np.asarray(Image.open(file)).astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1  # an adapter is fused in the one and beside the layers in the other


def test_a_run_that_went_back_to_an_older_checkpoint_keeps_what_it_saves_then(tiny_config):
    evaluation = {"number": 2, "every": None}
    config = tiny_config(iterations=4, checkpoint_every=1, keep_last=3, evaluation=evaluation)
    folder = train(config, reward=by_content).folder  # checkpoints 2, 3 and 4
    again = {"reward": by_content, "checkpoint": "iteration-000002", "display": Signalling("rollout", 1)}
    stopped = resume(folder.path, ["keep_last=2", "learning_rate=1e-4"], **again)
    assert stopped.interrupted is not None
    names = [checkpoint.name for checkpoint in Checkpoints(folder.checkpoints).all()]
    assert names == ["iteration-000002", "iteration-000003-unfinished"]
    assert [row["iteration"] for row in resume(folder.path, reward=by_content).metrics] == [1, 2, 3, 4]


def test_a_second_signal_ends_the_program_at_once():
    script = (
        "import os, signal, time\n"
        "from ddpo.runtime.signals import StopRequest\n"
        "stop = StopRequest()\n"
        "with stop.listening():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.05)\n"
        "    assert stop.signal_number == signal.SIGTERM\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(10)\n"
        "    print('still here')\n"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGTERM
    assert not done.stdout
