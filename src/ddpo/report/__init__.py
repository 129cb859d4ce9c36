"""From a run to figures: the reward curve and picture grids. Never imports torch."""

from ddpo.report.curve import draw_curve
from ddpo.report.grid import draw_before_after, draw_grid

__all__ = ["draw_before_after", "draw_curve", "draw_grid"]
