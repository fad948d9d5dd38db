"""Reference labels: dispersion, PySCF, ASE calculators, lookup, and labelling in processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.io import read, write

from ase_knncalc.active.config import LabelerTable
from ase_knncalc.active.labelling import make_labeler
from ase_knncalc.errors import (
    ChargeError,
    DataError,
    LabelerError,
    SettingsError,
    StructureError,
    UnknownElementError,
)
from ase_knncalc.labelers import (
    ASELabeler,
    Label,
    Labeler,
    LabelResult,
    LookupLabeler,
    PySCFLabeler,
    chai_head_gordon_dispersion,
    label_frames,
)

FRAMES = Path(__file__).parents[1] / "data" / "clusters_wb97xd.extxyz"


def water(seed: int = 1) -> Atoms:
    """Water off its minimum and out of all planes."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    atoms.euler_rotate(20, 30, 40)
    return atoms


def hydroxyl() -> Atoms:
    return Atoms("OH", [[0, 0, 0], [0.3, 0.5, 0.8]])


class TestDispersion:
    def test_pair_of_hydrogens(self) -> None:
        # C6 = 0.14 J nm^6/mol = 1.45099 eV Å^6, R = 2.002 Å, both by hand.
        energy, gradient = chai_head_gordon_dispersion(
            np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 3.0]])
        )
        assert energy == pytest.approx(-1.45099 / 3**6 / (1 + 6 * (2.002 / 3) ** 12), rel=1e-5)
        assert gradient[1, 2] > 0  # attraction
        np.testing.assert_allclose(gradient[0], -gradient[1])

    def test_gradient_is_that_of_the_energy(self) -> None:
        rng = np.random.default_rng(0)
        numbers = np.array([1, 6, 7, 8, 9, 15, 16, 17, 35, 53])
        # Some pairs deep inside the damping, some far out.
        positions = rng.normal(scale=2.0, size=(10, 3))
        gradient = chai_head_gordon_dispersion(numbers, positions)[1]
        numerical = np.zeros_like(positions)
        for index in np.ndindex(positions.shape):
            for sign in (1, -1):
                moved = positions.copy()
                moved[index] += sign * 1e-5
                energy = chai_head_gordon_dispersion(numbers, moved)[0]
                numerical[index] += sign * energy / 2e-5
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradient, numerical, atol=1e-9)

    def test_far_fragments_add_up(self) -> None:
        a, b = molecule("CH3OH"), molecule("SO2")
        apart = b.positions + np.array([60.0, 0, 0])
        together, gradient = chai_head_gordon_dispersion(
            np.concatenate([a.numbers, b.numbers]), np.vstack([a.positions, apart])
        )
        alone = [chai_head_gordon_dispersion(m.numbers, m.positions) for m in (a, b)]
        assert together == pytest.approx(alone[0][0] + alone[1][0], abs=1e-7)
        np.testing.assert_allclose(gradient, np.vstack([g for _, g in alone]), atol=1e-7)

    def test_coinciding_atoms_and_single_atom(self) -> None:
        energy, gradient = chai_head_gordon_dispersion(np.array([8, 1]), np.zeros((2, 3)))
        assert energy == 0.0
        assert not gradient.any()
        assert chai_head_gordon_dispersion(np.array([8]), np.ones((1, 3)))[0] == 0.0

    def test_element_without_parameters(self) -> None:
        with pytest.raises(UnknownElementError, match="79"):
            chai_head_gordon_dispersion(np.array([79, 1]), np.eye(3)[:2])


def small(**options: Any) -> PySCFLabeler:
    """A PySCF labeler that takes fractions of a second."""
    pytest.importorskip("pyscf")
    return PySCFLabeler(**{"basis": "sto-3g", "grid_level": 1, "threads": 1, **options})


class TestPySCF:
    def test_is_a_labeler(self) -> None:
        labeler = PySCFLabeler()
        assert isinstance(labeler, Labeler)
        assert labeler.method == "wB97X-D/6-31++G(d,p)"
        assert labeler.provides_forces
        assert not PySCFLabeler(forces=False).provides_forces

    def test_forces_are_the_gradient(self) -> None:
        atoms, labeler = water(), small()
        label = labeler.label(atoms)
        assert label.forces is not None
        # Without the response of the grid there would be a net force.
        np.testing.assert_allclose(label.forces.sum(axis=0), 0, atol=1e-8)
        for i, axis in ((0, 2), (1, 0)):
            energies = []
            for step in (1e-3, -1e-3):
                moved = atoms.copy()
                moved.positions[i, axis] += step
                energies.append(labeler.label(moved).energy)
            numerical = -(energies[0] - energies[1]) / 2e-3
            assert label.forces[i, axis] == pytest.approx(numerical, abs=1e-4)

    def test_functional_and_dispersion_add_up(self) -> None:
        from_labeler = small(basis="6-31G(d)", forces=False).label(water()).energy
        from pyscf import dft, gto

        atoms = water()
        mol = gto.M(
            atom=[(s, p) for s, p in zip(atoms.symbols, atoms.positions, strict=True)],
            basis="6-31g*",
            cart=True,
            verbose=0,
        )
        assert mol.nao == 19  # six d functions on oxygen
        mf = dft.RKS(mol, xc="HYB_GGA_XC_WB97X_D")
        mf.grids.level, mf.conv_tol = 1, 1e-9
        dispersion = chai_head_gordon_dispersion(atoms.numbers, atoms.positions)[0]
        assert dispersion < -1e-4
        plain = mf.kernel() * units.Hartree
        assert from_labeler == pytest.approx(plain + dispersion, abs=1e-6)

    def test_other_functionals_have_no_such_dispersion(self) -> None:
        atoms = water()
        from pyscf import dft, gto

        labelled = small(xc="PBE", forces=False).label(atoms)
        mol = gto.M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            basis="sto-3g",
            verbose=0,
        )
        mf = dft.RKS(mol, xc="pbe")
        mf.grids.level, mf.conv_tol = 1, 1e-9
        assert labelled.energy == pytest.approx(mf.kernel() * units.Hartree, abs=1e-6)
        assert labelled.method == "PBE/sto-3g"
        assert labelled.forces is None

    def test_charge_and_multiplicity(self) -> None:
        radical = hydroxyl()
        anion = radical.copy()
        radical.info["multiplicity"] = 2
        anion.info["charge"] = -1
        labeler = small()
        doublet, singlet = labeler.label(radical), labeler.label(anion)
        assert doublet.energy != pytest.approx(singlet.energy, abs=1.0)
        quartet = radical.copy()
        quartet.info["multiplicity"] = 4
        assert labeler.label(quartet).energy > doublet.energy + 1.0
        radical.info["multiplicity"] = 1
        with pytest.raises(ChargeError):
            labeler.label(radical)

    @pytest.mark.parametrize("cycles", [2, 4])
    def test_rescue_of_a_slow_scf(self, cycles: int) -> None:
        # With so few cycles DIIS fails; the level shift (4) or the Newton solver (2) ends it.
        plain, rescued = small().label(water()), small(max_cycle=cycles).label(water())
        assert rescued.energy == pytest.approx(plain.energy, abs=1e-6)
        np.testing.assert_allclose(rescued.forces, plain.forces, atol=2e-3)

    def test_no_convergence(self) -> None:
        with pytest.raises(LabelerError, match=r"H2O.*did not converge in 1 cycles"):
            small(max_cycle=1).label(water())

    def test_time_limit(self) -> None:
        with pytest.raises(LabelerError, match="time limit reached during the SCF"):
            small(time_limit=1e-6).label(water())

    def test_failures_inside_pyscf(self) -> None:
        with pytest.raises(LabelerError, match=r"PySCF failed for H2O .*charge 0.*nonsense"):
            small(basis="nonsense").label(water())

    def test_without_pyscf(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyscf", None)
        with pytest.raises(LabelerError, match=r'pip install "ase_knncalc\[label\]"'):
            PySCFLabeler().label(water())

    def test_periodic_structure(self) -> None:
        atoms = water()
        atoms.cell, atoms.pbc = 3 * [10.0], True
        with pytest.raises(StructureError, match="periodic"):
            PySCFLabeler().label(atoms)

    @pytest.mark.parametrize(
        "options",
        [{"grid_level": 12}, {"conv_tol": 0.0}, {"time_limit": -1.0}, {"threads": 0}],
    )
    def test_settings_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=next(iter(options))):
            PySCFLabeler(**options)

    def test_element_shifts(self) -> None:
        shifted = small(forces=False, element_shifts={"O": 0.5, "S": 9.0})
        plain = small(forces=False)
        difference = shifted.label(water()).energy - plain.label(water()).energy
        assert difference == pytest.approx(0.5, abs=1e-8)
        assert "O +0.5 eV" in shifted.method

    def test_density_fitting_is_near(self) -> None:
        atoms = water()
        plain, fitted, coarse = (
            small(basis="6-31G", **options).label(atoms)
            for options in (
                {},
                {"density_fit": True},
                {"density_fit": True, "auxbasis": "weigend"},  # made for Coulomb alone
            )
        )
        assert fitted.energy != plain.energy
        assert fitted.energy == pytest.approx(plain.energy, abs=1e-3)
        np.testing.assert_allclose(fitted.forces, plain.forces, atol=1e-3)
        assert np.abs(coarse.forces - plain.forces).max() > 2e-3
        assert fitted.method == "wB97X-D/6-31G (density fitting: def2-universal-jkfit)"
        assert coarse.method == "wB97X-D/6-31G (density fitting: weigend)"

    def test_auxiliary_basis_that_makes_no_sense(self) -> None:
        small(density_fit=True, auxbasis="weigend").check()
        with pytest.raises(SettingsError, match="auxbasis='nonsense': PySCF knows no such"):
            small(density_fit=True, auxbasis="nonsense").check()
        with pytest.raises(SettingsError, match="auxbasis='weigend' without density fitting"):
            small(auxbasis="weigend")

    def test_water_as_gaussian_has_it(self, shared_data: Path) -> None:
        pytest.importorskip("pyscf")
        published = read(shared_data / "saw_monomers.extxyz.gz", 0)
        label = PySCFLabeler().label(published)
        assert label.energy == pytest.approx(
            published.info["wb97xd_energy"], abs=1e-5 * units.Hartree
        )
        # Gaussian relaxed it: forces vanish if they are those of the same method.
        np.testing.assert_allclose(label.forces, 0, atol=3e-3)

    @pytest.mark.slow
    def test_sulfuric_acid_as_gaussian_has_it(self, shared_data: Path) -> None:
        pytest.importorskip("pyscf")
        published = read(shared_data / "saw_monomers.extxyz.gz", 1)
        label = PySCFLabeler(element_shifts={"S": 0.0012}).label(published)
        assert label.energy == pytest.approx(
            published.info["wb97xd_energy"], abs=2e-5 * units.Hartree
        )
        # Gaussian's optimiser stops at 4.5e-4 Ha/bohr.
        np.testing.assert_allclose(label.forces, 0, atol=4.5e-4 * units.Hartree / units.Bohr)


class Recorder(Calculator):
    """Calculator without forces that keeps what it was made with."""

    implemented_properties = ["energy"]  # noqa: RUF012
    default_parameters = {"charge": 0, "mult": 1, "energy": -1.0}  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        if self.parameters.energy is None:
            raise RuntimeError("ORCA exited with code 55")
        self.results["energy"] = self.parameters.energy


class TestASECalculator:
    def test_energy_and_forces(self) -> None:
        labeler = ASELabeler(EMT(), "EMT")
        atoms = water()
        label = labeler.label(atoms)
        assert atoms.calc is None
        atoms.calc = EMT()
        assert label.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(label.forces, atoms.get_forces())
        assert isinstance(labeler, Labeler)
        assert label.method == "EMT"

    def test_energies_only(self) -> None:
        labeler = ASELabeler(Recorder(), "DLPNO-CCSD(T)", energies_only=True)
        assert not labeler.provides_forces
        assert labeler.label(water()) == Label(-1.0, None, pytest.approx(0, abs=5), labeler.method)

    def test_calculator_without_forces_keeps_energies(self) -> None:
        labeler = ASELabeler(Recorder(), "DLPNO-CCSD(T)")
        assert labeler.label(water()).forces is None
        with pytest.warns(UserWarning, match="carry no forces") as told:
            good, failures = label_frames(labeler, [water(1), water(2)])
        assert [a.info["reference_energy"] for a in good] == [-1.0, -1.0]
        assert not failures
        assert not any("reference_forces" in a.arrays for a in good)
        (said,) = (w for w in told if w.category is UserWarning)
        assert "energies_only = true" in str(said.message)

    def test_factory_knows_the_charge(self) -> None:
        seen = []

        def factory(charge: int, multiplicity: int) -> Recorder:
            seen.append((charge, multiplicity))
            return Recorder(charge=charge, mult=multiplicity)

        atoms = hydroxyl()
        atoms.info["charge"] = -1
        labeler = ASELabeler(factory, "test", energies_only=True)
        labeler.label(atoms)
        labeler.label(water())
        assert seen == [(-1, 1), (0, 1)]

    def test_instance_with_another_charge(self) -> None:
        atoms = hydroxyl()
        atoms.info["charge"] = -1
        labeler = ASELabeler(Recorder(), "test", energies_only=True)
        with pytest.raises(LabelerError, match=r"charge -1.*set to 0.*factory"):
            labeler.label(atoms)
        charged = ASELabeler(Recorder(charge=-1), "test", energies_only=True)
        assert charged.label(atoms).energy == -1.0

    @pytest.mark.parametrize(("energy", "message"), [(None, "code 55"), (np.nan, "NaN")])
    def test_failures(self, energy: float | None, message: str) -> None:
        labeler = ASELabeler(Recorder(energy=energy), "test", energies_only=True)
        with pytest.raises(LabelerError, match=message):
            labeler.label(water())

    def test_neither_calculator_nor_factory(self) -> None:
        with pytest.raises(SettingsError, match="str"):
            ASELabeler("orca", "test")  # type: ignore[arg-type]


def labelled(seed: int, energy: float, name: str = "1w", charge: int = 0) -> Atoms:
    atoms = water(seed)
    atoms.info.update(name=name, reference_energy=energy, charge=charge)
    atoms.set_array("reference_forces", np.full((3, 3), energy))
    return atoms


class TestLookup:
    def test_known_structures(self) -> None:
        frames = [labelled(i, -float(i)) for i in range(1, 6)]
        labeler = LookupLabeler(frames)
        assert isinstance(labeler, Labeler)
        for i in (3, 5):
            asked = water(i)
            asked.positions += [1.0, 2.0, 3.0]
            label = labeler.label(asked)
            assert label.energy == -float(i)
            np.testing.assert_array_equal(label.forces, -float(i))

    def test_moved_structure_with_a_known_name(self) -> None:
        frames = [labelled(1, -1.0)]
        asked = frames[0].copy()
        asked.positions[0, 0] += 0.01
        with pytest.raises(LabelerError, match=r"1w: the nearest labelled frame differs by 0\.00"):
            LookupLabeler(frames).label(asked)
        assert LookupLabeler(frames, tolerance=0.1).label(asked).energy == -1.0

    def test_other_atoms_or_charge(self) -> None:
        labeler = LookupLabeler([labelled(1, -1.0), labelled(1, -2.0, charge=2)])
        asked = water(1)
        asked.info["charge"] = 2
        assert labeler.label(asked).energy == -2.0
        asked.info["charge"] = -2
        with pytest.raises(LabelerError, match="charge -2"):
            labeler.label(asked)
        with pytest.raises(LabelerError, match="CH4"):
            labeler.label(molecule("CH4"))

    def test_two_multiplicities_at_one_geometry(self) -> None:
        frames = [Atoms("O2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.21]]) for _ in range(2)]
        for atoms, multiplicity in zip(frames, (1, 3), strict=True):
            atoms.info.update(multiplicity=multiplicity, reference_energy=-float(multiplicity))
        for order in (frames, frames[::-1]):
            labeler = LookupLabeler(order)
            assert [labeler.label(a).energy for a in frames] == [-1.0, -3.0]
        with pytest.raises(LabelerError, match="charge 0 and multiplicity 1"):
            LookupLabeler(frames[1:]).label(frames[0])

    def test_labels_are_not_shared(self) -> None:
        labeler = LookupLabeler([labelled(1, -1.0)])
        first = labeler.label(water(1))
        assert first.forces is not None
        first.forces[:] = 7.0
        np.testing.assert_array_equal(labeler.label(water(1)).forces, -1.0)

    def test_other_keys(self) -> None:
        frame = labelled(1, -1.0)
        frame.info["dlpno_energy"] = -3.0
        labeler = LookupLabeler([frame], energy_key="dlpno_energy", forces_key="none")
        assert not labeler.provides_forces
        assert labeler.label(water(1)).energy == -3.0
        with pytest.raises(DataError, match=r"1w \(frame 0\) has no info\['hof'\]"):
            LookupLabeler([frame], energy_key="hof")

    def test_labels_of_two_methods(self) -> None:
        frames = [labelled(i, -float(i), name=f"w{i}") for i in (1, 2, 3)]
        frames[1].info["reference_method"] = "wB97X-D/6-31++G(d,p)"
        labeler = LookupLabeler(frames)
        assert labeler.method == labeler.label(water(2)).method == "wB97X-D/6-31++G(d,p)"
        assert labeler.label(water(1)).method == "labels known before (reference_energy)"
        frames[2].info["reference_method"] = "GFN2-xTB"
        with pytest.raises(DataError, match=r"'wB97X-D/6.*\(w2.*'GFN2-xTB' \(w3"):
            LookupLabeler(frames)
        for frame in frames:  # they are the methods of another energy
            frame.info["dlpno_energy"] = -3.0
        other = LookupLabeler(frames, energy_key="dlpno_energy")
        assert other.label(water(3)).method == "labels known before (dlpno_energy)"

    def test_methods_in_files(self, tmp_path: Path) -> None:
        frames = [labelled(i, -float(i), name=f"w{i}") for i in (1, 2)]
        for frame, method in zip(frames, ("PBE", "B3LYP"), strict=True):
            frame.info.update(reference_method=method, dlpno_energy=-3.0)
        write(tmp_path / "a.extxyz", frames)
        table = {"kind": "lookup", "files": [tmp_path / "a.extxyz"]}
        with pytest.raises(DataError, match=r"'PBE'.*'B3LYP'"):
            make_labeler(LabelerTable(**table))
        other = make_labeler(LabelerTable(**table, reference_key="dlpno_energy"))
        assert other.label(water(2)).energy == pytest.approx(-3.0)
        write(tmp_path / "a.extxyz", frames[:1])
        assert make_labeler(LabelerTable(**table)).label(water(1)).method == "PBE"


class Careless:
    """Returns what its structure says."""

    method = "careless"
    provides_forces = True
    in_process = True

    def label(self, atoms: Atoms) -> Any:
        answer = atoms.info["answer"]
        return Label(*answer, 0.0, self.method) if isinstance(answer, tuple) else answer


class TestLabelsOfAnyonesLabeler:
    def results(self, *answers: Any) -> tuple[list[Atoms], list[LabelResult]]:
        frames = []
        for i, answer in enumerate(answers):
            frames.append(water())
            frames[-1].info.update(answer=answer, name=f"w{i}")
        return label_frames(Careless(), frames)

    @pytest.mark.parametrize(
        ("forces", "fault"),
        [
            (np.zeros((2, 3)), r"shape \(2, 3\), expected \(3, 3\)"),
            (np.zeros(9), r"shape \(9,\)"),
            (np.full((3, 3), np.nan), "not all finite"),
            ([["a", "b", "c"]] * 3, "no array of numbers"),
        ],
    )
    def test_forces_that_are_none(self, forces: Any, fault: str) -> None:
        with pytest.warns(UserWarning, match=rf"w0 \(frame 0\).*{fault}"):
            (good, other), failures = self.results((-1.5, forces), (-2.5, np.ones((3, 3))))
        assert not failures
        assert good.info["reference_energy"] == -1.5
        assert "reference_forces" not in good.arrays
        assert other.arrays["reference_forces"].tolist() == np.ones((3, 3)).tolist()

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((np.nan, None), "energy of nan"),
            ((np.inf, None), "energy of inf"),
            ((None, None), "energy of nan|energy of None"),
            (("low", None), "energy of 'low'"),
            ((np.zeros(2), None), "expected a number"),
            (-1.5, "returned a float; expected a Label"),
        ],
    )
    def test_energies_that_are_none(self, answer: Any, reason: str) -> None:
        (good,), (failure,) = self.results(answer, (-2.5, np.zeros((3, 3))))
        assert good.info["reference_energy"] == -2.5
        assert failure.label is None
        assert re.search(reason, failure.reason)

    def test_result_holds_plain_numbers(self) -> None:
        seen: list[LabelResult] = []
        atoms = water()
        atoms.info["answer"] = (np.array(-1.5), np.zeros((3, 3)).tolist())
        label_frames(Careless(), [atoms], on_result=seen.append)
        label = seen[0].label
        assert label is not None
        assert type(label.energy) is float
        assert isinstance(label.forces, np.ndarray)


class Scripted:
    """Does what ``info["do"]`` of a structure says."""

    method = "scripted"
    provides_forces = True

    def label(self, atoms: Atoms) -> Label:
        action = atoms.info.get("do", "label")
        if action == "crash":
            sys.stderr.write("segmentation of a fault\n")
            sys.stderr.flush()
            os._exit(7)
        if action == "hang":
            time.sleep(600)
        if action == "raise":
            raise ValueError("no such orbital")
        if action == "fail":
            raise LabelerError("SCF did not converge")
        if action == "print":
            print("a program's banner", flush=True)
            os.system("echo more of it")
        energy = -float(atoms.info["number"])
        return Label(energy, np.full((len(atoms), 3), energy), 0.0, f"scripted by {os.getpid()}")


def scripted_frames(*actions: str) -> list[Atoms]:
    frames = []
    for i, action in enumerate(actions):
        frames.append(water())
        frames[-1].info.update(do=action, number=i)
    return frames


def _wait(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for is a zombie, not running
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# Writes to its folder as long as it runs.
PROGRAM = "import sys\nwhile True: open(f'{sys.argv[1]}/more', 'w').write('x')"


class TestLabelFrames:
    def test_failures_cost_their_structure_only(self) -> None:
        frames = scripted_frames("label", "crash", "print", "raise", "fail", "label")
        before = [a.copy() for a in frames]
        seen: list[LabelResult] = []
        good, failures = label_frames(Scripted(), frames, n_jobs=2, on_result=seen.append)
        assert [a.info["reference_energy"] for a in good] == [0, -2, -5]
        assert all(np.all(a.arrays["reference_forces"] == -a.info["number"]) for a in good)
        assert all((a.info["charge"], a.info["multiplicity"]) == (0, 1) for a in good)
        reasons = {f.index: f.reason for f in failures}
        assert list(reasons) == [1, 3, 4]
        assert "code 7: segmentation of a fault" in reasons[1]
        assert reasons[3] == "ValueError: no such orbital"
        assert reasons[4] == "SCF did not converge"
        assert all(f.label is None and f.atoms == frames[f.index] for f in failures)
        assert sorted(r.index for r in seen) == list(range(6))
        for atoms, old in zip(frames, before, strict=True):
            assert atoms == old
            assert atoms.info == old.info
        processes = {a.info["reference_method"] for a in good}
        assert f"scripted by {os.getpid()}" not in processes

    def test_hanging_calculation(self) -> None:
        frames = scripted_frames("label", "hang", "label")
        good, failures = label_frames(Scripted(), frames, time_limit=3.0)
        assert [a.info["number"] for a in good] == [0, 2]
        assert failures[0].reason.startswith("time limit of 3 s passed")

    def test_labels_replace_older_ones(self) -> None:
        frame = labelled(1, -5.0)
        labeler = ASELabeler(Recorder(), "DLPNO", energies_only=True)
        (good,), failures = label_frames(labeler, [frame])
        assert not failures
        assert good.info["reference_energy"] == -1.0
        assert good.info["reference_method"] == "DLPNO"
        assert "reference_forces" not in good.arrays
        assert frame.info["reference_energy"] == -5.0

    def test_lookup_runs_here(self) -> None:
        frames = [labelled(i, -float(i)) for i in range(1, 4)]
        good, failures = label_frames(LookupLabeler(frames), [water(2), molecule("CH4"), water(3)])
        assert [a.info["reference_energy"] for a in good] == [-2.0, -3.0]
        assert [f.index for f in failures] == [1]

    def test_interrupted_by_the_journal(self) -> None:
        threads = threading.active_count()

        def stop(result: LabelResult) -> None:
            raise KeyboardInterrupt

        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            label_frames(Scripted(), scripted_frames("label", "hang"), on_result=stop)
        assert time.monotonic() - start < 300  # the hanging process was not waited for
        assert _wait(lambda: threading.active_count() == threads)

    def test_labeler_that_cannot_travel(self) -> None:
        calculator = EMT()
        calculator.lock = threading.Lock()
        with pytest.raises(SettingsError, match="factory"):
            label_frames(ASELabeler(calculator, "EMT"), [water()])

    def test_nothing_to_do(self) -> None:
        assert label_frames(Scripted(), []) == ([], [])

    @pytest.mark.parametrize("limit", [np.inf, 1e10, np.float64(1e300)])
    def test_limits_that_no_timer_can_count_to(self, limit: float) -> None:
        (good,), failures = label_frames(Scripted(), scripted_frames("label"), time_limit=limit)
        assert good.info["reference_energy"] == 0.0
        assert not failures

    @pytest.mark.parametrize(
        "options",
        [
            {"n_jobs": 0},
            {"n_jobs": -3},
            *({"time_limit": t} for t in (0.0, -np.inf, np.nan, "60", True)),
        ],
    )
    def test_settings_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=next(iter(options))):
            label_frames(Scripted(), [water()], **options)

    def test_script_without_main_guard(self, tmp_path: Path) -> None:
        # Labelers defined in a plain script reach the workers, which do not run the script again.
        script = tmp_path / "script.py"
        script.write_text(
            "from ase.build import molecule\n"
            "from ase_knncalc.labelers import Label, label_frames\n"
            "print('started')\n"
            "class Mine:\n"
            "    method, provides_forces = 'mine', False\n"
            "    def label(self, atoms):\n"
            "        return Label(-3.0, None, 0.0, self.method)\n"
            "print(label_frames(Mine(), [molecule('H2O')])[0][0].info['reference_energy'])\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        output = subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert output.stdout.split() == ["started", "-3.0"]

    @pytest.mark.skipif(os.name != "posix", reason="looks for processes by signal 0")
    def test_workers_end_with_a_killed_parent(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import os, subprocess, sys, tempfile, time\n"
            "from ase.build import molecule\n"
            "from ase_knncalc.labelers import label_frames\n"
            "class Mine:\n"
            "    method, provides_forces = 'mine', False\n"
            "    def label(self, atoms):\n"
            "        folder = tempfile.mkdtemp()\n"
            "        open(folder + '/integrals', 'w').write('large')\n"
            f"        program = subprocess.Popen([sys.executable, '-c', {PROGRAM!r}, folder])\n"
            f"        with open({str(tmp_path / 'pid')!r}, 'w') as note:\n"
            "            note.write(f'{os.getpid()} {program.pid}.')\n"
            "        time.sleep(600)\n"
            "label_frames(Mine(), [molecule('H2O')])\n"
        )
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment["TMPDIR"] = str(scratch)
        parent = subprocess.Popen([sys.executable, str(script)], env=environment)
        note = tmp_path / "pid"
        assert _wait(lambda: note.exists() and note.read_text().endswith("."))
        assert len(list(scratch.iterdir())) == 1
        parent.kill()
        parent.wait()
        worker, program = map(int, note.read_text().rstrip(".").split())
        assert _wait(lambda: not _runs(worker) and not _runs(program))
        assert _wait(lambda: not list(scratch.iterdir()), 10.0)

    def test_pyscf_in_workers(self) -> None:
        labeler = small(forces=False)
        far = water()
        far.info["charge"] = 1
        far.info["multiplicity"] = 2
        good, failures = label_frames(labeler, [water(), far])
        assert not failures
        energies = [a.info["reference_energy"] for a in good]
        assert energies[0] == pytest.approx(labeler.label(water()).energy, abs=1e-6)
        assert energies[1] > energies[0] + 5.0  # ionisation


@pytest.mark.skipif(not FRAMES.exists(), reason="test data not made yet")
class TestShippedFrames:
    def test_frames_are_complete(self) -> None:
        frames = read(FRAMES, ":")
        assert len({f.info["name"] for f in frames}) == len(frames)
        assert {f.info["composition"] for f in frames} >= {"1w", "2w", "1sa"}
        for frame in frames:
            for level in ("reference", "baseline"):
                forces = frame.arrays[f"{level}_forces"]
                assert np.isfinite(frame.info[f"{level}_energy"])
                np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-4)
                # A grid that does not turn with the molecule leaves some meV of torque.
                torque = np.cross(frame.positions, forces).sum(axis=0)
                np.testing.assert_allclose(torque, 0, atol=0.02)
            assert (frame.info["charge"], frame.info["multiplicity"]) == (0, 1)

    def test_labels_can_be_made_again(self) -> None:
        pytest.importorskip("pyscf")
        frame = next(f for f in read(FRAMES, ":") if f.info["temperature"] == 600)
        assert frame.info["composition"] == "1w"
        label = PySCFLabeler().label(frame)
        assert label.method == frame.info["reference_method"]
        assert label.energy == pytest.approx(frame.info["reference_energy"], abs=1e-5)
        np.testing.assert_allclose(label.forces, frame.arrays["reference_forces"], atol=1e-3)
