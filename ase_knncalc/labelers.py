"""Reference labels: energies and forces of the high level, one structure at a time.

A labeler is anything with ``method``, ``provides_forces`` and ``label(atoms)``:

>>> from ase.build import molecule
>>> from ase_knncalc.labelers import PySCFLabeler
>>> labeler = PySCFLabeler(basis="sto-3g", grid_level=1)
>>> label = labeler.label(molecule("H2O"))        # doctest: +SKIP
>>> label.energy, label.forces.shape              # doctest: +SKIP
(-2049.26..., (3, 3))

:class:`PySCFLabeler` computes ωB97X-D/6-31++G(d,p) here, :class:`ASELabeler` asks any ASE
calculator (ORCA, Gaussian, Psi4, NWChem), :class:`LookupLabeler` reads labels that are known.
:func:`label_frames` runs a labeler over many structures in processes of its own, so that a crash
or a hang costs one structure and not the run.

How near to Gaussian
--------------------
Against published Gaussian energies at this level (eV from hartree with CODATA 2014, as ASE has it):
one to three waters within 5e-6 Ha each, sulfuric acid 5.8e-5 Ha lower here, and about 4e-5 Ha an
acid lower in its clusters. What remains is of the size that another
integration grid makes (not proven). Tried and ruled out: the
ten digits of Gaussian's 6-31G for S (1e-7 Ha), dispersion parameters (radii 1 % larger mend the
monomer but spoil binding energies of water by 4e-5 Ha), and the grid here (converged to 4e-6 Ha at
level 3). A grid like Gaussian's FineGrid, 75 Euler–Maclaurin shells with 302 angular points, is
itself off by −64 to +54 µHa for each S, depending on its unpublished radius, and scatters by
±20 µHa in the binding energy of an acid with a water. It is not worth imitating:
``element_shifts={"S": 0.0012}`` brings labels to within 2e-5 Ha an acid of Gaussian's, for training
sets that mix both.
"""

from __future__ import annotations

import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator

from ase_knncalc.errors import (
    DataError,
    KNNCalcError,
    LabelerError,
    SettingsError,
    UnknownElementError,
)
from ase_knncalc.structure import check_structure, resolve_charge, structure_label

FloatArray = np.ndarray


@dataclass(frozen=True)
class Label:
    """What a labeler says of one structure.

    Attributes
    ----------
    energy : float
        Total energy in eV.
    forces : ndarray, shape (n_atoms, 3), or None
        eV/Å.
    seconds : float
        Wall time it took.
    method : str
        Level of theory, as the labeler names it.
    """

    energy: float
    forces: FloatArray | None
    seconds: float
    method: str


@runtime_checkable
class Labeler(Protocol):
    """Protocol of reference methods.

    Attributes
    ----------
    method : str
        Level of theory; part of the provenance of every label.
    provides_forces : bool
        Whether labels carry forces.
    """

    method: str
    provides_forces: bool

    def label(self, atoms: Atoms) -> Label:
        """Compute the label; every failure is a :class:`LabelerError` or another KNNCalcError."""
        ...


# Grimme, J. Comput. Chem. 2006, 27, 1787, Table 1, H to Xe: C6 in J nm^6/mol, radii R0 in Å.
_C6 = np.array(
    [np.nan, 0.14, 0.08, 1.61, 1.61, 3.13, 1.75, 1.23, 0.70, 0.75, 0.63]
    + [5.71, 5.71, 10.79, 9.23, 7.84, 5.57, 5.07, 4.61]
    + [10.80] * 12
    + [16.99, 17.10, 16.37, 12.64, 12.47, 12.01]
    + [24.67] * 12
    + [37.32, 38.71, 38.44, 31.74, 31.50, 29.99]
)
_R0 = np.array(
    [np.nan, 1.001, 1.012, 0.825, 1.408, 1.485, 1.452, 1.397, 1.342, 1.287, 1.243]
    + [1.144, 1.364, 1.639, 1.716, 1.705, 1.683, 1.639, 1.595]
    + [1.485, 1.474]
    + [1.562] * 10
    + [1.650, 1.727, 1.760, 1.771, 1.749, 1.727]
    + [1.628, 1.606]
    + [1.639] * 10
    + [1.672, 1.804, 1.881, 1.892, 1.892, 1.881]
)


def chai_head_gordon_dispersion(
    numbers: FloatArray, positions: FloatArray
) -> tuple[float, FloatArray]:
    """Empirical dispersion of ωB97X-D and its gradient.

    E = −Σ_{i<j} C6_ij / r^6 · 1/(1 + a (r/R_ij)^−12), with a = 6, C6_ij the geometric mean and
    R_ij the sum of the D2 values (Chai and Head-Gordon, PCCP 2008, 10, 6615, eqs. 5 and 6;
    Grimme, J. Comput. Chem. 2006, 27, 1787).

    Parameters
    ----------
    numbers : ndarray of int, shape (n,)
        Atomic numbers, H to Xe.
    positions : ndarray, shape (n, 3)
        Å.

    Returns
    -------
    energy : float
        eV.
    gradient : ndarray, shape (n, 3)
        eV/Å.

    Raises
    ------
    UnknownElementError
        For an element beyond xenon.
    """
    numbers = np.asarray(numbers, dtype=np.intp)
    positions = np.asarray(positions, dtype=np.float64)
    if numbers.size and (numbers.min() < 1 or numbers.max() >= len(_C6)):
        raise UnknownElementError(
            f"atomic number {int(numbers.max())} has no D2 dispersion parameters; wB97X-D covers "
            "H to Xe: use another functional"
        )
    first, second = np.triu_indices(len(numbers), 1)
    # J nm^6/mol to eV Å^6.
    c6 = np.sqrt(_C6[numbers[first]] * _C6[numbers[second]]) * 1e6 * units.J / units.mol
    a_r12 = 6.0 * (_R0[numbers[first]] + _R0[numbers[second]]) ** 12
    vectors = positions[first] - positions[second]
    r2 = np.einsum("ij,ij->i", vectors, vectors)
    r6 = r2**3
    # r^6/(r^12 + a R^12) is the damped r^-6 without the pole at r = 0.
    denominator = r6**2 + a_r12
    energy = -float(np.sum(c6 * r6 / denominator))
    slope = -c6 * 6.0 * r2**2 * (a_r12 - r6**2) / denominator**2  # dE/dr / r
    pair = slope[:, None] * vectors
    gradient = np.zeros_like(positions)
    np.add.at(gradient, first, pair)
    np.add.at(gradient, second, -pair)
    return energy, gradient


class PySCFLabeler:
    """Density functional theory with PySCF; by default ωB97X-D/6-31++G(d,p).

    The SCF starts on a coarse grid and ends on the asked-for one. Where DIIS does not converge, it
    is repeated from the last density with a level shift of 0.3 Ha, then with the second-order
    (Newton) solver, and only then given up. A multiplicity above one is computed unrestricted.
    Forces hold the response of the grid: they are the exact gradient of the energy.

    Parameters
    ----------
    xc : str
        Functional. PySCF knows ωB97X-D by name but refuses it for want of its dispersion; here it
        is libxc's functional plus :func:`chai_head_gordon_dispersion`. Others as PySCF has them.
    basis : str
        Basis set. The 6-31G, 3-21G, 4-31G and 6-21G families have Cartesian d functions, as in
        Gaussian, all others spherical ones.
    conv_tol : float
        Energy change in Ha at which the SCF stops (orbital gradient: 1e-5).
    grid_level : int
        PySCF's grid, 0 to 9. Level 3 is (50, 302) for H, (75, 302) for O and (80, 434) for S.
    max_cycle : int
        SCF cycles in each attempt.
    density_fit : bool
        Density fitting of Coulomb and exchange: faster, no longer the energies of Gaussian.
    time_limit : float or None
        Seconds, looked at after each SCF cycle and before the gradient. A hard limit, one that also
        ends a hanging calculation, is ``label_frames(time_limit=…)``.
    forces : bool
        Whether to compute forces too (they double the time).
    threads : int or None
        OpenMP threads; None leaves it to the environment.
    max_memory : float
        MB that PySCF may use. The long-range integrals are kept where they fit beside the others.
    element_shifts : mapping of str to float, or None
        eV to add for each atom of an element: the scale of other labels (see module docstring).

    Raises
    ------
    SettingsError
        For options out of range.
    LabelerError
        From ``label``: PySCF missing, no convergence, time limit, anything PySCF raises.
    """

    def __init__(
        self,
        xc: str = "wB97X-D",
        basis: str = "6-31++G(d,p)",
        *,
        conv_tol: float = 1e-9,
        grid_level: int = 3,
        max_cycle: int = 100,
        density_fit: bool = False,
        time_limit: float | None = None,
        forces: bool = True,
        threads: int | None = None,
        max_memory: float = 4000.0,
        element_shifts: Mapping[str, float] | None = None,
    ) -> None:
        if not 0 <= grid_level <= 9:
            raise SettingsError(f"grid_level={grid_level!r}: expected 0 to 9; 3 is the default")
        for name, value in (
            ("conv_tol", conv_tol),
            ("max_cycle", max_cycle),
            ("time_limit", time_limit),
            ("threads", threads),
            ("max_memory", max_memory),
        ):
            if value is not None and not value > 0:
                raise SettingsError(f"{name}={value!r}: expected a positive number")
        self.xc = xc
        self.basis = basis
        self.conv_tol = conv_tol
        self.grid_level = grid_level
        self.max_cycle = max_cycle
        self.density_fit = density_fit
        self.time_limit = time_limit
        self.threads = threads
        self.max_memory = max_memory
        self.element_shifts = dict(element_shifts or {})
        self.provides_forces = forces
        self.method = f"{xc}/{basis}"
        if density_fit:
            self.method += " (density fitting)"
        if self.element_shifts:
            shifts = ", ".join(f"{k} {v:+g} eV" for k, v in sorted(self.element_shifts.items()))
            self.method += f" (shifted: {shifts})"

    def label(self, atoms: Atoms) -> Label:
        """Energy and forces of a molecule or cluster; charge and multiplicity from its frame."""
        start = time.perf_counter()
        check_structure(atoms)
        charge, multiplicity = resolve_charge(atoms)
        try:
            from pyscf import lib
        except ImportError as e:
            raise LabelerError(
                'PySCF is not installed: pip install "ase_knncalc[label]", or use another labeler'
            ) from e
        deadline = None if self.time_limit is None else start + self.time_limit
        try:
            with lib.with_omp_threads(self.threads):
                energy, forces = self._compute(atoms, charge, multiplicity, deadline)
        except KNNCalcError:
            raise
        # PySCF raises whatever its layers raise (KeyError for a basis, LinAlgError, …).
        except Exception as e:
            raise LabelerError(
                f"PySCF failed for {structure_label(atoms)} (charge {charge}, multiplicity "
                f"{multiplicity}) with {self.method}: {type(e).__name__}: {e}"
            ) from e
        if not np.isfinite(energy) or (forces is not None and not np.isfinite(forces).all()):
            raise LabelerError(
                f"PySCF returned NaN for {structure_label(atoms)}: look at its geometry"
            )
        return Label(energy, forces, time.perf_counter() - start, self.method)

    def _compute(
        self, atoms: Atoms, charge: int, multiplicity: int, deadline: float | None
    ) -> tuple[float, FloatArray | None]:
        from pyscf import gto

        # Dispersion first: an element that it does not know should not cost an SCF.
        functional, dispersion, gradient = self.xc, 0.0, np.zeros((len(atoms), 3))
        if re.sub(r"[-_\s]", "", self.xc.lower()).replace("ω", "w") == "wb97xd":
            functional = "HYB_GGA_XC_WB97X_D"
            dispersion, gradient = chai_head_gordon_dispersion(atoms.numbers, atoms.positions)
        mol = gto.M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            unit="Angstrom",
            basis=self.basis,
            cart=re.match(r"(3-21|4-31|6-21|6-31)\+*g", self.basis.lower()) is not None,
            charge=charge,
            spin=multiplicity - 1,
            verbose=0,
            max_memory=self.max_memory,
        )
        mf = self._converge(mol, functional, deadline, structure_label(atoms))
        shift = sum(self.element_shifts.get(symbol, 0.0) for symbol in atoms.symbols)
        energy = float(mf.e_tot) * units.Hartree + dispersion + shift
        if not self.provides_forces:
            return energy, None
        _check_deadline(deadline, "after the SCF, before the gradient")
        calculation = mf.nuc_grad_method()
        calculation.grid_response = True
        scf_gradient = np.asarray(calculation.kernel()) * (units.Hartree / units.Bohr)
        return energy, -(scf_gradient + gradient)

    def _converge(self, mol: Any, functional: str, deadline: float | None, name: str) -> Any:
        from pyscf import dft

        mf = (dft.RKS if mol.spin == 0 else dft.UKS)(mol, xc=functional)
        if self.density_fit:
            mf = mf.density_fit()
        else:
            _keep_long_range_integrals(mf)
        mf.max_cycle = self.max_cycle
        mf.callback = lambda _: _check_deadline(deadline, "during the SCF")
        density = None
        if self.grid_level > 1:
            # Half of the SCF's time is the grid, and the first cycles do not need a good one.
            mf.grids.level, mf.conv_tol = 1, 1e-6
            mf.kernel()
            density = mf.make_rdm1()
            mf.grids = dft.gen_grid.Grids(mol)
        mf.grids.level, mf.conv_tol, mf.conv_tol_grad = self.grid_level, self.conv_tol, 1e-5
        mf.kernel(dm0=density)
        if not mf.converged:
            mf.level_shift = 0.3
            mf.kernel(dm0=mf.make_rdm1())
            mf.level_shift = 0.0
        if not mf.converged:
            coefficients, occupations = mf.mo_coeff, mf.mo_occ
            mf = mf.newton()
            mf.kernel(coefficients, occupations)
        if not mf.converged:
            raise LabelerError(
                f"the SCF of {name} (charge {mol.charge}, multiplicity {mol.spin + 1}) did not "
                f"converge in {self.max_cycle} cycles of DIIS, of DIIS with a level shift, and of "
                "the second-order solver: check geometry and charge, or raise max_cycle"
            )
        # Converged Newton objects have gradients only through the mean-field class below them.
        return mf.undo_soscf() if hasattr(mf, "undo_soscf") else mf


def _check_deadline(deadline: float | None, where: str) -> None:
    if deadline is not None and time.perf_counter() > deadline:
        raise LabelerError(f"time limit reached {where}: raise time_limit or drop the structure")


def _keep_long_range_integrals(mf: Any) -> None:
    """Let a range-separated functional keep its erf(ωr)/r integrals in memory.

    PySCF keeps the full Coulomb integrals but computes these anew in each cycle, which is most of
    the SCF's time for small clusters.
    """
    from pyscf import lib, scf

    omega = mf._numint.rsh_and_hybrid_coeff(mf.xc, spin=mf.mol.spin)[0]
    megabytes = mf.mol.nao_nr() ** 4 / 1e6
    if not omega or 2 * megabytes + lib.current_memory()[0] > 0.9 * mf.max_memory:
        return
    compute, kept = mf.get_k, {}

    def get_k(
        mol: Any = None, dm: Any = None, hermi: int = 1, omega: float | None = None
    ) -> FloatArray:
        if not omega or (mol is not None and mol is not mf.mol):
            return cast(FloatArray, compute(mol, dm, hermi, omega))
        if omega not in kept:
            with mf.mol.with_range_coulomb(omega):
                kept[omega] = mf.mol.intor("int2e", aosym="s8")
        density = mf.make_rdm1() if dm is None else dm
        return cast(FloatArray, scf.hf.dot_eri_dm(kept[omega], density, hermi, with_j=False)[1])

    mf.get_k = get_k


class ASELabeler:
    """Labels of any ASE calculator, configured as ASE has it.

    Parameters
    ----------
    calculator
        A calculator, or a factory ``factory(charge, multiplicity)`` that makes a fresh one for each
        structure. A factory is needed for charged structures and where a calculator cannot be sent
        to another process.
    method
        Name of its level of theory, for provenance.
    energies_only
        For methods without gradients, as DLPNO-CCSD(T) single points: forces are not asked for.

    Examples
    --------
    >>> from ase.calculators.emt import EMT
    >>> ASELabeler(EMT(), "EMT").provides_forces
    True
    """

    def __init__(
        self,
        calculator: BaseCalculator | Callable[[int, int], BaseCalculator],
        method: str,
        energies_only: bool = False,
    ) -> None:
        if not (isinstance(calculator, BaseCalculator) or callable(calculator)):
            raise SettingsError(
                f"calculator is a {type(calculator).__name__}; expected an ASE calculator or a "
                "function (charge, multiplicity) that returns one"
            )
        self.calculator = calculator
        self.method = method
        self.provides_forces = not energies_only

    def label(self, atoms: Atoms) -> Label:
        """Single point with the calculator."""
        start = time.perf_counter()
        charge, multiplicity = resolve_charge(atoms)
        if isinstance(self.calculator, BaseCalculator):
            calculator = self.calculator
            self._check_state(calculator, charge, multiplicity)
        else:
            calculator = self.calculator(charge, multiplicity)
        copy = atoms.copy()
        copy.calc = calculator
        try:
            energy = float(copy.get_potential_energy())
            forces = np.array(copy.get_forces()) if self.provides_forces else None
        except Exception as e:
            raise LabelerError(
                f"{self.method} ({type(calculator).__name__}) failed for "
                f"{structure_label(atoms)}: {type(e).__name__}: {e}"
            ) from e
        if not np.isfinite(energy) or (forces is not None and not np.isfinite(forces).all()):
            raise LabelerError(
                f"{self.method} returned NaN for {structure_label(atoms)}: look at its geometry"
            )
        return Label(energy, forces, time.perf_counter() - start, self.method)

    def _check_state(self, calculator: BaseCalculator, charge: int, multiplicity: int) -> None:
        settings: Mapping[str, Any] = getattr(calculator, "parameters", None) or {}
        own_charge = settings.get("charge") or 0
        own_multiplicity = settings.get("multiplicity", settings.get("mult"))
        if own_charge != charge or own_multiplicity not in (None, multiplicity):
            raise LabelerError(
                f"the structure has charge {charge} and multiplicity {multiplicity}, the "
                f"calculator is set to {own_charge} and {own_multiplicity or 'its default'}: pass "
                "a factory (charge, multiplicity) -> calculator"
            )


class LookupLabeler:
    """An oracle: labels from a file, given out as if they were computed.

    A structure is known if its atoms, in order, lie within ``tolerance`` of those of a labelled
    frame of the same charge, up to a translation. The name only narrows the search: a frame that
    kept its name but moved is not known.

    Parameters
    ----------
    frames
        Labelled structures.
    energy_key, forces_key
        Where labels are: ``info[energy_key]``, and ``arrays[forces_key]`` where all frames have it.
    tolerance
        Å.

    Raises
    ------
    DataError
        If a frame has no energy.
    """

    in_process = True  # nothing to crash, and its frames need not travel to other processes

    def __init__(
        self,
        frames: Sequence[Atoms],
        energy_key: str = "reference_energy",
        forces_key: str = "reference_forces",
        tolerance: float = 1e-3,
    ) -> None:
        self.method = f"labels of {len(frames)} frames ({energy_key})"
        self.tolerance = tolerance
        self.provides_forces = bool(frames) and all(forces_key in a.arrays for a in frames)
        self._labels: list[tuple[float, FloatArray | None]] = []
        members: dict[tuple[int, bytes], list[int]] = {}
        for i, atoms in enumerate(frames):
            if energy_key not in atoms.info:
                raise DataError(
                    f"{structure_label(atoms, i)} has no info[{energy_key!r}]; it has "
                    f"{sorted(atoms.info)}: give energy_key"
                )
            forces = np.array(atoms.arrays[forces_key]) if self.provides_forces else None
            self._labels.append((float(atoms.info[energy_key]), forces))
            members.setdefault(self._key(atoms), []).append(i)
        self._members = {key: np.array(rows) for key, rows in members.items()}
        self._geometries = {
            key: np.stack([_centred(frames[i]) for i in rows]) for key, rows in members.items()
        }

    @staticmethod
    def _key(atoms: Atoms) -> tuple[int, bytes]:
        return resolve_charge(atoms)[0], atoms.numbers.astype("<i8").tobytes()

    def label(self, atoms: Atoms) -> Label:
        """Label of the frame that has this geometry."""
        start = time.perf_counter()
        key = self._key(atoms)
        name = structure_label(atoms)
        if key not in self._members:
            raise LabelerError(
                f"{name}: no labelled frame has its {len(atoms)} atoms in this order at charge "
                f"{key[0]}; a lookup cannot label new structures"
            )
        offsets = np.abs(self._geometries[key] - _centred(atoms)).max(axis=(1, 2))
        best = int(np.argmin(offsets))
        if not offsets[best] <= self.tolerance:
            raise LabelerError(
                f"{name}: the nearest labelled frame differs by {offsets[best]:.3g} Å, more than "
                f"{self.tolerance:g} Å; a lookup cannot label new structures"
            )
        energy, forces = self._labels[self._members[key][best]]
        copy = None if forces is None else forces.copy()
        return Label(energy, copy, time.perf_counter() - start, self.method)


def _centred(atoms: Atoms) -> FloatArray:
    return atoms.positions - atoms.positions.mean(axis=0)


@dataclass(frozen=True)
class LabelResult:
    """Outcome of one structure in :func:`label_frames`.

    Attributes
    ----------
    index : int
        Position in the input.
    atoms : Atoms
        The structure as given (a copy); with its label, where there is one, as
        ``info["reference_energy"]``, ``arrays["reference_forces"]``, ``info["reference_method"]``,
        ``info["charge"]`` and ``info["multiplicity"]``.
    label : Label or None
        None if it failed.
    reason : str
        Why it failed, empty if it did not.
    """

    index: int
    atoms: Atoms
    label: Label | None
    reason: str = ""


def label_frames(
    labeler: Labeler,
    frames: Sequence[Atoms],
    *,
    n_jobs: int = 1,
    time_limit: float | None = None,
    on_result: Callable[[LabelResult], None] | None = None,
) -> tuple[list[Atoms], list[LabelResult]]:
    """Label many structures; a failure costs that structure only.

    Calculations run in worker processes. One that dies (a crash in C code, ``os._exit``, out of
    memory) or passes the time limit is replaced, its structure recorded as failed.

    Parameters
    ----------
    labeler
        The reference method.
    frames
        Structures; they are not changed.
    n_jobs
        Worker processes; −1 for one a core. Without ``OMP_NUM_THREADS`` in the environment the
        cores are shared out among them.
    time_limit
        Seconds for each structure, after which its process is killed.
    on_result
        Called here, in order of completion, for each result: the place to write a journal. What it
        raises ends the run.

    Returns
    -------
    labelled : list of Atoms
        Copies with their labels, in the order of ``frames``.
    failures : list of LabelResult
        The others, in the same order, each with its reason.

    Raises
    ------
    SettingsError
        For ``n_jobs`` or ``time_limit`` out of range, or a labeler that no process can be given.
    """
    if n_jobs == 0 or n_jobs < -1:
        raise SettingsError(f"n_jobs={n_jobs}: expected a positive number, or -1 for all cores")
    if time_limit is not None and not time_limit > 0:
        raise SettingsError(f"time_limit={time_limit!r}: expected seconds, or None for no limit")
    cores = os.cpu_count() or 1
    workers = min(cores if n_jobs == -1 else n_jobs, len(frames))
    results: list[LabelResult | None] = [None] * len(frames)
    if getattr(labeler, "in_process", False):
        outcomes: Iterator[tuple[int, Label | str]] = (
            (i, _attempt(labeler, atoms)) for i, atoms in enumerate(frames)
        )
    else:
        threads = max(1, cores // max(1, workers))
        outcomes = _in_workers(labeler, frames, workers, threads, time_limit)
    for index, outcome in outcomes:
        result = _as_result(index, frames[index], outcome)
        results[index] = result
        if on_result is not None:
            on_result(result)
    done = [r for r in results if r is not None]
    return [r.atoms for r in done if r.label is not None], [r for r in done if r.label is None]


def _as_result(index: int, atoms: Atoms, outcome: Label | str) -> LabelResult:
    copy = atoms.copy()
    if isinstance(outcome, str):
        return LabelResult(index, copy, None, outcome)
    copy.info["charge"], copy.info["multiplicity"] = resolve_charge(atoms)
    copy.info["reference_energy"] = outcome.energy
    copy.info["reference_method"] = outcome.method
    copy.arrays.pop("reference_forces", None)  # those of an older label would no longer fit
    if outcome.forces is not None:
        copy.set_array("reference_forces", np.asarray(outcome.forces, dtype=np.float64))
    return LabelResult(index, copy, outcome)


def _attempt(labeler: Labeler, atoms: Atoms) -> Label | str:
    try:
        return labeler.label(atoms)
    except KNNCalcError as e:
        return str(e)
    except Exception as e:
        return f"{type(e).__name__}: {e}"


def _in_workers(
    labeler: Labeler,
    frames: Sequence[Atoms],
    workers: int,
    threads: int,
    time_limit: float | None,
) -> Iterator[tuple[int, Label | str]]:
    """Outcomes as they come; each of ``workers`` threads owns one process."""
    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:  # joblib before 1.6 brings its own
        from joblib.externals import cloudpickle

    try:
        payload = cloudpickle.dumps(labeler)
    except Exception as e:
        raise SettingsError(
            f"{type(labeler).__name__} cannot be sent to a worker process "
            f"({type(e).__name__}: {e}): give ASELabeler a factory (charge, multiplicity) -> "
            "calculator"
        ) from e
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(len(frames)):
        todo.put(i)
    done: queue.SimpleQueue[tuple[int, Label | str] | BaseException] = queue.SimpleQueue()
    pool = [_Worker(payload, threads) for _ in range(workers)]

    def serve(worker: _Worker) -> None:
        try:
            while not worker.closed:
                index = todo.get_nowait()
                done.put((index, worker.run(frames[index].copy(), time_limit)))
        except queue.Empty:
            pass
        except BaseException as e:
            done.put(e)

    servers = [threading.Thread(target=serve, args=(w,), daemon=True) for w in pool]
    try:
        for server in servers:
            server.start()
        for _ in range(len(frames)):
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        for worker in pool:
            worker.close()


_WORKER = "from ase_knncalc.labelers import _serve; _serve()"


class _Worker:
    """A process that labels one structure after another, started anew when it has died.

    Not multiprocessing: its children import the user's script again, which a script without
    ``if __name__ == "__main__"`` does not survive; and a broken executor gives up all its work.
    """

    def __init__(self, payload: bytes, threads: int) -> None:
        self.payload = payload
        self.threads = threads
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def run(self, atoms: Atoms, time_limit: float | None) -> Label | str:
        timer: threading.Timer | None = None
        expired = threading.Event()
        try:
            process = self._ready()
            assert process.stdin is not None
            assert process.stdout is not None
            if time_limit is not None:

                def expire() -> None:
                    expired.set()
                    self._kill()

                timer = threading.Timer(time_limit, expire)
                timer.daemon = True
                timer.start()
            pickle.dump(atoms, process.stdin)
            process.stdin.flush()
            return cast("Label | str", pickle.load(process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError):
            if expired.is_set():
                return f"time limit of {time_limit:g} s passed; its process was ended"
            return self._post_mortem()
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
                if expired.is_set() and self._process is not None:
                    # A killed process closes its pipes before it is gone; the next structure must
                    # not be given to it.
                    self._process.wait()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
        with self._lock:
            if self.closed:
                raise EOFError
            self._log.seek(0)
            self._log.truncate()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # its own group: programs that it started die with it
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(self.payload, process.stdin)
        process.stdin.flush()
        error = pickle.load(process.stdout)
        if error:
            raise SettingsError(f"the labeler could not be loaded in a worker process: {error}")
        return process

    def _post_mortem(self) -> str:
        process = self._process
        code: int | None = None
        if process is not None:
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._kill()
                code = process.wait()
        self._log.seek(0)
        tail = self._log.read()[-400:].decode(errors="replace").strip()
        return f"the worker process ended with code {code}" + (f": {tail}" if tail else "")

    def _kill(self) -> None:
        with self._lock:
            process = self._process
        if process is None or process.poll() is not None:
            return
        if os.name == "posix":
            # Not waited for yet, so the group's number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self._kill()
        if self._process is not None:
            self._process.wait()


def _serve() -> None:
    """Main loop of a worker process: a labeler, then structures, until the input ends."""
    threading.Thread(target=_leave_with, args=(int(sys.argv[1]),), daemon=True).start()
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Programs print to the standard output; only results may go to the pipe.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        labeler = pickle.loads(pickle.load(sys.stdin.buffer))
        error = ""
    except Exception as e:
        error = f"{type(e).__name__}: {e}"
    pickle.dump(error, results)
    results.flush()
    while not error:
        try:
            atoms = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(_attempt(labeler, atoms), results)
        results.flush()


def _leave_with(parent: int) -> None:
    """End this process, and programs it started, soon after its parent was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.name == "posix":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
