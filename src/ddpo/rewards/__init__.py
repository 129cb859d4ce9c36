"""Rewards: plain callables `(images, prompts, metadata) -> (B,)` scores, higher is better.

Importing this package imports neither torch nor Pillow.
"""

from ddpo.rewards.contract import NamedReward, Reward, score
from ddpo.rewards.custom import anchored, reference
from ddpo.rewards.jpeg import jpeg_compressibility, jpeg_incompressibility, jpeg_size, to_uint8
from ddpo.rewards.judge import judge_probability, judge_recognition
from ddpo.rewards.registry import available_rewards, load_reward, without_token

__all__ = [
    "NamedReward",
    "Reward",
    "anchored",
    "available_rewards",
    "jpeg_compressibility",
    "jpeg_incompressibility",
    "jpeg_size",
    "judge_probability",
    "judge_recognition",
    "load_reward",
    "reference",
    "score",
    "to_uint8",
    "without_token",
]
