"""Sampling: molecules, packing, walks, and what counts as the same structure."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc.data import write_frames
from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.molecules import (
    CONTACT,
    MOLECULES,
    closest_contact,
    composition_of,
    is_one_cluster,
    pack,
    parse_ingredients,
)
from ase_knncalc.sampling import (
    METHODS,
    BaselineCalculator,
    Distinct,
    SamplingSettings,
    make_engine,
    relaxed,
    rigid_move,
    sample,
)
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


@pytest.mark.parametrize("name", sorted(MOLECULES))
def test_molecules_are_sound(name) -> None:
    atoms = MOLECULES[name]()
    check_structure(atoms)
    assert resolve_charge(atoms)[1] == 1
    assert is_one_cluster(atoms)


def test_names_counts_and_files(tmp_path) -> None:
    eda = molecule("CH3CH2NH2")
    write_frames(tmp_path / "ea.xyz", [eda])
    found = parse_ingredients(["sa:2", "am", f"{tmp_path / 'ea.xyz'}:3", "am"])
    assert [(i.name, i.count) for i in found] == [("am", 2), ("ea", 3), ("sa", 2)]
    assert composition_of(found) == "2am3ea2sa"
    assert pack(parse_ingredients(["b:1", "sa:1"]), np.random.default_rng(0)).info["charge"] == -1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["xx:2"], "unknown molecule 'xx': known are am, amp"),
        (["sa:0"], "NAME:COUNT"),
        ([], "no molecules"),
        (["nowhere/x.xyz:1"], "nowhere"),
    ],
)
def test_wrong_molecules(texts, message) -> None:
    with pytest.raises(KNNCalcError, match=message):
        parse_ingredients(texts)


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
            methods=("monte-carlo",), temperatures=(temperature,), chain=40, interval=30
        )
        frames = sample(ingredients, 40, engine=Springs(), settings=options)
        means.append(np.mean([a.info["energy"] for a in frames[10:]]))
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


def test_a_failing_engine_is_told_of() -> None:
    class Broken(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *_args, **_options) -> None:
            raise KNNCalcError("no licence")

    with pytest.raises(KNNCalcError, match=r"none of 5 .* no licence"):
        sample(parse_ingredients(["w:1"]), 1, engine=Broken())


def test_settings_are_checked() -> None:
    with pytest.raises(SettingsError, match="each of methods must be one of packing"):
        SamplingSettings(methods=("shaking",))
    with pytest.raises(SettingsError, match="chain must be a whole number of at least 1"):
        SamplingSettings(chain=0)
    with pytest.raises(SettingsError, match="temperatures"):
        SamplingSettings(temperatures=(0.0,))
    with pytest.raises(SettingsError, match="n must be a whole number of at least 1"):
        sample(parse_ingredients(["w"]), 0)


def test_engines(tiny_model, tmp_path) -> None:
    from ase_knncalc import KNNCalculator, save_model

    save_model(tiny_model, tmp_path / "m.h5")
    assert isinstance(make_engine(f"model:{tmp_path / 'm.h5'}"), KNNCalculator)
    assert make_engine("GFN1-xTB").baseline.method == "GFN1-xTB"
    springs = Springs()
    assert make_engine(springs) is springs
