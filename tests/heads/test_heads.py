"""Properties beside the energy: symmetries, errors, files, levels of theory."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from helpers.factories import (
    labelled_with_properties,
    pair_energy,
    rigid_waters,
    water_clusters,
    with_properties,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ase_knncalc import KNNCalculator, load_model, save_model
from ase_knncalc.errors import (
    DataError,
    FormulaError,
    ModelFileError,
    SettingsError,
    UnknownElementError,
)
from ase_knncalc.heads import Heads, PropertyTarget
from ase_knncalc.heads.levels import level_of
from ase_knncalc.heads.targets import property_targets
from ase_knncalc.store.container import read_container, write_container
from ase_knncalc.training import HeadSettings, add_properties, head_fit
from ase_knncalc.trend.targets import TargetProblem

SMALL = HeadSettings(environments=30, variance_environments=15)


def numbers(found) -> np.ndarray:
    """All values and errors of a prediction."""
    thermal = found.thermochemistry
    parts = [
        thermal.zero_point, thermal.enthalpy_correction, thermal.entropy, thermal.gibbs_correction,
        found.polarizability, *found.levels.values(), *found.scalars.values(),
    ]  # fmt: skip
    return np.array([x for q in parts for x in (q.value, q.std)] + list(found.novelty.values()))


@given(seed=st.integers(0, 2**31), which=st.integers(0, 59))
@settings(max_examples=15, deadline=None)
def test_nothing_depends_on_orientation_place_and_order(
    headed_model, water_frames, seed, which
) -> None:
    rng = np.random.default_rng(seed)
    atoms = water_frames[which]
    order = rng.permutation(len(atoms))
    turned = Rotation.random(random_state=rng).apply(atoms.positions) + rng.normal(size=3) * 9
    if rng.random() < 0.5:
        turned = -turned
    moved = Atoms(atoms.numbers[order], turned[order])
    before = numbers(headed_model.predict_properties(atoms))
    after = numbers(headed_model.predict_properties(moved))
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)


def shifted(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions + np.array([60.0, 0.0, 0.0]))


def test_what_is_far_apart_adds_up(headed_model, water_frames) -> None:
    one = Atoms(water_frames[1].numbers, water_frames[1].positions)
    other = shifted(water_frames[2])
    both = headed_model.predict_properties(one + other)
    apart = [headed_model.predict_properties(a) for a in (one, other)]
    for name in ("twice",):
        assert both.scalars[name].value == pytest.approx(
            sum(p.scalars[name].value for p in apart), abs=1e-9
        )
    assert both.polarizability.value == pytest.approx(
        sum(p.polarizability.value for p in apart), abs=1e-9
    )
    # Each moves and turns as a whole: together they have six vibrations more, whatever they are.
    gained = [
        headed_model.predict_properties(a + b).thermochemistry.zero_point.value
        - sum(headed_model.predict_properties(x).thermochemistry.zero_point.value for x in (a, b))
        for a, b in ((one, other), (one, shifted(water_frames[5])))
    ]
    assert gained[0] == pytest.approx(gained[1], abs=1e-9)


def test_learned_is_what_was_taught(headed_model) -> None:
    for atoms in labelled_with_properties(water_clusters(20, seed=5)):
        found = headed_model.predict_properties(atoms)
        alpha = atoms.info["alpha"]
        assert found.polarizability.value == pytest.approx(alpha, abs=0.05)
        assert abs(found.polarizability.value - alpha) < 6 * found.polarizability.std
        assert found.scalars["twice"] == found.polarizability
        low, high = found.polarizability.interval
        assert low < found.polarizability.value < high


def test_gibbs_energies_are_consistent(headed_model, water_frames) -> None:
    """G = H − T S, and dG/dT = −S, at temperatures that are no nodes."""
    atoms = water_frames[7]

    def at(temperature: float):
        return headed_model.predict_properties(atoms, temperature=temperature).thermochemistry

    for temperature in (215.0, 263.0, 341.7):
        here = at(temperature)
        assert here.gibbs_correction.value == pytest.approx(
            here.enthalpy_correction.value - temperature * here.entropy.value, abs=1e-9
        )
        slope = (at(temperature + 0.5).gibbs_correction.value
                 - at(temperature - 0.5).gibbs_correction.value)  # fmt: skip
        assert -slope == pytest.approx(here.entropy.value, rel=2e-4)
    assert at(298.15).zero_point == at(220.0).zero_point
    assert headed_model.predict_properties(atoms, symmetry=2).thermochemistry.entropy.value < (
        at(298.15).entropy.value
    )


def test_energies_stay_and_training_repeats(headed_model, water_model, water_frames) -> None:
    bare = replace(headed_model, heads=None)
    atoms = water_frames[5]
    assert bare.predict(atoms).energy == headed_model.predict(atoms).energy
    again = with_properties(bare, water_frames)
    assert repr(again.predict_properties(atoms)) == repr(headed_model.predict_properties(atoms))


def test_files_give_the_same_bits(headed_model, water_frames, tmp_path) -> None:
    save_model(headed_model, tmp_path / "m.h5")
    loaded = load_model(tmp_path / "m.h5")
    for atoms in water_frames[:8]:
        assert repr(loaded.predict_properties(atoms)) == repr(
            headed_model.predict_properties(atoms)
        )
    assert [h.details for h in loaded.heads] == [h.details for h in headed_model.heads]


def spoil_shape(metadata, arrays) -> None:
    arrays["head_polarizability/coefficients"] = arrays["head_polarizability/coefficients"][:-1]


def spoil_number(metadata, arrays) -> None:
    arrays["head_cc/posterior_factor"] = arrays["head_cc/posterior_factor"] * np.nan


def spoil_counts(metadata, arrays) -> None:
    arrays["head_cc/counts"] = arrays["head_cc/counts"] + 1000


def spoil_missing(metadata, arrays) -> None:
    del arrays["head_twice/calibration_scale"]


def spoil_kind(metadata, arrays) -> None:
    metadata["heads"][0]["kind"] = "magic"


def spoil_outputs(metadata, arrays) -> None:
    metadata["heads"][0]["outputs"].pop()


def spoil_details(metadata, arrays) -> None:
    metadata["heads"][0]["details"] = {}


def spoil_errors(metadata, arrays) -> None:
    metadata["heads"][0]["details"]["errors"] = {"another": {}}


def spoil_names_of_errors(metadata, arrays) -> None:
    errors = metadata["heads"][0]["details"]["errors"]
    errors["another"] = errors.pop(next(iter(errors)))


def spoil_scale(metadata, arrays) -> None:
    arrays["head_twice/calibration_scale"] = -arrays["head_twice/calibration_scale"]


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_shape,
        spoil_number,
        spoil_counts,
        spoil_missing,
        spoil_kind,
        spoil_outputs,
        spoil_details,
        spoil_errors,
        spoil_names_of_errors,
        spoil_scale,
    ],
)
def test_files_that_do_not_fit_are_refused(headed_model, tmp_path, spoil) -> None:
    save_model(headed_model, tmp_path / "m.h5")
    metadata, arrays = read_container(tmp_path / "m.h5", "model")
    spoil(metadata, arrays)
    write_container(tmp_path / "n.h5", "model", metadata, arrays)
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "n.h5")


def test_a_model_without_heads_says_which_has_them(tiny_model, water_frames) -> None:
    with pytest.raises(SettingsError, match="multibase-wb97xd"):
        tiny_model.predict_properties(water_frames[0])
    with pytest.raises(SettingsError, match="train with trend='sparse'"):
        add_properties(tiny_model, water_frames, ["x=y"], n_jobs=1)
    with pytest.raises(SettingsError, match="no level of theory 'dlpno'"):
        KNNCalculator(tiny_model, level="dlpno")


def test_what_was_not_learned_of_is_named(headed_model, water_frames) -> None:
    frames = labelled_with_properties(water_frames)
    for atoms in frames:
        if len(atoms) > 3:
            del atoms.info["alpha"]
    few = add_properties(headed_model, frames + labelled_with_properties(water_clusters(20, 9, 1)),
                         ["alone=alpha"], settings=SMALL, n_jobs=1)  # fmt: skip
    # Water alone determines nothing of another formula.
    assert few.predict_properties(water_frames[0]).undetermined == []
    proton = water_frames[1].copy()
    assert "alone" in few.predict_properties(proton).scalars
    with pytest.raises(UnknownElementError):
        few.predict_properties(Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]))


def test_distance_shows(headed_model, water_frames) -> None:
    strange = water_frames[3].copy()
    strange.positions *= 1.25
    near = headed_model.predict_properties(water_frames[3])
    far = headed_model.predict_properties(strange)
    assert far.novelty["polarizability"] > 1 > near.novelty["polarizability"]
    assert far.polarizability.std > 2 * near.polarizability.std


def test_a_level_of_theory_is_part_of_the_energy(headed_model, water_frames) -> None:
    atoms = water_frames[6].copy()
    atoms.calc = KNNCalculator(headed_model, on_novelty="ignore")
    low, low_std = atoms.get_potential_energy(), atoms.calc.results["energy_std"]
    atoms.calc = KNNCalculator(headed_model, level="cc", on_novelty="ignore")
    step = atoms.calc.get_property("level_correction", atoms)
    assert atoms.get_potential_energy() == pytest.approx(low + step.energy, abs=1e-12)
    assert atoms.calc.results["energy_std"] == pytest.approx(np.hypot(low_std, step.std))
    label = labelled_with_properties(water_frames)[6].info["cc_energy"]
    assert atoms.get_potential_energy() == pytest.approx(label, abs=0.1)
    numerical = np.empty(3)
    for axis in range(3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[2, axis] += sign * 1e-4
            moved.calc = atoms.calc
            energies.append(moved.get_potential_energy())
        numerical[axis] = -(energies[0] - energies[1]) / 2e-4
    np.testing.assert_allclose(atoms.get_forces()[2], numerical, atol=1e-5)
    with pytest.raises(SettingsError, match="no level of theory 'ccc'"):
        atoms.calc.set(level="ccc")


def test_offsets_of_sources_are_taken_off(headed_model, water_frames) -> None:
    """Labels of one source are shifted: what is predicted is the level of the larger source."""
    head = {h.name: h for h in headed_model.heads}["cc"]
    assert head.details["sets"] == ["new", "old"]
    assert head.details["errors"]["cc"]["mae"] < 0.02
    atoms = water_frames[1]  # a dimer, of the shifted source
    shifted = labelled_with_properties(water_frames)[1]
    said = headed_model.predict_properties(atoms).levels["cc"].value
    label = shifted.info["cc_energy"] - shifted.info["reference_energy"]
    assert said == pytest.approx(label - 0.1, abs=0.05)


def test_sources_differ_by_more_than_offsets(headed_model, water_frames, monkeypatch) -> None:
    """A third of the labels are of another method, which differs from structure to structure."""
    frames = labelled_with_properties(water_frames)
    for i, atoms in enumerate(frames):
        atoms.info["source"] = "most" if i % 3 else "other"
        if i % 3 == 0:
            atoms.info["alpha"] += 0.5 * (pair_energy(atoms) + 20.0 * np.sum(atoms.numbers == 8))

    def error() -> float:
        sources = PropertyTarget("p", "alpha", sets="source")
        found = add_properties(headed_model, frames, [sources], settings=SMALL, n_jobs=1)
        for atoms, truth in zip(
            frames[:9], labelled_with_properties(water_frames)[:9], strict=True
        ):
            said = found.predict_properties(atoms).scalars["p"].value
            assert said == pytest.approx(truth.info["alpha"], abs=0.05)
        return {h.name: h for h in found.heads}["p"].details["errors"]["p"]["mae"]

    known = error()
    monkeypatch.setattr(head_fit, "_BETWEEN", 1e-12)
    assert known < 0.7 * error()


def test_a_level_has_small_forces_where_labels_say_nothing_of_them(headed_model) -> None:
    """Rigid waters that induce each other: the energies of a level must not depend on bonds."""
    frames = rigid_waters(60, seed=4)
    for atoms in frames:
        gaps = atoms[atoms.numbers == 8].get_all_distances()
        atoms.info["cc_energy"] = atoms.info["reference_energy"] + 0.1 * np.exp(-gaps).sum()
    stretched = molecule("H2O")
    stretched.set_distance(0, 1, 1.0, fix=0)

    def largest(weight: float) -> float:
        settings = HeadSettings(environments=30, variance_environments=15, level_slopes=weight)
        model = add_properties(headed_model, frames, ["level:cc=cc_energy"], settings=settings,
                               n_jobs=1)  # fmt: skip
        structure = stretched.numbers, stretched.positions, 0
        step = level_of("cc", model.heads, model.descriptor, structure, forces=True)
        assert {h.name: h for h in model.heads}["cc"].details["errors"]["cc"]["mae"] < 0.02
        return float(np.abs(step.forces).max())

    assert largest(0.01) < min(0.5 * largest(0.0), 0.1)


def test_few_structures_are_solved_in_the_space_they_span() -> None:
    rng = np.random.default_rng(0)
    columns, free = rng.normal(size=(12, 30)), rng.normal(size=(12, 2))
    values, folds = rng.normal(size=(12, 1)), np.arange(12) % 3
    spanned, back = head_fit._spanned(columns.astype(np.float32))
    assert spanned.shape == (12, 12)
    wide, narrow = (TargetProblem(free, c, values, folds) for c in (columns, spanned))
    np.testing.assert_allclose(wide.left_out(0.1), narrow.left_out(0.1), atol=1e-4)
    one, other = wide.solve(0.1), narrow.solve(0.1)
    np.testing.assert_allclose(one.coefficients, back @ other.coefficients, atol=1e-5)


def test_a_level_that_nothing_determines(headed_model, water_frames) -> None:
    head = {h.name: h for h in headed_model.heads}["cc"]
    post = head.posterior
    blind = replace(head, posterior=replace(post, free_map=post.free_map * 0.0))
    heads = Heads.on(headed_model.trend.environments, [blind])
    atoms = water_frames[0]
    with pytest.raises(FormulaError, match="no combination"):
        level_of("cc", heads, headed_model.descriptor, (atoms.numbers, atoms.positions, 0))


def test_names_of_properties() -> None:
    found = property_targets(["thermochemistry", "dlpno", "g=G_eV", "level:cc=e@set"])
    assert [t.kind for t in found] == ["thermochemistry", "level", "scalar", "level"]
    assert (found[1].key, found[1].sets, found[3].sets) == ("dlpno_energy", "dlpno_set", "set")
    assert property_targets([found[0]]) == [found[0]]
    for wrong in ("g", "g=", "level:dlpno", "a b=c", "=x"):
        with pytest.raises(SettingsError):
            property_targets([wrong])
    with pytest.raises(SettingsError, match="twice"):
        property_targets(["g=a", "g=b"])
    with pytest.raises(SettingsError, match="kind"):
        PropertyTarget("x", "y", "tensor")


def test_labels_that_cannot_be_used(headed_model, water_frames) -> None:
    frames = labelled_with_properties(water_frames)
    frames[3].info["alpha"] = "tall"
    with pytest.raises(DataError, match="w-3: the label 'alpha'"):
        add_properties(headed_model, frames, ["p=alpha"], settings=SMALL, n_jobs=1)
    with pytest.raises(DataError, match="at least 20 structures"):
        add_properties(headed_model, frames, ["p=beta"], settings=SMALL, n_jobs=1)


def test_an_absurd_label_is_left_out_and_named(headed_model, water_frames) -> None:
    frames = labelled_with_properties(water_frames)
    frames[11].info["alpha"] += 1e4
    found = add_properties(headed_model, frames, ["p=alpha"], settings=SMALL, n_jobs=1)
    (head,) = (h for h in found.heads if h.name == "p")
    assert head.details["left_out"] == [frames[11].info["name"]]
    assert head.details["errors"]["p"]["mae"] < 0.05


def test_records_that_are_no_minima_have_no_thermochemistry(headed_model, water_frames) -> None:
    frames = labelled_with_properties(water_frames)
    for atoms in frames[:9]:
        atoms.info["frequencies_cm1"][0] = -40.0
    found = add_properties(headed_model, frames, ["thermochemistry"], settings=SMALL, n_jobs=1)
    (head,) = (h for h in found.heads if h.name == "thermochemistry")
    assert head.details["structures"] == len(frames) - 9


def test_details_are_plain(headed_model) -> None:
    for head in headed_model.heads:
        assert json.loads(json.dumps(head.details)) == head.details
        for errors in head.details["errors"].values():
            assert 0.7 <= errors["inside_90"] <= 1.0
