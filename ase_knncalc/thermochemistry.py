"""Gibbs energies of clusters in the gas phase: rigid rotor, harmonic or quasi-harmonic oscillator.

ASE's :class:`~ase.thermochemistry.IdealGasThermo` does the statistical mechanics. Here are the
wavenumbers (translations and rotations projected out of the Hessian, so that soft modes of clusters
cannot be mistaken for them), the kind of rotor, and the difference to the molecules apart.

References
----------
R. F. Ribeiro, A. V. Marenich, C. J. Cramer, D. G. Truhlar, J. Phys. Chem. B 115, 14556 (2011):
quasi-harmonic approximation by raising soft modes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units

from ase_knncalc.errors import SettingsError, StructureError
from ase_knncalc.structure import resolve_charge, structure_label

FloatArray = np.ndarray

# Modes that are more imaginary than this are no noise of finite differences, cm⁻¹.
_IMAGINARY = 30.0
# Moments of inertia below this are those of a line, amu Å².
_LINE = 1e-3


@dataclass(frozen=True)
class Thermochemistry:
    """Thermal quantities of one structure at its minimum; energies in eV.

    Attributes
    ----------
    energy : float
        Without vibrations.
    zero_point, enthalpy, gibbs : float
        Zero-point energy; enthalpy and Gibbs energy, the energy included.
    entropy : float
        eV/K.
    energy_std : float
        Of the energy, where the calculator knows it, else NaN. Errors of wavenumbers are not in it.
    wavenumbers : ndarray, shape (n_modes,)
        Harmonic, cm⁻¹, ascending; imaginary ones are negative.
    temperature, pressure : float
        K and Pa.
    """

    energy: float
    zero_point: float
    enthalpy: float
    gibbs: float
    entropy: float
    energy_std: float
    wavenumbers: FloatArray
    temperature: float
    pressure: float


def gibbs_energy(
    atoms: Atoms,
    *,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    lowest: float | None = 100.0,
    symmetry: int = 1,
    delta: float = 0.01,
) -> Thermochemistry:
    """Gibbs energy of a relaxed structure, from finite differences of its calculator's forces.

    Parameters
    ----------
    atoms
        At a minimum, with a calculator that has forces.
    temperature, pressure
        K and Pa.
    lowest
        Softer modes count as this many cm⁻¹ in all terms (quasi-harmonic approximation); None
        leaves them as they are.
    symmetry
        Rotational symmetry number: 2 for water, 3 for ammonia, 1 for most clusters.
    delta
        Displacement, Å; 6 n_atoms + 1 calculations are made.

    Raises
    ------
    SettingsError
        If there is no calculator or a number makes no sense.
    StructureError
        If the structure is no minimum.
    """
    if atoms.calc is None:
        raise SettingsError("the structure has no calculator: set atoms.calc")
    for name, value in (("temperature", temperature), ("pressure", pressure), ("delta", delta)):
        if not (math.isfinite(value) and value > 0):
            raise SettingsError(f"{name} must be positive, got {value!r}")
    if symmetry < 1 or (lowest is not None and not lowest > 0):
        raise SettingsError("symmetry must be at least 1, lowest a positive wavenumber or None")
    from ase.thermochemistry import IdealGasThermo

    label = structure_label(atoms)
    energy = float(atoms.get_potential_energy())
    std = float(getattr(atoms.calc, "results", {}).get("energy_std", math.nan))
    modes = wavenumbers(atoms, delta=delta)
    if len(modes) and modes[0] < -_IMAGINARY:
        raise StructureError(
            f"{label} is no minimum: it has a mode of {-modes[0]:.0f}i cm⁻¹; relax it further "
            "(fmax 0.005 eV/Å), from a slightly displaced structure"
        )
    # Noise around zero is a soft mode.
    used = np.maximum(modes, lowest) if lowest is not None else np.abs(modes)
    thermo = IdealGasThermo(
        vib_energies=used * units.invcm,
        geometry=rotor(atoms),
        potentialenergy=energy,
        atoms=atoms,
        symmetrynumber=symmetry,
        spin=(resolve_charge(atoms)[1] - 1) / 2,
    )
    return Thermochemistry(
        energy=energy,
        zero_point=float(used.sum() * units.invcm / 2),
        enthalpy=float(thermo.get_enthalpy(temperature, verbose=False)),
        gibbs=float(thermo.get_gibbs_energy(temperature, pressure, verbose=False)),
        entropy=float(thermo.get_entropy(temperature, pressure, verbose=False)),
        energy_std=std,
        wavenumbers=modes,
        temperature=temperature,
        pressure=pressure,
    )


def binding_gibbs_energy(
    cluster: Thermochemistry, molecules: Sequence[Thermochemistry]
) -> tuple[float, float]:
    """Gibbs energy of binding and its standard deviation, eV.

    Parameters
    ----------
    cluster
        At the same temperature and pressure as the molecules.
    molecules
        One entry for each molecule in the cluster, repeated ones included.

    Returns
    -------
    gibbs, std : float
        The std takes errors of one kind of molecule as the same each time, those of different
        structures as independent.

    Raises
    ------
    SettingsError
        If temperatures or pressures differ.
    """
    states = {(t.temperature, t.pressure) for t in (cluster, *molecules)}
    if len(states) > 1:
        raise SettingsError(f"Gibbs energies of different (temperature, pressure): {states}")
    variance = cluster.energy_std**2
    for kind in {id(m): m for m in molecules}.values():
        variance += (sum(m is kind for m in molecules) * kind.energy_std) ** 2
    return cluster.gibbs - sum(m.gibbs for m in molecules), math.sqrt(variance)


def wavenumbers(atoms: Atoms, delta: float = 0.01) -> FloatArray:
    """Harmonic wavenumbers in cm⁻¹, ascending, translations and rotations projected out.

    Parameters
    ----------
    atoms
        With a calculator that has forces; it is not changed.
    delta
        Displacement of the finite differences, Å.

    Returns
    -------
    ndarray, shape (3 n_atoms − 6,), (3 n_atoms − 5,) for a line, (0,) for an atom
        Imaginary ones are negative.
    """
    from ase.vibrations import Vibrations

    copy = atoms.copy()
    copy.calc = atoms.calc
    copy.set_constraint()
    with tempfile.TemporaryDirectory() as folder:
        vibrations = Vibrations(copy, name=f"{folder}/vib", delta=delta)
        vibrations.run()
        hessian = vibrations.get_vibrations().get_hessian_2d()
    roots = np.sqrt(np.repeat(copy.get_masses(), 3))
    outer = _free_motions(copy)
    basis = np.linalg.qr(outer, mode="complete")[0][:, outer.shape[1] :]
    inner = basis.T @ (hessian / np.outer(roots, roots)) @ basis
    eigenvalues = np.linalg.eigvalsh((inner + inner.T) / 2)
    # ħ √(eV Å⁻² amu⁻¹) in eV.
    unit = units._hbar * units.m / math.sqrt(units._e * units._amu)
    return np.asarray(np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues)) * unit / units.invcm)


def rotor(atoms: Atoms) -> str:
    """``"monatomic"``, ``"linear"`` or ``"nonlinear"``, as ASE names them."""
    if len(atoms) == 1:
        return "monatomic"
    return "linear" if atoms.get_moments_of_inertia().min() < _LINE else "nonlinear"


def _free_motions(atoms: Atoms) -> FloatArray:
    """Mass-weighted translations and rotations, orthonormal columns, (3 n_atoms, 3, 5 or 6)."""
    roots = np.sqrt(atoms.get_masses())
    arms = atoms.positions - atoms.get_center_of_mass()
    motions = [np.outer(roots, axis).ravel() for axis in np.eye(3)]
    motions += [(roots[:, None] * np.cross(axis, arms)).ravel() for axis in np.eye(3)]
    vectors, sizes, _ = np.linalg.svd(np.array(motions).T, full_matrices=False)
    n = {"monatomic": 3, "linear": 5, "nonlinear": 6}[rotor(atoms)]
    assert sizes[n - 1] > 0
    return np.asarray(vectors[:, :n])
