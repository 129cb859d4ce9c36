"""The Hugging Face hub: what of a recipe must still come from there, and whether it answers. Downloads nothing."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence

from ddpo.doctor.checks import Outcome, failed, ok, warning

SECONDS = 5.0
"""A hub that does not answer within this time is not reachable; finding its name may take as long again."""
_ENDPOINT = "https://huggingface.co"


def not_in_cache(error: BaseException | None) -> bool:
    """Return whether one of the errors behind `error` is a file that the hub's cache does not hold."""
    while error is not None:
        if any(word in type(error).__name__ for word in ("LocalEntryNotFound", "Offline")):
            return True
        error = error.__cause__ or error.__context__
    return False


def look_at_hub(wanted: Sequence[str], *, offline: bool) -> Outcome:
    """See whether the hub answers, if anything is `wanted` from it; `offline`: the user forbids to ask it."""
    if not wanted:
        return ok("not needed: everything is on this machine")
    what = f"{' and '.join(wanted)} {'is' if len(wanted) == 1 else 'are'} not on this machine"
    elsewhere = "Download it with `hf download NAME` where there is a network and copy the cache, or give a folder."
    if offline:
        return failed(f"{what}, and HF_HUB_OFFLINE forbids to ask the hub.", f"Unset HF_HUB_OFFLINE. {elsewhere}")
    endpoint = os.environ.get("HF_ENDPOINT", _ENDPOINT)
    if (reason := _unreachable(endpoint)) is not None:
        return failed(f"{what}, and {endpoint} cannot be reached: {reason}.", elsewhere)
    return warning(
        f"{what}; {endpoint} answers, and `ddpo train` downloads it.",
        "`hf download NAME` does so now; look again then.",
    )


def _unreachable(endpoint: str) -> str | None:
    """Return why `endpoint` does not answer; None: it does, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=SECONDS):
            return None
    except urllib.error.HTTPError as answer:
        answer.close()
        return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
