"""Reference labels of PySCF and the dispersion of its functional."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io import read
from helpers.labelers import small, water

from ase_knncalc.errors import (
    ChargeError,
    LabelerError,
    SettingsError,
    StructureError,
    UnknownElementError,
)
from ase_knncalc.labelers import (
    Labeler,
    PySCFLabeler,
    chai_head_gordon_dispersion,
)

FRAMES = Path(__file__).parents[1] / "data" / "clusters_wb97xd.extxyz"


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
