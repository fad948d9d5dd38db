"""Input that is wrong, odd or extreme: one error that says what and why, or the right number."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, InputError
from ase.calculators.lj import LennardJones
from helpers.factories import tiny, water_clusters

from ase_knncalc import (
    KNNCalculator,
    find_in_training,
    load_model,
    predict_frames,
    save_model,
    train,
)
from ase_knncalc.baselines import TBLiteBaseline, XTBBaseline, make_baseline
from ase_knncalc.errors import (
    BaselineError,
    ChargeError,
    DataError,
    FormulaError,
    ModelFileError,
    SettingsError,
    StructureError,
    UnknownElementError,
)
from ase_knncalc.info import HeldOutErrors


def dimer() -> Atoms:
    first, second = molecule("H2O"), molecule("H2O")
    second.positions += [0.3, 0.2, 2.9]
    return first + second


def changed(change) -> Atoms:
    atoms = dimer()
    change(atoms)
    return atoms


def place(value: float):
    return lambda a: a.positions.__setitem__((2, 1), value)


REFUSED = {
    "nan": (place(np.nan), StructureError, "NaN or infinite positions of atom 2"),
    "inf": (place(np.inf), StructureError, "NaN or infinite positions of atom 2"),
    "overlap": (lambda a: a.positions.__setitem__(3, a.positions[0]), StructureError, "overlap"),
    "nearly overlapping": (
        lambda a: a.positions.__setitem__(3, a.positions[0] + 1e-7), StructureError, "overlap",
    ),
    "bohr as nm": (lambda a: a.positions.__imul__(0.1), StructureError, "unit of the positions"),
    "ghost": (lambda a: a.numbers.__setitem__(5, 0), StructureError, "ghost or dummy atoms"),
    "X": (lambda a: a.append("X"), StructureError, "ghost or dummy atoms"),
    "unknown element": (lambda a: a.numbers.__setitem__(0, 17), UnknownElementError, "Cl not cov"),
    "beyond the table": (lambda a: a.extend(Atoms("Og", [[9, 9, 9]])), UnknownElementError, "Og"),
    "no element": (lambda a: a.numbers.__setitem__(0, 300), StructureError, "that of no element"),
    "periodic": (lambda a: a.set_pbc([True, False, False]), StructureError, "periodic"),
    "crystal": (
        lambda a: (a.set_cell([9, 9, 9]), a.set_pbc(True)), StructureError, "atoms.pbc = False",
    ),
    "no atoms": (lambda a: a.__delitem__(slice(None)), StructureError, "no atoms"),
    "charge never seen": (lambda a: a.info.update(charge=2), ChargeError, r"\+2 is not covered"),
    "charge no integer": (lambda a: a.info.update(charge=0.5), ChargeError, "expected an integer"),
    "charge nan": (lambda a: a.info.update(charge=np.nan), ChargeError, "expected an integer"),
    "charge text": (lambda a: a.info.update(charge="minus one"), ChargeError, "integer"),
    "charges contradict": (
        lambda a: (a.info.update(charge=1), a.set_initial_charges([0, 0, 0, 0, 0, -1])),
        ChargeError, "contradict each other",
    ),
    "odd electrons as singlet": (
        lambda a: (a.__delitem__(5), a.info.update(multiplicity=1)), ChargeError, "odd number",
    ),
    "even electrons as doublet": (
        lambda a: a.info.update(multiplicity=2), ChargeError, "expected an odd multiplicity",
    ),
    "multiplicity 0": (lambda a: a.info.update(multiplicity=0), ChargeError, "at least 1"),
    "more unpaired than electrons": (
        lambda a: a.info.update(multiplicity=101), ChargeError, "at most multiplicity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_words_that_ase_workflows_catch(name: str) -> None:
    change, error, message = REFUSED[name]
    atoms = changed(change)
    atoms.calc = KNNCalculator("saw-wb97xd")
    with pytest.raises(error, match=message) as caught:
        atoms.get_potential_energy()
    assert isinstance(caught.value, InputError)
    assert not atoms.calc.results, "nothing of an earlier structure is left"
    # The same words from the model alone.
    with pytest.raises(error, match=message):
        load_model("saw-wb97xd").predict(atoms)


def test_far_from_the_origin() -> None:
    """Where digits are lost energies are refused rather than made up."""
    model = load_model("saw-wb97xd", baseline=None)
    here = model.predict(dimer()).delta
    assert model.predict(changed(lambda a: a.translate([1e5, 0, 0]))).delta == pytest.approx(
        here, abs=1e-6
    )
    for far in (1e7, 1e12, 1e160, 1e300):
        for atoms in (range(6), [5]):
            apart = changed(lambda a, far=far, atoms=atoms: a.positions.__setitem__(atoms, far))
            apart.positions[atoms] += dimer().positions[atoms]
            with pytest.raises(StructureError, match=r"farther than 1e\+06 Å from the origin"):
                model.predict(apart)


@pytest.mark.parametrize("symbol", ["C", "O", "S"])
def test_one_atom(symbol: str) -> None:
    atoms = Atoms(symbol)
    atoms.calc = KNNCalculator("multibase-wb97xd", coverage=0.9)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        energy = atoms.get_potential_energy()
        forces = atoms.get_forces()
    assert np.isfinite(energy)
    assert np.abs(forces).max() < 1e-10
    assert atoms.calc.results["novelty"] > 1
    assert any("far from the training data" in str(w.message) for w in told)


def test_formulas_that_the_training_says_nothing_of_are_refused() -> None:
    """A model of sulfuric acid and water knows differences of the two, and nothing of hydrogen."""
    model = load_model("saw-wb97xd", baseline=None)
    radical = {"multiplicity": 2}
    for atoms in (Atoms("H", info=radical), Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info=radical),
                  molecule("H2"), molecule("H2O2"), molecule("SO2")):  # fmt: skip
        with pytest.raises(FormulaError, match=r"no combination of the formulas .* smallest: H2O"):
            model.check(atoms)
        with pytest.raises(FormulaError):
            KNNCalculator("saw-wb97xd").get_property("energy", atoms)
    # Acid without water: the difference of two formulas that it was trained on.
    so3 = Atoms("SO3", [[0, 0, 0], [1.42, 0, 0], [-0.71, 1.23, 0], [-0.71, -1.23, 0]])
    assert model.check(so3) == model.check(molecule("H2O")) == 0
    assert find_in_training(model, molecule("H2O2")).answer.startswith("no")


def test_span_of_counts_is_that_of_the_training_alone() -> None:
    # Water, hydroxide; then hydrogen, appended: the trend did not see it.
    counts = np.array([[2, 1, 0, 0], [1, 1, -1, 1], [2, 0, 0, 0]])
    held = HeldOutErrors(*np.zeros((3, 3)), counts, np.ones(3, dtype=bool))

    def inside(column, n):
        span = held.span(n)
        return np.allclose(span.T @ (span @ np.array(column, dtype=float)), column)

    assert inside([3, 2, -1, 1], 2)  # both
    assert inside([1, 0, 1, -1], 2)  # their difference
    assert not inside([3, 1, 1, 1], 2)  # hydronium: its charge was not seen
    assert not inside([2, 0, 0, 0], 2)
    assert inside([2, 0, 0, 0], None)
    assert not inside([3, 1, 1, 1], None)


def water_box(n: int) -> Atoms:
    """Water molecules on a grid."""
    atoms = Atoms()
    edge = int(np.ceil(n ** (1 / 3)))
    for place in np.argwhere(np.ones((edge, edge, edge)))[:n]:
        water = molecule("H2O")
        water.translate(3.1 * place)
        atoms += water
    return atoms


def test_five_hundred_atoms() -> None:
    """More than ten times the largest training cluster: the trend adds up, the novelty is said."""
    box = water_box(167)
    assert len(box) == 501
    model = load_model("saw-wb97xd", baseline=None)
    found = model.predict(box)
    half = model.predict(water_box(80))
    assert np.isfinite([found.delta, found.energy_std]).all()
    assert found.novelty > 1
    assert found.energy_std > half.energy_std
    per_molecule = found.delta / 167
    assert per_molecule == pytest.approx(half.delta / 80, abs=0.1)


@pytest.mark.slow
def test_a_hundred_atoms_with_their_baseline() -> None:
    """The baseline's time grows with the cube of the size: 500 atoms take it minutes."""
    box = water_box(34)
    box.calc = KNNCalculator("saw-wb97xd", on_novelty="ignore")
    assert box.get_potential_energy() / 34 == pytest.approx(-2079.2, abs=1.0)


# ------------------------------------------------------------------------------------- baselines


@pytest.fixture(scope="module")
def trained():
    """Models of the same labels on both libraries, and one on other settings."""
    frames = water_clusters(24, seed=2, largest=2)
    made = {}
    for name, baseline in {
        "tblite": TBLiteBaseline(),
        "xtb": XTBBaseline(),
        "hot": TBLiteBaseline(electronic_temperature=5000.0, accuracy=0.1),
    }.items():
        pytest.importorskip(f"{baseline.library}.interface")
        made[name] = train(
            [a.copy() for a in frames], baseline=baseline, trend="linear", k=3, n_components=3,
            metric_iterations=3, n_jobs=1, check_labels=False,
        )  # fmt: skip
    return made


def test_model_of_the_other_library_gives_the_same(trained, tmp_path, monkeypatch) -> None:
    """A model keeps its library where it is installed, and takes the other one where it is not."""
    import sys

    atoms = dimer()
    for name, other in (("tblite", "xtb"), ("xtb", "tblite")):
        path = tmp_path / f"{name}.h5"
        save_model(trained[name], path)
        own = load_model(path)
        assert own.baseline.library == name
        swapped = load_model(path, baseline=other)
        assert swapped.baseline.library == other
        assert swapped.predict(atoms).energy == pytest.approx(own.predict(atoms).energy, abs=1e-5)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, f"{name}.interface", None)
            assert load_model(path).baseline.library == other


def test_settings_of_the_baseline_are_those_of_training(trained, tmp_path) -> None:
    path = tmp_path / "hot.h5"
    save_model(trained["hot"], path)
    loaded = load_model(path)
    assert loaded.baseline == TBLiteBaseline(electronic_temperature=5000.0, accuracy=0.1)
    assert loaded.predict(dimer()).energy == trained["hot"].predict(dimer()).energy
    with pytest.raises(BaselineError, match=r"electronic_temperature = 5000\.0, not 300\.0"):
        load_model(path, baseline="tblite")


def test_baseline_that_is_not_the_models(trained, tmp_path) -> None:
    path = tmp_path / "m.h5"
    save_model(trained["tblite"], path)
    for ask in (
        lambda **o: load_model(path, baseline="GFN2-xTB", **o),
        lambda **o: KNNCalculator(path, baseline="GFN2-xTB", **o),
        lambda **o: KNNCalculator(trained["tblite"], baseline="none", **o),
        lambda **o: KNNCalculator(path, baseline=LennardJones(), **o),
    ):
        with pytest.raises(BaselineError, match=r"the model corrects GFN1-xTB, not .*allow_other"):
            ask()
        ask(allow_other_baseline=True)
    assert issubclass(BaselineError, CalculationFailed)


def test_model_of_an_ase_calculator_asks_for_it(tmp_path) -> None:
    frames = water_clusters(20)
    model = train(
        frames, baseline=LennardJones(sigma=1.0, epsilon=0.01), trend="linear", k=3,
        n_components=3, metric_iterations=3, n_jobs=1,
    )  # fmt: skip
    path = tmp_path / "lj.h5"
    save_model(model, path)
    with pytest.raises(BaselineError, match="pass the calculator object itself"):
        load_model(path)
    again = load_model(path, baseline=LennardJones(sigma=1.0, epsilon=0.01))
    assert again.predict(frames[3]).energy == model.predict(frames[3]).energy
    with pytest.raises(BaselineError, match="with parameters = "):
        load_model(path, baseline=LennardJones(sigma=1.1, epsilon=0.01))


def test_baseline_energies_of_another_method_in_the_data() -> None:
    frames = water_clusters(20)
    gfn2 = make_baseline("GFN2-xTB")
    for a in frames:
        a.info["baseline_energy"] = gfn2.energy(a, 0, 1)
    with pytest.raises(BaselineError, match="name the baseline the data were made with"):
        train(frames, n_jobs=1)
    train(frames, baseline="GFN2-xTB", trend="linear", k=3, n_jobs=1)


def test_a_baseline_energy_for_a_model_of_the_reference_itself(tiny_model, water_frames) -> None:
    frames = water_frames[:2]
    assert tiny_model.predict(frames, baseline_energy=[0.0, 0.0]).energy.shape == (2,)
    for predict in (tiny_model.predict, partial(predict_frames, tiny_model)):
        with pytest.raises(SettingsError, match="predicts the reference energy itself"):
            predict(frames, baseline_energy=[0.0, -5.0])


# ----------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("value", "category"),
    [(np.nan, "bad-reference"), (np.inf, "bad-reference"), ("text", "bad-reference")],
)
def test_labels_that_are_no_numbers_are_left_out_and_listed(value, category: str) -> None:
    frames = water_clusters(20)
    frames[4].info["reference_energy"] = value
    with pytest.warns(UserWarning, match=f"{category}: 1"):
        model = tiny(frames)
    assert [o["name"] for o in model.info.provenance.omitted] == [frames[4].info["name"]]


def test_no_usable_label_at_all_is_one_error() -> None:
    frames = water_clusters(5)
    for a in frames:
        a.info["reference_energy"] = np.nan
    with pytest.raises(DataError, match="no frame can be used"):
        tiny(frames)


def test_missing_and_foreign_model_files_are_one_error(tmp_path) -> None:
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(1000))
    for name in (tmp_path / "x.h5", tmp_path / "none.h5", tmp_path, "", "no-such-model"):
        with pytest.raises(ModelFileError):
            KNNCalculator(name)
