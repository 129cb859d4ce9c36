"""Numbers in words: as many digits as mean something, a real minus sign, units, durations."""

from __future__ import annotations

import math
import re

from ddpo.report.intervals import Mean

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 4, *, sign: bool = False) -> str:
    """Return `value` to so many significant digits: `1,024`, `−2.134`, `3.2e−05`; with a `sign` `+2`."""
    magnitude = abs(value)
    if magnitude >= 10**digits:
        text = f"{value:,.0f}" if magnitude < 1e9 else f"{value:.{digits - 1}g}"
    elif value == int(value):
        text = f"{value:z,.0f}"
    else:
        text = f"{value:.{digits}g}" if magnitude >= 1e-3 else f"{value:.{max(digits - 2, 1)}g}"
    return _typeset(text, sign)


def with_error(mean: float, error: float, *, sign: bool = False) -> str:
    """Return `+0.651 ± 0.031`: the error to two significant digits, the mean to as many decimals."""
    if error <= 0 or not math.isfinite(error):
        return number(mean, sign=sign)
    decimals = _decimals(error)
    return _typeset(f"{mean:,.{decimals}f} ± {error:,.{decimals}f}", sign)


def with_interval(mean: Mean, *, sign: bool = False) -> str:
    """Return `−1.64 [−1.80, −1.48]`; the mean alone where one value gives no interval."""
    if mean.number == 1:
        return number(mean.mean, sign=sign)
    if mean.high - mean.low <= 1e-9 * abs(mean.mean):
        parts = [number(mean.mean)] * 3
    else:
        parts = alike(mean.mean, mean.low, mean.high)
    middle, low, high = (_typeset(part, sign) for part in parts)
    return f"{middle} [{low}, {high}]"


def alike(*values: float) -> list[str]:
    """Return values with the same number of decimals, enough to tell them apart: `−2.34` and `−1.69`."""
    spread = max(values) - min(values)
    decimals = _decimals(spread or max(abs(value) for value in values))
    return [_typeset(f"{value:z,.{decimals}f}") for value in values]


def _decimals(scale: float) -> int:
    """Return the decimals that show two significant digits of a number as large as `scale`."""
    return min(8, max(0, 1 - math.floor(math.log10(scale)))) if scale > 0 else 0


def _typeset(text: str, sign: bool = False) -> str:
    """Return a formatted number with a real minus and, where a `sign` is wanted, a plus before what is above 0."""
    text = text.replace("-", MINUS)
    is_above = not text.startswith(MINUS) and text.partition(" ")[0].strip("0.,")
    return f"+{text}" if sign and is_above else text


def plain(text: str) -> str:
    """Return text with the hyphen that programs and logs expect for a minus."""
    return text.replace(MINUS, "-")


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


def share(part: float, *, sign: bool = False) -> str:
    """Return a fraction as a percentage: `12 %`, with a `sign` `+12 %`."""
    decimals = 0 if abs(part) >= 0.1 or part == 0 else 1
    return _typeset(f"{100 * part:.{decimals}f} %", sign)
