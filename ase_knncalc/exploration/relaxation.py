"""Relaxation of many structures with any of ASE's optimisers, and what became of each.

The marks in ``info`` of what was relaxed:

``converged``
    Whether no atom has a larger force than was asked for.
``relax_steps``, ``largest_force``
    Steps that were taken, and the largest force on an atom in the end, eV/Å.
``fell_apart``
    Whether a molecule has left the others.
``protons_moved``
    Hydrogen atoms that belong to another molecule than before.
``reacted``
    Whether bonds between heavy atoms were made or broken.
``outside``
    Whether it is outside of what the model knows (novelty above 1).
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from ase_knncalc._lib.arguments import Count, Positive, checked, instance, similar
from ase_knncalc._lib.parallel import check_jobs
from ase_knncalc.analysis.binding import hydrogen_hosts, molecule_numbers
from ase_knncalc.analysis.results import snapshot
from ase_knncalc.calculator import KNNCalculator
from ase_knncalc.data import Omission
from ase_knncalc.data.own import PREDICTED
from ase_knncalc.errors import SettingsError
from ase_knncalc.exploration.jobs import calculate
from ase_knncalc.sampling.engines import make_engine
from ase_knncalc.sampling.molecules import is_one_cluster
from ase_knncalc.settings import DEFAULT_MODEL
from ase_knncalc.structure import structure_label

COLUMNS = (
    "name",
    "energy_eV",
    "energy_std_eV",
    "novelty",
    "outside",
    "converged",
    "relax_steps",
    "largest_force",
    "fell_apart",
    "reacted",
    "protons_moved",
)
"""Of :func:`relaxation_row`."""


def relax_frames(
    frames: Iterable[Atoms],
    engine: Any = f"model:{DEFAULT_MODEL}",
    *,
    optimizer: str = "BFGS",
    fmax: float = 0.01,
    steps: int = 500,
    charge: int | None = None,
    kept: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[list[Atoms], list[Omission]]:
    """Relax structures, and say of each what became of it.

    Parameters
    ----------
    frames
        Structures; they are not changed. Constraints hold.
    engine
        ``"model:NAME_OR_FILE"``, a baseline such as ``"GFN1-xTB"``, or an ASE calculator, which
        runs in this process.
    optimizer
        Name of any optimiser of ASE: BFGS, LBFGS, FIRE, GPMin, SciPyFminCG, …
    fmax, steps
        A relaxation ends when no atom has a larger force (eV/Å), or after so many steps.
    charge
        Total charge of every structure; by default each structure's own.
    kept
        SQLite file of finished relaxations: what is in it is not done again.
    n_jobs, progress
        Processes (−1: all cores), and whether to show a bar.

    Returns
    -------
    relaxed : list of Atoms
        In the order of ``frames``. Energy and forces are in a calculator; ``info`` has what
        :func:`ase_knncalc.snapshot` keeps, and the marks of this module. Labels of the structures
        as they were are gone, and so is all else that is a number.
    omitted : list of Omission
        Structures that cannot be computed, and why.

    Raises
    ------
    SettingsError
        If there is no such optimiser, a number makes no sense, the engine has no forces, or
        ``kept`` is given with a calculator object.

    Warns
    -----
    UserWarning
        If the model was trained on energies alone.
    """
    optimizer_of(optimizer)
    options = {
        "optimizer": optimizer,
        "fmax": checked("fmax", fmax, Positive),
        "steps": checked("steps", steps, Count),
    }
    check_jobs(n_jobs)
    frames = [frames] if isinstance(frames, Atoms) else list(instance("frames", frames, Iterable))
    require_forces(engine)
    found, omitted = calculate(
        _relax, frames, engine, options,
        charge=charge, kept=kept, n_jobs=n_jobs, progress=progress, text="relaxing",
    )  # fmt: skip
    return [_with_results(frames[i], value) for i, value in found.items()], omitted


def optimizer_of(name: str) -> Any:
    """The class of one of ASE's optimisers.

    Raises
    ------
    SettingsError
        If there is none of that name.
    """
    from ase import optimize
    from ase.optimize import sciopt
    from ase.optimize.optimize import Optimizer

    known = {
        key: value
        for module in (sciopt, optimize)
        for key, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Optimizer)
        and not inspect.isabstract(value)
        and key not in ("Optimizer", "SciPyOptimizer", "SciPyGradientlessOptimizer")
    }
    known["QuasiNewton"] = optimize.QuasiNewton
    checked("optimizer", name, str)
    if name not in known:
        raise SettingsError(f"optimizer {name!r} is none of ASE's{similar(name, sorted(known))}")
    return known[name]


def require_forces(engine: Any) -> None:
    """Refuse what has no forces, and warn of slopes that no data stand behind.

    Raises
    ------
    SettingsError
        If the engine has no forces.
    """
    calculator = make_engine(engine)
    if "forces" not in calculator.implemented_properties:
        what = engine if isinstance(engine, str) else type(calculator).__name__
        raise SettingsError(
            f"{what} has no forces, and relaxations and vibrations need them; of the shipped "
            f"models take {DEFAULT_MODEL}"
        )
    if isinstance(calculator, KNNCalculator) and not calculator.model.trained_on_forces:
        warnings.warn(
            "this model was trained on energies alone, and nothing made sure that its slopes are "
            f"right: minima of it may be holes. Take one trained with forces, such as "
            f"{DEFAULT_MODEL}",
            UserWarning,
            stacklevel=3,
        )


def _relax(
    atoms: Atoms, calculator: Calculator, optimizer: str, fmax: float, steps: int
) -> dict[str, Any]:
    atoms.info = {key: atoms.info[key] for key in ("charge", "multiplicity")}
    start = atoms.copy()
    atoms.calc = calculator
    run = optimizer_of(optimizer)(atoms, logfile=None)
    run.run(fmax=fmax, steps=steps)
    largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
    kept = snapshot(atoms)
    before, after = (molecule_numbers(a[a.numbers > 1]) for a in (start, atoms))
    hosts = hydrogen_hosts(start), hydrogen_hosts(atoms)
    info = {
        **kept.info,
        "converged": largest <= fmax,
        "relax_steps": int(run.nsteps),
        "largest_force": largest,
        "fell_apart": not is_one_cluster(atoms),
        "reacted": not np.array_equal(before, after),
        "protons_moved": int((before[hosts[0]] != before[hosts[1]]).sum()) if len(before) else 0,
    }
    if "novelty" in info:
        info["outside"] = bool(info["novelty"] > 1.0)
    return {
        "positions": atoms.positions.copy(),
        "info": info,
        "energy": float(atoms.get_potential_energy()),
        "forces": atoms.get_forces(apply_constraint=False),
        "calculator": str(kept.calc.name),
    }


def _with_results(atoms: Atoms, found: dict[str, Any]) -> Atoms:
    """The relaxed structure; of what was known of the old one, only texts hold for it."""
    relaxed = Atoms(atoms.numbers, found["positions"], constraint=atoms.constraints)
    relaxed.info = {k: v for k, v in atoms.info.items() if isinstance(v, str)} | found["info"]
    relaxed.calc = SinglePointCalculator(relaxed, energy=found["energy"], forces=found["forces"])
    relaxed.calc.name = found["calculator"]
    return relaxed


def energy_of(atoms: Atoms) -> float | None:
    """Energy that a structure brings, eV: of its calculator, predicted, or of a sampling."""
    if isinstance(atoms.calc, SinglePointCalculator) and "energy" in atoms.calc.results:
        return float(atoms.calc.results["energy"])
    known = (atoms.info.get(key) for key in (PREDICTED, "energy"))
    return next((float(value) for value in known if value is not None), None)


def relaxation_row(atoms: Atoms) -> dict[str, Any]:
    """What became of a structure, by :data:`COLUMNS`; None where the engine does not know it."""
    row = {key: atoms.info.get(key) for key in COLUMNS}
    row["name"] = structure_label(atoms)
    row["energy_eV"] = energy_of(atoms)
    row["energy_std_eV"] = atoms.info.get("energy_std")
    return row
