"""Prompts: where the contexts of the samples come from, drawn by seed.

Importing this package does not import torch.
"""

from ddpo.core.prompt import Prompt
from ddpo.prompts.animals import with_article
from ddpo.prompts.counting import plural
from ddpo.prompts.files import from_list
from ddpo.prompts.registry import PromptSpec, available_prompts, load_prompts
from ddpo.prompts.source import PromptSource

__all__ = [
    "Prompt",
    "PromptSource",
    "PromptSpec",
    "available_prompts",
    "from_list",
    "load_prompts",
    "plural",
    "with_article",
]
