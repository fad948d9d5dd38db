"""Baseline methods: the cheap energy that the model corrects.

Everything that can serve as ``E_base`` follows one protocol, :class:`Baseline`: GFN1-xTB or
GFN2-xTB from either of two libraries, any ASE calculator, or nothing. Charge and multiplicity are
always passed explicitly; :func:`ase_knncalc.structure.resolve_charge` finds them.

**Deterministic to the bit.** Each call builds fresh objects (a restart from earlier orbitals
changes the last digits) and runs on one thread (parallel sums depend on the order in which threads
finish), whatever ``OMP_NUM_THREADS`` says. Clusters of this size gain nothing from more; use
processes, one structure each.

**Threads.** The xTB baselines may be called from several threads: calls wait for each other,
since the thread limit, and state inside the Fortran libraries, belong to the process.
:class:`ASEBaseline` is as safe as its calculator, usually not at all.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from ase import Atoms
from ase import __version__ as ase_version
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree, kB

from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.structure import check_electrons, check_structure, structure_label

METHODS = ("GFN1-xTB", "GFN2-xTB")
# First the one that wins where both are installed: as fast as the other and with the same energies
# (1e-7 eV per atom), but its forces are right in every orientation and its errors are reported.
LIBRARIES = ("tblite", "xtb")

ChargeVia = Literal["auto", "initial_charges", "ignore"]

_LOCK = threading.RLock()
_MAX_Z = 86  # radon


@runtime_checkable
class Baseline(Protocol):
    """What the model needs of a baseline method."""

    @property
    def method(self) -> str:
        """``"GFN1-xTB"``, ``"GFN2-xTB"``, ``"none"``, or the class name of an ASE calculator."""

    @property
    def library(self) -> str:
        """``"tblite"``, ``"xtb"``, ``"ase"`` or ``"none"``."""

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Energy in eV at a total charge in e and a multiplicity 2S + 1; raises BaselineError."""

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Energy in eV and forces of shape (n_atoms, 3) in eV/Å; BaselineError likewise."""

    def spec(self) -> dict[str, str]:
        """Description in plain strings: method, library, version, and all settings.

        :func:`make_baseline` turns it back into a baseline, unless it is an ASE calculator.
        """


@dataclass(frozen=True)
class NoBaseline:
    """No baseline: the model learns the reference energy itself. Energy 0 eV, forces 0 eV/Å."""

    method: ClassVar[str] = "none"
    library: ClassVar[str] = "none"

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Zero."""
        return 0.0

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Zero, and zeros of shape (n_atoms, 3)."""
        return 0.0, np.zeros((len(atoms), 3))

    def spec(self) -> dict[str, str]:
        """Method and library, both ``"none"``."""
        return {"method": self.method, "library": self.library}


@dataclass(frozen=True)
class _XTBFamily:
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
    accuracy: float = 1.0
    max_iterations: int = 250
    electronic_temperature: float = 300.0
    library: ClassVar[str]

    def __post_init__(self) -> None:
        canonical = _canonical_method(self.method)
        if canonical is None:
            raise SettingsError(
                f"unknown xTB method {self.method!r}; expected one of {', '.join(METHODS)}"
            )
        object.__setattr__(self, "method", canonical)
        for name, low, high in (
            ("accuracy", 1e-4, 1e3),
            ("electronic_temperature", 1e-3, 1e6),
            ("max_iterations", 1, 1e6),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not (number and low <= value <= high):  # False for NaN, too
                raise SettingsError(
                    f"{name} must be a number from {low:g} to {high:g}, got {value!r}"
                )
        if int(self.max_iterations) != self.max_iterations:
            raise SettingsError(f"max_iterations must be an integer, got {self.max_iterations!r}")
        _require_installed(self.library)

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Energy in eV.

        Raises
        ------
        BaselineError
            If the method does not cover the structure, or the calculation fails.
        StructureError
            If no method could compute it; ChargeError if charge and multiplicity do not fit.
        """
        return self._run(atoms, charge, multiplicity)[0]

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Energy in eV and forces of shape (n_atoms, 3) in eV/Å; errors as for :meth:`energy`."""
        energy, forces = self._run(atoms, charge, multiplicity)
        _require_finite(forces, "forces", self, structure_label(atoms))
        return energy, forces

    def spec(self) -> dict[str, str]:
        """Method, library, its version, and the settings, all as strings."""
        return {
            "method": self.method,
            "library": self.library,
            "version": importlib.metadata.version(self.library),
            "accuracy": repr(float(self.accuracy)),
            "max_iterations": str(int(self.max_iterations)),
            "electronic_temperature": repr(float(self.electronic_temperature)),
        }

    def _run(self, atoms: Atoms, charge: int, multiplicity: int) -> tuple[float, np.ndarray]:
        check_structure(atoms)
        check_electrons(atoms, charge, multiplicity)
        label = structure_label(atoms)
        self._check_covered(atoms, charge, multiplicity, label)
        with _one_thread(self.library):
            try:
                energy, gradient = self._single_point(
                    atoms.numbers, atoms.positions / Bohr, charge, multiplicity - 1
                )
            except BaselineError:
                raise
            except Exception as error:
                reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
                hint = "check the geometry, the charge and the multiplicity"
                if "converge" in reason:
                    hint += (
                        f", or raise max_iterations (now {self.max_iterations}) or "
                        f"electronic_temperature (now {self.electronic_temperature:g} K)"
                    )
                raise BaselineError(
                    f"{self.method} ({self.library}) failed for {label} with charge {charge:+d}, "
                    f"multiplicity {multiplicity}: {reason}; {hint}"
                ) from error
        _require_finite(energy, "energy", self, label)
        return energy * Hartree, gradient * (-Hartree / Bohr)

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int
    ) -> tuple[float, np.ndarray]:
        """Energy in Hartree and gradient (n_atoms, 3) in Hartree/Bohr; positions in Bohr."""
        raise NotImplementedError

    def _check_covered(self, atoms: Atoms, charge: int, multiplicity: int, label: str) -> None:
        """Refuse what the Fortran code would crash on, or answer with a number without meaning.

        Seen with xtb 6.5.1: a segmentation fault for elements beyond radon, an abort for more
        unpaired electrons than orbitals, and an energy of another state for the wrong parity.
        """
        numbers = atoms.numbers
        beyond = sorted({chemical_symbols[z] for z in numbers[numbers > _MAX_Z]})
        if beyond:
            raise BaselineError(
                f"{label}: {self.method} has no parameters for {', '.join(beyond)}; it covers "
                "H to Rn"
            )
        n_valence = int(_VALENCE[numbers].sum()) - charge
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
        if (n_valence + unpaired) // 2 > int(_ORBITALS[numbers].sum()):
            raise BaselineError(
                f"{label}: {state} needs more orbitals than the minimal basis of {self.method} "
                "has; check charge and multiplicity"
            )


@dataclass(frozen=True)
class TBLiteBaseline(_XTBFamily):
    """GFN1-xTB or GFN2-xTB of the ``tblite`` library.

    Parameters: ``method``, ``accuracy``, ``max_iterations``, ``electronic_temperature``; their
    meaning, units, defaults and errors are the same for both libraries, see :class:`_XTBFamily`.
    """

    library: ClassVar[str] = "tblite"

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int
    ) -> tuple[float, np.ndarray]:
        from tblite.interface import Calculator

        calculator = Calculator(self.method, numbers, positions, charge=float(charge), uhf=uhf)
        calculator.set("verbosity", 0)
        calculator.set("accuracy", float(self.accuracy))
        calculator.set("max-iter", int(self.max_iterations))
        calculator.set("temperature", float(self.electronic_temperature) * kB / Hartree)
        result = calculator.singlepoint()
        return float(result.get("energy")), np.array(result.get("gradient"), dtype=float)


@dataclass(frozen=True)
class XTBBaseline(_XTBFamily):
    """GFN1-xTB or GFN2-xTB of the ``xtb`` package (xtb-python); parameters as TBLiteBaseline.

    Molecules are computed in a fixed, oblique orientation and the forces turned back, because
    xtb 6.5.1 returns wrong forces (by up to 1 eV/Å) for some structures with atom pairs exactly
    along a Cartesian axis, such as ASE's methanol: https://github.com/grimme-lab/dxtb/issues/258.
    """

    library: ClassVar[str] = "xtb"

    def _single_point(
        self, numbers: np.ndarray, positions: np.ndarray, charge: int, uhf: int
    ) -> tuple[float, np.ndarray]:
        from xtb.interface import Calculator, Param

        _refuse_parameter_files(self.method)
        param = {"GFN1-xTB": Param.GFN1xTB, "GFN2-xTB": Param.GFN2xTB}[self.method]
        turned = positions @ _OBLIQUE.T
        calculator = Calculator(param, numbers, turned, charge=float(charge), uhf=uhf)
        calculator.set_verbosity("muted")
        calculator.set_accuracy(float(self.accuracy))
        calculator.set_max_iterations(int(self.max_iterations))
        calculator.set_electronic_temperature(float(self.electronic_temperature))
        result = calculator.singlepoint()
        return float(result.get_energy()), result.get_gradient() @ _OBLIQUE


class ASEBaseline:
    """Any ASE calculator as baseline.

    The calculator sees a copy of the atoms and is reset before each call, so that what it kept
    from earlier structures does not enter. For the same reason the option ``cache_api`` of the
    ASE calculators of tblite and xtb is switched off. The calculator belongs to the baseline from
    then on: do not use it elsewhere at the same time.

    Parameters
    ----------
    calculator : ase.calculators.calculator.BaseCalculator
        It has to give energies in eV and, where forces are wanted, forces in eV/Å.
    charge_via : {"auto", "initial_charges", "ignore"}, default "auto"
        How the calculator learns of charge and multiplicity:

        - ``"auto"``: by its parameter ``charge`` (and ``multiplicity`` or ``mult``), if it has
          one. Otherwise structures have to be neutral: most calculators ignore a charge
          silently, and the energy of an ion would be that of something else.
        - ``"initial_charges"``: by initial charges and magnetic moments with the right sums, for
          calculators that read them (``xtb.ase.calculator.XTB``, for example).
        - ``"ignore"``: not at all, for force fields and machine-learned potentials to which an
          ion is just another arrangement of atoms.

    Raises
    ------
    SettingsError
        If ``calculator`` is not an ASE calculator, or ``charge_via`` not one of the above.
    """

    library = "ase"

    def __init__(self, calculator: Any, charge_via: ChargeVia = "auto") -> None:
        if isinstance(calculator, type) or not hasattr(calculator, "get_potential_energy"):
            raise SettingsError(
                f"expected an ASE calculator object, got {calculator!r}; "
                "create one first, such as `EMT()`"
            )
        if charge_via not in get_args(ChargeVia):
            raise SettingsError(
                f"charge_via must be one of {', '.join(get_args(ChargeVia))}; got {charge_via!r}"
            )
        self.calculator = calculator
        self.charge_via = charge_via
        if "cache_api" in self._parameters():
            calculator.set(cache_api=False)

    @property
    def method(self) -> str:
        """Class name of the calculator."""
        return type(self.calculator).__name__

    def energy(self, atoms: Atoms, charge: int, multiplicity: int) -> float:
        """Energy in eV of a copy of the atoms.

        Raises BaselineError if the calculator fails, gives NaN, or cannot be told of the charge.
        """
        with self._prepared(atoms, charge, multiplicity) as copy:
            energy = float(copy.get_potential_energy())
        _require_finite(energy, "energy", self, structure_label(atoms))
        return energy

    def energy_and_forces(
        self, atoms: Atoms, charge: int, multiplicity: int
    ) -> tuple[float, np.ndarray]:
        """Energy in eV and forces of shape (n_atoms, 3) in eV/Å; errors as for :meth:`energy`."""
        with self._prepared(atoms, charge, multiplicity) as copy:
            # Forces first: many programs then give both in one run.
            forces = np.array(copy.get_forces(apply_constraint=False), dtype=float)
            energy = float(copy.get_potential_energy())
        label = structure_label(atoms)
        if forces.shape != (len(atoms), 3):
            raise BaselineError(
                f"{self.method} (ase) returned forces of shape {forces.shape} for {label}; "
                f"expected {(len(atoms), 3)}"
            )
        _require_finite(energy, "energy", self, label)
        _require_finite(forces, "forces", self, label)
        return energy, forces

    def spec(self) -> dict[str, str]:
        """Method, library, version of ASE, and the calculator's parameters as JSON."""
        settings = {
            key: value
            for key, value in self._parameters().items()
            if key not in ("charge", "multiplicity", "mult")  # of a structure, not of the method
        }
        return {
            "method": self.method,
            "library": self.library,
            "version": ase_version,
            "charge_via": self.charge_via,
            # Objects are named by their type: their repr may hold an address, new in each run.
            "parameters": json.dumps(settings, sort_keys=True, default=_plain),
        }

    def _parameters(self) -> dict[str, Any]:
        defaults = getattr(self.calculator, "default_parameters", None) or {}
        return {**defaults, **(getattr(self.calculator, "parameters", None) or {})}

    @contextmanager
    def _prepared(self, atoms: Atoms, charge: int, multiplicity: int) -> Iterator[Atoms]:
        """A copy of the atoms with the calculator, ready for this charge; errors translated."""
        label = structure_label(atoms)
        where = f"{self.method} (ase) failed for {label} with charge {charge:+d}"
        parameters = self._parameters()
        if self.charge_via == "auto" and charge != 0 and "charge" not in parameters:
            raise BaselineError(
                f"{label} has charge {charge:+d}, but the calculator {self.method} has no "
                "parameter 'charge'; wrap it as ASEBaseline(calculator, "
                "charge_via='initial_charges') if it reads initial charges, or 'ignore' if its "
                "energies of ions are right without"
            )
        try:
            copy = atoms.copy()
            if self.charge_via == "auto" and "charge" in parameters:
                state = {"charge": charge}
                for key in ("multiplicity", "mult"):
                    if key in parameters:
                        state[key] = multiplicity
                setter: Callable[..., Any] = getattr(
                    self.calculator, "set", self.calculator.parameters.update
                )
                setter(**state)
            elif self.charge_via == "initial_charges":
                _spread(copy, charge, multiplicity)
            if hasattr(self.calculator, "reset"):
                self.calculator.reset()
            copy.calc = self.calculator
            yield copy
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise BaselineError(f"{where}, multiplicity {multiplicity}: {text}") from error


def make_baseline(spec: Any = "auto", method: str = "GFN1-xTB") -> Baseline:
    """Create a baseline from whatever describes it.

    Parameters
    ----------
    spec : str, dict, None, Baseline or ASE calculator, default "auto"
        - ``"auto"``: ``method`` of the first installed library, tblite before xtb. Both cost the
          same time and agree within 1e-7 eV per atom; tblite reports more errors.
        - ``"GFN1-xTB"``, ``"GFN2-xTB"`` (also ``"gfn1"``, ``"gfn2_xtb"``, …): that method, any
          library.
        - ``"tblite"``, ``"xtb"``: that library, with ``method``; ``"tblite:GFN2-xTB"``: both.
        - ``"none"`` or None: :class:`NoBaseline`.
        - a dict as :meth:`Baseline.spec` returns it; its version is not compared.
        - an ASE calculator: :class:`ASEBaseline` of it; a baseline: returned as it is.
    method : str, default "GFN1-xTB"
        Used where ``spec`` names none; ``"none"`` with ``"auto"`` is :class:`NoBaseline`.

    Returns
    -------
    Baseline

    Raises
    ------
    SettingsError
        If ``spec`` or ``method`` is none of the above.
    BaselineError
        If the library is not installed.
    """
    if spec is None:
        return NoBaseline()
    if isinstance(spec, str):
        return _from_name(spec, method)
    if isinstance(spec, dict):
        return _from_dict(spec)
    if not isinstance(spec, type):
        if isinstance(spec, Baseline):
            return spec
        if hasattr(spec, "get_potential_energy") and not isinstance(spec, Atoms):
            return ASEBaseline(spec)
    raise _unknown(spec)


def _from_name(spec: str, method: str) -> Baseline:
    library, _, named = (part.strip() for part in spec.partition(":"))
    library = library.lower()
    if library == "none" and not named:
        return NoBaseline()
    if _canonical_method(spec) is not None:
        library, named = "auto", spec
    if library not in ("auto", *LIBRARIES) or (":" in spec and not named):
        raise _unknown(spec)
    if not named and library == "auto" and method == "none":
        return NoBaseline()
    chosen = _canonical_method(named or method)
    if chosen is None:
        raise SettingsError(
            f"unknown baseline method {named or method!r}; expected one of "
            f"{', '.join(METHODS)}; a method of an ASE calculator needs the calculator object"
        )
    if library == "auto":
        installed = _installed()
        if not installed:
            raise BaselineError(
                f"{chosen} needs tblite or xtb, and neither is installed; run `pip install tblite`"
            )
        library = installed[0]
    return _CLASSES[library](chosen)


def _from_dict(spec: dict[str, Any]) -> Baseline:
    library = spec.get("library")
    if library == "none":
        return NoBaseline()
    if library == "ase":
        raise BaselineError(
            f"the baseline is the ASE calculator {spec.get('method', '?')}, which cannot be made "
            "from its description; pass the calculator object itself"
        )
    if library not in LIBRARIES or "method" not in spec:
        raise _unknown(spec)
    settings = {k: v for k, v in spec.items() if k not in ("method", "library", "version")}
    for key, value in settings.items():
        reader = _SETTINGS.get(key)
        if reader is None:
            raise SettingsError(
                f"unknown setting {key!r} of the baseline {library}; expected some of "
                f"{', '.join(_SETTINGS)}"
            )
        try:
            settings[key] = reader(value)
        except (TypeError, ValueError):
            raise SettingsError(
                f"setting {key!r} of the baseline {library} is {value!r}, expected a number"
            ) from None
    return _CLASSES[library](spec["method"], **settings)


_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "accuracy": float,
    "max_iterations": int,
    "electronic_temperature": float,
}
_CLASSES: dict[str, type[TBLiteBaseline] | type[XTBBaseline]] = {
    "tblite": TBLiteBaseline,
    "xtb": XTBBaseline,
}


def _unknown(spec: Any) -> SettingsError:
    return SettingsError(
        f"unknown baseline {spec!r}; expected 'auto', 'none', a method ({', '.join(METHODS)}), "
        f"a library ({', '.join(LIBRARIES)}), both as 'tblite:GFN2-xTB', "
        "an ASE calculator object, or a dict from Baseline.spec()"
    )


def _canonical_method(name: Any) -> str | None:
    if not isinstance(name, str):
        return None
    short = re.sub(r"[-_ ]", "", name.lower())
    return {"gfn1": METHODS[0], "gfn2": METHODS[1]}.get(short.removesuffix("xtb"))


def _installed() -> list[str]:
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
        instead = "".join(f", or use {name!r}, which is installed" for name in _installed()[:1])
        raise BaselineError(
            f"the baseline library {library} cannot be imported ({error}); "
            f"run `pip install {library}`{instead}"
        ) from error


@functools.cache
def _thread_pools(library: str) -> Any:
    """Thread pools of the process, looked up once the library has brought its own."""
    # A dependency of scikit-learn, without type stubs.
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    _require_installed(library)
    return ThreadpoolController()


@contextmanager
def _one_thread(library: str) -> Iterator[None]:
    """Run alone and on one thread: the same bits each time (see the module docstring)."""
    with _LOCK, _thread_pools(library).limit(limits=1):
        yield


def _rotation(vector: tuple[float, float, float]) -> np.ndarray:
    """Rotation matrix (3, 3) about ``vector`` by its length in radian (Rodrigues)."""
    angle = math.sqrt(sum(v * v for v in vector))
    x, y, z = (v / angle for v in vector)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


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


def _spread(atoms: Atoms, charge: int, multiplicity: int) -> None:
    """Give initial charges and moments the right sums; those that have them already stay."""
    unpaired = multiplicity - 1
    if abs(atoms.get_initial_charges().sum() - charge) > 1e-3:
        atoms.set_initial_charges(np.full(len(atoms), charge / len(atoms)))
    if abs(abs(atoms.get_initial_magnetic_moments().sum()) - unpaired) > 1e-3:
        atoms.set_initial_magnetic_moments(np.full(len(atoms), unpaired / len(atoms)))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _require_finite(value: Any, what: str, baseline: Any, label: str) -> None:
    if not np.all(np.isfinite(value)):
        raise BaselineError(
            f"{baseline.method} ({baseline.library}) returned NaN or infinite {what} for {label}; "
            "check the geometry, the charge and the multiplicity"
        )
