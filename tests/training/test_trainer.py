"""Each number of an iteration belongs to the right sample, and the optimizer is the one that was configured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from iterations import all_metrics, collected, trainer_of

from ddpo.config import TrainConfig
from ddpo.core.randomness import Stream, sample_seeds
from ddpo.core.rollout import rollout
from ddpo.prompts import Prompt

PROMPTS = ["an ant", "a hippopotamus", "a cat", "a whale", "a grasshopper"]
SAMPLES = 7
SETTINGS = {
    "seed": 5,
    "samples_per_iteration": SAMPLES,
    "batch_size": 3,
    "iterations": 2,
    "updates_per_iteration": 1,
    "advantage": "batch",
    "algorithm": "ddpo-sf",
    "optimizer": {"weight_decay": 0.0},
}


@pytest.fixture
def policy(conv_policy, ddim_config):
    """A policy whose samples depend on the length of the prompt."""
    return conv_policy(ddim_config(), steps=3)


class Constant:
    """Gives every sample the same score, so that the policy stays what it is, and keeps what it was shown."""

    def __init__(self):
        self.shown = []

    def __call__(self, images, prompts, metadata):
        self.shown += zip(images, prompts, metadata, strict=True)
        return np.ones(len(prompts))


@pytest.fixture
def shown(policy):
    """What a reward is shown in two iterations, the samples' prompts, and the pictures that those prompts give."""
    reward = Constant()
    trainer = trainer_of(policy, reward, [{"prompt": text, "letters": len(text)} for text in PROMPTS], SETTINGS)
    all_metrics(trainer)
    prompts, pictures = [], []
    for iteration in (1, 2):
        drawn = trainer.prompts.draw(SAMPLES, seed=SETTINGS["seed"], iteration=iteration)
        for index, prompt in enumerate(drawn):
            (seed,) = sample_seeds(SETTINGS["seed"], Stream.SAMPLE, iteration, [index])
            alone = rollout(policy, policy.encode([Prompt(prompt.text)]), [seed], batch_size=1)
            pictures.append(policy.decode(alone.final)[0])
        prompts += drawn
    return reward.shown, prompts, pictures


def test_a_reward_sees_each_sample_with_the_prompt_it_was_drawn_for(shown):
    # Protects against prompts that reach the reward shifted, and against samples drawn for their neighbour's prompt:
    # nothing else in a run would notice, as replay would use the same wrong conditioning.
    seen, prompts, pictures = shown
    assert [text for _, text, _ in seen] == [prompt.text for prompt in prompts]
    assert [about for _, _, about in seen] == [{"letters": len(prompt.text)} for prompt in prompts]
    for (image, _, _), picture in zip(seen, pictures, strict=True):
        torch.testing.assert_close(image, picture, rtol=0, atol=1.5 / 255)  # shown in steps of 1/255
    drawn = torch.stack(pictures)
    apart = (drawn[:, None] - drawn[None]).abs().amax((2, 3, 4)) + torch.eye(len(drawn))
    assert apart.min() > 10 / 255  # no sample would pass for another one


def test_no_two_samples_have_the_same_noise(shown):
    # The policy does not change between the two iterations: the same seeds would give the same pictures.
    pictures = torch.stack([image for image, _, _ in shown[0]]).flatten(1)
    assert len(pictures.unique(dim=0)) == 2 * SAMPLES
    texts = [text for _, text, _ in shown[0]]
    assert any(texts[index] == texts[SAMPLES + index] for index in range(SAMPLES))  # so seeds must have differed


@pytest.mark.parametrize("clip", [0.5, None])
def test_advantages_are_clipped_in_a_run_as_configured(policy, clip):
    def brightness(images, prompts, metadata):
        return images.mean((1, 2, 3))

    iteration = collected(
        trainer_of(policy, brightness, PROMPTS, SETTINGS | {"advantage": {"name": "batch", "clip": clip}})
    )
    (score,) = (np.array(scores) for scores in iteration.scores.values())
    advantage_S = (score - score.mean()) / (score.std() + 1e-6)
    assert (abs(advantage_S) > 0.5).sum() >= 2
    expected = advantage_S if clip is None else advantage_S.clip(-clip, clip)
    np.testing.assert_allclose(iteration.credit_S, expected, rtol=1e-9)


OPTIMIZER = {"beta1": 0.7, "beta2": 0.95, "epsilon": 1e-5, "weight_decay": 0.02}


@pytest.mark.parametrize("algorithm", ["ddpo-sf", {"name": "rwr", "samples_per_update": 4}])
def test_the_optimizer_is_adamw_with_the_configured_numbers(policy, algorithm):
    trainer = trainer_of(
        policy, Constant(), PROMPTS, SETTINGS | {"algorithm": algorithm, "optimizer": OPTIMIZER, "learning_rate": 3e-3}
    )
    before = trainer.optimizer
    all_metrics(trainer)
    assert (trainer.optimizer is before) == (algorithm == "ddpo-sf")  # a regression's is new in each iteration
    (group,) = trainer.optimizer.param_groups
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-3, (0.7, 0.95), 1e-5, 0.02)


def test_the_optimizer_is_the_papers_unless_configured(policy):
    settings = TrainConfig().optimizer
    assert (settings.beta1, settings.beta2, settings.epsilon, settings.weight_decay) == (0.9, 0.999, 1e-8, 1e-4)  # F.6
    trainer = trainer_of(policy, Constant(), PROMPTS, {key: SETTINGS[key] for key in SETTINGS if key != "optimizer"})
    (group,) = trainer.optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.9, 0.999), 1e-4, 1e-5)


def test_weights_decay_where_the_reward_says_nothing(policy):
    # Without a gradient AdamW multiplies every weight by 1 - learning rate * decay at each update.
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    all_metrics(trainer_of(policy, Constant(), PROMPTS, SETTINGS | {"optimizer": OPTIMIZER, "learning_rate": 0.1}))
    for then, now in zip(before, policy.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), then * (1 - 0.1 * 0.02) ** 2)
