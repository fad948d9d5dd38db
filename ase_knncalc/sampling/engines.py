"""What gives the forces of a walk: a baseline, or a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ase_knncalc.baselines import Baseline, make_baseline
from ase_knncalc.model import KNNModel
from ase_knncalc.structure import resolve_charge


class BaselineCalculator(Calculator):  # type: ignore[misc]
    """A baseline as an ASE calculator, for relaxations and dynamics.

    Parameters
    ----------
    baseline
        Anything that :func:`ase_knncalc.baselines.make_baseline` understands.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - ASE's convention
    ignored_changes: ClassVar[set[str]] = set()

    def __init__(self, baseline: str | dict[str, str] | Baseline = "auto") -> None:
        super().__init__()
        self.baseline = make_baseline(baseline)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Energy (eV) and forces (eV/Å)."""
        super().calculate(atoms, properties, system_changes)
        energy, forces = self.baseline.energy_and_forces(self.atoms, *resolve_charge(self.atoms))
        self.results = {"energy": energy, "forces": forces}


def make_engine(spec: Any, *, warm_start: bool = False) -> Calculator:
    """Calculator that drives the sampling.

    Parameters
    ----------
    spec
        A calculator, ``"model:NAME_OR_FILE"`` for a :class:`KNNCalculator`, or a baseline as for
        :func:`ase_knncalc.baselines.make_baseline` (``"GFN1-xTB"``, ``"tblite:GFN2-xTB"``, …).
    warm_start
        Of a :class:`KNNCalculator` that is made.
    """
    if isinstance(spec, Calculator):
        return spec
    if isinstance(spec, str) and spec.startswith("model:"):
        from ase_knncalc.calculator import KNNCalculator

        name = spec.removeprefix("model:")
        return KNNCalculator(name, on_novelty="ignore", warm_start=warm_start)
    return BaselineCalculator(spec)


def engine_model(spec: Any) -> KNNModel | None:
    """The model behind an engine as for :func:`make_engine`; None where something else drives."""
    from ase_knncalc.calculator import KNNCalculator

    named = isinstance(spec, str) and spec.startswith("model:")
    engine = make_engine(spec) if named else spec
    return engine.model if isinstance(engine, KNNCalculator) else None
