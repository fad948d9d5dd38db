"""ASE calculator: baseline plus learned correction.

>>> from ase.build import molecule
>>> from ase_knncalc import KNNCalculator
>>> water = molecule("H2O")
>>> water.calc = KNNCalculator("saw-wb97xd")
>>> round(water.get_potential_energy(), 1)  # eV
-2079.2
>>> water.calc.results["energy_std"] < 0.1  # eV
True
>>> water.calc.results["neighbors"][0].composition
'1w'
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from ase import Atoms
from ase.calculators import calculator as ase_calculator
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.outputs import Properties, all_outputs

from ase_knncalc._lib.arguments import Positive, checked, instance
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.baselines import Baseline, SinglePoint
from ase_knncalc.charges import stated_copy
from ase_knncalc.errors import NoveltyError, SettingsError, StructureError
from ase_knncalc.heads.dipole import has_dipole
from ase_knncalc.heads.levels import require_level
from ase_knncalc.model import KNNModel
from ase_knncalc.prediction import OTHER_NAMES, Prediction
from ase_knncalc.sameness import changes
from ase_knncalc.settings import DEFAULT_MODEL
from ase_knncalc.stepping import can_step, step
from ase_knncalc.store import find_model
from ase_knncalc.store.container import stated_checksum
from ase_knncalc.store.given import model_for_calculator
from ase_knncalc.structure import resolve_charge, structure_label

OnNovelty = Literal["warn", "raise", "ignore"]
DipoleOf = Literal["learned", "baseline"]
Uncertainty = Literal["always", "asked"]

# Results beside those in ``implemented_properties``: they do not add up, and ASE's mixing
# calculators add up, with weights that may be negative, whatever their calculators list in common.
_EXTRAS = ("energy_std", "forces_std", "novelty", "baseline_energy", "delta", "neighbors",
           "energy_interval", "level_correction", "dipole_std", *OTHER_NAMES)  # fmt: skip
_JUDGED = ("energy_std", "novelty", "neighbors")


class KNNCalculator(Calculator):  # type: ignore[misc]
    """Reference-level energies at the baseline's cost, with an uncertainty.

    ``results`` holds, beside what ASE knows:

    ====================  ======================================================================
    ``energy``            eV (``free_energy`` is the same but for the last digits: files that keep
                          no calculator show by it whose energy it is)
    ``forces``            eV/Å, where the model is smooth (``model.smooth``)
    ``forces_std``        of the components of each atom's force, eV/Å, shape (n_atoms,), where
                          asked for: ``calc.get_property("forces_std", atoms)``
    ``energy_std``        calibrated standard deviation of the energy, eV
    ``novelty``           1 at the 99th percentile of held-out training structures
    ``baseline_energy``   eV
    ``delta``             the correction, eV
    ``neighbors``         list of :class:`Neighbor`, nearest first
    ``energy_interval``   (lower, upper) in eV, if ``coverage`` is set
    ``charges``           the baseline's partial charges, e, and
    ``dipole``            its dipole, e Å, if it has them, as xTB does; corrected by models that
                          have learned dipoles, with ``dipole_std``, the error of its length
    ``level_correction``  :class:`LevelCorrection` that is part of the energy, if ``level`` is set
    ====================  ======================================================================

    All are there for :meth:`get_property`, errors also under the names that committees have
    (:data:`ase_knncalc.prediction.OTHER_NAMES`). :func:`ase_knncalc.snapshot` gives structures that
    keep what ASE's files do not know. ASE's sums have no ``energy_std``: errors do not add up.
    ASE finds the class as ``get_calculator_class("knncalc")`` once this module is imported.
    Threads that share a calculator wait for each other: :meth:`get_property` answers for the
    structure that was asked for, ``results`` are those of whoever asked last.

    Parameters
    ----------
    model
        Name of a shipped model, a file, or a :class:`KNNModel`.
    baseline
        ``"auto"``: the model's own method from whichever library is installed. Otherwise as for
        :func:`make_baseline`; a method other than the model's is an error unless
        ``allow_other_baseline`` is set.
    charge, multiplicity
        Of all structures; by default each structure's own, see
        :func:`ase_knncalc.structure.resolve_charge`.
    dipole
        ``"learned"``: corrected where the model can; ``"baseline"``: never, for infrared
        intensities of models whose dipoles were taught without slopes (``HeadSettings.slopes``).
    on_novelty
        What to do when a threshold is exceeded: ``"warn"`` (once a calculator), ``"raise"``
        :class:`NoveltyError` (which ends dynamics), or ``"ignore"``.
    novelty_threshold, std_threshold
        Of ``novelty``, and of ``energy_std`` in eV; None is none.
    coverage
        Probability of ``results["energy_interval"]``; None leaves it out.
    allow_other_baseline
        Use the correction on top of a baseline that it was not made for.
    level
        Level of theory that the model knows beside the reference, such as ``"dlpno"``, of energies
        and their error. Slopes of the difference were learned from energies alone.
    warm_start
        For dynamics and relaxations: each SCF of a tblite baseline starts from the density of the
        step before where no atom has moved by more than 0.3 Å. Faster, but the last digits then
        depend on the path; False, the default, gives the same bits whatever came before.
    atoms
        Structure to attach to.
    uncertainty
        ``"asked"``: calculations of forces leave ``energy_std``, ``novelty`` and ``neighbors`` out
        of ``results`` where no threshold asks for them, and :meth:`get_property` makes them: steps
        of dynamics cost less.

    Raises
    ------
    ModelFileError
        If the model is missing or damaged.
    SettingsError
        If an option makes no sense.
    BaselineError
        If the baseline is not installed or not the model's, or it is ``"given"``: a calculator
        cannot take energies from ``info``, which would be wrong as soon as atoms move.
    """

    implemented_properties = ["energy", "free_energy"]  # noqa: RUF012 - ASE's convention
    ignored_changes: ClassVar[set[str]] = set()
    nolabel = True
    # What the baseline gave for the structure, and whether its forces_std was asked for.
    _point: SinglePoint | None = None
    _std_asked = False

    default_parameters: ClassVar[dict[str, Any]] = {
        "model": DEFAULT_MODEL,
        "baseline": "auto",
        "charge": None,
        "multiplicity": None,
        "dipole": "learned",
        "on_novelty": "warn",
        "novelty_threshold": 1.0,
        "std_threshold": None,
        "coverage": None,
        "allow_other_baseline": False,
        "level": None,
        "warm_start": False,
        "uncertainty": "always",
    }

    def __init__(
        self,
        model: str | os.PathLike[str] | KNNModel = DEFAULT_MODEL,
        *,
        baseline: str | dict[str, str] | Baseline | Calculator | None = "auto",
        charge: int | None = None,
        multiplicity: int | None = None,
        dipole: DipoleOf = "learned",
        on_novelty: OnNovelty = "warn",
        novelty_threshold: float | None = 1.0,
        std_threshold: float | None = None,
        coverage: float | None = None,
        allow_other_baseline: bool = False,
        level: str | None = None,
        warm_start: bool = False,
        uncertainty: Uncertainty = "always",
        atoms: Atoms | None = None,
    ) -> None:
        if atoms is not None:
            instance("atoms", atoms, Atoms)
        self.model: KNNModel
        self._warned = False
        self._wanted: set[str] = set()
        self._checksum = ""
        self._lock = threading.RLock()
        super().__init__(
            atoms=atoms,
            model=model,
            baseline=baseline,
            charge=charge,
            multiplicity=multiplicity,
            dipole=dipole,
            on_novelty=on_novelty,
            novelty_threshold=novelty_threshold,
            std_threshold=std_threshold,
            coverage=coverage,
            allow_other_baseline=allow_other_baseline,
            level=level,
            warm_start=warm_start,
            uncertainty=uncertainty,
        )

    def __copy__(self) -> KNNCalculator:
        """One with parameters and results of its own; the model is shared."""
        new = type(self).__new__(type(self))
        state = self.__getstate__()
        state["parameters"] = type(self.parameters)(self.parameters)
        state["results"] = dict(self.results)
        new.__setstate__(state)
        return new

    def __getstate__(self) -> dict[str, Any]:
        # Copies of all kinds, too: each has a lock of its own.
        with self._lock:
            return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters; results are dropped.

        ``model`` is read again whenever it is given, also under the name it had, for the file may
        have changed; ``baseline`` and ``allow_other_baseline`` alone keep the model that is there.

        Returns
        -------
        dict
            What was changed, the model always included.

        Raises
        ------
        SettingsError
            For an unknown parameter or a value that makes no sense.
        """
        with self._lock:
            return self._set(kwargs)

    def _set(self, given: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(given) - set(self.default_parameters))
        if unknown:
            raise SettingsError(
                f"unknown parameter {unknown[0]!r}; known are {', '.join(self.default_parameters)}"
            )
        wanted = {**self.parameters, **given}
        checked("on_novelty", wanted["on_novelty"], OnNovelty)
        checked("dipole", wanted["dipole"], DipoleOf)
        checked("uncertainty", wanted["uncertainty"], Uncertainty)
        checked("allow_other_baseline", wanted["allow_other_baseline"], bool)
        checked("warm_start", wanted["warm_start"], bool)
        for name in ("novelty_threshold", "std_threshold"):
            checked(name, wanted[name], Positive | None)
        changed = {k: v for k, v in given.items() if k == "model" or self._is_new(k, v)}
        baseline = wanted["baseline"], wanted["allow_other_baseline"]
        if "model" in given or not hasattr(self, "model"):
            model = model_for_calculator(wanted["model"], *baseline)
            own = isinstance(wanted["model"], KNNModel)
            self._checksum = "" if own else stated_checksum(find_model(wanted["model"]), "model")
        elif changed.keys() & {"baseline", "allow_other_baseline"}:
            # Where the model came from may be another file by now, or a name that leads elsewhere.
            own = isinstance(wanted["model"], KNNModel)
            bare = wanted["model"] if own else self.model.with_baseline(None)
            model = model_for_calculator(bare, *baseline)
        else:
            model = self.model
        checked("level", wanted["level"], str | None)
        if wanted["level"] is not None:
            require_level(model.heads, wanted["level"])
        if wanted["coverage"] is not None:
            model.calibration.multiple(wanted["coverage"])
        if not hasattr(self, "model") or model is not self.model:
            # Whether the new model has forces, and whether they are wanted, is open again.
            self._wanted = set()
        self.model = model
        self._asked = model.following() if wanted["warm_start"] else model
        # A new list: the class attribute belongs to all instances.
        self.implemented_properties = ["energy", "free_energy"]
        if model.smooth:
            self.implemented_properties.append("forces")
        if model.baseline is not None:
            self.implemented_properties += model.baseline.properties
        self.parameters.update(changed)
        if changed:
            self.reset()
            self._point = None
        return changed

    def _is_new(self, key: str, value: Any) -> bool:
        """Whether a parameter changes; what can change in itself, as a dictionary, always does."""
        old = self.parameters.get(key)
        if isinstance(value, str | bool | int | float):
            return type(value) is not type(old) or value != old
        return value is not None or old is not None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Changes since the last calculation, charge and multiplicity included."""
        return changes(self.atoms, atoms, tol, self.ignored_changes)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results`` for the structure (called by ASE).

        Raises
        ------
        StructureError, BaselineError
            If the model does not cover the structure, or the baseline fails.
        NoveltyError
            If it is too novel and ``on_novelty="raise"``.
        """
        with self._lock:
            self._calculate(atoms, properties, system_changes)

    def _calculate(
        self, atoms: Atoms | None, properties: Sequence[str], system_changes: Sequence[str]
    ) -> None:
        # Called by hand, too: what fails must not leave the results of another structure.
        self.results: dict[str, Any] = {}
        point, self._point, with_std = self._point, None, "forces_std" in properties
        if atoms is None or self.check_state(atoms):
            # Another structure: who asked for forces_std of the last one will ask again.
            point, with_std = None, with_std or self._std_asked
            self._std_asked = "forces_std" in properties
        if atoms is not None:
            self.atoms = stated_copy(atoms)
        p = self.parameters
        # Who asked for forces once is in dynamics or a relaxation and will ask again after the
        # energy: the baseline then runs once a step, not twice. So it is with dipoles.
        asked = {*properties, *(("forces",) if with_std else ())}
        if "forces" in asked and "forces" not in self._wanted:
            self._warn_of_slopes()
        self._wanted |= asked & {"forces", "charges", "dipole"}
        if any(getattr(point, name, None) is None for name in self._wanted):
            point = None
        learned = p["dipole"] == "learned" and has_dipole(self.model.heads)
        with_dipole = learned and "dipole" in self._wanted
        state = {"charge": p["charge"], "multiplicity": p["multiplicity"]}
        alone = point is None and self._is_step(properties) and not (with_std or with_dipole)
        if alone:
            prediction = step(self._asked, self.atoms, **state, properties=self._wanted)
        else:
            prediction = self._asked.predict_one(
                self.atoms,
                **state,
                forces="forces" in self._wanted,
                forces_std=with_std,
                properties=self._wanted - {"forces"},
                point=point,
                level=p["level"],
                dipole=with_dipole,
            )
            self._report_thresholds(prediction)
        found = prediction.results(learned=learned)
        if p["coverage"] is not None:
            found["energy_interval"] = prediction.energy_interval(p["coverage"])
        self.results = found
        self._point = prediction.point

    def _warn_of_slopes(self) -> None:
        if not self.model.trained_on_forces and self.parameters["on_novelty"] != "ignore":
            warnings.warn(
                "this model was trained on energies alone: its forces are the gradient of its "
                "energy, but nothing made sure that slopes are right. Use a model trained with "
                f"forces, such as {DEFAULT_MODEL}",
                UserWarning,
                stacklevel=2,
            )

    @property
    def _watches(self) -> bool:
        """Whether thresholds are looked at."""
        action = self.parameters["on_novelty"]
        return action == "raise" or (action == "warn" and not self._warned)

    def _is_step(self, properties: Sequence[str]) -> bool:
        """Whether energy and forces are all that anyone asks for."""
        p = self.parameters
        told = self._watches or p["coverage"] is not None or p["level"] is not None
        asked = p["uncertainty"] == "always" or set(properties) & set(_EXTRAS)
        return not (told or asked) and "forces" in self._wanted and can_step(self._asked)

    def _report_thresholds(self, prediction: Prediction) -> None:
        if not self._watches:
            return
        p = self.parameters
        thresholds = p["novelty_threshold"], p["std_threshold"]
        text = prediction.beyond(*thresholds, structure_label(self.atoms))
        if not text:
            return
        if p["on_novelty"] == "raise":
            self.results = {}
            raise NoveltyError(f"{text}; add such structures to the training data")
        self._warned = True
        warnings.warn(
            f"{text}; energy_std is calibrated only near the data. Further warnings of this "
            "calculator are off",
            UserWarning,
            stacklevel=2,
        )

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """One of ``results``, computed where it is not known for the structure.

        Raises
        ------
        PropertyNotImplementedError
            If there is no such property, or not with this model and these parameters.
        """
        with self._lock:
            structure = self._structure(atoms)
            if name not in _EXTRAS:
                return super().get_property(name, atoms, allow_calculation)
            own = OTHER_NAMES.get(name, name)
            if own == "forces_std" and self.model.force_calibration is None:
                raise PropertyNotImplementedError(f"{name}: not of a model without forces")
            self._std_asked |= own == "forces_std"
            late = self.parameters["uncertainty"] == "asked" and own in _JUDGED
            needed = own if late or own == "forces_std" else "energy"
            if self.calculation_required(structure, [needed]):
                if not allow_calculation:
                    return None
                self.calculate(structure, [needed])
            if own not in self.results:
                raise PropertyNotImplementedError(f"{name} needs coverage=0.9, level='dlpno', …")
            value = self.results[name]
            return list(value) if isinstance(value, list) else value

    def get_hessian(self, atoms: Atoms | None = None) -> FloatArray:
        """Second derivatives of the energy, eV/Å², shape (3 n_atoms, n_atoms, 3).

        Central differences of forces, 6 n_atoms of them; name and shape are those of MACE's
        calculator, which janus-core asks for. Errors are those of :meth:`calculate`.
        """
        from ase_knncalc.analysis.results import hessian  # and with it readers of data

        with self._lock:
            structure, p = self._structure(atoms), self.parameters
            found = hessian(self.model, structure, p["charge"], p["multiplicity"])
        return found.reshape(-1, len(structure), 3)

    def _structure(self, atoms: Atoms | None) -> Atoms:
        if atoms is None and self.atoms is None:
            raise StructureError(
                "the calculator has no structure: set atoms.calc and ask the structure, or "
                "give it, as in calculator.get_potential_energy(atoms)"
            )
        return self.atoms if atoms is None else atoms

    def calculate_properties(self, atoms: Atoms, properties: Sequence[str]) -> Properties:
        """ASE's typed mapping of several properties, all of one calculation."""
        with self._lock:
            return super().calculate_properties(atoms, properties)

    def export_properties(self) -> Properties:
        """Results that ASE knows, as its typed mapping; see the class for the others."""
        return Properties({k: v for k, v in self.results.items() if k in all_outputs})

    def origin(self, atoms: Atoms) -> dict[str, Any]:
        """Whose energies these are, and of which state: what :func:`snapshot` keeps of it.

        ``model`` (name, file or ``"in memory"``), ``model_checksum`` (SHA-256 of the file's
        content, empty of a model in memory), ``charge`` and ``multiplicity``; raises ChargeError
        if sources of the charge contradict each other.
        """
        p = self.parameters
        charge, multiplicity = resolve_charge(atoms, p["charge"], p["multiplicity"])
        model = p["model"]
        return {
            "model": "in memory" if isinstance(model, KNNModel) else os.fspath(model),
            "model_checksum": self._checksum,
            "charge": charge,
            "multiplicity": multiplicity,
        }

    def _get_name(self) -> str:
        return "knncalc"

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Parameters as plain values, those that differ from the default only."""
        plain = {}
        for key, value in self.parameters.items():
            if skip_default and value == self.default_parameters[key]:
                continue
            if isinstance(value, KNNModel):
                value = "in memory"
            elif isinstance(value, Baseline):
                value = value.spec()
            elif isinstance(value, Calculator):
                value = type(value).__name__
            elif isinstance(value, os.PathLike):
                value = os.fspath(value)
            plain[key] = value
        return plain


if "knncalc" not in getattr(ase_calculator, "external_calculators", ()):
    ase_calculator.register_calculator_class("knncalc", KNNCalculator)
