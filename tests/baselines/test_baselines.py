"""Baselines: agreement of the libraries, determinism, forces, failures, and how they are made."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import read

from ase_knncalc import load_model, save_model, train
from ase_knncalc.baselines import (
    ASEBaseline,
    Baseline,
    GivenBaseline,
    NoBaseline,
    TBLiteBaseline,
    XTBBaseline,
    make_baseline,
)
from ase_knncalc.baselines import xtb as xtb_module
from ase_knncalc.baselines.xtb import _Numbers
from ase_knncalc.errors import (
    BaselineError,
    ChargeError,
    DataError,
    SettingsError,
    StructureError,
)
from ase_knncalc.structure import resolve_charge

XTB_CLASSES = [TBLiteBaseline, XTBBaseline]
METHODS = ["GFN1-xTB", "GFN2-xTB"]


@pytest.fixture(params=XTB_CLASSES, ids=["tblite", "xtb"])
def xtb_class(request):
    pytest.importorskip(f"{request.param.library}.interface")
    return request.param


@pytest.fixture
def both():
    for cls in XTB_CLASSES:
        pytest.importorskip(f"{cls.library}.interface")
    return XTB_CLASSES


def stretched_salt() -> Atoms:
    """Two states of the same energy at 10 Å: the self-consistent cycle swings between them."""
    return Atoms("NaCl", [[0, 0, 0], [0, 0, 10.0]], info={"name": "stretched"})


class TestAgreement:
    # C6H6 ... NO: closed shells, radicals, triplets, second-row elements, metals.
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        "name", ["H2O", "CH3OH", "C6H6", "SO2", "CH3", "O2", "NO", "SiH4", "LiF", "H2O2", "N2H4"]
    )
    def test_g2(self, both, name: str, method: str) -> None:
        atoms = molecule(name)
        charge, multiplicity = resolve_charge(atoms)
        (e1, f1), (e2, f2) = (
            cls(method, accuracy=0.1).energy_and_forces(atoms, charge, multiplicity) for cls in both
        )
        assert abs(e1 - e2) / len(atoms) < 1e-5
        np.testing.assert_allclose(f1, f2, atol=1e-4, rtol=0)

    @pytest.mark.parametrize(("name", "charge"), [("H2O", 1), ("NH3", -1), ("C6H6", 1), ("OH", -1)])
    def test_ions(self, both, name: str, charge: int) -> None:
        atoms = molecule(name)
        atoms.set_initial_magnetic_moments(None)
        state = resolve_charge(atoms, charge, 1 if name == "OH" else 2)
        (e1, f1), (e2, f2) = (cls(accuracy=0.1).energy_and_forces(atoms, *state) for cls in both)
        assert abs(e1 - e2) / len(atoms) < 1e-5
        np.testing.assert_allclose(f1, f2, atol=1e-4, rtol=0)

    def test_clusters(self, both, shared_data) -> None:
        for atoms in read(shared_data / "saw_4sa5w_equilibrium.extxyz.gz", index="::20"):
            results = [cls(accuracy=0.1).energy_and_forces(atoms, 0, 1) for cls in both]
            assert abs(results[0][0] - results[1][0]) / len(atoms) < 1e-5
            np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-4, rtol=0)
            # Published energies of xtb 6.4.0.
            for energy, _ in results:
                assert energy == pytest.approx(atoms.info["gfn1_energy"], abs=1e-4)

    def test_monomers_of_published_data(self, xtb_class, shared_data) -> None:
        for atoms in read(shared_data / "saw_monomers.extxyz.gz", index=":"):
            energy = xtb_class().energy(atoms, 0, 1)
            assert energy == pytest.approx(atoms.info["gfn1_energy"], abs=1e-5)

    def test_default_is_gfn1(self, xtb_class) -> None:
        # Energy of the G2 water molecule as tblite's documentation gives it.
        assert xtb_class().energy(molecule("H2O"), 0, 1) == pytest.approx(-156.9675057725, abs=1e-5)
        gfn2 = xtb_class("GFN2-xTB").energy(molecule("H2O"), 0, 1)
        assert gfn2 == pytest.approx(-137.9677762523, abs=1e-5)


class TestForces:
    @pytest.mark.parametrize("method", METHODS)
    # Methanol, and hydrogen peroxide: pairs exactly along an axis, where xtb itself is wrong.
    @pytest.mark.parametrize("name", ["CH3OH", "H2O2"])
    def test_finite_differences(self, xtb_class, method: str, name: str) -> None:
        baseline = xtb_class(method, accuracy=0.01)
        atoms = molecule(name)
        atoms.positions[0, 2] += 0.1
        energy, forces = baseline.energy_and_forces(atoms, 0, 1)
        assert energy == baseline.energy(atoms, 0, 1)
        step = 1e-3
        for i in range(len(atoms)):
            for k in range(3):
                sides = []
                for sign in (1, -1):
                    moved = atoms.copy()
                    moved.positions[i, k] += sign * step
                    sides.append(baseline.energy(moved, 0, 1))
                assert forces[i, k] == pytest.approx((sides[1] - sides[0]) / (2 * step), abs=5e-4)

    def test_axis_aligned_pairs(self, xtb_class) -> None:
        """Forces turn with the molecule, also out of an orientation along the axes."""
        atoms = molecule("N2H4")
        _, forces = xtb_class(accuracy=0.01).energy_and_forces(atoms, 0, 1)
        rotation = xtb_module._rotation((1.1, 0.2, -0.5))
        turned = atoms.copy()
        turned.positions = atoms.positions @ rotation.T
        _, turned_forces = xtb_class(accuracy=0.01).energy_and_forces(turned, 0, 1)
        np.testing.assert_allclose(turned_forces, forces @ rotation.T, atol=1e-4, rtol=0)


DETERMINISM = """
import hashlib, sys
from ase.build import molecule
from ase_knncalc.baselines import make_baseline
baseline = make_baseline(sys.argv[1])
atoms = molecule("C6H6")
atoms.rattle(0.05, seed=1)
bits = set()
for _ in range(5):
    energy, forces = baseline.energy_and_forces(atoms, 0, 1)
    bits.add(hashlib.sha256(repr(energy).encode() + forces.tobytes()).hexdigest())
print(*bits)
"""


class TestDeterminism:
    def test_to_the_bit_with_others_in_between(self, xtb_class) -> None:
        baseline = xtb_class()
        atoms = molecule("CH3CH2OH")
        energy, forces = baseline.energy_and_forces(atoms, 0, 1)
        for other, charge, multiplicity in (("C6H6", 0, 1), ("CH3CH2OH", 1, 2), ("O2", 0, 3)):
            baseline.energy(molecule(other), charge, multiplicity)
            with pytest.raises(BaselineError):
                baseline.energy(stretched_salt(), 0, 1)
            again = baseline.energy_and_forces(atoms, 0, 1)
            assert again[0] == energy
            np.testing.assert_array_equal(again[1], forces)

    def test_whatever_the_number_of_threads(self, xtb_class) -> None:
        seen = set()
        for threads in ("1", "2"):
            environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
            command = [sys.executable, "-c", DETERMINISM, xtb_class.library]
            run = subprocess.run(
                command,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=True,
            )
            seen |= set(run.stdout.split())
        assert len(seen) == 1

    def test_calls_from_threads(self, xtb_class) -> None:
        baseline = xtb_class()
        frames = [molecule(name) for name in ("H2O", "CH3OH", "NH3", "C2H6")] * 4
        expected = [baseline.energy(atoms, 0, 1) for atoms in frames]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda a: baseline.energy(a, 0, 1), frames)) == expected

    def test_pickle(self, xtb_class) -> None:
        baseline = xtb_class("GFN2-xTB", accuracy=0.5)
        copy = pickle.loads(pickle.dumps(baseline))
        assert copy == baseline
        assert copy.energy(molecule("H2O"), 0, 1) == baseline.energy(molecule("H2O"), 0, 1)


class TestFailures:
    def test_not_converged(self, xtb_class, capfd, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BaselineError, match=r"stretched.*converge.*max_iterations") as caught:
            xtb_class().energy(stretched_salt(), 0, 1)
        assert caught.value.__cause__ is not None
        with pytest.raises(BaselineError, match=r"failed for C6H6.*more than 1 cycles") as told:
            xtb_class(max_iterations=1).energy_and_forces(molecule("C6H6"), 0, 1)
        # What the message advises can be set as it says, and helps.
        advised = make_baseline(re.search(r"baseline='([^']+)'", str(told.value))[1])
        assert advised == xtb_class(max_iterations=1000)
        assert math.isfinite(advised.energy(molecule("C6H6"), 0, 1))
        hot = make_baseline(f"{xtb_class.library}:GFN1-xTB, electronic_temperature = 5000")
        assert hot == xtb_class(electronic_temperature=5000.0)
        assert math.isfinite(hot.energy(stretched_salt(), 0, 1))
        assert capfd.readouterr() == ("", "")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("atoms", "charge", "multiplicity", "match"),
        [
            # Each of these crashes the process, or gives another state's energy, in xtb itself.
            (Atoms("U"), 0, 1, "no parameters for U; it covers H to Rn"),
            (Atoms("UFr", [[0, 0, 0], [0, 0, 4]]), 0, 2, "no parameters for Fr, U"),
            (molecule("H2O"), 0, 9, "needs more orbitals|orbitals than"),
            (molecule("H2O"), 0, 11, "too few"),
            (molecule("H2O"), 9, 2, "too few"),
            (Atoms("F"), 0, 6, "more orbitals"),
            (Atoms("He"), 0, 3, "more orbitals"),
            (Atoms("H"), -2, 2, "more orbitals"),
            (Atoms("Ce"), 0, 1, "4f electrons of lanthanides in the core"),
        ],
    )
    def test_not_covered(self, xtb_class, atoms, charge, multiplicity, match) -> None:
        with pytest.raises(BaselineError, match=match):
            xtb_class().energy(atoms, charge, multiplicity)

    @pytest.mark.parametrize(
        ("charge", "multiplicity"), [(0, 2), (1, 1), (0, 0), (0, 101), (11, 2)]
    )
    def test_impossible_states(self, xtb_class, charge: int, multiplicity: int) -> None:
        with pytest.raises(ChargeError):
            xtb_class().energy(molecule("H2O"), charge, multiplicity)

    def test_impossible_structures(self, xtb_class) -> None:
        nan = Atoms("H2", [[0, 0, 0], [0, 0, math.nan]])
        periodic = molecule("H2O", vacuum=5, pbc=True)
        for atoms in (nan, periodic, Atoms(), Atoms("X"), Atoms("H2", np.zeros((2, 3)))):
            with pytest.raises(StructureError):
                xtb_class().energy(atoms, 0, 1)

    @pytest.mark.parametrize("what", ["energy", "gradient"])
    def test_not_finite(self, xtb_class, monkeypatch, what: str) -> None:
        result = (
            (math.nan, np.zeros((3, 3))) if what == "energy" else (-1.0, np.full((3, 3), np.inf))
        )
        numbers = _Numbers(*result, np.zeros(3), np.zeros(3))
        monkeypatch.setattr(xtb_class, "_single_point", lambda *_: numbers)
        with pytest.raises(BaselineError, match=r"NaN or infinite.*H2O"):
            xtb_class().energy_and_forces(molecule("H2O"), 0, 1)

    @pytest.mark.parametrize(
        "settings",
        [
            {"method": "PBE"},
            {"method": None},
            {"accuracy": 0},
            {"accuracy": math.nan},
            {"max_iterations": 0},
            {"max_iterations": 1.5},
            {"max_iterations": True},
            {"electronic_temperature": -1},
            {"electronic_temperature": "300"},
        ],
    )
    def test_settings(self, xtb_class, settings: dict) -> None:
        with pytest.raises(SettingsError):
            xtb_class(**settings)

    def test_parameter_files_of_xtb(self, both, tmp_path, monkeypatch) -> None:
        (tmp_path / "param_gfn1-xtb.txt").write_text("not the built-in parameters\n")
        monkeypatch.setenv("XTBPATH", str(tmp_path))
        with pytest.raises(BaselineError, match=r"param_gfn1-xtb\.txt; expected the built-in"):
            XTBBaseline().energy(molecule("H2O"), 0, 1)
        XTBBaseline("GFN2-xTB").energy(molecule("H2O"), 0, 1)
        monkeypatch.delenv("XTBPATH")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BaselineError, match="built-in"):
            XTBBaseline().energy(molecule("H2O"), 0, 1)
        TBLiteBaseline().energy(molecule("H2O"), 0, 1)


class TestSmallSystems:
    @pytest.mark.parametrize(
        ("atoms", "charge", "multiplicity"),
        [
            (Atoms("H"), 0, 2),
            (Atoms("H"), -1, 1),
            (Atoms("H"), 1, 1),  # a bare proton: no electrons, only the model's own constants
            (Atoms("He"), 0, 1),
            (Atoms("O"), 0, 3),
            (molecule("H2"), 1, 2),
        ],
    )
    def test_finite_and_equal(self, both, atoms, charge, multiplicity) -> None:
        results = [cls().energy_and_forces(atoms, charge, multiplicity) for cls in both]
        assert results[0][0] == pytest.approx(results[1][0], abs=1e-5)
        for _, forces in results:
            assert forces.shape == (len(atoms), 3)
            assert np.isfinite(forces).all()

    def test_multiplicity_matters(self, xtb_class) -> None:
        energies = [xtb_class().energy(molecule("O2"), 0, m) for m in (1, 3, 5)]
        assert len(set(energies)) == 3


def test_valence_electrons_are_those_of_the_library() -> None:
    interface = pytest.importorskip("tblite.interface")
    for method in METHODS:
        for z in range(1, 87):
            calculator = interface.Calculator(method, np.array([z]), np.zeros((1, 3)))
            calculator.set("verbosity", 0)
            calculator.set("accuracy", 100.0)
            result = calculator.singlepoint()
            assert xtb_module._VALENCE[z] == pytest.approx(result.get("orbital-occupations").sum())
            assert xtb_module._ORBITALS[z] <= len(result.get("orbital-energies"))


class TestMakeBaseline:
    @pytest.mark.parametrize(
        ("spec", "library", "method"),
        [
            ("auto", "tblite", "GFN1-xTB"),
            ("GFN1-xTB", "tblite", "GFN1-xTB"),
            ("gfn2-xtb", "tblite", "GFN2-xTB"),
            ("gfn2", "tblite", "GFN2-xTB"),
            ("GFN1_xTB", "tblite", "GFN1-xTB"),
            ("tblite", "tblite", "GFN1-xTB"),
            ("xtb", "xtb", "GFN1-xTB"),
            ("XTB:gfn2", "xtb", "GFN2-xTB"),
            ("tblite:GFN2-xTB", "tblite", "GFN2-xTB"),
            ("auto:GFN2-xTB", "tblite", "GFN2-xTB"),
            ("gfn2,accuracy=0.1", "tblite", "GFN2-xTB"),
            ("none", "none", "none"),
            (None, "none", "none"),
        ],
    )
    def test_names(self, both, spec: str | None, library: str, method: str) -> None:
        baseline = make_baseline(spec)
        assert (baseline.library, baseline.method) == (library, method)
        assert isinstance(baseline, Baseline)
        assert make_baseline(baseline) is baseline
        assert make_baseline(json.loads(json.dumps(baseline.spec()))) == baseline

    def test_method(self, both) -> None:
        assert make_baseline("xtb", "GFN2-xTB").method == "GFN2-xTB"
        assert make_baseline("auto", method="gfn2").method == "GFN2-xTB"
        assert make_baseline("tblite:GFN1-xTB", "GFN2-xTB").method == "GFN1-xTB"
        assert make_baseline("auto", method="none") == NoBaseline()

    def test_settings_survive_spec(self, xtb_class) -> None:
        baseline = xtb_class("GFN2-xTB", 0.1, 99, 1000.0)
        spec = baseline.spec()
        assert all(isinstance(value, str) for value in spec.values())
        assert make_baseline(spec) == baseline

    def test_calculators(self) -> None:
        calculator = LennardJones()
        baseline = make_baseline(calculator)
        assert isinstance(baseline, ASEBaseline)
        assert baseline.calculator is calculator
        with pytest.raises(BaselineError, match=r"LennardJones.*pass the calculator object"):
            make_baseline(baseline.spec())

    @pytest.mark.parametrize(
        "spec",
        [
            *["", "gfn3", "tblite:", ":GFN1-xTB", "xtb:PBE", "none:GFN1-xTB", "dftb:GFN1-xTB", 3],
            *["none,accuracy=1", "gfn1,max_iterations", "gfn1,", "given,accuracy=1"],
            *[Atoms("H"), EMT, {}, {"library": "tblite"}],
            {"library": "x", "method": "GFN1-xTB"},
        ],
        ids=repr,
    )
    def test_unknown(self, both, spec: object) -> None:
        with pytest.raises(SettingsError, match="expected"):
            make_baseline(spec)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"accuracy": "high"}, "accuracy must be a number, got 'high'"),
            ({"solvent": "water"}, "solvent: unknown key; known are method, accuracy"),
            ({"max_iteration": "9"}, "max_iteration: unknown key; did you mean 'max_iterations'"),
        ],
    )
    def test_unknown_settings(self, both, settings: dict[str, str], message: str) -> None:
        with pytest.raises(SettingsError, match=f"baseline tblite.{message}"):
            make_baseline({"library": "tblite", "method": "GFN1-xTB", **settings})

        text = ",".join(f"{key}={value}" for key, value in settings.items())
        with pytest.raises(SettingsError, match=f"baseline tblite.{message}"):
            make_baseline(f"tblite:GFN1-xTB,{text}")

    def test_unknown_method(self) -> None:
        with pytest.raises(SettingsError, match=r"'EMT'.*GFN1-xTB, GFN2-xTB"):
            make_baseline("auto", method="EMT")

    def test_missing_libraries(self, both, monkeypatch) -> None:
        monkeypatch.setitem(sys.modules, "tblite.interface", None)
        assert make_baseline("auto").library == "xtb"
        with pytest.raises(BaselineError, match="pip install tblite`, or use 'xtb'"):
            make_baseline("tblite")
        monkeypatch.setitem(sys.modules, "xtb.interface", None)
        with pytest.raises(BaselineError, match="pip install tblite"):
            make_baseline("GFN2-xTB")
        with pytest.raises(BaselineError, match="pip install xtb"):
            make_baseline("xtb")


def test_no_baseline() -> None:
    baseline = NoBaseline()
    energy, forces = baseline.energy_and_forces(molecule("H2O"), 1, 2)
    assert energy == baseline.energy(molecule("H2O"), 0, 1) == 0.0
    np.testing.assert_array_equal(forces, np.zeros((3, 3)))
    assert baseline.spec() == {"method": "none", "library": "none"}


def test_energies_that_come_with_the_data(water_frames, tmp_path) -> None:
    """No method is known that would give them: a prediction without them is refused, not wrong."""
    frames = [a.copy() for a in water_frames[:20]]
    for i, atoms in enumerate(frames):
        atoms.info["baseline_energy"] = 3.0 * len(atoms) + 0.01 * i
    settings = {"reference": "pairs", "trend": "linear", "n_jobs": 1}
    with pytest.raises(BaselineError, match=r"'given' if it can only come with the data"):
        train([a.copy() for a in frames], baseline="none", **settings)
    save_model(train(frames, baseline="given", **settings), tmp_path / "given.h5")
    model = load_model(tmp_path / "given.h5")
    assert model.baseline == GivenBaseline() == make_baseline("given")
    atoms = frames[3]
    known = model.predict(atoms, baseline_energy=atoms.info["baseline_energy"])
    assert known.energy == pytest.approx(atoms.info["reference_energy"], abs=0.5)
    with pytest.raises(BaselineError, match=r"baseline_energy=…"):
        model.predict(atoms)
    with pytest.raises(BaselineError, match=r"corrects given, not none"):
        load_model(tmp_path / "given.h5", baseline="none")
    bare = [a.copy() for a in water_frames[4:8]]
    with pytest.raises(DataError, match=r"no baseline energy .* came with"):
        train(bare, baseline="given", **settings)


def test_import_is_light() -> None:
    code = (
        "import sys, ase_knncalc.baselines as b; b.NoBaseline();"
        "print([m for m in ('tblite', 'xtb') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
