"""Gibbs energies of many structures, their populations, and what clusters gain over molecules.

Energies, modes and the minima of the molecules are of one surface: that of the engine. A cluster
that was relaxed on another one is refused, as its Gibbs energy of binding would be too weak by
kcal/mol.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from ase_knncalc._lib.arguments import OneOf, Positive, Settings, Several, instance, instances
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.analysis.binding import Monomers, recognise
from ase_knncalc.analysis.learned import LearnedMinimum, learned_minimum_of
from ase_knncalc.analysis.thermochemistry import (
    Minimum,
    Thermochemistry,
    binding_gibbs_energy,
    binding_std,
    minimum_of,
)
from ase_knncalc.calculator import KNNCalculator
from ase_knncalc.charges import stated_copy
from ase_knncalc.data import Omission
from ase_knncalc.errors import SettingsError, StructureError
from ase_knncalc.exploration.jobs import calculate
from ase_knncalc.exploration.relaxation import relax_frames, require_forces
from ase_knncalc.heads.prediction import require_thermochemistry
from ase_knncalc.heads.vibrations import TREATMENTS
from ase_knncalc.model import KNNModel
from ase_knncalc.sameness import Species, species
from ase_knncalc.sampling.engines import make_engine
from ase_knncalc.settings import DEFAULT_MODEL
from ase_knncalc.structure import composition_label, structure_label

# eV/Å: vibrations of molecules are those of their minima.
_MOLECULES_FMAX = 0.005


@dataclass(frozen=True)
class Conditions(Settings):
    """Where Gibbs energies are wanted.

    Parameters
    ----------
    temperatures, pressures
        K and Pa; all pairs of them.
    treatment, lowest
        Of soft modes, see :func:`ase_knncalc.thermochemistry.gibbs_energy`; cm⁻¹.
    """

    temperatures: Several[Positive] = (298.15,)
    pressures: Several[Positive] = (101325.0,)
    treatment: Annotated[str, OneOf(TREATMENTS)] = "truhlar"
    lowest: Positive = 100.0

    def of(self, minimum: Minimum) -> list[Thermochemistry | None]:
        """Thermal quantities at each temperature and pressure; None of what is no minimum."""
        if len(minimum.imaginary):
            return [None] * (len(self.temperatures) * len(self.pressures))
        return [
            minimum.at(t, p, treatment=self.treatment, lowest=self.lowest)  # type: ignore[arg-type]
            for t in self.temperatures
            for p in self.pressures
        ]


@dataclass(frozen=True)
class Ensemble:
    """Conformers of one composition in equilibrium; energies in eV.

    Attributes
    ----------
    populations : ndarray, shape (n,)
    gibbs, enthalpy, entropy : float
        Of the mixture, the entropy of mixing included (eV/K).
    gibbs_std : float
        As if errors of all conformers were the same one, which is no less than what they are.
    temperature, pressure : float
        K and Pa.
    """

    populations: FloatArray
    gibbs: float
    enthalpy: float
    entropy: float
    gibbs_std: float
    temperature: float
    pressure: float


def boltzmann(states: Sequence[Thermochemistry]) -> Ensemble:
    """Populations of conformers, and their Gibbs energy together.

    Mirror images count once, here as in ``unique_frames``.

    Parameters
    ----------
    states
        Of one composition and charge, at one temperature and pressure.

    Raises
    ------
    SettingsError
        If they are of several.
    """
    instances("states", states, Thermochemistry)
    kinds = {(s.numbers, s.charge, s.temperature, s.pressure) for s in states}
    if len(kinds) > 1:
        raise SettingsError(
            "conformers share their atoms, charge, temperature and pressure; these are of "
            f"{len(kinds)} kinds: take each on its own"
        )
    gibbs = np.array([s.gibbs for s in states])
    kt = units.kB * states[0].temperature
    weights = np.exp(-(gibbs - gibbs.min()) / kt)
    populations = weights / weights.sum()
    together = float(gibbs.min() - kt * np.log(weights.sum()))
    enthalpy = float(populations @ [s.enthalpy for s in states])
    return Ensemble(
        populations=populations,
        gibbs=together,
        enthalpy=enthalpy,
        entropy=(enthalpy - together) / states[0].temperature,
        gibbs_std=float(populations @ [s.gibbs_std for s in states]),
        temperature=states[0].temperature,
        pressure=states[0].pressure,
    )


def minima_of(
    frames: Iterable[Atoms],
    engine: Any = f"model:{DEFAULT_MODEL}",
    *,
    symmetry: int | None = None,
    delta: float = 0.01,
    fmax: float = 0.05,
    learned: bool = False,
    charge: int | None = None,
    kept: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[list[Minimum], list[Omission]]:
    """Energies and modes of structures that were relaxed on the surface of the engine.

    Parameters
    ----------
    frames
        Structures, as :func:`relax_frames` gives them.
    engine, charge, kept, n_jobs, progress
        As there.
    symmetry, delta, fmax
        As for :func:`ase_knncalc.thermochemistry.gibbs_energy`; symmetry numbers are counted where
        none is given.
    learned
        Take thermochemistry from what the engine's model has learned of it: one calculation a
        structure, and no modes (:class:`~ase_knncalc.analysis.learned.LearnedMinimum`).

    Returns
    -------
    minima : list of Minimum
    omitted : list of Omission
        Structures that are not relaxed on this surface, or cannot be computed, and why.

    Raises
    ------
    SettingsError
        If a number makes no sense, or the engine has no forces.
    """
    frames = [frames] if isinstance(frames, Atoms) else list(instance("frames", frames, Iterable))
    require_forces(engine)
    options: dict[str, Any] = {"symmetry": symmetry, "fmax": fmax}
    model = None
    if learned:
        calculator = make_engine(engine)
        model = calculator.model if isinstance(calculator, KNNCalculator) else None
        require_thermochemistry(None if model is None else model.heads)
    else:
        options["delta"] = delta
    found, omitted = calculate(
        _learned if learned else _minimum, frames, engine, options,
        charge=charge, warm_start=False, kept=kept, n_jobs=n_jobs, progress=progress,
        text="energies" if learned else "vibrations",
    )  # fmt: skip
    return [_as_minimum(frames[i], value, model) for i, value in found.items()], omitted


_OF_MINIMA = ("energy", "energy_std", "wavenumbers", "symmetry", "charge", "multiplicity")


def _minimum(atoms: Atoms, calculator: Calculator, **options: Any) -> dict[str, Any]:
    atoms.calc = calculator
    found = minimum_of(atoms, **options)
    return {key: getattr(found, key) for key in _OF_MINIMA}


def _learned(atoms: Atoms, calculator: Calculator, **options: Any) -> dict[str, Any]:
    atoms.calc = calculator
    found = learned_minimum_of(atoms, **options)
    return {key: getattr(found, key) for key in _OF_MINIMA}


def _as_minimum(atoms: Atoms, value: dict[str, Any], model: KNNModel | None) -> Minimum:
    copy = stated_copy(atoms)
    copy.info.update(charge=value["charge"], multiplicity=value["multiplicity"])
    if model is None:
        return Minimum(atoms=copy, **value)
    return LearnedMinimum(atoms=copy, **value, model=model)


def molecules_in(minima: Sequence[Minimum], monomers: Monomers) -> list[dict[str, int] | None]:
    """Molecules that each cluster is made of, by name; None where they are not known."""
    found: list[dict[str, int] | None] = []
    for minimum in minima:
        try:
            parts = recognise(minimum.atoms, minimum.charge, monomers)
        except StructureError:
            found.append(None)
        else:
            found.append(parts if sum(parts.values()) > 1 else None)
    return found


def molecule_minima(
    names: Iterable[str],
    monomers: Monomers,
    engine: Any = f"model:{DEFAULT_MODEL}",
    *,
    learned: bool = False,
    kept: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> tuple[dict[str, Minimum], list[Omission]]:
    """Minima of molecules on the surface of the engine, from the geometries of a model.

    Parameters
    ----------
    names
        Of :func:`molecules_in`.
    monomers
        As in ``model.info.monomers``.
    engine, learned, kept, n_jobs, progress
        As for :func:`minima_of`.

    Returns
    -------
    minima : dict
        By name.
    omitted : list of Omission
    """
    frames = []
    for name in sorted(set(names)):
        record = monomers[name]
        atoms = Atoms(record["numbers"], record["positions"])
        atoms.info.update(name=name, charge=record["charge"], composition=name)
        frames.append(atoms)
    relaxed, failed = relax_frames(
        frames, engine, fmax=_MOLECULES_FMAX, kept=kept, n_jobs=n_jobs, progress=progress
    )
    minima, more = minima_of(
        relaxed, engine, learned=learned, kept=kept, n_jobs=n_jobs, progress=progress
    )
    return {str(m.atoms.info["name"]): m for m in minima}, [*failed, *more]


COLUMNS = (
    "name", "composition", "temperature_K", "pressure_Pa", "energy_eV", "zero_point_eV",
    "enthalpy_eV", "entropy_eV_K", "gibbs_eV", "gibbs_std_eV", "relative_kcal_mol", "population",
    "symmetry", "lowest_mode_cm1", "imaginary_modes", "molecules", "binding_kcal_mol",
    "binding_gibbs_kcal_mol", "binding_gibbs_std_kcal_mol", "binding_enthalpy_kcal_mol",
    "binding_enthalpy_std_kcal_mol", "binding_entropy_cal_mol_K", "binding_entropy_std_cal_mol_K",
    "vibrations",
)  # fmt: skip
"""Of :meth:`GibbsTable.rows`."""

SHOWN = (
    "name", "temperature_K", "relative_kcal_mol", "population", "symmetry", "lowest_mode_cm1",
    "imaginary_modes", "molecules", "binding_gibbs_kcal_mol", "binding_gibbs_std_kcal_mol",
)  # fmt: skip
"""Those that a table has room for."""

_OF_THE_FRAME = ("name", "composition", "energy_eV")


@dataclass(frozen=True, eq=False)
class GibbsTable:
    """Minima under several conditions, and the molecules that they are made of.

    Attributes
    ----------
    minima : list of Minimum
    conditions : Conditions
    parts : list of (dict or None)
        Numbers of molecules of each minimum, by name; None where they are not known.
    molecules : dict
        Minima of the molecules on the same surface, by name.
    omitted : list of Omission
        Structures and molecules that could not be computed, and why.
    """

    minima: list[Minimum]
    conditions: Conditions
    parts: list[dict[str, int] | None]
    molecules: dict[str, Minimum]
    omitted: list[Omission]

    def rows(self) -> list[dict[str, Any]]:
        """Every structure at every temperature and pressure, by :data:`COLUMNS`.

        None stands where something is not known, as all thermal quantities of what has imaginary
        modes. Populations and relative Gibbs energies are among the minima of one composition.
        """
        conditions = self.conditions
        states = [conditions.of(m) for m in self.minima]
        apart = {name: conditions.of(m) for name, m in self.molecules.items()}
        together = _ensembles(self.minima, states)
        rows = []
        for i, minimum in enumerate(self.minima):
            parts = self.parts[i]
            for place, state in enumerate(states[i]):
                row = dict.fromkeys(COLUMNS) | {
                    "name": structure_label(minimum.atoms),
                    "composition": composition_label(minimum.atoms),
                    "temperature_K": conditions.temperatures[place // len(conditions.pressures)],
                    "pressure_Pa": conditions.pressures[place % len(conditions.pressures)],
                    "energy_eV": minimum.energy,
                    "symmetry": minimum.symmetry,
                    "lowest_mode_cm1": float(min(minimum.wavenumbers, default=math.nan)),
                    "vibrations": "learned" if isinstance(minimum, LearnedMinimum) else "hessian",
                    "imaginary_modes": len(minimum.imaginary),
                    "molecules": None if parts is None else molecules_text(parts),
                }
                if state is not None:
                    lowest, population = together[i, place]
                    row |= {
                        "zero_point_eV": state.zero_point,
                        "enthalpy_eV": state.enthalpy,
                        "entropy_eV_K": state.entropy,
                        "gibbs_eV": state.gibbs,
                        "gibbs_std_eV": state.gibbs_std,
                        "relative_kcal_mol": KCAL_PER_MOL * (state.gibbs - lowest),
                        "population": population,
                    }
                    row |= _binding(state, [apart[n][place] for n in _each(parts) if n in apart])
                rows.append({k: _number(v) for k, v in row.items()})
        return rows

    def averages(self) -> list[dict[str, Any]]:
        """Each composition in equilibrium: :func:`boltzmann` of its minima at every condition."""
        real = [m for m in self.minima if not len(m.imaginary)]
        rows: list[dict[str, Any]] = []
        for members in _kinds(real):
            for states in zip(*(self.conditions.of(real[i]) for i in members), strict=True):
                found = boltzmann([s for s in states if s is not None])
                rows.append(
                    {
                        "composition": composition_label(real[members[0]].atoms),
                        "conformers": len(members),
                        "temperature_K": found.temperature,
                        "pressure_Pa": found.pressure,
                        "enthalpy_eV": found.enthalpy,
                        "entropy_eV_K": found.entropy,
                        "gibbs_eV": found.gibbs,
                        "gibbs_std_eV": _number(found.gibbs_std),
                        "most_populated": float(found.populations.max()),
                    }
                )
        return rows

    def frames(self) -> list[Atoms]:
        """The structures, with what :meth:`rows` says at the first condition, and their modes."""
        found = []
        each = len(self.conditions.temperatures) * len(self.conditions.pressures)
        for minimum, row in zip(self.minima, self.rows()[::each], strict=True):
            atoms = stated_copy(minimum.atoms)
            atoms.calc = minimum.atoms.calc
            known = {k: v for k, v in row.items() if v is not None and k not in _OF_THE_FRAME}
            atoms.info |= known | {"wavenumbers_cm1": minimum.wavenumbers.tolist()}
            found.append(atoms)
        return found


def gibbs_table(
    frames: Iterable[Atoms],
    engine: Any = f"model:{DEFAULT_MODEL}",
    conditions: Conditions | None = None,
    *,
    monomers: Monomers | None = None,
    symmetry: int | None = None,
    delta: float = 0.01,
    fmax: float = 0.05,
    learned: bool = False,
    charge: int | None = None,
    kept: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> GibbsTable:
    """Gibbs energies of structures and of binding, both sides relaxed on one surface.

    Parameters
    ----------
    frames, engine, symmetry, delta, fmax, learned, charge, kept, n_jobs, progress
        As for :func:`minima_of`.
    conditions
        Temperatures, pressures, treatment of soft modes.
    monomers
        Geometries of molecules, as in ``model.info.monomers``; by default those of the engine's
        model. They are relaxed with the engine: what binding is measured against are minima of the
        same surface.
    """
    conditions = conditions or Conditions()
    minima, omitted = minima_of(
        frames, engine, symmetry=symmetry, delta=delta, fmax=fmax, learned=learned, charge=charge,
        kept=kept, n_jobs=n_jobs, progress=progress,
    )  # fmt: skip
    if monomers is None:
        calculator = make_engine(engine)
        monomers = calculator.model.info.monomers if isinstance(calculator, KNNCalculator) else {}
    parts = molecules_in(minima, monomers)
    names = {name for each in parts for name in each or ()}
    molecules, failed = molecule_minima(
        names, monomers, engine, learned=learned, kept=kept, n_jobs=n_jobs, progress=progress
    )
    return GibbsTable(minima, conditions, parts, molecules, [*omitted, *failed])


def molecules_text(parts: Mapping[str, int]) -> str:
    """Molecules in short, such as ``1sa 2w``."""
    return " ".join(f"{n}{name.removeprefix('1')}" for name, n in parts.items())


def _each(parts: Mapping[str, int] | None) -> list[str]:
    return [name for name, n in (parts or {}).items() for _ in range(n)]


def _kinds(minima: Sequence[Minimum]) -> list[list[int]]:
    """Places of minima of the same atoms, charge and multiplicity."""
    kinds: dict[Species, list[int]] = {}
    for i, m in enumerate(minima):
        kinds.setdefault(species(m.atoms, m.charge, m.multiplicity), []).append(i)
    return list(kinds.values())


def _ensembles(
    minima: Sequence[Minimum], states: Sequence[Sequence[Thermochemistry | None]]
) -> dict[tuple[int, int], tuple[float, float]]:
    """Lowest Gibbs energy of its composition, and population, by structure and condition."""
    found = {}
    for members in _kinds(minima):
        for place in range(len(states[members[0]])):
            real = [(i, s) for i in members if (s := states[i][place]) is not None]
            if not real:
                continue
            ensemble = boltzmann([s for _, s in real])
            lowest = min(s.gibbs for _, s in real)
            for (i, _), population in zip(real, ensemble.populations, strict=True):
                found[i, place] = lowest, float(population)
    return found


def _binding(state: Thermochemistry, apart: Sequence[Thermochemistry | None]) -> dict[str, Any]:
    """Of a cluster and its molecules; nothing if one of these is not known, or no minimum."""
    each = [m for m in apart if m is not None]
    if len(each) < max(2, len(apart)) or sum(len(m.numbers) for m in each) != len(state.numbers):
        return {}
    gibbs, std = binding_gibbs_energy(state, each)
    entropy = state.entropy - sum(m.entropy for m in each)
    return {
        "binding_kcal_mol": KCAL_PER_MOL * (state.energy - sum(m.energy for m in each)),
        "binding_gibbs_kcal_mol": KCAL_PER_MOL * gibbs,
        "binding_gibbs_std_kcal_mol": KCAL_PER_MOL * std,
        "binding_enthalpy_kcal_mol": KCAL_PER_MOL
        * (state.enthalpy - sum(m.enthalpy for m in each)),
        "binding_enthalpy_std_kcal_mol": KCAL_PER_MOL * binding_std("enthalpy_std", state, each),
        "binding_entropy_cal_mol_K": 1000.0 * KCAL_PER_MOL * entropy,
        "binding_entropy_std_cal_mol_K": _entropy_std(state, each),
    }


def _entropy_std(state: Thermochemistry, each: Sequence[Thermochemistry]) -> float:
    """Of binding, cal/mol/K; NaN where entropies come from wavenumbers."""
    std = binding_std("entropy_std", state, each)
    return 1000.0 * KCAL_PER_MOL * std if std > 0 else math.nan


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
