"""Binding energies: molecules are recognised, wherever their protons are."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc import binding_energy, load_model
from ase_knncalc.analysis.binding import (
    lone_molecules,
    monomer_records,
    read_monomers,
    recognise,
    skeleton,
)
from ase_knncalc.errors import DataError, StructureError

# Heavy atoms and hydrogen of what ASE can build; energies are made up.
KINDS = {"1w": "H2O", "1am": "NH3", "1ma": "H3CNH2", "1eth": "CH3CH2OH", "1dme": "CH3OCH3"}


def record(name: str, energy: float = -1.0) -> dict:
    atoms = molecule(KINDS[name])
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "charge": 0,
        "reference_energy": energy,
    }


MONOMERS = {name: record(name) for name in KINDS}


def pack(counts: dict[str, int], seed: int = 0) -> Atoms:
    """Molecules far enough apart not to be bonded, atoms in random order."""
    rng = np.random.default_rng(seed)
    cluster = Atoms()
    for name, n in counts.items():
        for _ in range(n):
            new = molecule(KINDS[name])
            new.positions = Rotation.random(random_state=rng).apply(new.positions)
            while len(cluster):
                new.positions += rng.normal(size=3)
                gaps = np.linalg.norm(cluster.positions[:, None] - new.positions, axis=-1)
                if gaps.min() > 1.9:
                    break
            cluster += new
    return cluster[rng.permutation(len(cluster))]


@settings(max_examples=30, deadline=None)
@given(
    counts=st.dictionaries(st.sampled_from(sorted(KINDS)), st.integers(1, 3), min_size=1),
    seed=st.integers(0, 1000),
)
def test_molecules_are_recognised_in_any_order(counts: dict[str, int], seed: int) -> None:
    """Isomers (ethanol and dimethyl ether) included."""
    assert recognise(pack(counts, seed), 0, MONOMERS) == counts


def proton_moved(cluster: Atoms) -> Atoms:
    """Water's proton goes to ammonia: OH⁻ and NH4⁺."""
    moved = cluster.copy()
    oxygen = int(np.flatnonzero(moved.numbers == 8)[0])
    nitrogen = int(np.flatnonzero(moved.numbers == 7)[0])
    hydrogens = np.flatnonzero(moved.numbers == 1)
    mine = hydrogens[np.argmin(moved.get_distances(oxygen, hydrogens))]
    away = moved.positions[nitrogen] - moved.positions[hydrogens].mean(axis=0)
    moved.positions[mine] = moved.positions[nitrogen] + away / np.linalg.norm(away)
    return moved


def test_a_proton_may_have_moved() -> None:
    cluster = pack({"1w": 1, "1am": 1})
    assert recognise(proton_moved(cluster), 0, MONOMERS) == {"1am": 1, "1w": 1}
    # Even where the ions are known: the cluster is neutral, and so are the fewest-ion molecules.
    ions = {
        "1oh": {"numbers": [8, 1], "charge": -1, "reference_energy": -1.0},
        "1am1p": {"numbers": [7, 1, 1, 1, 1], "charge": 1, "reference_energy": -1.0},
    }
    assert recognise(proton_moved(cluster), 0, MONOMERS | ions) == {"1am": 1, "1w": 1}


def test_charge_decides_between_a_molecule_and_its_ion() -> None:
    ions = {"1am1p": {"numbers": [7, 1, 1, 1, 1], "charge": 1, "reference_energy": -1.0}}
    cluster = pack({"1w": 1, "1am": 2})
    nitrogen = int(np.flatnonzero(cluster.numbers == 7)[0])
    cluster += Atoms("H", [cluster.positions[nitrogen] + [0, 0, 1.0]])
    found = recognise(cluster, 1, MONOMERS | ions)
    assert found == {"1am": 1, "1am1p": 1, "1w": 1}
    with pytest.raises(StructureError, match="Is the charge right"):
        recognise(cluster, 0, MONOMERS | ions)
    with pytest.raises(StructureError, match="Is the charge right"):
        recognise(cluster, 1, MONOMERS)


def test_unknown_and_ambiguous_molecules_are_told() -> None:
    cluster = pack({"1w": 1, "1ma": 1})
    with pytest.raises(StructureError, match=r"heavy atoms CN, for which no monomer"):
        recognise(cluster, 0, {"1w": MONOMERS["1w"]})
    flat = {k: {x: y for x, y in m.items() if x != "positions"} for k, m in MONOMERS.items()}
    with pytest.raises(StructureError, match="1dme or 1eth"):
        recognise(pack({"1eth": 1}), 0, flat)
    with pytest.raises(StructureError, match="hydrogen atoms only"):
        recognise(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), 0, MONOMERS)


def test_isomers_with_the_same_neighbours_are_told_apart() -> None:
    """Rings of six, and two of three: each atom has the same neighbours."""

    def ring(n: int, start: float) -> Atoms:
        angles = 2 * np.pi * np.arange(n) / n
        radius = 0.75 / np.sin(np.pi / n)
        x, y = radius * np.cos(angles), radius * np.sin(angles)
        return Atoms(f"C{n}", np.stack([x + start, y, np.zeros(n)], axis=1))

    pentyl = Atoms("C5", [[0, 0, 0], [1.5, 0, 0], [3, 0, 0], [4.5, 0, 0], [6, 0, 0]])
    branched = Atoms("C5", [[0, 0, 0], [1.5, 0, 0], [3, 0, 0], [4.5, 0, 0], [1.5, 1.5, 0]])
    assert skeleton(pentyl) != skeleton(branched)
    assert skeleton(ring(6, 0.0)) == skeleton(ring(6, 3.0)[[3, 1, 0, 5, 2, 4]])
    # Chains whose atoms have the same first neighbours, in another order.
    first = Atoms("CCCOCCO", [[1.45 * i, 0, 0] for i in range(7)])
    second = Atoms("CCOCCCO", [[1.45 * i, 0, 0] for i in range(7)])
    assert skeleton(first) != skeleton(second)


def test_one_molecule_under_two_names_is_the_lower_one() -> None:
    twins = {**MONOMERS, "1xy": record("1ma", energy=-1.5), "1zz": record("1ma", energy=-1.2)}
    assert recognise(pack({"1w": 2, "1ma": 1}), 0, twins) == {"1w": 2, "1xy": 1}
    # Of the same energy, it is the one that is used most.
    twins["1zz"].update(reference_energy=-1.5, structures=7)
    twins["1xy"].update(structures=3)
    assert recognise(pack({"1w": 2, "1ma": 1}), 0, twins) == {"1w": 2, "1zz": 1}


def test_proton_stays_where_it_is_held_best() -> None:
    cluster = pack({"1am": 1, "1ma": 1})
    nitrogen = int(np.flatnonzero(cluster.numbers == 7)[0])
    cluster += Atoms("H", [cluster.positions[nitrogen] + [0, 0, 1.0]])
    ions = {}
    for name, energy in (("1am1p", -10.0), ("1ma1p", -10.5)):
        ions[name] = record(name.removesuffix("1p"), energy)
        ions[name]["numbers"] = [*ions[name]["numbers"], 1]
        ions[name]["positions"] = [*ions[name]["positions"], [9.0, 9.0, 9.0]]
        ions[name]["charge"] = 1
    assert recognise(cluster, 1, MONOMERS | ions) == {"1am": 1, "1ma1p": 1}
    ions["1am1p"]["reference_energy"] = -11.0
    assert recognise(cluster, 1, MONOMERS | ions) == {"1am1p": 1, "1ma": 1}


@pytest.mark.slow
def test_compositions_of_thousands_of_clusters(shared_data) -> None:
    """Against labels of those who made them, ions and proton transfer included."""
    from ase_knncalc import read_dataset
    from ase_knncalc.data import KeyMap

    path = shared_data / "multibase_equilibrium.extxyz.gz"
    keys = KeyMap(reference_energy="wb97xd_energy")
    frames = read_dataset(path, keys=keys, index="::4").frames
    monomers = lone_molecules(read_dataset(path, keys=keys, index=":2000").frames)
    known = {name.removeprefix("1") for name in monomers if re.fullmatch("1[a-z]+", name)}
    same = total = 0
    for atoms in frames:
        parts = re.findall("([0-9]+)([A-Za-z]+)", atoms.info["composition"])
        label = Counter({name: int(n) for n, name in parts})
        if not set(label) <= known | {"p"}:
            continue
        found: Counter[str] = Counter()
        try:
            for name, n in recognise(atoms, atoms.info["charge"], monomers).items():
                for m, k in re.findall("([0-9]+)([A-Za-z]+)", name):
                    found[k] += n * int(m)
        except StructureError:
            found.clear()
        total += 1
        same += found == label
    assert total > 2000
    assert same / total > 0.99


@pytest.fixture(scope="module")
def model():
    return load_model("saw-wb97xd-md")


class TestOfModels:
    def test_real_clusters(self, model, cluster_frames) -> None:
        """Against ωB97X-D energies of our own, binding included."""
        asked = [
            a for a in cluster_frames
            if a.info["composition"] in ("2w", "1sa1w") and a.info.get("temperature") == 0
        ]  # fmt: skip
        assert len(asked) >= 3
        for atoms in asked:
            found = binding_energy(model, atoms)
            wanted = {"2w": {"1w": 2}, "1sa1w": {"1sa": 1, "1w": 1}}[atoms.info["composition"]]
            assert found.molecules == wanted
            assert found.energy - found.monomer_energy == found.binding_energy
            truth = atoms.info["reference_energy"] - found.monomer_energy
            assert found.binding_energy == pytest.approx(truth, abs=0.05)
            assert found.energy_std > 0

    def test_geometries_of_another_level_are_told(self, model, cluster_frames) -> None:
        """The monomers of a model are at minima of its reference; where is the cluster?"""
        hydrate = read(Path(__file__).parents[2] / "examples" / "hydrate.xyz")
        assert binding_energy(model, hydrate).geometries == ""
        strained = hydrate.copy()
        strained.positions *= 1.01
        told = binding_energy(model, strained).geometries
        assert re.match(r"bound too weakly: with forces up to \d\.\d\d eV/Å it is at no min", told)
        energies = load_model("saw-wb97xd")
        told = binding_energy(energies, hydrate).geometries
        assert "minimum of ωB97X-D/6-31++G(d,p), as the monomers of the model are, which" in told
        own = {name: model.info.monomers[name] for name in ("1sa", "1w")}
        assert binding_energy(energies, hydrate, monomers=own).geometries == ""

    def test_a_monomer_does_not_bind(self, model) -> None:
        water = Atoms("OH2", model.info.monomers["1w"].get("positions", [
            [0.0, 0.0, 0.1157], [0.0, 0.766475, -0.462798], [0.0, -0.766475, -0.462798]
        ]))  # fmt: skip
        assert binding_energy(model, water).binding_energy == pytest.approx(0.0, abs=1e-3)

    def test_molecules_by_hand(self, model, cluster_frames) -> None:
        atoms = next(a for a in cluster_frames if a.info["composition"] == "1sa1w")
        assert binding_energy(model, atoms, molecules="1sa 1w") == binding_energy(model, atoms)
        assert binding_energy(model, atoms, molecules="sa w").molecules == {"1sa": 1, "1w": 1}
        with pytest.raises(StructureError, match=r"2sa 1w is .* but"):
            binding_energy(model, atoms, molecules="2sa1w")
        with pytest.raises(StructureError, match="no monomer 'dma'"):
            binding_energy(model, atoms, molecules="1sa1dma")
        with pytest.raises(StructureError, match="cannot read molecules"):
            binding_energy(model, atoms, molecules="12")

    def test_monomers_of_ones_own(self, model, cluster_frames) -> None:
        atoms = next(a for a in cluster_frames if a.info["composition"] == "2w")
        own = {"1w": {**model.info.monomers["1w"], "reference_energy": -2079.0}}
        shifted = binding_energy(model, atoms, monomers=own).binding_energy
        usual = binding_energy(model, atoms)
        difference = -2079.0 - model.info.monomers["1w"]["reference_energy"]
        assert shifted == pytest.approx(usual.binding_energy - 2 * difference, abs=1e-9)


def test_lone_molecules_are_found_among_clusters(cluster_frames) -> None:
    found = lone_molecules(cluster_frames)
    assert set(found) == {"1w", "1am", "1sa"}
    for name, monomer in found.items():
        energies = [
            a.info["reference_energy"] for a in cluster_frames if a.info["composition"] == name
        ]
        assert monomer["reference_energy"] == min(energies)
    assert "1am1p" in lone_molecules(
        [Atoms("NH4", np.eye(5, 3), info={"composition": "1am1p", "reference_energy": 0.0})]
    )


def test_monomers_are_read_from_files(cluster_frames, tmp_path) -> None:
    from ase.io import write

    water = next(a for a in cluster_frames if a.info["composition"] == "1w").copy()
    water.info = {"name": "1w", "reference_energy": -3.0, "charge": 0}
    write(tmp_path / "m.extxyz", water)
    found = read_monomers(tmp_path / "m.extxyz")
    assert found["1w"]["reference_energy"] == -3.0
    assert Counter(found["1w"]["numbers"]) == Counter([8, 1, 1])
    assert set(monomer_records([water])["1w"]) == {
        "numbers", "positions", "charge", "reference_energy"
    }  # fmt: skip
    with pytest.raises(DataError):
        read_monomers(tmp_path / "missing.extxyz")


def test_monomers_without_energies_are_predicted(model, cluster_frames, tmp_path) -> None:
    """Structures alone: the calculator's own zero, and its error counted for each copy."""
    from ase.io import write

    dimer = next(a for a in cluster_frames if a.info["composition"] == "2w")
    water = next(a for a in cluster_frames if a.info["composition"] == "1w").copy()
    plain = Atoms(water.numbers, water.positions)
    write(tmp_path / "water.xyz", plain)
    with pytest.raises(DataError):
        read_monomers(tmp_path / "water.xyz")
    own = read_monomers(tmp_path / "water.xyz", model=model)
    predicted = model.predict(plain)
    assert list(own) == ["water"]
    assert own["water"]["reference_energy"] == pytest.approx(predicted.energy, abs=1e-6)
    assert own["water"]["energy_std"] == pytest.approx(predicted.energy_std, rel=1e-4)
    found = binding_energy(model, dimer, monomers=own, molecules="2water")
    assert binding_energy(model, dimer, monomers=own).molecules == {"water": 2}
    apart = 2 * own["water"]["reference_energy"]
    assert found.binding_energy == pytest.approx(model.predict(dimer).energy - apart)
    assert found.energy_std == pytest.approx(
        np.hypot(model.predict(dimer).energy_std, 2 * predicted.energy_std), rel=1e-4
    )
    # Named by what they are.
    plain.info.update(composition="1w", wb97xd=-5.0)
    write(tmp_path / "named.extxyz", [plain, plain.copy()][:1])
    assert read_monomers(tmp_path / "named.extxyz", "wb97xd")["1w"]["reference_energy"] == -5.0
