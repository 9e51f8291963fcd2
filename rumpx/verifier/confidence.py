"""The evidence of a random sample, in words.

Keys are chosen independently of each other, so the number of different ones among those compared is
binomial. With none, the share of all keys that differ is below 1 - 0.05**(1/n), about 3/n, with a
confidence of 95 % (the "rule of three"); with some, it lies within Wilson's score interval (E. B.
Wilson, 1927).
"""

from __future__ import annotations

import math
from typing import Final

_CONFIDENCE: Final = 0.95
_Z: Final = 1.959964  # two-sided 95 % quantile of the normal distribution


def share_that_differs(compared: int, different: int) -> tuple[float, float]:
    """Return the bounds, 0.0 to 1.0, of the share of all keys that differ.

    Args:
        compared: size of the sample.
        different: number of keys in it that differ.
    """
    if not compared:
        return 0.0, 1.0
    if not different:
        return 0.0, 1 - (1 - _CONFIDENCE) ** (1 / compared)
    share, square = different / compared, _Z * _Z
    middle = share + square / (2 * compared)
    half = _Z * math.sqrt(share * (1 - share) / compared + square / (4 * compared * compared))
    scale = 1 + square / compared
    # If all differ, the upper bound is 1, up to rounding.
    high = min(1.0, (middle + half) / scale) if different < compared else 1.0
    return max(0.0, (middle - half) / scale), high


def what_a_sample_proves(compared: int, different: int) -> str:
    """State the evidence in one sentence."""
    if not compared:
        return "No key was compared, which proves nothing; use a larger sample."
    low, high = share_that_differs(compared, different)
    if not different:
        return (
            f"None of {compared:,} keys chosen at random differs: with 95 % confidence fewer than "
            f"{_percent(high)} of all do."
        )
    return (
        f"{different:,} of {compared:,} keys chosen at random differ: with 95 % confidence between "
        f"{_percent(low)} and {_percent(high)} of all do."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
