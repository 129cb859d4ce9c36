"""A reward as an HTTP server: `ddpo reward serve`. Needs the extra `serve`; importing this package does not.

`run` starts it, `application` is its answers, `gate` what is refused unread, `batching` the one thread with the reward.
"""

from ddpo.rewards.server.limits import Limits

__all__ = ["Limits"]
