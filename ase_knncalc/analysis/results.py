"""Results of a calculation in a form that files keep.

ASE's formats drop every result that is not one of its own properties, without a word, and
``SinglePointCalculator`` refuses it. ``info`` and ``arrays`` travel.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_properties
from ase.calculators.singlepoint import SinglePointCalculator

from ase_knncalc._lib.arguments import instance
from ase_knncalc.errors import SettingsError
from ase_knncalc.prediction import Prediction

_SCALARS = ("energy_std", "novelty", "baseline_energy", "delta")


def snapshot(atoms: Atoms, *, per_atom: Literal["arrays", "info"] = "arrays") -> Atoms:
    """A copy of the structure with all that its calculator knows of it, for any of ASE's writers.

    Energy and forces are in a ``SinglePointCalculator``, as for any calculator; ``energy_std``,
    ``novelty``, ``baseline_energy``, ``delta``, ``energy_low`` and ``energy_high`` (with
    ``coverage``) and ``nearest``, the names of the nearest training structures, are in ``info``;
    ``forces_std`` is in ``arrays``. Nothing is computed but the energy, where it is not known.

    Parameters
    ----------
    atoms
        With a :class:`KNNCalculator`, or any other calculator whose results are copied.
    per_atom
        Where ``forces_std`` goes: ``.traj`` files keep ``info``, but no arrays of other names than
        ASE's own.

    Returns
    -------
    ase.Atoms

    Raises
    ------
    SettingsError
        If the structure has no calculator.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from ase_knncalc import KNNCalculator, snapshot
    >>> water = molecule("H2O")
    >>> water.calc = KNNCalculator("saw-wb97xd")
    >>> snapshot(water).info["novelty"] < 1
    True

    Of dynamics: ``dyn.attach(lambda: trajectory.write(snapshot(atoms)), interval=10)``.
    """
    instance("atoms", atoms, Atoms)
    if not isinstance(atoms.calc, BaseCalculator):
        raise SettingsError("the structure has no calculator: set atoms.calc, or nothing is known")
    calculator = atoms.calc
    # Results of other positions must not be taken for those of these.
    calculator.get_property("energy", atoms)
    results = calculator.results
    copy = atoms.copy()
    known = {k: v for k, v in results.items() if k in all_properties and v is not None}
    copy.calc = SinglePointCalculator(copy, **known)
    copy.calc.name = calculator.name
    copy.info |= {key: float(results[key]) for key in _SCALARS if key in results}
    if "energy_interval" in results:
        low, high = results["energy_interval"]
        copy.info |= {"energy_low": float(low), "energy_high": float(high)}
    if results.get("neighbors"):
        copy.info["nearest"] = _names(results["neighbors"])
    if "forces_std" in results:
        place = copy.info if per_atom == "info" else copy.arrays
        place["forces_std"] = np.array(results["forces_std"], dtype=float)
    return copy


def annotate(
    atoms: Atoms,
    prediction: Prediction,
    coverage: float | None = None,
    charge: int | None = None,
) -> Atoms:
    """A copy of the structure with its prediction in ``info``; its labels stay as they are.

    Parameters
    ----------
    atoms
        May hold labels; the predicted energy is ``info["energy_predicted"]``.
    prediction
        Of this one structure.
    coverage
        Adds ``energy_low`` and ``energy_high`` of this probability.
    charge
        Total charge that the prediction is for, where it is not the structure's own.
    """
    copy = atoms.copy()
    # Energies that ASE knows by name are in the calculator that reads them.
    copy.calc = atoms.calc
    if charge is not None:
        copy.info["charge"] = charge
    info: dict[str, Any] = {
        "energy_predicted": prediction.energy,
        "energy_std": prediction.energy_std,
        "novelty": prediction.novelty,
        "nearest": _names(prediction.neighbors),
    }
    if prediction.baseline_energy is not None:
        copy.info.setdefault("baseline_energy", prediction.baseline_energy)
    if coverage is not None:
        low, high = prediction.energy_interval(coverage)
        info |= {"energy_low": float(low), "energy_high": float(high)}
    copy.info |= info
    return copy


def _names(neighbors: Any, most: int = 3) -> str:
    return ", ".join(n.name for n in neighbors[:most])
