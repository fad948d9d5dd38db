"""Gibbs energies of clusters in the gas phase: rigid rotor, harmonic or quasi-harmonic oscillator.

ASE's :class:`~ase.thermochemistry.IdealGasThermo` does the statistical mechanics. Here are the
wavenumbers (translations and rotations projected out of the Hessian, so that soft modes of clusters
cannot be mistaken for them), the kind of rotor, and the difference to the molecules apart.

References
----------
R. F. Ribeiro, A. V. Marenich, C. J. Cramer, D. G. Truhlar, J. Phys. Chem. B 115, 14556 (2011):
quasi-harmonic approximation by raising soft modes.

S. Grimme, Chem. Eur. J. 18, 9955 (2012): by an entropy between oscillator and free rotor.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.symbols import Symbols

from ase_knncalc._lib.arguments import Count, OneOf, Positive, checked, instance
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.charges import stated_copy
from ase_knncalc.errors import SettingsError, StructureError
from ase_knncalc.heads.vibrations import (
    TREATMENTS,
    Treatment,
    rotor_entropies_gained,
    treated,
)
from ase_knncalc.labels.curvatures import LINE, in_wavenumbers, vibrations
from ase_knncalc.sameness import symmetry_number
from ase_knncalc.structure import check_structure, resolve_charge, structure_label

# Modes that are more imaginary than this are no noise of finite differences, cm⁻¹.
_IMAGINARY = 30.0


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
    enthalpy_correction_std, entropy_std, gibbs_correction_std : float
        What beside the energy is uncertain where it was learned (eV, eV/K, eV); zero where it
        comes from wavenumbers, whose errors nobody knows.
    wavenumbers : ndarray, shape (n_modes,)
        Harmonic, cm⁻¹, ascending; imaginary ones are negative.
    temperature, pressure : float
        K and Pa.
    numbers : tuple of int
        Atomic numbers, ascending; empty where they are not known.
    charge : int
        Total charge.
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
    numbers: tuple[int, ...] = ()
    charge: int = 0
    enthalpy_correction_std: float = 0.0
    entropy_std: float = 0.0
    gibbs_correction_std: float = 0.0

    @property
    def gibbs_std(self) -> float:
        """Of the Gibbs energy, eV."""
        return math.hypot(self.energy_std, self.gibbs_correction_std)

    @property
    def enthalpy_std(self) -> float:
        """Of the enthalpy, eV."""
        return math.hypot(self.energy_std, self.enthalpy_correction_std)


@dataclass(frozen=True, eq=False)
class Minimum:
    """What statistical mechanics has to know of a structure; :meth:`at` does it.

    Attributes
    ----------
    atoms : Atoms
        Masses, positions and name count.
    energy : float
        Of the calculator, eV.
    energy_std : float
        eV; NaN where the calculator knows none.
    wavenumbers : ndarray, shape (n_modes,)
        Harmonic, cm⁻¹, ascending; imaginary ones are negative.
    symmetry : int
        Rotational symmetry number.
    charge, multiplicity : int
    """

    atoms: Atoms
    energy: float
    energy_std: float
    wavenumbers: FloatArray
    symmetry: int
    charge: int
    multiplicity: int

    @property
    def imaginary(self) -> FloatArray:
        """Imaginary modes that are no noise of finite differences, cm⁻¹, as negative numbers."""
        return self.wavenumbers[self.wavenumbers < -_IMAGINARY]

    def at(
        self,
        temperature: float = 298.15,
        pressure: float = 101325.0,
        *,
        treatment: Treatment = "truhlar",
        lowest: float | None = 100.0,
    ) -> Thermochemistry:
        """Thermal quantities; arguments and errors are those of :func:`gibbs_energy`."""
        for name, value in (("temperature", temperature), ("pressure", pressure)):
            checked(name, value, Positive)
        checked("lowest", lowest, Positive | None)
        checked("treatment", treatment, OneOf(TREATMENTS))
        from ase.thermochemistry import IdealGasThermo

        if len(self.imaginary):
            raise StructureError(
                f"{structure_label(self.atoms)} is no minimum: it has a mode of "
                f"{-self.wavenumbers[0]:.0f}i cm⁻¹; relax it further (fmax 0.005 eV/Å), from a "
                "slightly displaced structure"
            )
        modes = treated(self.wavenumbers, treatment, lowest)
        thermo = IdealGasThermo(
            vib_energies=modes * units.invcm,
            geometry=rotor(self.atoms),
            potentialenergy=self.energy,
            atoms=self.atoms,
            symmetrynumber=self.symmetry,
            spin=(self.multiplicity - 1) / 2,
        )
        enthalpy = float(thermo.get_enthalpy(temperature, verbose=False))
        entropy = float(thermo.get_entropy(temperature, pressure, verbose=False))
        if treatment == "grimme" and lowest is not None:
            gained = rotor_entropies_gained(modes, temperature, lowest)
            entropy += float(units.kB * np.sum(gained))
        return Thermochemistry(
            energy=self.energy,
            zero_point=float(modes.sum() * units.invcm / 2),
            enthalpy=enthalpy,
            gibbs=enthalpy - temperature * entropy,
            entropy=entropy,
            energy_std=self.energy_std,
            wavenumbers=self.wavenumbers,
            temperature=temperature,
            pressure=pressure,
            numbers=tuple(sorted(self.atoms.numbers.tolist())),
            charge=self.charge,
        )


def gibbs_energy(
    atoms: Atoms,
    *,
    temperature: float = 298.15,
    pressure: float = 101325.0,
    treatment: Treatment = "truhlar",
    lowest: float | None = 100.0,
    symmetry: int | None = 1,
    delta: float = 0.01,
    fmax: float | None = 0.05,
) -> Thermochemistry:
    """Gibbs energy of a relaxed structure, from finite differences of its calculator's forces.

    All atoms move in a vibration: constraints count neither there nor in the largest force.

    Parameters
    ----------
    atoms
        At a minimum, with a calculator that has forces.
    temperature, pressure
        K and Pa.
    treatment
        Of soft modes: ``"truhlar"`` raises those below ``lowest`` to it in all terms, ``"grimme"``
        gives modes around it, and below, the entropy of free rotors, ``"harmonic"`` leaves them.
    lowest
        In cm⁻¹; None is ``"harmonic"``.
    symmetry
        Rotational symmetry number: 2 for water, 3 for ammonia, 1 for most clusters. None counts
        (:func:`ase_knncalc.sameness.symmetry_number`).
    delta
        Displacement, Å; 6 n_atoms + 1 calculations are made.
    fmax
        Largest force on an atom (eV/Å) at which the structure still counts as relaxed, as ASE's
        optimizers measure it. None takes any structure, such as a minimum of another method;
        then mind that its wavenumbers and energy are not those of a minimum.

    Raises
    ------
    SettingsError
        If there is no calculator, it has no forces, or a number makes no sense.
    StructureError
        If the structure is not relaxed, or no minimum.
    """
    for name, value in (("temperature", temperature), ("pressure", pressure)):
        checked(name, value, Positive)
    checked("lowest", lowest, Positive | None)
    checked("treatment", treatment, OneOf(TREATMENTS))
    found = minimum_of(atoms, symmetry=symmetry, delta=delta, fmax=fmax)
    return found.at(temperature, pressure, treatment=treatment, lowest=lowest)


def minimum_of(
    atoms: Atoms,
    *,
    symmetry: int | None = None,
    delta: float = 0.01,
    fmax: float | None = 0.05,
) -> Minimum:
    """Energy and modes of a relaxed structure; arguments are those of :func:`gibbs_energy`.

    Raises
    ------
    SettingsError
        If there is no calculator, it has no forces, or a number makes no sense.
    StructureError
        If the structure is not relaxed.
    """
    checked("delta", delta, Positive)
    checked("symmetry", symmetry, Count | None)
    require_relaxed(atoms, fmax)
    charge, multiplicity = resolve_charge(atoms)
    energy = float(atoms.get_potential_energy())
    std = float(getattr(atoms.calc, "results", {}).get("energy_std", math.nan))
    return Minimum(
        atoms=stated_copy(atoms),
        energy=energy,
        energy_std=std,
        wavenumbers=wavenumbers(atoms, delta=delta),
        symmetry=symmetry_number(atoms) if symmetry is None else symmetry,
        charge=charge,
        multiplicity=multiplicity,
    )


def require_relaxed(atoms: Atoms, fmax: float | None) -> None:
    """Raise :class:`StructureError` if a force is larger than ``fmax`` (eV/Å); None is any."""
    checked("fmax", fmax, Positive | None)
    largest = float(np.linalg.norm(_forces(atoms), axis=1).max())
    if fmax is not None and largest > fmax:
        raise StructureError(
            f"{structure_label(atoms)} is not relaxed: the largest force on an atom is "
            f"{largest:.3g} eV/Å, and vibrations and Gibbs energies belong to minima (at most "
            f"{fmax:g} eV/Å). Relax it with this calculator (fmax=0.01 to 0.05 eV/Å, without "
            "constraints; knncalc relax); fmax=… allows for larger forces"
        )


def _forces(atoms: Atoms) -> FloatArray:
    """Forces of a structure's calculator, whatever is constrained."""
    check_structure(atoms)
    if atoms.calc is None:
        raise SettingsError("the structure has no calculator: set atoms.calc")
    try:
        return np.asarray(atoms.get_forces(apply_constraint=False))
    except PropertyNotImplementedError:
        raise SettingsError(
            f"the calculator {type(atoms.calc).__name__} has no forces, and vibrations need them; "
            "of the shipped models, saw-wb97xd-md was trained on forces"
        ) from None


def binding_gibbs_energy(
    cluster: Thermochemistry, molecules: Iterable[Thermochemistry]
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
        If temperatures or pressures differ, or atoms and charge of the molecules do not add up
        to those of the cluster.
    """
    molecules = list(instance("molecules", molecules, Iterable))
    for name, state in (("cluster", cluster), *(("each of molecules", m) for m in molecules)):
        instance(name, state, Thermochemistry)
    if len(molecules) < 2:
        raise SettingsError(
            f"a cluster binds at least two molecules, got {len(molecules)}: list each of them, "
            "repeated ones as often as they occur. Two conformers differ by a.gibbs − b.gibbs"
        )
    if cluster.numbers and all(m.numbers for m in molecules):
        parts = sum((Counter(m.numbers) for m in molecules), Counter())
        charge = sum(m.charge for m in molecules)
        if parts != Counter(cluster.numbers) or charge != cluster.charge:
            raise SettingsError(
                f"the molecules are {_formula(parts.elements())} with charge {charge:+d} together, "
                f"but the cluster is {_formula(cluster.numbers)} with charge {cluster.charge:+d}: "
                "list each molecule as often as it occurs"
            )
    states = {(t.temperature, t.pressure) for t in (cluster, *molecules)}
    if len(states) > 1:
        raise SettingsError(f"Gibbs energies of different (temperature, pressure): {states}")
    std = binding_std("gibbs_std", cluster, molecules)
    return cluster.gibbs - sum(m.gibbs for m in molecules), std


def binding_std(name: str, cluster: Thermochemistry, molecules: Iterable[Thermochemistry]) -> float:
    """Standard deviation of binding, of that attribute of a cluster and its molecules."""
    molecules = list(molecules)
    variance = getattr(cluster, name) ** 2
    for kind in {id(m): m for m in molecules}.values():
        variance += (sum(m is kind for m in molecules) * getattr(kind, name)) ** 2
    return math.sqrt(variance)


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

    _forces(atoms)
    copy = stated_copy(atoms)
    copy.calc = atoms.calc
    copy.set_constraint()
    with tempfile.TemporaryDirectory() as folder:
        differences = Vibrations(copy, name=f"{folder}/vib", delta=delta)
        differences.run()
        hessian = differences.get_vibrations().get_hessian_2d()
    squares = vibrations(copy.get_masses(), copy.positions, (hessian + hessian.T) / 2)[1]
    return in_wavenumbers(squares)


def rotor(atoms: Atoms) -> str:
    """``"monatomic"``, ``"linear"`` or ``"nonlinear"``, as ASE names them."""
    if len(atoms) == 1:
        return "monatomic"
    return "linear" if atoms.get_moments_of_inertia().min() < LINE else "nonlinear"


def _formula(numbers: Iterable[int]) -> str:
    return str(Symbols(sorted(numbers)).formula.format("hill"))
