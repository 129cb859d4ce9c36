"""Options of a reward in a configuration, checked by pydantic, with one sentence for the first mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ddpo.runtime.errors import RewardError, nearest


class Options(BaseModel):
    """Base of all options: no unknown ones, only finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


T = TypeVar("T", bound=Options)


def parse_options(kind: type[T], reward: str, options: Mapping[Any, Any]) -> T:
    """Return the options of a reward; raises RewardError for the first that is unknown, missing or wrong."""
    try:
        return kind.model_validate({str(key): value for key, value in options.items()})
    except ValidationError as error:
        # An unknown option comes first: a typing error explains more.
        problem = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        option, valid = ".".join(str(part) for part in problem["loc"]), list(kind.model_fields)
        if problem["type"] == "missing":
            text = f" needs the option '{option}'."
        elif problem["type"] == "extra_forbidden":
            text = f" has no option '{option}'.{nearest(option, valid)} Its options: {', '.join(valid)}."
        else:
            wanted = problem["msg"].replace("Input should", "it must")
            text = f": {option} is {problem['input']!r}: {wanted[:1].lower() + wanted[1:]}."
        raise RewardError(f"Reward '{reward}'{text}") from None
