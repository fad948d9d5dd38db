"""GFN1-xTB and GFN2-xTB of the libraries ``tblite`` and ``xtb``."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge, Le
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree, kB

from ase_knncalc._lib.arguments import Settings
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.threads import alone_on_one_thread
from ase_knncalc.baselines.base import SinglePoint, require_finite
from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.structure import Label, check_electrons, check_structure

METHODS = ("GFN1-xTB", "GFN2-xTB")
# First the one that wins where both are installed: as fast as the other and with the same energies
# (1e-7 eV per atom), but its forces are right in every orientation and its errors are reported.
LIBRARIES = ("tblite", "xtb")

_MAX_Z = 86  # radon


class _Numbers(NamedTuple):
    """What the libraries give, in atomic units: (n_atoms, 3), (n_atoms,) and (3,) after energy."""

    energy: float
    gradient: FloatArray
    charges: FloatArray
    dipole: FloatArray | None


@dataclass(frozen=True)
class _XTBFamily(Settings):
    """What GFN1-xTB and GFN2-xTB have in common in both libraries.

    Parameters
    ----------
    method : {"GFN1-xTB", "GFN2-xTB"}
        Grimme, Bannwarth, Shushkov, J. Chem. Theory Comput. 2017, 13, 1989; or
        Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 2019, 15, 1652.
    accuracy : float, default 1.0
        Factor on all thresholds of the self-consistent cycle, from 1e-4 to 1000. At 1.0 forces
        are within 2e-4 eV/Å of converged ones, at 0.1 within 2e-5 eV/Å for 10 to 30 % more time.
    max_iterations : int, default 250
        Cycles until the calculation counts as not converged.
    electronic_temperature : float, default 300.0
        Of the Fermi smearing, in K.

    Raises
    ------
    SettingsError
        If a setting has no meaning.
    BaselineError
        If the library is not installed.
    """

    method: str = "GFN1-xTB"
    accuracy: Annotated[float, Ge(1e-4), Le(1e3)] = 1.0
    max_iterations: Annotated[int, Ge(1), Le(1_000_000)] = 250
    electronic_temperature: Annotated[float, Ge(1e-3), Le(1e6)] = 300.0
    library: ClassVar[str]
    is_none: ClassVar[bool] = False
    is_given: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = True
    properties: ClassVar[tuple[str, ...]] = ("charges", "dipole")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "method", self._canonical())
        _require_installed(self.library)

    def _canonical(self) -> str:
        canonical = canonical_method(self.method)
        if canonical is None:
            raise SettingsError(
                f"unknown xTB method {self.method!r}; expected one of {', '.join(METHODS)}"
            )
        return canonical

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Energy in eV.

        Raises
        ------
        BaselineError
            If the method does not cover the structure, or the calculation fails.
        StructureError
            If no method could compute it; ChargeError if charge and multiplicity do not fit.
        """
        return self._run(atoms, charge, multiplicity, dipole=False).energy

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Energy in eV and forces of shape (n_atoms, 3) in eV/Å; errors as for :meth:`energy`."""
        point = self._with_forces(atoms, charge, multiplicity, dipole=False)
        assert point.forces is not None
        return point.energy, point.forces

    def single_point(
        self, atoms: Atoms, charge: int, multiplicity: int, wanted: Collection[str] = ()
    ) -> SinglePoint:
        """All that one calculation gives, whatever is wanted; errors as for :meth:`energy`."""
        return self._with_forces(atoms, charge, multiplicity, dipole=True)

    def _with_forces(
        self, atoms: Atoms, charge: int, multiplicity: int, *, dipole: bool
    ) -> SinglePoint:
        point = self._run(atoms, charge, multiplicity, dipole=dipole)
        require_finite(point.forces, "forces", self, Label(atoms))
        return point

    def spec(self) -> dict[str, str]:
        """Method, library, its version, and the settings, all as strings."""
        return {
            "method": self.method,
            "library": self.library,
            "version": importlib.metadata.version(self.library),
            "accuracy": repr(self.accuracy),
            "max_iterations": str(self.max_iterations),
            "electronic_temperature": repr(self.electronic_temperature),
        }

    def _run(self, atoms: Atoms, charge: int, multiplicity: int, *, dipole: bool) -> SinglePoint:
        check_structure(atoms)
        check_electrons(atoms, charge, multiplicity)
        label = Label(atoms)
        self._check_covered(atoms, charge, multiplicity, label)
        with alone_on_one_thread(f"{self.library}.interface"):
            try:
                found = self._single_point(
                    atoms.numbers, atoms.positions / Bohr, charge, multiplicity - 1, dipole
                )
            except BaselineError:
                raise
            except Exception as error:
                reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
                hint = "check the geometry, the charge and the multiplicity"
                if "converge" in reason:
                    more = max(1000, 4 * self.max_iterations)
                    hint += (
                        f", or allow for more than {self.max_iterations} cycles: baseline="
                        f"'{self.library}:{self.method},max_iterations={more}' (--baseline, "
                        "--engine); electronic_temperature (now "
                        f"{self.electronic_temperature:g} K) is set in the same way, but makes it "
                        "another baseline, which a model has to be trained with"
                    )
                raise BaselineError(
                    f"{self.method} ({self.library}) failed for {label} with charge {charge:+d}, "
                    f"multiplicity {multiplicity}: {reason}; {hint}"
                ) from error
        require_finite(found.energy, "energy", self, label)
        forces = found.gradient * (-Hartree / Bohr)
        moment = None if found.dipole is None else found.dipole * Bohr
        return SinglePoint(found.energy * Hartree, forces, found.charges, moment)

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int, dipole: bool
    ) -> _Numbers:
        """One calculation in atomic units; positions in Bohr. A dipole where it is wanted."""
        raise NotImplementedError

    def _check_covered(self, atoms: Atoms, charge: int, multiplicity: int, label: object) -> None:
        """Refuse what the Fortran code would crash on, or answer with a number without meaning.

        Seen with xtb 6.5.1: a segmentation fault for elements beyond radon, an abort for more
        unpaired electrons than orbitals, and an energy of another state for the wrong parity.
        """
        valence, orbitals = self._shells(atoms.numbers, label)
        n_valence = valence - charge
        unpaired = multiplicity - 1
        state = f"charge {charge:+d} and multiplicity {multiplicity}"
        if n_valence < 0 or unpaired > n_valence:
            raise BaselineError(
                f"{label}: {self.method} has {max(n_valence, 0)} valence electrons for {state}, "
                "too few; its core electrons cannot be removed or unpaired"
            )
        if (n_valence + unpaired) % 2:
            raise BaselineError(
                f"{label}: {self.method} keeps the 4f electrons of lanthanides in the core, so "
                f"its {n_valence} valence electrons cannot have {state}; this state is not covered"
            )
        if (n_valence + unpaired) // 2 > orbitals:
            raise BaselineError(
                f"{label}: {state} needs more orbitals than the minimal basis of {self.method} "
                "has; check charge and multiplicity"
            )

    def _shells(self, numbers: np.ndarray, label: object) -> tuple[int, int]:
        """Valence electrons of neutral atoms, and orbitals; BaselineError for other elements."""
        beyond = sorted({chemical_symbols[z] for z in numbers[numbers > _MAX_Z]})
        if beyond:
            raise BaselineError(
                f"{label}: {self.method} has no parameters for {', '.join(beyond)}; it covers "
                "H to Rn"
            )
        return int(_VALENCE[numbers].sum()), int(_ORBITALS[numbers].sum())


@dataclass(frozen=True)
class TBLiteBaseline(_XTBFamily):
    """GFN1-xTB or GFN2-xTB of the ``tblite`` library.

    Parameters: ``method``, ``accuracy``, ``max_iterations``, ``electronic_temperature``; their
    meaning, units, defaults and errors are the same for both libraries, see :class:`_XTBFamily`.
    """

    library: ClassVar[str] = "tblite"

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int, dipole: bool
    ) -> _Numbers:
        return _numbers(self._calculator(numbers, positions, charge, uhf).singlepoint(), dipole)

    def _calculator(self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int) -> Any:
        from tblite.interface import Calculator

        method = self._parameters(numbers)
        calculator = Calculator(method, numbers, positions, charge=float(charge), uhf=uhf)
        calculator.set("verbosity", 0)
        calculator.set("accuracy", self.accuracy)
        calculator.set("max-iter", self.max_iterations)
        calculator.set("temperature", self.electronic_temperature * kB / Hartree)
        return calculator

    def _parameters(self, numbers: np.ndarray) -> str | dict[str, Any]:
        """What tblite is told to compute these atoms with: a name, or a table of parameters."""
        return self.method

    def following(self) -> FollowingTBLite:
        """The same method for who follows a trajectory."""
        return FollowingTBLite(**{f.name: getattr(self, f.name) for f in fields(self)})


def _numbers(result: Any, dipole: bool) -> _Numbers:
    return _Numbers(
        float(result.get("energy")),
        np.array(result.get("gradient"), dtype=float),
        np.array(result.get("charges"), dtype=float),
        np.array(result.get("dipole"), dtype=float) if dipole else None,
    )


# Å. Structures that differ by more have little of a density in common.
_NEAR = 0.3


@dataclass(frozen=True)
class FollowingTBLite(TBLiteBaseline):
    """A :class:`TBLiteBaseline` that starts each SCF from the density of the step before.

    It does so where that was of the same atoms, charge and multiplicity and no atom has moved by
    more than 0.3 Å; energies then depend on the path, within the threshold of the SCF. Copies and
    other processes start anew.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_last", None)

    def single_point(
        self, atoms: Atoms, charge: int, multiplicity: int, wanted: Collection[str] = ()
    ) -> SinglePoint:
        """One step, with a dipole where it is wanted: reading it takes time."""
        return self._with_forces(atoms, charge, multiplicity, dipole="dipole" in wanted)

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"_last": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int, dipole: bool
    ) -> _Numbers:
        last = self.__dict__["_last"]
        # What fails must not be started from.
        object.__setattr__(self, "_last", None)
        calculator, result = None, None
        if last is not None:
            state, before, calculator, result = last
            moved = state == (charge, uhf, numbers.tobytes())
            moved = moved and np.abs(positions - before).max() * Bohr < _NEAR
            if moved:
                calculator.update(positions)
            else:
                calculator, result = None, None
        if calculator is None:
            calculator = self._calculator(numbers, positions, charge, uhf)
        result = calculator.singlepoint(result)
        state = charge, uhf, numbers.tobytes()
        object.__setattr__(self, "_last", (state, positions.copy(), calculator, result))
        return _numbers(result, dipole)


@dataclass(frozen=True)
class XTBBaseline(_XTBFamily):
    """GFN1-xTB or GFN2-xTB of the ``xtb`` package (xtb-python); parameters as TBLiteBaseline.

    Molecules are computed in a fixed, oblique orientation and the forces turned back, because
    xtb 6.5.1 returns wrong forces (by up to 1 eV/Å) for some structures with atom pairs exactly
    along a Cartesian axis, such as ASE's methanol: https://github.com/grimme-lab/dxtb/issues/258.
    """

    library: ClassVar[str] = "xtb"

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int, dipole: bool
    ) -> _Numbers:
        from xtb.interface import Calculator, Param

        _refuse_parameter_files(self.method)
        param = {"GFN1-xTB": Param.GFN1xTB, "GFN2-xTB": Param.GFN2xTB}[self.method]
        turned = positions @ _OBLIQUE.T
        calculator = Calculator(param, numbers, turned, charge=float(charge), uhf=uhf)
        calculator.set_verbosity("muted")
        calculator.set_accuracy(self.accuracy)
        calculator.set_max_iterations(self.max_iterations)
        calculator.set_electronic_temperature(self.electronic_temperature)
        result = calculator.singlepoint()
        return _Numbers(
            float(result.get_energy()),
            result.get_gradient() @ _OBLIQUE,
            np.array(result.get_charges()),
            result.get_dipole() @ _OBLIQUE,
        )


def canonical_method(name: Any) -> str | None:
    """``"GFN1-xTB"`` or ``"GFN2-xTB"``, however it is written; None for anything else."""
    if not isinstance(name, str):
        return None
    short = re.sub(r"[-_ ]", "", name.lower())
    return {"gfn1": METHODS[0], "gfn2": METHODS[1]}.get(short.removesuffix("xtb"))


def installed_libraries() -> list[str]:
    """Libraries that can be imported, the preferred one first."""
    return [library for library in LIBRARIES if _import_error(library) is None]


def _import_error(library: str) -> ImportError | None:
    try:
        importlib.import_module(f"{library}.interface")
    except ImportError as error:
        return error
    return None


def _require_installed(library: str) -> None:
    error = _import_error(library)
    if error is not None:
        instead = "".join(
            f", or use {name!r}, which is installed" for name in installed_libraries()[:1]
        )
        raise BaselineError(
            f"the baseline library {library} cannot be imported ({error}); "
            f"run `pip install {library}`{instead}"
        ) from error


def _rotation(vector: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix (3, 3) about ``vector`` by its length in radian (Rodrigues)."""
    angle = math.sqrt(sum(v * v for v in vector))
    x, y, z = (v / angle for v in vector)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    square: np.ndarray = cross @ cross
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * square


# No small rational relation between its elements, so that no bond of a built structure ends up
# along an axis.
_OBLIQUE = _rotation((0.3, -0.7, 0.45))


def _refuse_parameter_files(method: str) -> None:
    """Raise if xtb would replace its parameters by those of a file it happens to find.

    It looks into the working directory and into these variables' folders at each calculation.
    """
    name = f"param_{method.lower()}.txt"
    folders = ["."]
    for variable in ("XTBPATH", "XTBHOME", "HOME"):
        folders += os.environ.get(variable, "").split(os.pathsep)
    for folder in folders:
        path = os.path.join(folder, name)
        if folder and os.path.isfile(path):
            raise BaselineError(
                f"xtb would take its {method} parameters from the file {path}; expected the "
                "built-in ones: move the file, unset XTBPATH, or use the baseline library tblite"
            )


# Valence electrons by atomic number, as GFN1-xTB and GFN2-xTB count them: the filled d shells of
# zinc's group and after, and 4f shells, are core.
_D_ROW = (*range(1, 12), *range(2, 9))
_VALENCE = np.array(
    [0, 1, 2, *range(1, 9), *range(1, 9), *_D_ROW, *_D_ROW, 1, 2, *[3] * 15, *_D_ROW[3:]]
)
# Orbitals that both methods have at least: s; s and p; s, p and d for transition metals.
_ORBITALS = np.full(_VALENCE.size, 4)
_ORBITALS[:3] = 1
for _first, _last in ((21, 29), (39, 47), (57, 79)):
    _ORBITALS[_first : _last + 1] = 9
