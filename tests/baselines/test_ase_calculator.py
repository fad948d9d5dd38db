"""Any ASE calculator as a baseline."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from ase_knncalc.baselines import (
    ASEBaseline,
    Baseline,
    TBLiteBaseline,
    XTBBaseline,
)
from ase_knncalc.errors import (
    BaselineError,
    SettingsError,
)


class Recorder(Calculator):
    """Harmonic springs to the origin; writes down what it was told."""

    implemented_properties = ("energy", "forces")
    default_parameters: dict = {}  # noqa: RUF012 - as ASE has it

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.seen = (dict(self.parameters), atoms.get_initial_charges().sum())
        self.seen_moment = atoms.get_initial_magnetic_moments().sum()
        self.calls = getattr(self, "calls", 0) + 1
        self.results = {"energy": float((atoms.positions**2).sum()), "forces": -2 * atoms.positions}


class Charged(Recorder):
    default_parameters = {"charge": 0, "mult": 1}  # noqa: RUF012


class TestASEBaseline:
    def test_energy_and_forces(self) -> None:
        atoms = molecule("H2O")
        baseline = ASEBaseline(Recorder())
        energy, forces = baseline.energy_and_forces(atoms, 0, 1)
        assert energy == pytest.approx((atoms.positions**2).sum())
        np.testing.assert_allclose(forces, -2 * atoms.positions)
        assert atoms.calc is None
        assert baseline.energy(atoms, 0, 1) == energy
        assert baseline.calculator.calls == 2  # reset in between
        assert isinstance(baseline, Baseline)
        assert (baseline.method, baseline.library) == ("Recorder", "ase")

    def test_constraints_do_not_hide_forces(self) -> None:
        from ase.constraints import FixAtoms

        atoms = molecule("H2O")
        atoms.set_constraint(FixAtoms([0, 1, 2]))
        assert np.abs(ASEBaseline(Recorder()).energy_and_forces(atoms, 0, 1)[1]).max() > 0.1

    def test_charge_as_parameter(self) -> None:
        baseline = ASEBaseline(Charged())
        baseline.energy(molecule("H2O"), -1, 2)
        assert baseline.calculator.seen[0] == {"charge": -1, "mult": 2}
        baseline.energy(molecule("H2O"), 0, 1)
        assert baseline.calculator.seen[0] == {"charge": 0, "mult": 1}
        assert json.loads(baseline.spec()["parameters"]) == {}

    def test_charge_without_parameter(self) -> None:
        atoms = molecule("H2O")
        with pytest.raises(BaselineError, match=r"H2O has charge \+1.*Recorder.*charge_via"):
            ASEBaseline(Recorder()).energy(atoms, 1, 2)
        baseline = ASEBaseline(Recorder(), charge_via="initial_charges")
        baseline.energy(atoms, 1, 2)
        assert baseline.calculator.seen[1] == pytest.approx(1)
        assert baseline.calculator.seen_moment == pytest.approx(1)
        assert not atoms.has("initial_charges")
        ASEBaseline(Recorder(), charge_via="ignore").energy(atoms, 1, 2)
        with pytest.raises(SettingsError, match="charge_via"):
            ASEBaseline(Recorder(), charge_via="guess")

    @pytest.mark.parametrize("library", ["tblite", "xtb"])
    def test_ase_calculators_of_the_libraries(self, library: str) -> None:
        # They restart from the last structure; as baseline they must not.
        if library == "tblite":
            calculator = pytest.importorskip("tblite.ase").TBLite(method="GFN1-xTB", verbosity=0)
            baseline, native = ASEBaseline(calculator), TBLiteBaseline()
        else:
            calculator = pytest.importorskip("xtb.ase.calculator").XTB(method="GFN1-xTB")
            baseline = ASEBaseline(calculator, charge_via="initial_charges")
            native = XTBBaseline()
        atoms = molecule("NH3")
        for state in ((0, 1), (1, 2), (-1, 2)):
            assert baseline.energy(atoms, *state) == pytest.approx(
                native.energy(atoms, *state), abs=1e-5
            )
        moved = atoms.copy()
        moved.positions[0, 2] += 0.3
        first = baseline.energy(atoms, 0, 1)
        baseline.energy(moved, 0, 1)
        # One thread in the native baselines only, so the last digit may differ here.
        assert baseline.energy(atoms, 0, 1) == pytest.approx(first, abs=1e-11)

    def test_failures(self) -> None:
        with pytest.raises(BaselineError, match=r"EMT \(ase\) failed for O2S") as caught:
            ASEBaseline(EMT()).energy(molecule("SO2"), 0, 1)
        assert isinstance(caught.value.__cause__, NotImplementedError)
        broken = Recorder()
        broken.calculate = lambda *a, **k: broken.results.update(energy=math.nan)
        with pytest.raises(BaselineError, match="NaN or infinite energy for H2O"):
            ASEBaseline(broken).energy(molecule("H2O"), 0, 1)
        for wrong in (Recorder, "EMT", None):
            with pytest.raises(SettingsError, match="ASE calculator"):
                ASEBaseline(wrong)

    def test_spec_names_parameters_not_addresses(self) -> None:
        spec = ASEBaseline(LennardJones(sigma=np.float64(2.5))).spec()
        assert json.loads(spec["parameters"])["sigma"] == 2.5
        one, two = (ASEBaseline(Recorder(helper=object())).spec() for _ in range(2))
        assert one == two
