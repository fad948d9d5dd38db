"""Baseline energies that come with the data are compared with the baseline's, by samples."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers.factories import water_clusters

from ase_knncalc import train
from ase_knncalc.baselines import SinglePoint, make_baseline
from ase_knncalc.errors import BaselineError
from ase_knncalc.evaluation.report.judged import judge_data
from ase_knncalc.labels.brought import check_brought, wrong_baselines
from ase_knncalc.labels.files import check_files
from ase_knncalc.training import append

QUICK = {"trend": "linear", "k": 3, "n_components": 5, "metric_iterations": 10, "n_jobs": 1}


class Counted:
    """A baseline of one number per atom, which counts what it is asked for."""

    library = "counted"
    is_none = is_given = is_repeatable = False
    method = "one-per-atom"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def energy(self, atoms, charge, multiplicity):
        self.sizes.append(len(atoms))
        return float(len(atoms))

    def energy_and_forces(self, atoms, charge, multiplicity):
        return self.energy(atoms, charge, multiplicity), np.zeros((len(atoms), 3))

    properties = ()

    def single_point(self, atoms, charge, multiplicity, wanted=()):
        return SinglePoint(*self.energy_and_forces(atoms, charge, multiplicity))

    def spec(self):
        return {"method": self.method, "library": self.library}


@pytest.fixture(scope="module")
def gfn1():
    return make_baseline("GFN1-xTB")


@pytest.fixture(scope="module")
def gfn2():
    return make_baseline("GFN2-xTB")


@pytest.fixture(scope="module")
def brought(gfn1):
    """Water clusters with GFN1-xTB energies, and a reference that is not far from them."""
    frames = water_clusters(80)
    for atoms in frames:
        label = atoms.info["reference_energy"]
        atoms.info["baseline_energy"] = gfn1.energy(atoms, 0, 1)
        atoms.info["reference_energy"] = atoms.info["baseline_energy"] + label
    return frames


def copies(frames):
    return [a.copy() for a in frames]


def of_another(frames, baseline, indices):
    """The frames with energies of another baseline in some of them."""
    mixed = copies(frames)
    for i in indices:
        mixed[i].info["baseline_energy"] = baseline.energy(mixed[i], 0, 1)
    return mixed


def test_large_structures_of_another_baseline_are_found(brought, gfn2) -> None:
    """The smallest structures, of which all is well, are not all that is looked at."""
    large = [i for i, a in enumerate(brought) if len(a) >= 9]
    mixed = of_another(brought, gfn2, large)
    with pytest.raises(BaselineError, match="the data mix baselines"):
        train(mixed, **QUICK)
    train(copies(brought), **QUICK)


def test_so_it_is_in_appending_and_reports(brought, gfn2) -> None:
    model = train(copies(brought), **QUICK)
    new = water_clusters(30, seed=3)
    for i, atoms in enumerate(new):
        del atoms.info["reference_energy"]
        atoms.info["baseline_energy"] = model.baseline.energy(atoms, 0, 1)
        # Near to what the model predicts, but not what it predicted.
        atoms.info["reference_energy"] = float(model.predict(atoms).energy) + 1e-4 * (-1) ** i
    mixed = of_another(new, gfn2, [i for i, a in enumerate(new) if len(a) >= 9])
    for use in (append, judge_data):
        with pytest.raises(BaselineError, match="the data mix baselines"):
            use(model, mixed)
    assert len(append(model, new).added) == 30
    assert len(judge_data(model, new, n_jobs=1)) == 30


def test_one_file_of_another_baseline_among_five_is_found() -> None:
    """Whatever its size, each file is asked for one structure."""
    frames = []
    for file, n in (("a", 2000), ("b", 30), ("c", 500), ("d", 5), ("e", 5)):
        for i in range(n):
            atoms = molecule("H2O") if i % 2 else molecule("CH3CH2OH")
            atoms.info.update(name=f"{file}{i}", source=f"{file}.extxyz#{i}")
            atoms.info["baseline_energy"] = float(len(atoms)) + (file == "d")
            frames.append(atoms)
    with pytest.raises(BaselineError, match=r"^d\d+: .*the data mix baselines"):
        check_brought(frames, Counted())


@pytest.mark.parametrize("n", [1, 2, 5, 300, 15_000])
def test_few_are_computed_whatever_their_number(n: int) -> None:
    """And none that takes long but those that are the smallest there are."""
    rng = np.random.default_rng(n)
    frames = []
    for i, pairs in enumerate(rng.integers(1, 60, n)):
        atoms = Atoms(f"H{2 * pairs}", np.arange(6.0 * pairs).reshape(-1, 3) + 0.01 * i)
        atoms.info.update(name=str(i), baseline_energy=float(len(atoms)))
        frames.append(atoms)
    baseline = Counted()
    check_brought(frames, baseline)
    assert len(baseline.sizes) <= min(n, 14)
    small = sorted(len(a) for a in frames)
    assert baseline.sizes[: min(3, n)] == small[:3]
    assert all(size <= 60 for size in baseline.sizes[3:])
    if n >= 300:
        assert len(baseline.sizes) == 14
        assert baseline.sizes[-1] == max(size for size in small if size <= 60)
        assert len(set(baseline.sizes)) >= 11  # of different compositions


def test_suspects_are_put_down_to_their_baseline(brought, gfn1, gfn2) -> None:
    """What no sample finds shows in the labels: then it is no fault of the reference."""
    checked = Counted()
    checked.energy = lambda a, q, m: (checked.sizes.append(a.info["name"]), gfn1.energy(a, q, m))[1]
    check_brought(brought, checked)
    unseen = [i for i, a in enumerate(brought) if a.info["name"] not in checked.sizes]
    one = of_another(brought, gfn2, unseen[:1])
    with pytest.warns(UserWarning, match=r"its baseline energy is .* where GFN1-xTB gives"):
        model = train(one, **QUICK)
    assert [o["name"] for o in model.info.provenance.omitted] == [one[unseen[0]].info["name"]]
    two = of_another(brought, gfn2, unseen[:2])
    with pytest.raises(BaselineError, match=r"2 of 2 structures whose Δ is far off.*mix baselines"):
        train(two, **QUICK)
    # A check lists them all.
    _, suspects = check_files(two, n_jobs=1)
    certain = [s for s in suspects if s.certain]
    assert {s.name for s in certain} == {two[i].info["name"] for i in unseen[:2]}
    assert {s.category for s in certain} == {"baseline"}
    # A wrong reference energy is none of the baseline's.
    wrong = copies(brought)
    wrong[unseen[0]].info["reference_energy"] -= 20.0
    _, suspects = check_files(wrong, n_jobs=1)
    assert [s.category for s in suspects if s.certain] == ["outlier"]


def test_wild_additions_are_put_down_to_their_baseline(brought, gfn1, gfn2) -> None:
    model = train(copies(brought), **QUICK)
    new = water_clusters(40, seed=3)
    for atoms in new:
        atoms.info["baseline_energy"] = gfn1.energy(atoms, 0, 1)
        atoms.info["reference_energy"] += atoms.info["baseline_energy"]
    checked = Counted()
    checked.energy = lambda a, q, m: (checked.sizes.append(a.info["name"]), gfn1.energy(a, q, m))[1]
    check_brought(new, checked)
    unseen = [i for i, a in enumerate(new) if a.info["name"] not in checked.sizes]
    outcome = append(model, of_another(new, gfn2, unseen[:1]))
    assert [(o.name, o.category) for o in outcome.omitted] == [
        (new[unseen[0]].info["name"], "baseline")
    ]
    with pytest.raises(BaselineError, match="mix baselines"):
        append(model, of_another(new, gfn2, unseen[:2]))


def test_only_xtb_is_asked_again(brought) -> None:
    wrong = copies(brought[:3])
    for atoms in wrong:
        atoms.info["baseline_energy"] += 5.0
    assert wrong_baselines(wrong, None) == {}
    assert wrong_baselines(wrong, Counted()) == {}
    assert len(wrong_baselines(wrong, make_baseline("GFN1-xTB"), refuse=False)) == 3
    assert wrong_baselines(brought[:3], make_baseline("GFN1-xTB")) == {}
