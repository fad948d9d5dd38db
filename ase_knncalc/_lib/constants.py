"""Numbers that stand in several places."""

from __future__ import annotations

from ase import units

KCAL_PER_MOL: float = units.mol / units.kcal
"""Of 1 eV."""
MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
