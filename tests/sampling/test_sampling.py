"""Sampling: molecules, packing, walks, and what counts as the same structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc.data import KeyMap, read_dataset, write_frames
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.sampling import SamplingSettings, parse_ingredients, sample
from ase_knncalc.sampling.candidates import Distinct
from ase_knncalc.sampling.engines import BaselineCalculator, make_engine
from ase_knncalc.sampling.molecules import (
    CONTACT,
    MOLECULES,
    assign_hydrogens,
    closest_contact,
    is_one_cluster,
    pack,
)
from ase_knncalc.sampling.settings import METHODS
from ase_knncalc.sampling.walks import basin_hopping, relaxed, rigid_move
from ase_knncalc.structure import check_structure, resolve_charge


class Springs(Calculator):
    """A stand-in with a known minimum: all pairs of atoms want their starting distance."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        owner = self.atoms.arrays["molecule"]
        inside = owner[:, None] == owner
        vectors = self.atoms.positions[:, None] - self.atoms.positions
        distances = np.linalg.norm(vectors, axis=2) + np.eye(len(owner))
        target = np.where(inside, np.round(distances, 1), 3.5)
        stiffness = np.where(inside, 0.0, 0.05)
        stretch = distances - target
        self.results = {
            "energy": 0.25 * float(np.sum(stiffness * stretch**2)),
            "forces": -np.sum(
                (stiffness * stretch / distances)[:, :, None] * vectors, axis=1
            ),
        }  # fmt: skip


class Still(Calculator):
    """No forces, so that a relaxation leaves all as it is; each energy is ``rise`` higher."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    calls = 0

    def __init__(self, rise: float = 0.0) -> None:
        super().__init__()
        self.rise = rise

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        energy = self.calls * self.rise
        self.results = {"energy": energy, "forces": np.zeros((len(self.atoms), 3))}


class Flaky(Springs):
    """Fails now and then."""

    calls = 0

    def calculate(self, *args, **options) -> None:
        self.calls += 1
        if self.calls % 17 == 0:
            raise KNNCalcError("not converged")
        super().calculate(*args, **options)


class Repelling(Springs):
    """Drives molecules apart, in the first ``until`` calculations."""

    calls = 0

    def __init__(self, until: float = np.inf) -> None:
        super().__init__()
        self.until = until

    def calculate(self, *args, **options) -> None:
        super().calculate(*args, **options)
        self.calls += 1
        if self.calls > self.until:
            return
        owner, positions = self.atoms.arrays["molecule"], self.atoms.positions
        vectors = positions[:, None] - positions
        distances = np.linalg.norm(vectors, axis=2) + np.eye(len(owner))
        charges = (owner[:, None] != owner) / distances
        self.results = {
            "energy": 0.5 * float(charges.sum()),
            "forces": np.sum((charges / distances**2)[:, :, None] * vectors, axis=1),
        }


@pytest.mark.parametrize("name", sorted(MOLECULES))
def test_molecules_are_sound(name) -> None:
    atoms = MOLECULES[name]()
    check_structure(atoms)
    assert resolve_charge(atoms)[1] == 1
    assert is_one_cluster(atoms)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["sa:1", "w:2", "am:1", "dma:1", "tma:1"]), min_size=2,
                   max_size=4, unique=True),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_packings_touch_and_do_not_overlap(texts, seed) -> None:
    cluster = pack(parse_ingredients(texts), np.random.default_rng(seed))
    check_structure(cluster)
    assert CONTACT[0] - 1e-6 <= closest_contact(cluster) <= CONTACT[1] + 1e-6
    assert is_one_cluster(cluster)
    again = pack(parse_ingredients(texts), np.random.default_rng(seed))
    np.testing.assert_array_equal(cluster.positions, again.positions)


def test_packings_have_no_preferred_direction() -> None:
    rng = np.random.default_rng(0)
    ingredients = parse_ingredients(["w:2"])
    axes = []
    for _ in range(300):
        cluster = pack(ingredients, rng)
        axis = cluster.positions[cluster.arrays["molecule"] == 1].mean(axis=0)
        axes.append(axis / np.linalg.norm(axis))
    # The standard error of a component is 0.033.
    assert np.abs(np.mean(axes, axis=0)).max() < 0.15


def test_rigid_moves_keep_molecules() -> None:
    rng = np.random.default_rng(1)
    cluster = pack(parse_ingredients(["sa:1", "am:2"]), rng)
    moved = rigid_move(cluster, rng, 0.5, 1.0)
    owner = cluster.arrays["molecule"]
    changed = set()
    for m in range(3):
        before, after = cluster[owner == m], moved[owner == m]
        np.testing.assert_allclose(before.get_all_distances(), after.get_all_distances())
        if np.abs(before.positions - after.positions).max() > 1e-9:
            changed.add(m)
    assert len(changed) == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_distinct_clusters(method) -> None:
    ingredients = parse_ingredients(["w:2", "am:1"])
    options = SamplingSettings(
        methods=(method,), chain=3, interval=5, relax_steps=15, snapshot_time=5.0, seed=3
    )
    frames = sample(ingredients, 5, engine=Springs(), settings=options)
    assert 0 < len(frames) <= 5
    for i, a in enumerate(frames):
        assert a.info["composition"] == "1am2w"
        assert a.info["sampled_by"] == method
        assert np.isfinite(a.info["energy"])
        assert is_one_cluster(a)
        for b in frames[:i]:
            assert not _same(a, b)
    assert len({a.info["name"] for a in frames}) == len(frames)
    again = sample(ingredients, 5, engine=Springs(), settings=options)
    for a, b in zip(frames, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def _same(a, b) -> bool:
    keep = Distinct()
    keep.add(a)
    return not keep.add(b)


def test_the_number_of_processes_does_not_matter() -> None:
    ingredients = parse_ingredients(["w:2"])
    options = SamplingSettings(relax=False)
    one = sample(ingredients, 6, engine="GFN1-xTB", settings=options, n_jobs=1)
    two = sample(ingredients, 6, engine="GFN1-xTB", settings=options, n_jobs=2)
    assert [a.info["name"] for a in one] == [a.info["name"] for a in two]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.positions, b.positions)


def test_relaxed_packings_are_minima() -> None:
    frames = sample(parse_ingredients(["w:2"]), 2, engine="GFN1-xTB", n_jobs=1)
    for atoms in frames:
        atoms.calc = BaselineCalculator("GFN1-xTB")
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.05
        assert atoms.get_potential_energy() == pytest.approx(atoms.info["energy"], abs=1e-4)


def test_one_minimum_reached_twice_is_one_structure() -> None:
    rng = np.random.default_rng(0)
    options = SamplingSettings()
    minimum = sample(parse_ingredients(["w:2"]), 1, engine="GFN1-xTB", n_jobs=1)[0]
    keep = Distinct(options.energy_tolerance, options.distance_tolerance)
    keep.add(minimum)
    for _ in range(2):
        start = minimum.copy()
        start.positions = start.positions @ Rotation.random(random_state=rng).as_matrix()
        start.positions += rng.normal(size=start.positions.shape) * 0.02
        again = relaxed(start, BaselineCalculator("GFN1-xTB"), options)
        again.info["energy"] = again.get_potential_energy()
        assert not keep.add(again)


def test_hotter_walks_go_higher() -> None:
    ingredients = parse_ingredients(["w:2"])
    means = []
    for temperature in (100.0, 1000.0):
        options = SamplingSettings(
            methods=("monte-carlo",), temperatures=(temperature,), chain=15, interval=15
        )
        frames = sample(ingredients, 15, engine=Springs(), settings=options)
        means.append(np.mean([a.info["energy"] for a in frames[5:]]))
    assert means[0] < means[1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_same_cluster_is_recognised_in_any_pose(seed) -> None:
    rng = np.random.default_rng(seed)
    cluster = pack(parse_ingredients(["w:3"]), rng)
    cluster.info["energy"] = -1.0
    pose = cluster.copy()
    turn = Rotation.random(random_state=rng).as_matrix()
    pose.positions = pose.positions @ turn.T + rng.normal(size=3)
    pose = pose[rng.permutation(len(pose))]
    pose.info = dict(cluster.info)
    keep = Distinct()
    assert keep.add(cluster)
    assert not keep.add(pose)
    assert len(keep.frames) == 1
    other_energy = cluster.copy()
    other_energy.info["energy"] = -1.1
    assert keep.add(other_energy)
    moved = cluster.copy()  # one molecule, away from the others
    first = moved.arrays["molecule"] == 0
    away = moved.positions[first].mean(axis=0) - moved.positions[~first].mean(axis=0)
    moved.positions[first] += away / np.linalg.norm(away)
    moved.info["energy"] = -1.0
    assert keep.add(moved)
    ion = cluster.copy()
    ion.info["charge"] = 2
    assert keep.add(ion)


def ammonium_with_bisulfate() -> Atoms:
    """Packed as ions, but the molecules are those before the transfer of a proton."""
    pair = pack(parse_ingredients(["amp:1", "b:1", "am:1"]), np.random.default_rng(2))
    owner = pair.arrays["molecule"]
    ammonium = max(np.flatnonzero(pair.numbers == 7), key=lambda i: (owner == owner[i]).sum())
    proton = np.flatnonzero((owner == owner[ammonium]) & (pair.numbers == 1))[0]
    owner[proton] = owner[pair.numbers == 16][0]
    return pair


def test_a_transferred_proton_belongs_to_the_base() -> None:
    pair = ammonium_with_bisulfate()
    owner = pair.arrays["molecule"]
    assert sorted(np.bincount(owner)) == [4, 4, 7]
    assert closest_contact(pair) < 0.5
    assign_hydrogens(pair)
    assert sorted(np.bincount(owner)) == [4, 5, 6]
    assert closest_contact(pair) >= CONTACT[0] - 1e-6


def test_hydrogens_of_their_own_stay() -> None:
    hydrogen = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    both = hydrogen + molecule("H2O")
    both.positions[2:] += [1.7, 0, 0]
    both.set_array("molecule", np.array([0, 0, 1, 1, 1]))
    assign_hydrogens(both)
    np.testing.assert_array_equal(both.arrays["molecule"], [0, 0, 1, 1, 1])
    proton = Atoms("H", [[0, 0, 1.0]]) + molecule("H2O")
    proton.set_array("molecule", np.array([0, 1, 1, 1]))
    assign_hydrogens(proton)  # nothing is left of the molecule that was the proton
    np.testing.assert_array_equal(proton.arrays["molecule"], [1, 1, 1, 1])
    moved = rigid_move(proton, np.random.default_rng(0))
    np.testing.assert_allclose(moved.get_all_distances(), proton.get_all_distances())


def test_basin_hopping_goes_on_after_a_proton_was_transferred() -> None:
    options = SamplingSettings(chain=8)
    start = ammonium_with_bisulfate()
    found = basin_hopping(start, Still(), np.random.default_rng(0), 300.0, options).frames
    assert len(found) == 8
    for atoms in found:
        owner = atoms.arrays["molecule"]
        assert sorted(np.bincount(owner)) == [4, 5, 6]
        for m in range(3):
            np.testing.assert_allclose(
                atoms[owner == m].get_all_distances(),
                found[0][owner == m].get_all_distances(),
                atol=1e-9,
            )


def test_basin_hopping_moves_the_others_of_a_short_contact() -> None:
    start = pack(parse_ingredients(["w:3"]), np.random.default_rng(3))
    owner = start.arrays["molecule"]
    away = start.positions[owner == 1].mean(axis=0) - start.positions[owner == 0].mean(axis=0)
    while closest_contact(start) > 0.53:  # as in a short hydrogen bond
        start.positions[owner == 1] -= 0.02 * away / np.linalg.norm(away)
    options = SamplingSettings(chain=20)
    found = basin_hopping(start, Still(10.0), np.random.default_rng(0), 300.0, options).frames
    assert len(found) == 20
    # No move is kept, and those of the third molecule leave the pair as it was.
    pair = [a[owner != 2].get_all_distances() for a in found]
    assert any(np.allclose(pair[0], d) for d in pair[1:])


@pytest.mark.parametrize("method", METHODS)
def test_what_was_found_survives_a_calculation_that_fails(method) -> None:
    options = SamplingSettings(
        methods=(method,), chain=6, interval=4, relax_steps=5, snapshot_time=1.0, attempts=2
    )
    message = r"2w: \d+ of \d+ sampling runs failed.*: not converged"
    with pytest.warns(UserWarning, match=message):
        frames = sample(parse_ingredients(["w:2"]), 6, engine=Flaky(), settings=options)
    assert len(frames) >= 3


@pytest.mark.parametrize("method", ["packing", "basin-hopping", "md"])
def test_clusters_that_fall_apart_are_told(method) -> None:
    options = SamplingSettings(methods=(method,), relax_steps=60)
    with pytest.raises(KNNCalcError, match=r"2w: no structures, .* fell apart .*[0-9]+ relaxed"):
        sample(parse_ingredients(["w:2"]), 1, engine=Repelling(), settings=options)


def test_basin_hopping_takes_another_packing_if_one_falls_apart() -> None:
    options = SamplingSettings(methods=("basin-hopping",), relax_steps=60, chain=3, attempts=1)
    frames = sample(parse_ingredients(["w:2"]), 3, engine=Repelling(60), settings=options)
    assert frames
    assert all(is_one_cluster(a) for a in frames)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["w:2"], (0, 1)),
        (["o2.xyz:1", "amp:1"], (1, 3)),
        (["oh.xyz", "w:1"], (0, 2)),
        (["oh.xyz:2"], (0, 3)),
        (["oh.xyz:1", "o2.xyz:2", "b:2"], (-2, 6)),
    ],
)
def test_spins_of_molecules_add_up(tmp_path, monkeypatch, texts, expected) -> None:
    monkeypatch.chdir(tmp_path)
    oxygen, hydroxyl = molecule("O2"), molecule("OH")
    for atoms, multiplicity, file in ((oxygen, 3, "o2.xyz"), (hydroxyl, 2, "oh.xyz")):
        atoms.set_initial_magnetic_moments(None)
        atoms.info["multiplicity"] = multiplicity
        write_frames(Path(file), [atoms])
    options = SamplingSettings(relax=False)
    for atoms in sample(parse_ingredients(texts), 2, engine=Still(), settings=options):
        assert (atoms.info["charge"], atoms.info["multiplicity"]) == expected
        assert resolve_charge(atoms) == expected


def test_one_atom_is_sampled_once(tmp_path) -> None:
    write_frames(tmp_path / "ar.xyz", [Atoms("Ar", [[0, 0, 0]])])
    ingredients = parse_ingredients([str(tmp_path / "ar.xyz")])
    assert len(sample(ingredients, 5, engine=Still())) == 1


def test_a_failing_engine_is_told_of() -> None:
    class Broken(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *_args, **_options) -> None:
            raise KNNCalcError("no licence")

    with pytest.raises(KNNCalcError, match=r"none of 5 .* no licence"):
        sample(parse_ingredients(["w:1"]), 1, engine=Broken())


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match=r"methods\[0\] must be one of packing"):
        SamplingSettings(methods=("shaking",))
    with pytest.raises(SettingsError, match="chain must be at least 1"):
        SamplingSettings(chain=0)
    with pytest.raises(SettingsError, match="temperatures"):
        SamplingSettings(temperatures=(0.0,))
    with pytest.raises(SettingsError, match="n must be at least 1"):
        sample(parse_ingredients(["w"]), 0)


def test_engines(tiny_model, tmp_path) -> None:
    from ase_knncalc import KNNCalculator, save_model

    save_model(tiny_model, tmp_path / "m.h5")
    assert isinstance(make_engine(f"model:{tmp_path / 'm.h5'}"), KNNCalculator)
    assert make_engine("GFN1-xTB").baseline.method == "GFN1-xTB"
    springs = Springs()
    assert make_engine(springs) is springs
    # What a model says of what it drives to is no label.
    waters, options = parse_ingredients(["w:2"]), SamplingSettings(relax=False)
    for engine in (f"model:{tmp_path / 'm.h5'}", KNNCalculator(tiny_model, on_novelty="ignore")):
        frames = sample(waters, 2, engine=engine, settings=options, n_jobs=1)
        for atoms in frames:
            said = tiny_model.predict(atoms)
            np.testing.assert_allclose(atoms.info["energy_std"], said.energy_std)
            np.testing.assert_allclose(atoms.info["novelty"], said.novelty)
            assert atoms.info["outside"] == (said.novelty > 1)
        write_frames(tmp_path / "a.extxyz", frames)
        with pytest.raises(DataError, match="own-prediction: 2"):
            read_dataset(tmp_path / "a.extxyz", keys=KeyMap(reference_energy="energy"))
    (atoms, _) = sample(waters, 2, engine=springs, settings=options)
    assert not atoms.info.keys() & {"energy_predicted", "novelty"}
    with pytest.warns(UserWarning, match="2 of 2 structures are far from the training data"):
        frames = sample(parse_ingredients(["w:8"]), 2, engine=engine, settings=options, n_jobs=1)
    assert all(atoms.info["outside"] for atoms in frames)
