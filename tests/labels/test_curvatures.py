"""Curvatures of the reference from its harmonic frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_masses_common
from ase.optimize import BFGS
from helpers.commands import knncalc

from ase_knncalc import KNNCalculator, TrainingSettings, load_model, train
from ase_knncalc.analysis.thermochemistry import wavenumbers
from ase_knncalc.baselines import make_baseline
from ase_knncalc.data import write_frames
from ase_knncalc.labels.curvatures import (
    baseline_hessians,
    curvature_labels,
    curvatures,
    in_wavenumbers,
    vibrations,
)
from ase_knncalc.trend.sparse import SparseSettings


def relaxed(name: str, method: str) -> Atoms:
    atoms = molecule(name)
    atoms.info.update(charge=0, multiplicity=1, composition=name, name=name)
    atoms.calc = baseline_calculator(method)
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    return atoms


def baseline_calculator(method: str):
    tblite = pytest.importorskip("tblite.ase")
    return tblite.TBLite(method=method, verbosity=0, accuracy=0.01)


@pytest.fixture(scope="module")
def minima() -> list[Atoms]:
    """Minima of GFN2-xTB, which stands for the reference, with its frequencies."""
    found = []
    for name in ("H2O", "NH3", "CH3OH", "HCOOH"):
        atoms = relaxed(name, "GFN2-xTB")
        atoms.info["frequencies_cm1"] = wavenumbers(atoms)
        atoms.info["reference_energy"] = atoms.get_potential_energy()
        atoms.calc = None
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def hessians(minima):
    return baseline_hessians(minima, make_baseline("gfn1"), n_jobs=1)


def test_modes_are_those_of_the_hessian_without_free_motions(minima, hessians) -> None:
    for atoms, hessian in zip(minima, hessians, strict=True):
        masses = atomic_masses_common[atoms.numbers]
        modes, squares = vibrations(masses, atoms.positions, hessian)
        assert modes.shape == (3 * len(atoms) - 6, 3 * len(atoms))
        np.testing.assert_allclose(modes @ modes.T, np.eye(len(modes)), atol=1e-10)
        weighted = hessian / np.sqrt(np.outer(np.repeat(masses, 3), np.repeat(masses, 3)))
        np.testing.assert_allclose(modes @ weighted @ modes.T, np.diag(squares), atol=1e-10)
        momenta = (modes * np.sqrt(np.repeat(masses, 3))).reshape(len(modes), -1, 3).sum(axis=1)
        np.testing.assert_allclose(momenta, 0, atol=1e-9)
    carbon_dioxide = molecule("CO2")
    random = np.random.default_rng(0).normal(size=(9, 9))
    masses = carbon_dioxide.get_masses()
    assert len(vibrations(masses, carbon_dioxide.positions, random + random.T)[1]) == 4


def test_rows_are_what_a_known_difference_of_hessians_gives(minima, hessians) -> None:
    """A reference whose Hessian is 1.21 times the baseline's has frequencies 1.1 times as high."""
    for atoms, hessian in zip(minima, hessians, strict=True):
        masses = atomic_masses_common[atoms.numbers]
        modes, squares = vibrations(masses, atoms.positions, hessian)
        # Scaled frequencies belong to the Hessian without its free motions.
        roots = np.sqrt(np.repeat(masses, 3))
        inner = (modes * roots).T @ np.diag(squares) @ (modes * roots)
        found = curvatures(atoms.numbers, atoms.positions, hessian, 1.1 * in_wavenumbers(squares))
        assert found is not None
        along = found.displacements.reshape(len(modes), -1)
        np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1.0)
        change = np.einsum("ij,jk,ik->i", along, 0.21 * inner, along)
        np.testing.assert_allclose(found.mixing @ change, found.delta, rtol=1e-8)


def test_soft_modes_that_mix_give_the_same_row() -> None:
    """Of a window only the trace counts: any orthonormal basis of its modes has the same."""
    rng = np.random.default_rng(4)
    atoms = molecule("CH3CH2OH")
    masses = atomic_masses_common[atoms.numbers]
    random = rng.normal(size=(27, 27))
    hessian = random @ random.T
    modes, squares = vibrations(masses, atoms.positions, hessian)
    # All in one window, none above.
    hessian *= (180.0 / in_wavenumbers(squares).max()) ** 2
    modes, squares = vibrations(masses, atoms.positions, hessian)
    frequencies = np.linspace(110, 190, len(squares))
    found = curvatures(atoms.numbers, atoms.positions, hessian, frequencies)
    assert found is not None
    assert found.mixing.shape == (1, len(squares))
    change = rng.normal(size=(27, 27))
    change = change + change.T
    turned = np.linalg.qr(rng.normal(size=(len(squares), len(squares))))[0] @ modes
    inverse = 1 / np.sqrt(np.repeat(masses, 3))
    along = found.displacements.reshape(len(modes), -1)
    row = found.mixing @ np.einsum("ij,jk,ik->i", along, change, along)
    scale = found.mixing[0] / np.sum((modes * inverse) ** 2, axis=1)
    np.testing.assert_allclose(scale, scale[0])
    traces = np.einsum("ij,jk,ik->i", turned * inverse, change, turned * inverse).sum()
    np.testing.assert_allclose(row, scale[0] * traces)


def test_frequencies_of_another_structure_are_left_out(minima, hessians) -> None:
    known = [a.info["frequencies_cm1"] for a in minima]
    imaginary = known[1].copy()
    imaginary[0] = -50.0
    labels = curvature_labels(
        [3, 5, 8, 9],
        minima,
        [hessians[0], hessians[1], hessians[2], None],
        [known[0], imaginary, known[2][:-1], known[3]],
    )
    assert labels is not None
    assert labels.rows.tolist() == [3]
    assert curvature_labels([0], minima[1:2], hessians[1:2], [imaginary]) is None


@pytest.mark.slow
def test_training_on_frequencies_gives_them_back(minima) -> None:
    """GFN2-xTB's vibrations on a GFN1-xTB baseline, from minima and a few energies around them."""
    around = []
    for k, atoms in enumerate([a for a in minima for _ in range(8)]):
        moved = atoms.copy()
        moved.rattle(0.05, seed=k)
        moved.calc = baseline_calculator("GFN2-xTB")
        moved.info.update(
            name=f"{atoms.info['name']}-{k}",
            reference_energy=moved.get_potential_energy(),
            frequencies_cm1=np.array([-1.0]),
        )
        moved.calc = None
        around.append(moved)
    errors = {}
    for frames in (0, 10):
        sparse = SparseSettings(
            environments=60,
            variance_environments=30,
            length_scale=4.0,
            penalties=(1e-5,),
            force_weights=(0.3,),
            curvature_frames=frames,
        )
        settings = TrainingSettings(
            descriptor_kind="power-spectrum", k=2, n_components=2, metric="pca", sparse=sparse
        )
        model = train(
            [a.copy() for a in minima + around],
            baseline="gfn1",
            minima=True,
            settings=settings,
            n_jobs=1,
            check_labels=False,
        )
        assert model.info.provenance.trend["curvature_frames"] == min(frames, len(minima))
        found = []
        for atoms in minima:
            copy = atoms.copy()
            copy.calc = KNNCalculator(model, on_novelty="ignore")
            known = atoms.info["frequencies_cm1"]
            found.append(np.abs(wavenumbers(copy) - known)[known > 1000])
        errors[frames] = float(np.mean(np.concatenate(found)))
    assert errors[10] < 0.4 * errors[0]
    assert errors[10] < 25.0, "cm⁻¹"


def test_command_takes_frequencies_from_a_table(minima, tmp_path) -> None:
    """One record has an imaginary frequency: its energy is learned, its zero forces are not."""
    frames = [a.copy() for a in minima]
    rows = ["name,frequencies_cm1"]
    for atoms in frames:
        known = atoms.info.pop("frequencies_cm1")
        if atoms.info["name"] == "NH3":
            known = np.concatenate([[-400.0], known[1:]])
        rows.append(f"{atoms.info['name']},{';'.join(map(str, known))}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    write_frames(tmp_path / "minima.extxyz", frames)
    done = knncalc(
        "train",
        "minima.extxyz",
        "--minima",
        "--frequencies",
        "table.csv",
        "--preset",
        "forces",
        "--environments",
        10,
        "--curvature-frames",
        2,
        "-k",
        2,
        "--components",
        2,
        "--jobs",
        1,
        "--baseline",
        "gfn1",
        "-o",
        "model.h5",
        cwd=tmp_path,
    )
    assert "model.h5" in done.stdout
    trend = load_model(tmp_path / "model.h5").info.provenance.trend
    assert trend["force_frames"] == len(frames) - 1
    assert trend["curvature_frames"] == 2
