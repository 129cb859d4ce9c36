"""Rewards: plain callables `(samples, prompts, metadata) -> (B,)` scores, higher is better.

Importing this package imports neither torch nor Pillow.
"""

from ddpo.media.image import to_uint8
from ddpo.rewards.combinators import available_combinators, repeatable_spec
from ddpo.rewards.contract import (
    CombinedReward,
    ComponentScores,
    LoadedReward,
    NamedReward,
    Reward,
    check_media,
    combine,
    score,
    score_components,
)
from ddpo.rewards.registry import (
    RewardSpec,
    available_rewards,
    load_reward,
    names_rewards,
    reward_entries,
    without_token,
)
from ddpo.rewards.scorer import Scorer

__all__ = [
    "CombinedReward",
    "ComponentScores",
    "LoadedReward",
    "NamedReward",
    "Reward",
    "RewardSpec",
    "Scorer",
    "available_combinators",
    "available_rewards",
    "check_media",
    "combine",
    "load_reward",
    "names_rewards",
    "repeatable_spec",
    "reward_entries",
    "score",
    "score_components",
    "to_uint8",
    "without_token",
]
