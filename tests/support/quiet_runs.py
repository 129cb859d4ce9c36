"""Runs that show nothing, unless they are given a display."""

from __future__ import annotations

from functools import partial

from ddpo.training import run

train = partial(run.train, quiet=True)
resume = partial(run.resume, quiet=True)
train_or_resume = partial(run.train_or_resume, quiet=True)
