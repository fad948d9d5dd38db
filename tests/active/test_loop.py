"""The loop: configuration, journal, learning, and what a kill may not do."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.factories import water_clusters
from helpers.loops import TRUTH, Oracle, read_labelled, write_config

from ase_knncalc import load_model
from ase_knncalc.active import ActiveLoop, Journal, read_config, run_loop
from ase_knncalc.active.journal import structure_key
from ase_knncalc.active.labelling import NamedCalculator, make_labeler
from ase_knncalc.data import write_frames
from ase_knncalc.errors import DataError, ModelFileError, SettingsError
from ase_knncalc.evaluation.plots import plot_active
from ase_knncalc.labelers import Label, LabelResult

TESTS = str(Path(__file__).parents[1])


def test_loop_from_a_model_to_its_report(folder, monkeypatch) -> None:
    monkeypatch.setattr("ase_knncalc.active.report.plot_active", plot_active)
    reports = run_loop(read_config(folder / "config.toml"))
    assert [r["iteration"] for r in reports] == [1, 2, 3]
    assert [r["labels"] for r in reports] == [5, 10, 15]
    work = folder / "work"
    model = load_model(work / "model.h5", baseline="none")
    assert len(model) == reports[-1]["structures"] == 60 + 15
    for report in reports:
        assert report["learned"] == ("trained" if report["reasons"] else "appended")
    assert reports[-1]["test_mae"] > 0
    assert reports[-1]["pool"] == 15
    lines = (work / "report.csv").read_text().splitlines()
    assert len(lines) == 4
    assert (work / "report.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in work.glob("model-*.h5")) == ["model-002.h5", "model-003.h5"]
    labelled = read_labelled(work)
    for name, energy in labelled.items():
        assert energy == pytest.approx(TRUTH[name], abs=1e-6)
    assert len(labelled) == 15


def test_running_again_does_nothing_and_more_iterations_go_on(folder) -> None:
    oracle = Oracle(folder / "calls")
    first = run_loop(read_config(folder / "config.toml"), labeler=oracle)
    assert run_loop(read_config(folder / "config.toml"), labeler=oracle) == first
    more = run_loop(read_config(write_config(folder, iterations=5)), labeler=oracle)
    assert more[:3] == first
    assert len(more) == 5
    asked = (folder / "calls").read_text().split()
    assert len(asked) == len(set(asked)) == 25


def test_stopping_and_going_on_gives_the_same_as_running_through(folder, tmp_path) -> None:
    through = run_loop(read_config(folder / "config.toml"))
    write_config(folder, iterations=1)
    text = (folder / "config.toml").read_text().replace('"work"', '"other"')
    (folder / "config.toml").write_text(text)
    run_loop(read_config(folder / "config.toml"))
    (folder / "config.toml").write_text(text.replace("iterations = 1", "iterations = 3"))
    assert run_loop(read_config(folder / "config.toml")) == through


def test_the_pool_ends_before_the_loop(folder) -> None:
    with pytest.warns(UserWarning, match="after 3 of 9 iterations: all 30 structures of the pool"):
        reports = run_loop(read_config(write_config(folder, iterations=9, batch=12)))
    assert [r["asked"] for r in reports] == [12, 12, 6]
    assert reports[-1]["pool"] == 0
    assert reports[-1]["pool_novelty"] is None


def test_failures_are_recorded_and_not_asked_again(folder) -> None:
    config = read_config(write_config(folder, strategy="random", iterations=6))
    name = "1w-0"
    oracle = Oracle(folder / "calls", failing=name)
    reports = run_loop(config, labeler=oracle)
    assert sum(r["failed"] for r in reports) == 1
    asked = (folder / "calls").read_text().split()
    assert len(asked) == len(set(asked)) == 30
    with Journal(folder / "work" / "journal.db") as journal:
        failed = [a for a in journal.asked() if a.reason]
    assert [a.atoms.info["name"] for a in failed] == [name]
    assert failed[0].reason == "did not converge"
    assert name not in read_labelled(folder / "work")


def test_training_alone_makes_the_first_model(folder) -> None:
    config = read_config(write_config(folder, model="", iterations=1))
    report = run_loop(config)[0]
    assert report["structures"] == 65


def test_growth_calls_for_training(folder) -> None:
    path = write_config(folder, strategy="random", batch=2)
    path.write_text(path.read_text().replace("batch = 2", "batch = 2\ngrowth = 0.06"))
    reports = run_loop(read_config(path))
    assert [r["learned"] for r in reports[:2]] == ["appended", "trained"]
    assert "4 additions are 7% of the 60 training structures" in reports[1]["reasons"][0]


@pytest.mark.filterwarnings("ignore:model. its k-NN term is off")
def test_never_and_always(folder) -> None:
    path = write_config(folder)
    text = path.read_text()
    path.write_text(text.replace("batch = 5", 'batch = 5\nretrain = "always"'))
    assert {r["learned"] for r in run_loop(read_config(path))} == {"trained"}
    text = text.replace('"work"', '"never"')
    path.write_text(text.replace("batch = 5", 'batch = 5\nretrain = "never"'))
    reports = run_loop(read_config(path))
    assert {r["learned"] for r in reports} == {"appended"}
    assert reports[-1]["reasons"]


@pytest.mark.filterwarnings("ignore:test.files")
def test_what_the_model_does_not_cover_is_asked_first(folder, cluster_frames) -> None:
    waters = [a.copy() for a in cluster_frames if a.info["composition"] in ("1w", "2w")]
    others = [a.copy() for a in cluster_frames if a.info["composition"] == "1am"][:6]
    others = [a.copy() for a in waters[:6]] + others
    answers = [a.copy() for a in others]
    names = {a.info["name"] for a in others if 7 in a.numbers}
    waters = [a for a in waters if a.info["name"] not in {b.info["name"] for b in others}]
    for atoms in waters + others + answers:
        atoms.arrays.pop("reference_forces", None)
        atoms.arrays.pop("baseline_forces", None)
    write_frames(folder / "known.extxyz", waters)
    write_frames(folder / "answers.extxyz", answers)
    for atoms in others:
        atoms.info.pop("reference_energy")
    write_frames(folder / "pool.extxyz", others)
    write_frames(folder / "test.extxyz", answers)
    path = write_config(folder, model="", iterations=2, batch=4)
    text = path.read_text().replace('baseline = "none"', "")
    path.write_text(text.replace("k = 5", "k = 2").replace("n_components = 5", "n_components = 3"))
    reports = run_loop(read_config(path))
    with Journal(folder / "work" / "journal.db") as journal:
        first = {a.atoms.info["name"] for a in journal.asked(1)}
    assert len(first & names) == min(4, len(names))
    assert reports[0]["learned"] == "trained"
    assert "never saw" in reports[0]["reasons"][0]
    assert reports[0]["batch_n"] == 4 - len(first & names)
    assert 7 in load_model(folder / "work" / "model.h5", baseline=None).elements


def test_the_rest_of_a_batch_is_chosen_by_the_strategy(folder, cluster_frames) -> None:
    from ase_knncalc.active.choice import Chooser

    ammonia = [a.copy() for a in cluster_frames if a.info["composition"] == "1am"][:3]
    water = water_clusters(20, seed=3)
    model = load_model(folder / "first.h5", baseline="none")
    frames = [*water[:10], *ammonia, *water[10:]]
    places = {}
    for strategy in ("combined", "variance", "random"):
        config = read_config(write_config(folder, strategy=strategy, batch=8))
        choice = Chooser(config, folder / "b.h5").choose(model, frames, [], 1)
        assert choice.not_covered == 3
        assert len(set(choice.places)) == 8
        places[strategy] = choice.places
    assert sorted(places["combined"][:3]) == [10, 11, 12]
    assert set(places["variance"]) & {10, 11, 12}  # one is enough to know much of the others
    config = read_config(write_config(folder, strategy="random", batch=30))
    text = (folder / "config.toml").read_text()
    text = text.replace('data = ["known.extxyz"]', "")  # the window counts from them, too
    (folder / "config.toml").write_text(text.replace("batch =", "energy_window = 0.01\nbatch ="))
    config = read_config(folder / "config.toml")
    choice = Chooser(config, folder / "b.h5").choose(model, frames, [], 1)
    assert 3 + 4 <= len(choice.places) < len(frames)  # the lowest of each composition


def test_plan_changes_nothing(folder) -> None:
    config = read_config(folder / "config.toml")
    windowed = write_config(folder)
    windowed.write_text(windowed.read_text().replace("batch =", "energy_window = 0.5\nbatch ="))
    assert ActiveLoop(read_config(windowed)).plan().chosen
    plan = ActiveLoop(config).plan()
    assert not (folder / "work").exists()
    assert (plan.iteration, plan.pool, plan.not_covered) == (1, 30, 0)
    assert len(plan.chosen) == len(plan.energy_std) == 5
    run_loop(read_config(write_config(folder, iterations=1)))
    with Journal(folder / "work" / "journal.db") as journal:
        chosen = [a.atoms.info["name"] for a in journal.asked(1)]
    assert [a.info["name"] for a in plan.chosen] == chosen
    assert ActiveLoop(config).plan().iteration == 2


def test_a_label_that_is_no_number_is_a_failure(folder) -> None:
    class Doubtful(Oracle):
        def label(self, atoms):
            if atoms.info["name"] != "1w-0":
                return super().label(atoms)
            return Label(float("nan"), None, 0.0, self.method)

    config = read_config(write_config(folder, strategy="random", batch=30, iterations=1))
    report = run_loop(config, labeler=Doubtful(folder / "calls"))[0]
    assert report["failed"] == 1
    with Journal(folder / "work" / "journal.db") as journal:
        assert [a.reason for a in journal.asked() if a.reason] == [
            "the labeler returned an energy of nan"
        ]


def test_two_loops_in_one_directory_are_refused(folder) -> None:
    (folder / "work").mkdir()
    with Journal(folder / "work" / "journal.db"):
        with pytest.raises(DataError, match="in use by another process"):
            run_loop(read_config(folder / "config.toml"))
        code = (
            "from ase_knncalc.active import run_loop, read_config\n"
            "from ase_knncalc.errors import DataError\n"
            "try: run_loop(read_config('config.toml'))\n"
            "except DataError as e: print(e)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        assert "in use by another process" in done.stdout


def test_labelers_by_name(folder) -> None:
    path = folder / "config.toml"
    text = path.read_text().replace('kind = "lookup"\nfiles = ["answers.extxyz"]', "{}")
    path.write_text(
        text.replace(
            "{}",
            'kind = "ase"\ncalculator = "tblite.ase.TBLite"\nmethod = "GFN2-xTB"\n'
            'multiplicity_key = "multiplicity"\noptions = {method = "GFN2-xTB", verbosity = 0}',
        )
    )
    labeler = make_labeler(read_config(path).labeler)
    label = labeler.label(water_clusters(1)[0])
    assert label.method == "GFN2-xTB"
    assert label.forces is not None
    path.write_text(text.replace("{}", 'kind = "ase"\ncalculator = "nothing"\nmethod = "x"'))
    with pytest.raises(SettingsError, match="'nothing'"):
        make_labeler(read_config(path).labeler)
    path.write_text(text.replace("{}", 'kind = "pyscf"\noptions = {basi = "sto-3g"}'))
    with pytest.raises(SettingsError, match="basi"):
        make_labeler(read_config(path).labeler)
    assert NamedCalculator("orca").calculator_class().__name__ == "ORCA"


class TestJournal:
    def test_what_was_kept_comes_back(self, tmp_path) -> None:
        frames = water_clusters(4)
        key = structure_key(frames[1])
        label = Label(-5.0, np.ones((len(frames[1]), 3)), 2.0, "method")
        with Journal(tmp_path / "j.db") as journal:
            journal.add_batch(1, frames[:3])
            journal.add_batch(2, frames)
            journal.add_label(key, LabelResult(1, frames[1], label))
            journal.add_label(structure_key(frames[0]), LabelResult(0, frames[0], None, "no"))
            journal.finish(1, {"iteration": 1})
        with Journal(tmp_path / "j.db") as journal:
            asked = journal.asked()
            assert [a.iteration for a in asked] == [1, 1, 1, 2]
            assert [structure_key(a.atoms) for a in asked] == [structure_key(a) for a in frames]
            assert [a.labelled for a in asked] == [False, True, False, False]
            assert [a.reason for a in asked] == ["no", "", "", ""]
            assert asked[1].atoms.info["reference_energy"] == -5.0
            np.testing.assert_array_equal(asked[1].atoms.arrays["reference_forces"], label.forces)
            np.testing.assert_array_equal(asked[1].atoms.positions, frames[1].positions)
            assert journal.reports() == [{"iteration": 1}]

    def test_a_label_cannot_be_kept_twice(self, tmp_path) -> None:
        frames = water_clusters(1)
        result = LabelResult(0, frames[0], Label(-5.0, None, 0.0, "m"))
        with Journal(tmp_path / "j.db") as journal:
            journal.add_batch(1, frames)
            journal.add_label(structure_key(frames[0]), result)
            with pytest.raises(ModelFileError, match="UNIQUE"):
                journal.add_label(structure_key(frames[0]), result)

    def test_damaged_and_newer_files(self, tmp_path) -> None:
        (tmp_path / "j.db").write_bytes(b"nonsense" * 1000)
        with pytest.raises(ModelFileError, match="no journal of a loop"):
            Journal(tmp_path / "j.db")
        Journal(tmp_path / "new.db").close()
        with sqlite3.connect(tmp_path / "new.db") as db:
            db.execute("UPDATE facts SET value = '99' WHERE name = 'version'")
        db.close()
        with pytest.raises(ModelFileError, match="upgrade"):
            Journal(tmp_path / "new.db")
