"""The gradient of an update is that of its whole minibatch, however it is cut up, clipped as configured, and finite."""

from __future__ import annotations

import pytest
import torch
from iterations import all_metrics, trainer_of

from ddpo.runtime.errors import DivergenceError
from ddpo.runtime.processes import Runtime

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

    def run(prepare=lambda policy: None, **changes):
        policy = conv_policy(ddim_config(), steps=3)
        prepare(policy)
        trainer = trainer_of(policy, brightness, ["a cat", "an owl"], SETTINGS | changes)
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


def test_a_part_that_did_not_fit_the_memory_does_not_count_twice(gradient_of):
    # The second pass of the update fails: the first has left its gradient behind when smaller ones begin.
    whole, _ = gradient_of(algorithm="ddpo-sf", batch_size=21)
    passes = []

    def fails_once(policy):
        predict = policy.predict

        def limited(x, time_B, conditioning, *, guided):
            passes.append(len(x)) if torch.is_grad_enabled() else None
            if len(passes) == 2:
                raise torch.OutOfMemoryError("tried to allocate")
            return predict(x, time_B, conditioning, guided=guided)

        policy.predict = limited

    parts, _ = gradient_of(fails_once, algorithm="ddpo-sf", batch_size=8)
    assert passes == [8, 8, 4, 4, 4, 4, 4, 4]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6 * whole.norm().item())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_that_is_not_finite_changes_no_weight(value):
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.tensor([1.0, value])
    with pytest.raises(DivergenceError, match="the gradient is not finite"):
        Runtime(device="cpu", threads=1).optimizer_step(optimizer, [parameter], 1.0)
    assert parameter.tolist() == [1, 1]
    assert not optimizer.state


def test_a_sample_that_is_not_finite_never_reaches_the_reward(conv_policy, ddim_config):
    policy, asked = conv_policy(ddim_config(), steps=3), []
    predict = policy.predict

    def breaks(x, time_B, conditioning, *, guided):
        prediction = predict(x, time_B, conditioning, guided=guided)
        prediction[2] = torch.where(time_B[2] < 400, torch.nan, prediction[2])  # 3 steps: 667, 334 and 1
        return prediction

    policy.predict = breaks
    trainer = trainer_of(policy, lambda *batch: asked.append(batch), ["a cat"], SETTINGS)
    with pytest.raises(DivergenceError, match="Sample 2, prompt 'a cat', is not finite after timestep 334"):
        all_metrics(trainer)
    assert not asked
