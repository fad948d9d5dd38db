"""Wrong labels are found, each for its reason, and right ones are left alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import typer
from ase import Atoms, units
from ase.io import read
from helpers.factories import pair_energy, water_clusters
from typer.testing import CliRunner

from ase_knncalc import KeyMap, read_dataset
from ase_knncalc.cli.suspects import check
from ase_knncalc.data import write_frames
from ase_knncalc.errors import DataError
from ase_knncalc.labels.contradictions import composition_parts, far_fragments
from ase_knncalc.labels.files import check_files, screen_units
from ase_knncalc.labels.suspects import Suspect, find_suspects, leave_out
from ase_knncalc.labels.training_data import Prepared, prepare
from ase_knncalc.settings import TrainingSettings

SAW_KEYS = KeyMap(reference_energy="wb97xd_energy", baseline_energy="gfn1_energy")
BAD = 42  # of the synthetic clusters: a trimer


def described(frames: list[Atoms], **options) -> Prepared:
    return prepare(
        frames, settings=TrainingSettings(), n_jobs=1, **({"baseline": "none"} | options)
    )


def relabelled(prepared: Prepared, energies: dict[int, float]) -> Prepared:
    """The same structures with other reference energies for some."""
    frames = [a.copy() for a in prepared.frames]
    for i, energy in energies.items():
        frames[i].info["reference_energy"] = energy
    delta = [a.info["reference_energy"] - a.info["baseline_energy"] for a in frames]
    return replace(prepared, data=replace(prepared.data, delta=np.array(delta)), frames=frames)


def suspects_of(prepared: Prepared) -> list[Suspect]:
    return find_suspects(prepared.data, prepared.frames)


def certain_of(prepared: Prepared) -> dict[int, str]:
    return {s.index: s.category for s in suspects_of(prepared) if s.certain}


@pytest.fixture(scope="module")
def waters() -> list[Atoms]:
    return water_clusters(80)


@pytest.fixture(scope="module")
def clean(waters) -> Prepared:
    return described(waters)


def test_right_labels_are_left_alone(clean) -> None:
    """A seventh has fragments that are apart: where it is common there is nothing to say."""
    assert "fragments" not in {s.category for s in suspects_of(clean)}
    assert certain_of(clean) == {}
    assert leave_out(clean, suspects_of(clean)) is clean


@pytest.mark.parametrize(
    ("wrong", "category"),
    [
        (lambda e: e / units.Hartree, "unit"),
        (lambda e: e * units.mol / units.kcal, "unit"),
        (lambda e: -e, "sign"),
        (lambda e: e + 0.5, "outlier"),
        (lambda e: e - 0.5, "outlier"),
    ],
)
def test_wrong_energy(clean, wrong: Callable[[float], float], category: str) -> None:
    energy = clean.frames[BAD].info["reference_energy"]
    found = relabelled(clean, {BAD: wrong(energy)})
    assert certain_of(found) == {BAD: category}
    suspect = suspects_of(found)[0]
    assert suspect.residual_ev == pytest.approx(wrong(energy) - energy, abs=0.1)
    assert suspect.name == clean.data.names[BAD]
    assert suspect.score == pytest.approx(abs(suspect.residual_ev) / suspect.expected_ev)


def test_unit_slip_is_named(clean) -> None:
    energy = clean.frames[BAD].info["reference_energy"]
    (suspect,) = suspects_of(relabelled(clean, {BAD: energy / units.Hartree}))
    assert "Hartree among eV" in suspect.reason
    assert "27.2114" in suspect.reason


def test_slip_against_few_structures_needs_no_additivity(clean) -> None:
    """Energies without a share of atoms (heats of formation): the trend gives the ratio."""
    lowered = {
        i: a.info["reference_energy"] + 19.0 * np.sum(a.numbers == 8)
        for i, a in enumerate(clean.frames)
    }
    lowered[BAD] /= units.Hartree
    assert certain_of(relabelled(clean, lowered)) == {BAD: "unit"}


def test_many_bad_labels_do_not_hide_each_other(clean) -> None:
    rng = np.random.default_rng(1)
    bad = rng.choice(len(clean.frames), 10, replace=False)
    wrong = {}
    for place, i in enumerate(bad.tolist()):
        energy = clean.frames[i].info["reference_energy"]
        wrong[i] = (-energy, energy + 0.5, energy - 0.7, energy / units.Hartree)[place % 4]
    assert set(certain_of(relabelled(clean, wrong))) == set(wrong)


def labelled(waters: list[Atoms], i: int, shift: float = 0.0, **info: object) -> Prepared:
    frames = [a.copy() for a in waters]
    frames[i].info.update(info)
    frames[i].info["reference_energy"] += shift
    return described(frames)


def test_wrong_charge_with_a_wrong_energy(waters) -> None:
    found = labelled(waters, BAD, 3.0, charge=-2)
    assert certain_of(found) == {BAD: "charge"}
    reason = suspects_of(found)[0].reason
    assert "its charge is -2, but its composition 3w implies +0" in reason
    assert "Δ is +2.9" in reason


def test_wrong_charge_alone_is_not_beyond_doubt(waters) -> None:
    (suspect,) = [s for s in suspects_of(labelled(waters, BAD, charge=-2)) if s.score < 6]
    assert (suspect.index, suspect.category, suspect.certain) == (BAD, "charge", False)


def test_protonated_cluster_knows_its_charge(waters) -> None:
    """``1p3w`` with charge −1 instead of +1, among right ones: same parity, so it was read."""
    frames = [a.copy() for a in waters]
    for a in frames[2:40:4]:
        proton = Atoms("H", [a.positions[0] + [0.0, 0.0, 1.1]])
        a.extend(proton)
        a.info.update(composition="1p3w", charge=1, name=f"p-{a.info['name']}")
        a.info["reference_energy"] -= 5.0
    frames[2].info["charge"] = -1
    frames[2].info["reference_energy"] += 4.0
    assert certain_of(described(frames)) == {2: "charge"}


def test_odd_multiplicity(waters) -> None:
    found = labelled(waters, BAD, 2.0, multiplicity=3)
    assert certain_of(found) == {BAD: "multiplicity"}
    assert "19 of 20 structures 3w have 1" in suspects_of(found)[0].reason


def test_composition_that_is_not_that_of_the_atoms(waters) -> None:
    (suspect,) = suspects_of(labelled(waters, BAD, composition="2w"))
    assert (suspect.index, suspect.category, suspect.certain) == (BAD, "composition", False)
    assert "2w stands for H4O2, but its atoms are H6O3" in suspect.reason


def test_abbreviations_with_another_meaning(waters) -> None:
    """All the water here is called ``am``: then that is no ammonia, and nothing is wrong."""
    frames = [a.copy() for a in waters]
    for a in frames:
        a.info["composition"] = a.info["composition"].replace("w", "am")
    assert suspects_of(described(frames)) == []


def test_conflicting_duplicates(waters) -> None:
    twin = waters[BAD].copy()
    twin.positions += np.random.default_rng(0).normal(size=twin.positions.shape) * 1e-3
    twin.info["name"] = "twin"
    right = described([*waters, twin.copy()])
    assert suspects_of(right) == []
    twin.info["reference_energy"] += 0.3
    found = suspects_of(described([*waters, twin]))
    assert [s.category for s in found if s.category == "duplicate"] == ["duplicate"]
    pair = {"twin", waters[BAD].info["name"]}
    first = next(s for s in found if s.category == "duplicate")
    assert first.name in pair
    assert (pair - {first.name}).pop() in first.reason


def compact(waters: list[Atoms]) -> list[Atoms]:
    far = far_fragments(waters)
    return [a.copy() for i, a in enumerate(waters) if i not in far]


def test_fragments_far_apart(waters) -> None:
    """One among others that are together. Its label is right."""
    frames = compact(waters)
    assert 4 < len(waters) - len(frames) < 20
    place = next(i for i, a in enumerate(frames) if a.info["composition"] == "2w")
    frames[place].positions[3:] += [9.0, 0.0, 0.0]
    frames[place].info["reference_energy"] = pair_energy(frames[place])
    (suspect,) = [s for s in suspects_of(described(frames)) if s.category == "fragments"]
    assert (suspect.index, suspect.category, suspect.certain) == (place, "fragments", False)
    assert "Å apart" in suspect.reason


def test_lost_hydrogen(waters) -> None:
    frames = [a.copy() for a in waters]
    frames[BAD].positions[1] += 3.0 * (frames[BAD].positions[1] - frames[BAD].positions[0])
    frames[BAD].info["reference_energy"] += 5.0
    found = suspects_of(described(frames))
    assert [(s.index, s.category, s.certain) for s in found] == [(BAD, "fragments", True)]
    assert "hydrogen atom 1 is bound to nothing" in found[0].reason


def test_another_chemistry_is_no_error(waters) -> None:
    """Molecules that the baseline describes badly have a large Δ in all their clusters."""
    frames = [a.copy() for a in waters]
    for a in frames[:12]:
        a.numbers[a.numbers == 8] = 16
        a.info.update(composition=a.get_chemical_formula(), name=f"s-{a.info['name']}")
        a.info["reference_energy"] += 8.0 * np.sum(a.numbers == 16)
    assert certain_of(described(frames)) == {}


def test_a_few_structures_are_not_judged(waters) -> None:
    """Contradictions are found in any number of them, residuals mean nothing."""
    frames = compact(waters)[:12]
    frames[2].info.update(charge=-2)
    frames[3].info["reference_energy"] += 5.0
    (suspect,) = suspects_of(described(frames))
    assert (suspect.index, suspect.category, suspect.certain) == (2, "charge", False)
    assert np.isnan(suspect.score)


def test_charges_that_nobody_wrote_down(waters) -> None:
    """Where all charges contradict the compositions nothing is left to judge by."""
    frames = [a.copy() for a in waters if a.info["composition"] != "1w"]
    for a in frames:
        a.info["charge"] = -2
    found = suspects_of(described(frames))
    assert {s.category for s in found} == {"charge"}
    assert len(found) == len(frames)
    assert not any(s.certain for s in found)


def test_without_frames(clean) -> None:
    wrong = relabelled(clean, {BAD: clean.frames[BAD].info["reference_energy"] + 0.5})
    assert [s.index for s in find_suspects(wrong.data) if s.certain] == [BAD]
    with pytest.raises(DataError, match="79 frames, but training data of 80"):
        find_suspects(wrong.data, wrong.frames[1:])


def test_leave_out(waters) -> None:
    monomers = [a.copy() for a in waters[:8:4]]
    clusters = [a.copy() for i, a in enumerate(waters) if i not in (0, 4)]
    for i in (10, 30):
        clusters[i].info["reference_energy"] += 1.0
    monomers[1].info["reference_energy"] += 1.0
    prepared = described(clusters, monomers=monomers)
    left = leave_out(prepared, suspects_of(prepared))
    names = {clusters[10].info["name"], clusters[30].info["name"], monomers[1].info["name"]}
    assert {o.name for o in left.omitted} == names
    assert {o.category for o in left.omitted} == {"suspect"}
    assert all("Δ is +" in o.reason for o in left.omitted)
    assert (len(left.frames), len(left.data), left.n_monomers) == (77, 77, 1)
    assert names.isdisjoint(left.data.names)
    assert [str(a.info["name"]) for a in left.frames] == left.data.names
    assert certain_of(left) == {}


def test_leave_out_keeps_two(clean) -> None:
    all_bad = [
        Suspect(i, clean.data.names[i], "1w", "outlier", "far off", 1.0, 0.01, 100.0, True)
        for i in range(len(clean.frames) - 1)
    ]
    with pytest.raises(DataError, match="79 of 80 structures are wrong beyond doubt"):
        leave_out(clean, all_bad)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("4am1p", {"am": 4, "p": 1}),
        ("10w", {"w": 10}),
        ("1w2sa1w", {"w": 2, "sa": 2}),
        ("H2SO4", {}),
        ("", {}),
        ("4 am", {}),
    ],
)
def test_composition_parts(text: str, parts: dict[str, int]) -> None:
    assert composition_parts(text) == parts


# -------------------------------------------------------------------------------------- files


@pytest.fixture
def files(waters, tmp_path):
    """A file with one energy in Hartree and one that is off."""
    frames = [a.copy() for a in waters]
    frames[7].info["reference_energy"] /= units.Hartree
    frames[BAD].info["reference_energy"] += 0.5
    path = tmp_path / "data.extxyz.gz"
    write_frames(path, frames)
    return path


def test_units_do_not_stop_a_check(files) -> None:
    with pytest.raises(DataError, match="Hartree among eV"):
        read_dataset(files)
    prepared, suspects = check_files(files, baseline="none", n_jobs=1)
    assert [(o.name, o.category) for o in prepared.omitted] == [("4w-7", "suspect")]
    assert prepared.omitted[0].source == "data.extxyz.gz#7"
    assert [s.name for s in suspects if s.certain] == [f"3w-{BAD}"]
    assert len(prepared.frames) == 79


def test_other_errors_stop_a_check(tmp_path, waters) -> None:
    frames = [a.copy() for a in waters]
    for a in frames:
        del a.info["reference_energy"]
    path = tmp_path / "bare.extxyz"
    write_frames(path, frames)
    with pytest.raises(DataError, match="reference energy"):
        check_files(path, baseline="none")


def test_screen_units_keeps_order(waters) -> None:
    frames = [a.copy() for a in waters]
    frames[7].info["reference_energy"] /= units.Hartree
    kept, omitted = screen_units(frames)
    assert [a.info["name"] for a in kept] == [
        a.info["name"] for i, a in enumerate(waters) if i != 7
    ]
    assert [o.index for o in omitted] == [7]


def run_check(*arguments: object, code: int = 0) -> str:
    app = typer.Typer()
    app.command()(check)
    done = CliRunner().invoke(app, [*map(str, arguments), "--baseline", "none", "-j", "1", "-q"])
    assert done.exit_code == code, done.output
    return done.stdout


def test_command_line(files, tmp_path) -> None:
    output = tmp_path / "clean.extxyz"
    table = run_check(files, "--output", output)
    assert "79 structures checked: 1 suspects; 2 labels are wrong for certain" in table
    assert "3w-42" in table
    assert "4w-7" in table
    names = [a.info["name"] for a in read(output, ":")]
    assert len(names) == 78
    assert not {"3w-42", "4w-7"} & set(names)
    again = json.loads(run_check(output, "--json", "--strict"))
    assert again == {
        "structures": 78,
        "certain": 0,
        "suspects": [],
        "omitted": [],
        "output": None,
    }


def test_command_line_strict_json(files) -> None:
    found = json.loads(run_check(files, "--json", "--strict", code=1))
    assert found["certain"] == 2
    (suspect,) = found["suspects"]
    assert suspect["name"] == "3w-42"
    assert suspect["source"] == f"data.extxyz.gz#{BAD}"
    assert suspect["residual_ev"] == pytest.approx(0.5, abs=0.1)
    assert [o["name"] for o in found["omitted"]] == ["4w-7"]


# ---------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def saw(shared_data) -> Prepared:
    return described(
        shared_data / "saw_equilibrium.extxyz.gz",
        monomers=shared_data / "saw_monomers.extxyz.gz",
        baseline="GFN1-xTB",
        keys=SAW_KEYS,
    )


@pytest.mark.slow
def test_sulfuric_acid_water_has_no_wrong_labels(saw) -> None:
    assert suspects_of(saw) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_sulfuric_acid_water_with_wrong_labels(saw, seed: int) -> None:
    """Nothing but the ten is beyond doubt, and every reason that leaves a trace is named."""
    rng = np.random.default_rng(seed)
    bad = rng.choice(len(saw.frames), 10, replace=False).tolist()
    wrong = {}
    for place, i in enumerate(bad):
        energy = saw.frames[i].info["reference_energy"]
        wrong[i] = (-energy, energy + 0.5, energy / units.Hartree, energy - 0.5)[place % 4]
    # A shifted energy has no reason of its own, unless nearly the same structure contradicts it.
    kinds = ({"sign"}, {"outlier", "duplicate"}, {"unit"}, {"outlier", "duplicate"})
    found = certain_of(relabelled(saw, wrong))
    assert set(found) == set(bad)
    for place, i in enumerate(bad):
        assert found[i] in kinds[place % 4], (i, wrong[i])


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 30])
def test_structures_off_equilibrium_are_no_errors(saw, shared_data, n: int) -> None:
    """Their Δ is 30 times further off than that of minima; but a trend of minima knows nothing."""
    frames = read_dataset(shared_data / "saw_4sa5w_offequilibrium.extxyz.gz", keys=SAW_KEYS).frames[
        :: 260 // n
    ][:n]
    others = [a for a in saw.frames if len(a) > 3][::4]
    prepared = described([*others, *frames], baseline="given")
    assert certain_of(prepared) == {}
