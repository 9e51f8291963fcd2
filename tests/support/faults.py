"""What the fault scenarios share: their marker, their randomness, and the sides they disturb."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

SEED = "RUMPX_TEST_SEED"
"""Environment variable: a number that repeats what a random test did."""


def full(*values: Any, **options: Any) -> Any:
    """Parameters of a scenario's full form, which only `pytest -m faults` runs, and which may take
    its time: fifty kills on a slow machine are minutes."""
    return pytest.param(*values, marks=[pytest.mark.faults, pytest.mark.timeout(600)], **options)


def seeded() -> random.Random:
    """Random numbers that can be had again; pytest shows the seed if the test fails."""
    seed = int(os.environ.get(SEED, "") or int.from_bytes(os.urandom(4), "big"))
    print(f"{SEED}={seed}")
    return random.Random(seed)
