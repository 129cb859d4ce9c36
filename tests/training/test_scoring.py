"""Scoring in threads: order, overlap, time limits, what an error does; and an update too large for the memory."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from iterations import all_metrics, collected
from iterations import trainer_of as trainer_with

from ddpo.config.tree import ScoringConfig
from ddpo.media import Image
from ddpo.prompts import Prompt
from ddpo.rewards import load_reward
from ddpo.runtime.errors import DeviceMemoryError, RewardError
from ddpo.runtime.processes import Runtime
from ddpo.runtime.signals import Interrupted, StopRequest
from ddpo.training.coordination import Coordinator
from ddpo.training.scoring import Part, Scoring

LONG = 60.0
"""Seconds after which a test that would wait for ever fails instead."""


def scoring(reward, *, group_size=1, poll=lambda: None, **settings):
    return Scoring(
        load_reward(reward), Image(), ScoringConfig(**settings), group_size=group_size, device=torch.device("cpu"),
        poll=poll,
    )  # fmt: skip


@pytest.fixture
def said(caplog):
    """Return a function that gives what was said so far."""
    caplog.set_level(logging.INFO, logger="ddpo")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("ddpo.")]


def part(number, size=2):
    """Return the `number`-th part of `size` samples, whose images have their index as level, of 255."""
    index_B = torch.arange(number * size, (number + 1) * size)
    images = (index_B / 255)[:, None, None, None].expand(-1, 3, 1, 1)
    return Part(f"part {number}", images, [Prompt(f"prompt {index}") for index in index_B.tolist()], number * size)


def indices(images):
    return by_index(images, [], []).int().tolist()


def by_index(images, prompts, metadata):
    return (255 * images[:, 0, 0, 0]).round()


def all_scored(one, parts):
    """Hand in all parts and return what comes back, and end the threads."""
    try:
        return [(content, scores) for each in parts for content, scores in one.add(each)] + list(one.finish())
    finally:
        one.close()


@pytest.mark.parametrize("workers", [1, 4])
def test_scores_come_back_in_order_whatever_the_threads_do(workers):
    finished = [threading.Event() for _ in range(12)]

    def last_first(images, prompts, metadata):
        number = indices(images)[0] // 2
        if workers > 1 and number % workers < workers - 1:  # the last of four parts is ready first, the first last
            assert finished[number + 1].wait(LONG)
        finished[number].set()
        return by_index(images, prompts, metadata)

    scored = all_scored(scoring(last_first, workers=workers), [part(number) for number in range(12)])
    assert [content for content, _ in scored] == [f"part {number}" for number in range(12)]
    assert np.concatenate([scores["last_first"] for _, scores in scored]).tolist() == list(range(24))


def test_a_part_is_scored_while_the_next_is_drawn():
    begun, drawn = threading.Event(), threading.Event()

    def waits(images, prompts, metadata):
        begun.set()
        assert drawn.wait(LONG), "nothing was done beside the reward"
        return by_index(images, prompts, metadata)

    one = scoring(waits)
    assert not list(one.add(part(0)))
    assert begun.wait(LONG)
    drawn.set()  # what the caller does meanwhile
    assert all_scored(one, [])[0][1]["waits"].tolist() == [0, 1]


class GaveUpError(Exception):
    """Raised by a poll to leave a wait."""


def gives_up():
    raise GaveUpError


def test_no_more_parts_are_held_than_there_are_workers():
    release, calls = threading.Event(), []

    def held(images, prompts, metadata):
        calls.append(1)
        assert release.wait(LONG)
        return by_index(images, prompts, metadata)

    one = scoring(held, workers=2, poll=gives_up)
    assert not list(one.add(part(0)))
    assert not list(one.add(part(1)))
    with pytest.raises(GaveUpError):  # it waits for the first
        list(one.add(part(2)))
    release.set()
    one._poll = lambda: None
    assert [content for content, _ in all_scored(one, [part(2)])] == ["part 0", "part 1", "part 2"]
    assert len(calls) == 3


def test_a_hanging_reward_does_not_keep_the_program_alive():
    program = textwrap.dedent(
        """
        import threading
        import torch
        from ddpo.config.tree import ScoringConfig
        from ddpo.media import Image
        from ddpo.runtime.errors import RewardError
        from ddpo.prompts import Prompt
        from ddpo.rewards import load_reward
        from ddpo.training.scoring import Part, Scoring

        def hangs(images, prompts, metadata):
            threading.Event().wait()

        one = Scoring(load_reward(hangs), Image(), ScoringConfig(timeout=0.1), group_size=1,
                      device=torch.device("cpu"), poll=lambda: None)
        list(one.add(Part(None, torch.zeros(4, 3, 1, 1), [Prompt("a cat")] * 4, 12)))
        try:
            list(one.finish())
        except RewardError as error:
            print(error)
        one.close()
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Reward 'hangs' did not score samples 12 to 15 within 0.1 s; raise scoring.timeout if it is only slow.\n"
    )


def test_a_thread_that_is_given_up_ends_when_its_reward_comes_back():
    release, running, most = threading.Event(), [], []
    before = set(threading.enumerate())

    def hangs_once(images, prompts, metadata):
        running.append(1)
        most.append(len(running))
        if len(most) == 1:
            assert release.wait(LONG)
        running.pop()
        return by_index(images, prompts, metadata)

    one = scoring(hangs_once, timeout=0.05)
    assert not list(one.add(part(0)))
    with pytest.raises(RewardError, match="samples 0 to 1 within"):
        list(one.finish())
    (given_up,) = set(threading.enumerate()) - before
    release.set()
    given_up.join(LONG)
    assert not given_up.is_alive()
    one._waiting.clear()
    assert [scores["hangs_once"].tolist() for _, scores in all_scored(one, [part(1), part(2)])] == [[2, 3], [4, 5]]
    assert max(most) == 1  # one worker: never two calls at once


def test_scores_that_come_in_the_last_moment_count(monkeypatch):
    one = scoring(by_index, timeout=1e-9)
    assert not list(one.add(part(0)))
    future = one._waiting[0][1]
    result, waits = future.result, []

    def late(timeout=None):
        if not waits:
            waits.append(1)
            result(LONG)  # it is ready when the wait is over
            raise TimeoutError
        return result(timeout)

    monkeypatch.setattr(future, "result", late)
    assert all_scored(one, [])[0][1]["by_index"].tolist() == [0, 1]


@pytest.fixture
def _no_pauses(monkeypatch):
    monkeypatch.setattr("ddpo.training.scoring.FIRST_PAUSE", 0.0)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize(("failures", "calls_made"), [(0, 1), (2, 3), (3, 4), (99, 4)])
def test_a_failed_call_is_made_again_so_many_times(said, failures, calls_made):
    calls = []

    def fails(images, prompts, metadata):
        calls.append(indices(images))
        if len(calls) <= failures:
            raise ConnectionError("gone")
        return by_index(images, prompts, metadata)

    one = scoring(fails, on_error="retry", retries=3)
    if failures > 3:
        with pytest.raises(RewardError, match="gone"):
            all_scored(one, [part(1)])
    else:
        assert all_scored(one, [part(1)])[0][1]["fails"].tolist() == [2, 3]
    assert calls == [[2, 3]] * calls_made
    assert [text.partition("Trying again ")[2] for text in said()] == [f"({n} of 3)." for n in range(1, calls_made)]


@pytest.mark.usefixtures("_no_pauses")
def test_a_call_that_hangs_is_made_again():
    release, calls = threading.Event(), []

    def hangs_once(images, prompts, metadata):
        calls.append(indices(images))
        if len(calls) == 1:
            release.wait(LONG)
        return by_index(images, prompts, metadata)

    scored = all_scored(scoring(hangs_once, timeout=0.5, on_error="retry"), [part(0), part(1)])
    release.set()
    assert [scores["hangs_once"].tolist() for _, scores in scored] == [[0, 1], [2, 3]]
    assert calls == [[0, 1], [0, 1], [2, 3]]


def test_only_the_groups_that_fail_are_left_out(said):
    def fails_on_7(images, prompts, metadata):
        if 7 in indices(images):
            raise ValueError("seven")
        return by_index(images, prompts, metadata)

    # Parts of 5, groups of 4: 0-3, 4 | 5-7, 8-9 | 10-11, 12-14. Of the group 4-7 the part with 7 is lost here; the
    # trainer, which sees all parts, leaves out the rest.
    parts = [part(number, size=5) for number in range(3)]
    scored = all_scored(scoring(fails_on_7, group_size=4, on_error="skip-group"), parts)
    score_B = np.concatenate([scores["fails_on_7"] for _, scores in scored])
    np.testing.assert_array_equal(score_B, [0, 1, 2, 3, 4, np.nan, np.nan, np.nan, *range(8, 15)])
    assert [text.startswith("Left out: ") for text in said()] == [False, True]


def test_being_told_to_stop_ends_the_wait_for_a_reward():
    release, stop = threading.Event(), StopRequest()

    def told_to_stop(images, prompts, metadata):
        stop.signal_number = signal.SIGTERM
        assert release.wait(LONG)
        return by_index(images, prompts, metadata)

    one = scoring(told_to_stop, poll=Coordinator(Runtime(device="cpu", threads=1), 2, stop).poll)
    with pytest.raises(Interrupted) as interrupted:
        all_scored(one, [part(0)])
    release.set()
    assert interrupted.value.exit_code == 143


# --- a whole iteration ---

SETTINGS = {
    "samples_per_iteration": 8,
    "samples_per_prompt": 2,
    "batch_size": 3,
    "updates_per_iteration": 1,
    "iterations": 1,
    "advantage": "batch",
    "algorithm": "ddpo-sf",
    "max_gradient_norm": None,
}


def trainer_of(policy, reward, **changes):
    return trainer_with(policy, reward, ["a cat", "an ant", "an owl", "a bee", "a dog"], SETTINGS | changes)


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))


@pytest.mark.parametrize("lost", [0, 3, 6])
def test_a_group_that_fails_has_no_part_in_the_iteration(conv_policy, ddim_config, lost):
    # Parts of 3, groups of 2: sample 3 fails in the part 3-5, sample 2 of its group was scored in the part before.
    seen = []

    def sees(images, prompts, metadata):
        seen.extend(images)
        return brightness(images, prompts, metadata)

    collected(trainer_of(conv_policy(ddim_config(), steps=3), sees))
    reward_B = np.array([float(image.mean()) for image in seen])

    def fails(images, prompts, metadata):
        if any(torch.equal(image, seen[lost]) for image in images):
            raise ValueError("this one not")
        return brightness(images, prompts, metadata)

    trainer = trainer_of(conv_policy(ddim_config(), steps=3), fails, scoring={"on_error": "skip-group"})
    iteration = collected(trainer)
    kept = [index for index in range(8) if index // 2 != lost // 2]
    others = reward_B[kept]
    credit_B = np.zeros(8)
    credit_B[kept] = (others - others.mean()) / (others.std() + 1e-6)
    np.testing.assert_allclose(iteration.credit_S, credit_B, rtol=1e-4, atol=1e-6)
    assert iteration.metrics["reward/skipped"] == 2
    assert iteration.metrics["reward/mean"] == pytest.approx(others.mean(), rel=1e-6)
    assert iteration.metrics["reward/std"] == pytest.approx(others.std(ddof=1), rel=1e-5)


@pytest.mark.parametrize(("parts", "lost"), [(1, 4), (2, 6)])
def test_a_reward_that_fails_on_more_than_half_ends_the_run(conv_policy, ddim_config, parts, lost):
    # One call for each part of 4, then one for each group of 2 in it, which fail in so many parts.
    calls = []

    def fails(images, prompts, metadata):
        calls.append(len(images))
        if len(calls) <= 3 or (parts == 2 and len(calls) <= 5):
            raise ValueError("no")
        return brightness(images, prompts, metadata)

    policy = conv_policy(ddim_config(), steps=3)
    trainer = trainer_of(policy, fails, batch_size=4, scoring={"on_error": "skip-group"})
    if lost > 4:
        with pytest.raises(RewardError, match=r"failed on 6 of 8 samples of iteration 1: too many to leave out\."):
            collected(trainer)
        assert trainer.iteration is None  # it begins again once the reward is mended
    else:
        assert collected(trainer).metrics["reward/skipped"] == lost


def test_a_batch_that_does_not_fit_the_memory_is_halved(conv_policy, ddim_config, said):
    def gradient_norm(policy, **changes):
        (metrics,) = all_metrics(trainer_of(policy, brightness, samples_per_prompt=1, **changes))
        return metrics["gradient_norm"], torch.cat([one.detach().flatten() for one in policy.parameters()])

    small, large = conv_policy(ddim_config(), steps=3), conv_policy(ddim_config(), steps=3)
    predict = large.predict

    def out_of_memory(x, time_B, conditioning, *, guided):
        if len(x) > 2 and torch.is_grad_enabled():  # sampling fits, training does not
            raise torch.OutOfMemoryError("tried to allocate")
        return predict(x, time_B, conditioning, guided=guided)

    large.predict = out_of_memory
    expected, expected_weights = gradient_norm(small, batch_size=2)
    assert not said()
    norm, weights = gradient_norm(large, batch_size=8)
    assert norm == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-6)  # learning rate 1e-5, AdamW
    assert [text.partition(": ")[2] for text in said()] == [
        f"going on with {rows} samples in a pass; the gradient is the same." for rows in (4, 2)
    ]
    assert set(large.rows_seen[-12:]) == {2}  # 8 samples of 3 steps


def test_a_single_sample_that_does_not_fit_is_an_error(conv_policy, ddim_config):
    policy = conv_policy(ddim_config(), steps=3)

    def out_of_memory(x, time_B, conditioning, *, guided):
        raise torch.OutOfMemoryError("tried to allocate")

    policy.predict = out_of_memory
    with pytest.raises(DeviceMemoryError, match="does not hold the update of a single sample"):
        collected(trainer_of(policy, brightness))
