"""The gradient of an update is that of its whole minibatch, however it is cut up, and is clipped as configured."""

from __future__ import annotations

import pytest
import torch
from iterations import all_metrics, trainer_of

SETTINGS = {
    "samples_per_iteration": 7,
    "iterations": 1,
    "updates_per_iteration": 1,
    "advantage": "batch",
    "max_gradient_norm": None,
}
ALGORITHMS = ["ddpo-sf", "ddpo-is", {"name": "rwr", "samples_per_update": 7}]


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))


@pytest.fixture
def gradient_of(conv_policy, ddim_config):
    """Train one update and return the gradient that the optimizer saw, with the metrics."""

    def run(**changes):
        trainer = trainer_of(conv_policy(ddim_config(), steps=3), brightness, ["a cat", "an owl"], SETTINGS | changes)
        seen, new_optimizer = [], trainer._new_optimizer

        def watched():
            optimizer = new_optimizer()
            optimizer.register_step_pre_hook(
                lambda *_: seen.append(torch.cat([one.grad.flatten() for one in trainer.parameters]))
            )
            return optimizer

        trainer._new_optimizer, trainer.optimizer = watched, watched()
        (metrics,) = all_metrics(trainer)
        (gradient,) = seen
        return gradient, metrics

    return run


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_does_not_depend_on_how_a_minibatch_is_cut_up(gradient_of, algorithm):
    # Pairs in passes of 7 and of 3: 7 samples, or 21 pairs, leave a pass that is not full, which must weigh less.
    whole, metrics = gradient_of(algorithm=algorithm, batch_size=21)
    assert metrics["gradient_norm"] == pytest.approx(whole.norm().item(), rel=1e-5)
    for batch_size in (2, 5):
        parts, _ = gradient_of(algorithm=algorithm, batch_size=batch_size)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6 * whole.norm().item())


def test_it_is_clipped_to_the_configured_norm(gradient_of):
    whole, _ = gradient_of(algorithm="ddpo-sf")
    norm = whole.norm().item()
    clipped, metrics = gradient_of(algorithm="ddpo-sf", max_gradient_norm=norm / 4)
    torch.testing.assert_close(clipped, whole / 4, rtol=1e-4, atol=1e-4 * norm)
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5)  # the one before clipping
