"""What a loop is told: its configuration, what of it may change, and what costs no label."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.factories import water_clusters
from helpers.loops import SETTINGS, Oracle, read_labelled, write_config

from ase_knncalc import TrainingSettings, load_model, save_model, train
from ase_knncalc.active import ActiveLoop, Journal, read_config, run_loop
from ase_knncalc.active.report import sentence
from ase_knncalc.data import write_frames
from ase_knncalc.errors import DataError, KNNCalcError, LabelerError, SettingsError
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.training.bandwidth import OFF

# As it is in the small model of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:model. its k-NN term is off")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"lookup"', '"lookup"\nreference_key = "other_energy"'), r"labeler\.reference_key is"),
        (('file = "first.h5"', 'file = "second.h5"'), r"model\.file is '\.\./second\.h5'"),
        (("batch = 5", "batch = 5\nseed = 7"), r"loop\.seed is 7"),
        (("[pool]", "[pool]\nn = 50"), r"pool\.n is 50"),
    ],
)
def test_what_labels_depend_on_may_not_change(folder, change, message) -> None:
    shutil.copy(folder / "first.h5", folder / "second.h5")
    answers = water_clusters(30, seed=11)
    for atoms in answers:
        atoms.info["other_energy"] = atoms.info["reference_energy"]
    write_frames(folder / "answers.extxyz", answers)
    run_loop(read_config(write_config(folder, iterations=1)))
    path = write_config(folder)
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    for act in (run_loop, lambda config: ActiveLoop(config).plan()):
        with pytest.raises(SettingsError, match=f"{message}.* begun with .*restore it"):
            act(read_config(path))


def test_data_settings_and_tests_may_change(folder) -> None:
    first = run_loop(read_config(write_config(folder, iterations=1)))
    write_frames(folder / "known2.extxyz", water_clusters(10, seed=5))
    write_frames(folder / "pool2.extxyz", water_clusters(7, seed=6))
    path = write_config(folder, iterations=2, settings=SETTINGS.replace("k = 5", "k = 6"))
    text = path.read_text().replace('"pool.extxyz"', '"pool.extxyz", "pool2.extxyz"')
    text = text.replace('["test.extxyz"]', "[]").replace(
        '"known.ext', '"known2.extxyz", "known.ext'
    )
    path.write_text(text.replace("batch = 5", 'batch = 5\nretrain = "always"'))
    reports = run_loop(read_config(path))
    assert reports[0] == first[0]
    assert reports[1]["pool"] == 37 - 10
    assert reports[1]["structures"] > 60 + 10  # the second file takes part
    assert "test_mae" not in reports[1]
    assert load_model(folder / "work" / "model.h5", baseline="none").knn.settings.k == 6


def test_a_configuration_by_another_path_and_in_another_place_is_the_same(
    folder, tmp_path_factory, monkeypatch
) -> None:
    oracle = Oracle(folder / "calls")
    monkeypatch.chdir(folder)
    write_config(folder, iterations=1)
    reports = run_loop(read_config("config.toml"), labeler=oracle)
    monkeypatch.chdir(folder.parent)
    for path in (folder / "config.toml", Path(folder.name) / ".." / folder.name / "config.toml"):
        assert run_loop(read_config(path), labeler=oracle) == reports
    moved = tmp_path_factory.mktemp("moved") / "loop"
    shutil.move(folder, moved)
    assert run_loop(read_config(moved / "config.toml"), labeler=oracle) == reports


BAD_INPUTS = {
    "reference_key of the test": ('["test.extxyz"]', '["test.extxyz"]\nreference_key = "eenrgy"'),
    "reference_key of training": ("check_labels", 'reference_key = "eenrgy"\ncheck_labels'),
    "model": ('"first.h5"', '"frist.h5"'),
    "damaged model": ('"first.h5"', '"damaged.h5"'),
    "k": ("k = 5", "k = 500"),
    "unlabelled test": ('"test.extxyz"', '"pool.extxyz"'),
    "labels without energies": ('"answers.extxyz"', '"pool.extxyz"'),
    "option of a labeler": (
        'kind = "lookup"\nfiles = ["answers.extxyz"]', 'kind = "pyscf"\noptions = {xcc = "pbe"}'
    ),
    "functional": (
        'kind = "lookup"\nfiles = ["answers.extxyz"]', 'kind = "pyscf"\noptions = {xc = "wB97Q"}'
    ),
    "tolerance": ('kind = "lookup"', 'kind = "lookup"\noptions = {tolerance = "x"}'),
    "option of a lookup": ('kind = "lookup"', 'kind = "lookup"\noptions = {tolerence = 1}'),
    "calculator": (
        'kind = "lookup"\nfiles = ["answers.extxyz"]',
        'kind = "ase"\ncalculator = "nothing"\nmethod = "x"',
    ),
    "elements without training data": ('data = ["known.extxyz"]', ""),
    "elements without training": ("batch = 5", 'batch = 5\nretrain = "never"'),
    "molecules": ('files = ["pool.extxyz"]', 'sample = [["w:1", "am:1"]]\nn = 100000'),
    "overlapping atoms": ('"pool.extxyz"', '"overlapping.extxyz"'),
    "baseline energies": ('"known.extxyz"', '"shifted.extxyz"'),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_INPUTS)
def test_no_label_is_paid_for_that_could_not_be_learned(folder, cluster_frames, what) -> None:
    change = BAD_INPUTS[what]
    if "functional" in what:
        pytest.importorskip("pyscf")
    (folder / "damaged.h5").write_bytes(b"nonsense")
    if "elements" in what:  # the pool holds what the model does not cover
        ammonia = next(a for a in cluster_frames if a.info["composition"] == "1am").copy()
        ammonia.info = {"name": "1am", "reference_energy": -1.0}
        pool = [*water_clusters(30, seed=11), ammonia]
        write_frames(folder / "answers.extxyz", pool)
        write_frames(folder / "pool.extxyz", pool)
    close = water_clusters(2, seed=4)
    close[1].positions[1] = close[1].positions[0] + 0.01
    write_frames(folder / "overlapping.extxyz", close)
    shifted = water_clusters(60, seed=4)
    for atoms in shifted:
        atoms.info["baseline_energy"] = 5.0
    write_frames(folder / "shifted.extxyz", shifted)
    path = write_config(folder, strategy="random")
    text = path.read_text()
    assert change[0] in text
    text = text.replace('data = ["known.extxyz"]', "") if what == "molecules" else text
    path.write_text(text.replace(*change, 1))
    oracle = Oracle(folder / "calls")
    config = read_config(path)
    labeler = None if "answers" in change[0] or "lookup" in change[0] else oracle
    for act in (lambda: ActiveLoop(config, labeler=labeler).plan(),
                lambda: run_loop(config, labeler=labeler)):  # fmt: skip
        with pytest.raises(KNNCalcError):
            act()
    assert not oracle.calls.exists()
    # What was wrong is mended, and the same folder goes on.
    if "elements" in what:
        write_frames(folder / "answers.extxyz", pool[:-1])
        write_frames(folder / "pool.extxyz", pool[:-1])
    mended = read_config(write_config(folder, strategy="random", iterations=1))
    assert [r["labels"] for r in run_loop(mended, labeler=oracle)] == [5]


@pytest.mark.parametrize("name", ["model.h5", "model-000.h5", "pool-000.extxyz", "labelled.extxyz"])
def test_files_that_are_not_of_the_loop_stay(folder, name) -> None:
    work = folder / "work"
    work.mkdir()
    (work / name).write_bytes(b"of somebody else")
    config = read_config(folder / "config.toml")
    for act in (lambda: ActiveLoop(config).plan(), lambda: run_loop(config)):
        with pytest.raises(SettingsError, match=f"holds {name}, which this loop would write over"):
            act()
    assert (work / name).read_bytes() == b"of somebody else"
    (work / name).rename(work / f"other-{name}")
    assert len(run_loop(config)) == 3
    write_config(folder).write_text((folder / "config.toml").read_text().replace('"work"', '"."'))
    run_loop(read_config(folder / "config.toml"))  # beside the model that it starts from
    assert load_model(folder / "first.h5", baseline="none")


def test_the_first_model_follows_a_configuration_that_was_mended(folder) -> None:
    broken = write_config(folder, model="", settings=SETTINGS.replace("k = 5", "k = 4"))
    broken.write_text(
        broken.read_text().replace('kind = "lookup"', 'kind = "lookup"\ntime_limit = 9')
    )
    loop = ActiveLoop(read_config(broken), labeler=Oracle(folder / "calls"))
    loop._batch = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        loop.run()
    assert load_model(folder / "work" / "model-000.h5", baseline="none").knn.settings.k == 4
    run_loop(read_config(write_config(folder, model="", iterations=1)))
    assert load_model(folder / "work" / "model.h5", baseline="none").knn.settings.k == 5


def test_a_labeler_that_always_fails_stops_the_loop_and_can_be_mended(folder) -> None:
    class Useless(Oracle):
        def label(self, atoms):
            super().label(atoms)
            raise LabelerError("orca: command not found")

    calls = folder / "calls"
    config = read_config(write_config(folder, iterations=1))
    with pytest.raises(LabelerError, match=r"3 labels failed in a row.*command not found"):
        run_loop(config, labeler=Useless(calls))
    asked = calls.read_text().split()
    # With the same labeler, others are asked; with another one, the same again.
    with pytest.raises(LabelerError, match="2 labels failed in a row"):
        run_loop(read_config(write_config(folder, iterations=2)), labeler=Useless(calls))
    assert len(calls.read_text().split()) == len(set(calls.read_text().split())) == 5
    path = write_config(folder, iterations=1)
    path.write_text(path.read_text().replace('"lookup"', '"lookup"\noptions = {tolerance = 0.01}'))
    reports = run_loop(read_config(path))
    assert [(r["iteration"], r["labels"], r["failed"]) for r in reports] == [(1, 5, 0)]
    with Journal(folder / "work" / "journal.db") as journal:
        assert [a.key for a in journal.asked()][:3] == asked


def test_resources_of_a_labeler_may_change(folder) -> None:
    def identity(options: str) -> dict:
        path = write_config(folder)
        lookup = 'kind = "lookup"\nfiles = ["answers.extxyz"]'
        path.write_text(path.read_text().replace(lookup, f'kind = "pyscf"\noptions = {options}'))
        return read_config(path).identity()

    few, many = identity("{threads = 1, max_memory = 500}"), identity("{threads = 8}")
    assert few == many
    assert few != identity('{threads = 8, basis = "sto-3g"}')


def test_test_structures_that_are_learned_from_are_told(folder) -> None:
    path = write_config(folder, iterations=1)
    write_frames(folder / "test.extxyz", [*water_clusters(60)[:3], *water_clusters(20, seed=12)])
    with pytest.warns(UserWarning, match=r"test\.files: 3 of 23 structures are in training\.data"):
        run_loop(read_config(path))
    path.write_text(path.read_text().replace('["test.extxyz"]', '["answers.extxyz"]'))
    with pytest.warns(UserWarning, match="30 of 30 structures are in the pool"):
        run_loop(read_config(write_config_in(path, "other")))


def write_config_in(path: Path, directory: str) -> Path:
    path.write_text(path.read_text().replace('"work"', f'"{directory}"'))
    return path


def test_a_labeler_that_breaks_stops_the_loop_and_is_asked_again(folder) -> None:
    class Breaking(Oracle):
        works = 5

        def label(self, atoms):
            found = super().label(atoms)
            self.works -= 1
            if self.works < 0:
                raise LabelerError("disk quota exceeded")
            return found

    config = read_config(folder / "config.toml")
    with pytest.raises(LabelerError, match=r"5 labels failed in a row.*disk quota.*--retry"):
        run_loop(config, labeler=Breaking(folder / "calls"))
    failed = (folder / "calls").read_text().split()[5:]
    reports = run_loop(config, labeler=Oracle(folder / "again"), retry=True)
    assert [r["failed"] for r in reports] == [0, 0, 0]
    assert (folder / "again").read_text().split()[:5] == failed


def test_failures_of_finished_iterations_can_be_chosen_again(folder) -> None:
    oracle = Oracle(folder / "calls", failing="1w-0")
    config = read_config(write_config(folder, strategy="random", iterations=1, batch=29))
    reports = run_loop(config, labeler=oracle)
    more = read_config(write_config(folder, strategy="random", iterations=2, batch=29))
    again = run_loop(more, labeler=Oracle(folder / "again"), retry=True)
    assert sum(r["failed"] for r in reports) == again[0]["failed"]
    assert again[-1]["labels"] == 30


def test_a_first_model_of_wrong_training_data_is_made_anew(folder, monkeypatch) -> None:
    frames = water_clusters(60)
    for atoms in frames:
        atoms.info["wrong"] = atoms.info["reference_energy"] * 27.0
    write_frames(folder / "known.extxyz", frames)
    path = write_config(folder, model="", iterations=1)
    text = path.read_text().replace("check_labels = false", "")
    path.write_text(text.replace("[test]\nfiles", "[test]\n#"))
    good = path.read_text()
    monkeypatch.setattr("ase_knncalc.active.loop.check_labeler", lambda *arguments: None)
    path.write_text(good.replace("[training]", '[training]\nreference_key = "wrong"'))
    oracle = Oracle(folder / "calls")
    with pytest.raises(DataError, match=r"what the model predicts"):
        run_loop(read_config(path), labeler=oracle)
    path.write_text(good)
    (report,) = run_loop(read_config(path), labeler=oracle)
    assert report["labels"] == len(oracle.calls.read_text().split()) == 5


@pytest.mark.parametrize("damage", ["missing", "damaged"])
@pytest.mark.filterwarnings("ignore:.*made again from the labels")
def test_a_model_that_is_gone_is_made_again(folder, damage) -> None:
    oracle = Oracle(folder / "calls")
    run_loop(read_config(write_config(folder, iterations=2)), labeler=oracle)
    latest = folder / "work" / "model-002.h5"
    before = load_model(latest, baseline="none")
    if damage == "missing":
        for file in (folder / "work").glob("model*.h5"):
            file.unlink()
    else:
        latest.write_bytes(latest.read_bytes()[:500])
    reports = run_loop(read_config(write_config(folder, iterations=3)), labeler=oracle)
    assert [r["labels"] for r in reports] == [5, 10, 15]
    asked = oracle.calls.read_text().split()
    assert len(asked) == len(set(asked)) == 15
    after = load_model(folder / "work" / "model-003.h5", baseline="none")
    assert len(after) == len(before) + 5


def test_labels_are_in_their_file_before_they_are_learned(folder, monkeypatch) -> None:
    def broken(*arguments, **options):
        raise SettingsError("cannot learn")

    monkeypatch.setattr("ase_knncalc.active.loop.learn", broken)
    with pytest.raises(SettingsError, match="cannot learn"):
        run_loop(read_config(folder / "config.toml"))
    assert len(read_labelled(folder / "work")) == 5


def test_a_model_with_given_baseline_energies_is_refused(folder) -> None:
    frames = water_clusters(40, seed=2)
    for atoms in frames:
        atoms.info["baseline_energy"] = atoms.info["reference_energy"] - 0.1 * len(atoms)
    settings = TrainingSettings(trend="linear", k=3, metric="pca", n_components=3, folds=2)
    save_model(train(frames, baseline="given", settings=settings), folder / "first.h5")
    path = write_config(folder)
    path.write_text(path.read_text().replace('baseline = "none"', ""))
    oracle = Oracle(folder / "calls")
    with pytest.raises(SettingsError, match=r"'given'.*must compute them"):
        run_loop(read_config(path), labeler=oracle)
    assert not oracle.calls.exists()


def test_training_anew_keeps_the_baseline_and_the_reference_of_the_model(folder) -> None:
    frames = [a.copy() for a in water_clusters(40, seed=2)]
    settings = TrainingSettings(trend="linear", k=3, metric="pca", n_components=3, folds=2)
    first = train(frames, baseline="GFN2-xTB", reference="pairs", settings=settings)
    save_model(first, folder / "first.h5")
    path = write_config(folder, iterations=1)
    text = path.read_text().replace('baseline = "none"', "")
    path.write_text(text.replace("batch = 5", 'batch = 5\nretrain = "always"'))
    run_loop(read_config(path))
    info = load_model(folder / "work" / "model.h5", baseline=None).info
    assert info.baseline["method"] == "GFN2-xTB"
    assert info.reference == "pairs"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("batch = 5", "bach = 5"), r"loop\.bach: unknown key; did you mean 'batch'"),
        (("batch = 5", "batch = 0"), r"loop\.batch must be at least 1, got 0"),
        (("batch = 5", "batch = 5\njobs = 0"), r"loop\.jobs: .*positive number, or -1"),
        (('"work"', '"known.extxyz"'), r"loop\.directory: .*known\.extxyz is a file"),
        (('kind = "lookup"', 'kind = "lookup"\ncalculator = "orca"'), r"labeler\.calculator: only"),
        (('kind = "lookup"\n', 'kind = "pyscf"\n'), r"labeler\.files: only with kind = 'lookup'"),
        (("batch = 5", "batch = 5\ngrowth = inf"), r"growth must be a finite number, got inf"),
        (("batch = 5", "batch = 5\nenergy_window = inf"), r"energy_window must be a finite"),
        (("batch = 5", "batch = 5\nenergy_window = nan"), r"energy_window must be a finite"),
        (('"lookup"', '"lookup"\ntime_limit = inf'), r"labeler\.time_limit must be a finite"),
        (("batch = 5", "batch = 5\nseed = -1"), r"loop\.seed must be .*got -1"),
        (("batch = 5", 'batch = "many"'), r"loop\.batch must be .*got 'many'"),
        (('strategy = "combined"', 'strategy = "best"'), r"loop\.strategy .*random.*'best'"),
        (("k = 5", "kk = 5"), r"training\.settings\.kk: unknown key; did you mean 'k'"),
        (("k = 5", "k = 0"), r"training\.settings\.k must be"),
        (('kind = "lookup"', 'kind = "oracle"'), r"labeler\.kind must be .*pyscf.*got 'oracle'"),
        (('kind = "lookup"', ""), r"labeler\.kind: missing"),
        (("answers.extxyz", "nothing.extxyz"), r"labeler\.files: .*nothing\.extxyz does not exist"),
        (('files = ["pool.extxyz"]', ""), r"pool\.files or pool\.sample"),
        (('files = ["pool.extxyz"]', 'sample = [["xx:2"]]'), r"unknown molecule 'xx'"),
        (("[pool]", "[pol]"), r"pool: missing|pol: unknown key"),
        (("[pool]", "[pool"), "is not TOML"),
    ],
)  # fmt: skip
def test_configuration_errors_name_the_key(folder, change, message) -> None:
    path = folder / "config.toml"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(SettingsError, match=message):
        read_config(path)


def test_identity_is_plain(folder) -> None:
    identity = read_config(folder / "config.toml").identity()
    assert json.loads(json.dumps(identity)) == identity


def test_files_of_the_first_model_may_be_mended_in_place(folder) -> None:
    path = write_config(folder, model="", iterations=1)
    path.write_text(path.read_text().replace("check_labels = false", ""))
    wrong = water_clusters(60)
    for atoms in wrong:
        atoms.info["reference_energy"] += 5.0
    write_frames(folder / "known.extxyz", wrong)
    config = read_config(path)
    oracle = Oracle(folder / "calls")
    with pytest.raises(KNNCalcError):
        run_loop(config, labeler=oracle)
    write_frames(folder / "known.extxyz", water_clusters(60))
    assert len(ActiveLoop(config).plan().note) > 0  # the first model would be trained first
    (report,) = run_loop(config, labeler=oracle)
    assert report["labels"] == 5
    file = folder / "work" / "model-000.h5"
    before = file.read_bytes()
    run_loop(config, labeler=oracle)  # what has been learned from stays
    assert file.read_bytes() == before


def test_a_start_model_may_be_replaced_and_labels_stay(folder, monkeypatch) -> None:
    settings = TrainingSettings(trend="linear", k=3, metric="pca", n_components=3, folds=2)
    wrong = train(water_clusters(40, seed=2), baseline="none", settings=settings)
    good = (folder / "first.h5").read_bytes()
    save_model(wrong, folder / "first.h5")

    def broken(*arguments, **options):
        raise SettingsError("cannot learn")

    config = read_config(write_config(folder, iterations=1))
    oracle = Oracle(folder / "calls")
    with monkeypatch.context() as patch:
        patch.setattr("ase_knncalc.active.loop.learn", broken)
        with pytest.raises(SettingsError, match="cannot learn"):
            run_loop(config, labeler=oracle)
    (folder / "first.h5").write_bytes(good)
    (report,) = run_loop(config, labeler=oracle)
    assert report["structures"] == 60 + 5
    assert len(oracle.calls.read_text().split()) == 5


def test_paths_of_a_home_are_found(folder, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    path = folder / "config.toml"
    path.write_text(path.read_text().replace('"work"', '"~/runs/a"'))
    assert read_config(path).loop.directory == folder / "home" / "runs" / "a"


def test_labels_that_change_no_energy_are_told(folder, water_frames) -> None:
    model = load_model(folder / "first.h5", baseline="none")
    knn = model.knn
    off = KNNTerm(knn.index, knn.residuals, replace(knn.settings, nugget=OFF))
    save_model(replace(model, knn=off), folder / "first.h5")
    path = write_config(folder, iterations=1)
    good = path.read_text()
    said = []
    ActiveLoop(read_config(path), on_iteration=lambda r: said.append(sentence(r))).run()
    assert "appended (energies unchanged: the k-NN term is off)" in said[0]
    path.write_text(good.replace('data = ["known.extxyz"]', "").replace('"work"', '"other"'))
    oracle = Oracle(folder / "calls")
    loop = ActiveLoop(read_config(path), labeler=oracle)
    loop._label = None  # type: ignore[method-assign,assignment]
    with pytest.warns(UserWarning, match="k-NN term is off.* no energy: give training.data"):
        loop.plan()
    with (
        pytest.warns(UserWarning, match="k-NN term is off.* no energy: give training.data"),
        pytest.raises(TypeError),
    ):
        loop.run()
    assert not oracle.calls.exists()


def test_why_it_trained_is_said(folder) -> None:
    path = write_config(folder, strategy="random", batch=4, iterations=1)
    path.write_text(path.read_text().replace("batch = 4", "batch = 4\ngrowth = 0.06"))
    (report,) = run_loop(read_config(path))
    assert re.search(r"4 labels, trained \(4 additions are 7%", sentence(report))
