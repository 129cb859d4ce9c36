"""Scoring in threads: what happens around time limits."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from ddpo.config.tree import ScoringConfig
from ddpo.media import Image
from ddpo.prompts import Prompt
from ddpo.rewards import load_reward
from ddpo.training import scoring
from ddpo.training.scoring import Part, Scoring


def start(function: Any, **settings: Any) -> Scoring[str]:
    """Return a scoring by `function` with groups of two samples."""
    return Scoring(
        load_reward(function),
        Image(),
        ScoringConfig(**settings),
        group_size=2,
        device=torch.device("cpu"),
        poll=lambda: None,
    )


def part(first: int = 0) -> Part[str]:
    """Return a batch of two samples whose pictures have their index as level, of 255."""
    images = (torch.tensor([first, first + 1]) / 255)[:, None, None, None].expand(2, 3, 2, 2)
    return Part(f"from {first}", images, [Prompt("a cat")] * 2, first)


def brightness(images: Any, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
    """Return the mean level of each picture (B,)."""
    return (255 * images.mean((1, 2, 3))).round()


class LateFuture(Future[Any]):
    """Is done between the end of a wait and the question whether it is done."""

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self.set_result({"brightness": np.array([1.0, 2.0])})
            raise TimeoutError
        return super().result(timeout)


def test_scores_that_arrive_just_after_a_wait_are_taken(monkeypatch):
    subject = start(brightness)
    monkeypatch.setattr(subject, "_begin", lambda part: LateFuture())
    assert list(subject.add(part())) == []
    ((content, scores),) = subject.finish()
    assert content == "from 0"
    assert scores["brightness"].tolist() == [1.0, 2.0]


def test_a_thread_that_was_given_up_ends_when_its_reward_comes_back(monkeypatch):
    monkeypatch.setattr(scoring, "FIRST_PAUSE", 0.0)
    release, calls = threading.Event(), []

    def stuck_once(images, prompts, metadata):
        calls.append(threading.current_thread())
        if len(calls) == 1:
            release.wait()
        return brightness(images, prompts, metadata)

    subject = start(stuck_once, timeout=0.2, on_error="retry", retries=50)
    assert list(subject.add(part(6))) == []
    ((_, scores),) = subject.finish()
    assert scores["stuck_once"].tolist() == [6.0, 7.0]
    subject.close()
    for thread in calls[1:]:
        thread.join(20)
    release.set()
    calls[0].join(5)
    assert not any(thread.is_alive() for thread in calls)
