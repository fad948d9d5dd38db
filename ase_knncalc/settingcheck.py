"""What counts as a number in settings and in files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number by type (True is none)."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a value is a finite number by type (True is none)."""
    if is_integer(value):
        return abs(int(value)) < 2**63
    return isinstance(value, float | np.floating) and math.isfinite(value)
