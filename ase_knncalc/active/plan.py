"""What a loop would do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ase import Atoms

from ase_knncalc.active.learning import covered
from ase_knncalc.model import KNNModel
from ase_knncalc.structure import resolve_charge


@dataclass(frozen=True)
class Plan:
    """What a loop would do next; from :meth:`ActiveLoop.plan`.

    Attributes
    ----------
    iteration : int
    pool : int
        Structures that could be chosen.
    not_covered : int
        Those among them with elements, charges or multiplicities that the model never saw.
    chosen : list of Atoms
    energy_std, novelty : list of float or None
        Of the chosen ones; None where the model does not cover them.
    note : str
        What the plan does not know yet.
    """

    iteration: int
    pool: int
    not_covered: int
    chosen: list[Atoms]
    energy_std: list[float | None]
    novelty: list[float | None]
    note: str = ""


def said_of(
    model: KNNModel | None, frames: Sequence[Atoms]
) -> tuple[list[float | None], list[float | None]]:
    """Standard deviations (eV) and novelties; None where the model does not cover a structure."""
    stds: list[float | None] = []
    novelties: list[float | None] = []
    for atoms in frames:
        if model is None or not covered(model, atoms):
            stds.append(None)
            novelties.append(None)
            continue
        found = model.correct(atoms.numbers, atoms.positions, resolve_charge(atoms)[0])
        stds.append(float(found.energy_std))
        novelties.append(float(found.novelty))
    return stds, novelties
