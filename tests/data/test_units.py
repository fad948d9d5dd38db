"""Energies in other units than they should be: found when certain, and only then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule

from ase_knncalc import train
from ase_knncalc.data import KeyMap, check_spread, check_units, mixed_units, read_dataset
from ase_knncalc.data.units import _PER_EV, column_unit
from ase_knncalc.errors import DataError

EV_IN = {
    "Hartree": 1 / units.Hartree,
    "kcal/mol": units.mol / units.kcal,
    "kJ/mol": units.mol / units.kJ,
}

# Rounded all-electron DFT total energies, Hartree: of the right size is all that is needed here.
TOTAL = {
    "H2O": -76.41, "CH4": -40.52, "NH3": -56.56, "CO2": -188.58, "HCN": -93.42, "CH3OH": -115.72,
    "C2H4": -78.59, "C6H6": -232.25, "SO2": -548.59, "H2CO": -114.50, "HCl": -460.80,
    "CH3Cl": -500.11, "N2O": -184.66, "CH3SH": -438.69, "SiH4": -291.88, "PH3": -343.14,
}  # fmt: skip


def totals(factor: float = units.Hartree) -> list[Atoms]:
    frames = []
    for name, energy in TOTAL.items():
        atoms = molecule(name)
        atoms.info.update(reference_energy=energy * factor, name=name)
        frames.append(atoms)
    return frames


def counts_of(frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    elements = np.unique(np.concatenate([a.numbers for a in frames]))
    return np.array([[(a.numbers == z).sum() for z in elements] for a in frames], float), elements


def test_total_energies_in_ev_pass() -> None:
    check_units(totals())


@pytest.mark.parametrize("unit", EV_IN)
def test_whole_column_in_another_unit(unit: str) -> None:
    frames = totals(units.Hartree * EV_IN[unit])
    with pytest.raises(
        DataError, match=rf"reference energies look like.*{unit}.*energy_unit='{unit}'"
    ):
        check_units(frames)
    with pytest.raises(DataError, match=unit):
        read_dataset(frames)
    assert len(read_dataset(frames, keys=KeyMap(energy_unit=unit))) == len(frames)


def test_one_formula_in_hartree_is_not_certain() -> None:
    # 200 geometries of one molecule: a valence-only method could have such energies in eV.
    frames = []
    for _ in range(200):
        atoms = molecule("H2O")
        atoms.info["reference_energy"] = -76.41
        frames.append(atoms)
    check_units(frames)
    for atoms in frames:
        atoms.info["reference_energy"] *= units.Hartree * EV_IN["kcal/mol"]
    with pytest.raises(DataError, match="kcal/mol"):
        check_units(frames)


def clusters(n: int = 60) -> list[Atoms]:
    """Sums over elements with a few eV of scatter, like clusters of one kind."""
    rng = np.random.default_rng(0)
    frames = []
    for i in range(n):
        n_c, n_n, n_o = rng.integers(1, 6, size=3)
        atoms = Atoms(f"C{n_c}N{n_n}O{n_o}H{2 * n_c + 2}")
        energy = -1036.0 * n_c - 1490.0 * n_n - 2046.0 * n_o - 16.0 * len(atoms)
        atoms.info.update(
            reference_energy=energy + rng.normal(scale=3.0),
            baseline_energy=0.06 * energy + rng.normal(scale=0.5),
            name=f"c{i}",
        )
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("unit", EV_IN)
@pytest.mark.parametrize("level", ["reference", "baseline"])
@pytest.mark.parametrize("wrong", [[7], [3, 20, 21, 22, 40], list(range(0, 60, 4))])
def test_some_frames_in_another_unit(unit: str, level: str, wrong: list[int]) -> None:
    frames = clusters()
    check_units(frames)
    for i in wrong:
        frames[i].info[f"{level}_energy"] *= EV_IN[unit]
    with pytest.raises(
        DataError,
        match=rf"{level} energies of {len(wrong)} of 60 frames.*{unit} among eV.*c{wrong[0]}\b",
    ):
        check_units(frames)
    counts, _ = counts_of(frames)
    energies = np.array([a.info[f"{level}_energy"] for a in frames])
    (found,) = mixed_units(energies, counts)
    assert found.indices == tuple(wrong)
    assert found.factor == pytest.approx(EV_IN[unit])


def test_few_frames_in_ev_among_hartree() -> None:
    frames = clusters()
    for i, atoms in enumerate(frames):
        if i not in (5, 6):
            atoms.info["baseline_energy"] /= units.Hartree
    with pytest.raises(DataError, match=r"2 of 60 frames are larger.*eV among Hartree"):
        check_units(frames)


def test_other_outliers_are_no_units() -> None:
    frames = clusters()
    frames[3].info["reference_energy"] *= 0.5
    frames[4].info["reference_energy"] *= 10.0
    frames[5].info["reference_energy"] = 0.0
    frames[6].info["reference_energy"] -= 100.0
    frames[7].info["reference_energy"] *= -1.0
    check_units(frames)


def test_small_numbers_are_not_judged() -> None:
    """Binding energies and heats of formation are no sums over elements."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        frames = clusters(40)
        for atoms in frames:
            size = len(atoms) - 8
            atoms.info["reference_energy"] = -0.1 * size * rng.lognormal(sigma=1.0)
            atoms.info["baseline_energy"] = rng.normal()
        check_units(frames)


def test_valence_only_energies_are_not_judged() -> None:
    # Made up, of the size that valence-only methods such as GFN1-xTB give, eV.
    valence = {"H": -13.0, "C": -60.0, "N": -85.0, "O": -125.0, "S": -95.0, "Cl": -125.0,
               "Si": -50.0, "P": -65.0}  # fmt: skip
    frames = totals()
    for atoms in frames:
        atoms.info["reference_energy"] = sum(valence[s] for s in atoms.symbols)
    check_units(frames)


def test_incomplete_columns() -> None:
    frames = totals()
    for atoms in frames[:4]:
        del atoms.info["reference_energy"]
    check_units(frames)
    check_units([])
    check_units(frames[:1])
    heavy = Atoms("UO2", [[0, 0, 0], [0, 0, 1.8], [0, 0, -1.8]])
    heavy.info["reference_energy"] = -1.0
    check_units([*frames, heavy])


def test_hydrogen_alone_is_not_judged() -> None:
    counts = np.array([[2.0]])
    assert column_unit(np.array([-1.17]), counts, np.array([1])) is None


@pytest.mark.parametrize("unit", EV_IN)
def test_real_clusters(shared_data: Path, unit: str) -> None:
    keys = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")
    dataset = read_dataset(shared_data / "saw_equilibrium.extxyz.gz", keys=keys, index="::4")
    for level in ("reference", "baseline"):
        frames = [a.copy() for a in dataset]
        for atoms in frames[10:22]:
            atoms.info[f"{level}_energy"] *= EV_IN[unit]
        with pytest.raises(DataError, match=f"{level} energies of 12 of 421 .*{unit} among eV"):
            check_units(frames)
    frames = [a.copy() for a in dataset]
    for atoms in frames:
        atoms.info["reference_energy"] *= EV_IN[unit]
    with pytest.raises(DataError, match=f"look like total energies in {unit}"):
        check_units(frames)


# ----------------------------------------------- reference in another unit than the baseline


class TestSpread:
    """Energies whose size says nothing (valence electrons, binding energies): their spread does."""

    @pytest.fixture
    def frames(self, cluster_frames):
        return [a.copy() for a in cluster_frames]

    @staticmethod
    def relative(frames, factor: float) -> None:
        """Reference energies relative to some zero of the elements, in another unit."""
        for a in frames:
            shift = sum({1: -16.0, 7: -1490.0, 8: -2047.0, 16: -10833.0}[z] for z in a.numbers)
            a.info["reference_energy"] = factor * (a.info["reference_energy"] - shift)

    @pytest.mark.parametrize("unit", ["Hartree", "kcal/mol", "kJ/mol"])
    def test_told_with_the_unit(self, frames, unit: str) -> None:
        self.relative(frames, _PER_EV[unit])
        check_units(frames)  # their size is no help
        with pytest.raises(DataError, match=f"look like {unit}, not eV"):
            check_spread(frames)

    def test_a_few_bad_labels_hide_nothing(self, frames) -> None:
        self.relative(frames, _PER_EV["kcal/mol"])
        for a in frames[::20]:
            a.info["reference_energy"] += 500.0
        with pytest.raises(DataError, match="look like kcal/mol"):
            check_spread(frames)

    def test_right_units_pass(self, frames) -> None:
        check_spread(frames)
        self.relative(frames, 1.0)
        check_spread(frames)

    def test_what_does_not_correlate_passes(self, frames) -> None:
        rng = np.random.default_rng(0)
        for a in frames:
            a.info["reference_energy"] = 30.0 * float(rng.normal())
        check_spread(frames)

    def test_few_frames_pass(self, frames) -> None:
        self.relative(frames, _PER_EV["kcal/mol"])
        check_spread(frames[:6])

    def test_training_refuses(self, frames) -> None:
        self.relative(frames, _PER_EV["kcal/mol"])
        with pytest.raises(DataError, match="look like kcal/mol"):
            train(frames, n_jobs=1)
