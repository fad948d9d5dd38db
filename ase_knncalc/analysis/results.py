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
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.charges import stated_copy
from ase_knncalc.data.own import PREDICTED
from ase_knncalc.errors import SettingsError
from ase_knncalc.model import KNNModel
from ase_knncalc.prediction import Prediction

_SCALARS = ("energy_std", "novelty", "baseline_energy", "delta")


def snapshot(atoms: Atoms, *, per_atom: Literal["arrays", "info"] = "arrays") -> Atoms:
    """A copy of the structure with all that its calculator knows of it, for any of ASE's writers.

    Energy and forces are in a ``SinglePointCalculator``, as for any calculator; ``energy_std``,
    ``novelty``, ``baseline_energy``, ``delta``, ``energy_low`` and ``energy_high`` (with
    ``coverage``) and ``nearest``, the names of the nearest training structures, are in ``info``;
    ``forces_std`` is in ``arrays``. So are charge and multiplicity of the calculation, with the
    model's name and checksum (``predicted_by``, ``model_checksum``) and the energy as
    ``energy_predicted``; a charge is in the initial charges as well, which databases keep. Nothing
    is computed but the energy, where it is not known.

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
    origin = calculator.origin(atoms) if hasattr(calculator, "origin") else {}
    if origin:
        _mark(copy, origin, float(results["energy"]))
    # Its results are those of the charges that the copy has now.
    copy.calc = SinglePointCalculator(copy, **known)
    copy.calc.name = calculator.name
    copy.calc.parameters.update(origin)
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


def _mark(atoms: Atoms, origin: dict[str, Any], energy: float) -> None:
    """Write down whose energy it is and of which state, in all places that some format keeps."""
    charge, multiplicity = origin["charge"], origin["multiplicity"]
    atoms.info |= {
        "charge": charge,
        "multiplicity": multiplicity,
        PREDICTED: energy,
        "predicted_by": origin["model"],
    }
    if origin["model_checksum"]:  # ASE would take what follows an empty value for it
        atoms.info["model_checksum"] = origin["model_checksum"]
    # ASE's databases keep no info, but initial charges and moments.
    if charge and not atoms.has("initial_charges"):
        atoms.set_initial_charges(np.full(len(atoms), charge / len(atoms)))
    if multiplicity > 1 and not atoms.has("initial_magmoms"):
        moment = (multiplicity - 1) / len(atoms)
        atoms.set_initial_magnetic_moments(np.full(len(atoms), moment))


# Å. Far enough for the convergence of the baseline, near enough for what is harmonic.
_STEP = 0.01


def hessian(
    model: KNNModel, atoms: Atoms, charge: int | None = None, multiplicity: int | None = None
) -> FloatArray:
    """Second derivatives of the energy, eV/Å², shape (3 n_atoms, 3 n_atoms), symmetric.

    Central differences of the forces at steps of 0.01 Å.

    Parameters
    ----------
    model
        With a baseline and forces.
    atoms
        Not changed.
    charge, multiplicity
        By default the structure's own.

    Raises
    ------
    StructureError
        If the model does not cover the structure; BaselineError if the baseline fails,
        SettingsError if the model has no forces.
    """
    moved = stated_copy(atoms)
    found: FloatArray = np.zeros((3 * len(atoms),) * 2)
    for i in range(len(found)):
        for side in (-_STEP, _STEP):
            moved.positions = atoms.positions
            moved.positions.flat[i] += side
            forces = model.predict_one(moved, charge, multiplicity, forces=True).forces
            assert forces is not None
            found[i] -= forces.ravel() / (2 * side)
    return np.asarray((found + found.T) / 2.0)


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
    copy = stated_copy(atoms)
    # Energies that ASE knows by name are in the calculator that reads them.
    copy.calc = atoms.calc
    if charge is not None:
        copy.info["charge"] = charge
    info: dict[str, Any] = {
        PREDICTED: prediction.energy,
        "energy_std": prediction.energy_std,
        "novelty": prediction.novelty,
        "outside": prediction.outside,
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
