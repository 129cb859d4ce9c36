"""Numbers in words: as many digits as mean something, a real minus sign, units, durations."""

from __future__ import annotations

import math
import re

from ddpo.report.intervals import Mean

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 4) -> str:
    """Return `value` to so many significant digits: `1,024`, `−2.134`, `3.2e−05`."""
    if value == 0:
        return "0"
    magnitude = abs(value)
    if magnitude >= 10**digits:
        text = f"{value:,.0f}" if magnitude < 1e9 else f"{value:.{digits - 1}g}"
    else:
        text = f"{value:.{digits}g}" if magnitude >= 1e-3 else f"{value:.{max(digits - 2, 1)}g}"
        if value == int(value) and "e" not in text:
            text = f"{value:,.0f}"
    return text.replace("-", MINUS)


def with_error(mean: float, error: float, *, sign: bool = False) -> str:
    """Return `+0.651 ± 0.031`: the error to two significant digits, the mean to as many decimals."""
    if error <= 0 or not math.isfinite(error):
        text = number(mean)
        return f"+{text}" if sign and mean > 0 else text
    decimals = min(8, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:{'+' if sign else ''},.{decimals}f} ± {error:,.{decimals}f}".replace("-", MINUS)


def with_interval(mean: Mean, *, sign: bool = False) -> str:
    """Return `−1.64 [−1.80, −1.48]`; the mean alone where one value gives no interval."""
    if mean.number == 1:
        return signed(mean.mean) if sign else number(mean.mean)
    if mean.high - mean.low <= 1e-9 * abs(mean.mean):
        middle = low = high = number(mean.mean)
    else:
        middle, low, high = alike(mean.mean, mean.low, mean.high)
    if sign:
        middle, low, high = (_with_plus(text) for text in (middle, low, high))
    return f"{middle} [{low}, {high}]"


def plain(text: str) -> str:
    """Return text with the hyphen that programs and logs expect for a minus."""
    return text.replace(MINUS, "-")


def signed(value: float) -> str:
    """Return a number with its sign."""
    return _with_plus(number(value))


def _with_plus(text: str) -> str:
    return text if text.startswith(MINUS) or not text.strip("0.,") else f"+{text}"


def alike(*values: float) -> list[str]:
    """Return values with the same number of decimals, enough to tell them apart: `−2.34` and `−1.69`."""
    spread = max(values) - min(values)
    scale = spread if spread > 0 else max(abs(value) for value in values)
    decimals = min(8, max(0, 1 - math.floor(math.log10(scale)))) if scale > 0 else 0
    return [f"{value:z,.{decimals}f}".replace("-", MINUS) for value in values]


def duration(seconds: float) -> str:
    """Return `35 ms`, `4.8 s`, `6 min 12 s`, `3 h 05 min`."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def count(amount: int, noun: str) -> str:
    """Return `1 iteration`, `2,048 reward queries`."""
    if amount == 1:
        return f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{amount:,} {plural}"


def split_unit(label: str) -> tuple[str, str]:
    """Return `negative JPEG size (kB)` as name and unit; the unit is empty where the label has none."""
    match = re.fullmatch(r"(.+?) \(([^\s()]+)\)", label.strip())
    return (match[1], match[2]) if match else (label, "")


def share(part: float) -> str:
    """Return a fraction as a percentage: `12 %`."""
    return f"{100 * part:.0f} %" if part >= 0.1 or part == 0 else f"{100 * part:.1f} %"


def signed_share(part: float) -> str:
    """Return a change as a percentage with its sign: `+12 %`."""
    return f"{MINUS if part < 0 else '+'}{share(abs(part))}"
