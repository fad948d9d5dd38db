"""The command line, run as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from helpers.commands import knncalc, program
from helpers.factories import pair_energy

from ase_knncalc import save_model
from ase_knncalc.data import iter_frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cluster_frames, tiny_model) -> Path:
    path = tmp_path_factory.mktemp("cli")
    frames = [a.copy() for a in cluster_frames]
    for a in frames:
        a.info["wb97xd_energy"] = a.info.pop("reference_energy")
        for key in ("baseline_energy", "source"):
            a.info.pop(key, None)
        for key in ("reference_forces", "baseline_forces"):
            a.arrays.pop(key, None)
    write(path / "data.extxyz", frames)
    waters = [a.copy() for a in cluster_frames if a.info["composition"] == "1w"]
    for a in waters:
        a.info, name = {}, a.info["name"]
        a.info["name"] = name
        for key in ("reference_forces", "baseline_forces"):
            a.arrays.pop(key, None)
    write(path / "conformers.xyz", waters, format="extxyz")
    save_model(tiny_model, path / "tiny.h5")
    return path


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    done = program(
        "train", "data.extxyz", "-r", "wb97xd_energy", "-o", "model.h5", "--trend", "linear",
        "--components", 5, "-k", 3, "--reference", "ωB97X-D", "--json", "-q", cwd=folder,
    )  # fmt: skip
    about = json.loads(done.stdout)
    assert about["reference"] == "ωB97X-D"
    assert about["baseline"]["method"] == "GFN1-xTB"
    assert (folder / "model.h5.labels.db").exists()
    return folder / "model.h5"


def test_help_names_every_command(folder) -> None:
    text = program("--help", cwd=folder).stdout
    for command in [
        "train",
        "predict",
        "rank",
        "info",
        "models",
        "cv",
        "compare",
        "tune",
        "check",
        "convert",
        "sample",
        "select",
        "append",
        "active",
        "explain",
        "binding",
    ]:
        assert command in text
    assert "Example" in knncalc("rank", "--help", cwd=folder).stdout


def test_help_has_examples_and_every_command_json(folder) -> None:
    from ase_knncalc.cli.app import command, commands

    assert "knncalc rank conformers.xyz" in knncalc("--help", cwd=folder).stdout
    for name, one in commands().items():
        # What the list says of it, without its module, is what it says of itself.
        assert one.help.split("\n\n")[0] == command.commands[name].help
        options = [o for p in one.params for o in p.opts]
        assert "--json" in options, name
        assert "--quiet" in options or "--jobs" not in options, name
        assert f"Example: knncalc {name}" in (one.help or ""), name


def test_version_verbose_and_completion(folder) -> None:
    from ase_knncalc import __version__

    assert __version__ in knncalc("--version", cwd=folder).stdout
    done = subprocess.run(
        [sys.executable, "-c", "from ase_knncalc.cli import main; main()", "-v", "info", "nothing"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("knncalc: error: no model 'nothing'")
    script = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'knncalc'; "
         "from ase_knncalc.cli import main; main()"],
        cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "_KNNCALC_COMPLETE": "complete_bash", "COMP_WORDS": "knncalc ra",
             "COMP_CWORD": "1"},
    ).stdout  # fmt: skip
    assert script.split() == ["rank"]


def test_info_and_models(folder, trained) -> None:
    about = json.loads(knncalc("info", trained, "--json", cwd=folder).stdout)
    assert about["elements"][0] == "H"
    assert about["trend"] == "linear"
    table = knncalc("info", trained, cwd=folder).stdout
    assert "GFN1-xTB" in table
    assert "MAE, composition left out" in table
    assert "group_mae" not in table
    assert re.search(r"95 % of errors, structure left out, below .* kcal/mol", table)
    assert re.search(r"monomers .*1am 1sa 1w", table)
    shipped = {m["name"]: m for m in json.loads(knncalc("models", "--json", cwd=folder).stdout)}
    assert shipped["saw-wb97xd"]["for"] == "energies at minima of ωB97X-D/6-31++G(d,p)"
    assert shipped["saw-wb97xd-md"]["for"].startswith("energies and forces")
    assert "multibase-wb97xd is taken" in knncalc("models", cwd=folder).stdout


def test_rank_gives_table_csv_and_json(folder, trained) -> None:
    arguments = ("rank", "conformers.xyz", "-m", trained, "-q")
    rows = json.loads(knncalc(*arguments, "--json", "--csv", "ranking.csv", cwd=folder).stdout)
    energies = [r["energy_eV"] for r in rows]
    assert energies == sorted(energies)
    assert rows[0]["relative_kcal_mol"] == 0.0
    lines = (folder / "ranking.csv").read_text().splitlines()
    assert lines[0].startswith("name,energy_eV,relative_kcal_mol,energy_std_kcal_mol,novelty")
    assert len(lines) == len(rows) + 1
    assert len(json.loads(knncalc(*arguments, "--json", "--top", 2, cwd=folder).stdout)) == 2
    assert rows[0]["name"] in knncalc(*arguments, cwd=folder).stdout


def test_predict_writes_structures_that_carry_their_prediction(folder, trained) -> None:
    arguments = ("predict", "data.extxyz", "-m", trained, "-o", "out.extxyz", "--json", "-q")
    rows = json.loads(knncalc(*arguments, cwd=folder).stdout)
    written = read(folder / "out.extxyz", ":")
    assert len(written) == len(rows)
    for atoms, row in zip(written, rows, strict=True):
        assert atoms.info["energy_predicted"] == pytest.approx(row["energy_eV"], abs=1e-6)
        assert row["low_eV"] < row["energy_eV"] < row["high_eV"]
        assert atoms.info["energy_std"] > 0
    truth = [a.info["wb97xd_energy"] for a in written]
    assert np.abs(np.array(truth) - [r["energy_eV"] for r in rows]).mean() < 0.3


@pytest.mark.parametrize("suffix", ["extxyz", "traj", "db", "csv"])
def test_predictions_beside_the_labels_of_the_file(folder, tmp_path, water_frames, suffix) -> None:
    """An energy and forces under ASE's own names, and what else the file holds, are still there."""
    frames = [a.copy() for a in water_frames[:4]]
    for a in frames:
        a.calc = SinglePointCalculator(a, energy=a.info["reference_energy"], forces=a.positions)
        a.info = {"name": a.info["name"], "note": "x y"}
    write(tmp_path / "labelled.extxyz", frames)
    out = tmp_path / f"out.{suffix}"
    done = knncalc("predict", tmp_path / "labelled.extxyz", "-m", "tiny.h5", "-o", out, "--json",
                   "--charge", 0, "-q", "-j", 1, cwd=folder)  # fmt: skip
    rows = json.loads(done.stdout)
    if suffix == "csv":
        with open(out, encoding="utf-8") as handle:
            written = list(csv.DictReader(handle))
        assert [float(w["energy_predicted"]) for w in written] == [r["energy_eV"] for r in rows]
        assert [w["note"] for w in written] == ["x y"] * 4
        return
    for a, row, given in zip(iter_frames(out), rows, frames, strict=True):
        assert a.info["energy_predicted"] == row["energy_eV"]
        assert a.info["energy_low"] == row["low_eV"]
        assert a.info["novelty"] == row["novelty"]
        assert a.info["nearest"].startswith(row["nearest"])
        assert (a.info["name"], a.info["note"]) == (given.info["name"], "x y")
        assert a.info["charge"] == 0
        assert a.get_potential_energy() == pytest.approx(given.get_potential_energy())
        np.testing.assert_allclose(a.get_forces(), given.positions, atol=1e-7)


def test_training_again_uses_the_label_cache(folder, trained) -> None:
    before = (folder / "model.h5.labels.db").stat().st_mtime_ns
    knncalc(
        "train", "data.extxyz", "-r", "wb97xd_energy", "-o", "model2.h5", "--trend", "none",
        "--components", 3, "-k", 2, "--cache", "model.h5.labels.db", "-q", cwd=folder,
    )  # fmt: skip
    assert (folder / "model.h5.labels.db").stat().st_mtime_ns == before
    assert not (folder / "model2.h5.labels.db").exists()


def test_cv_compare_and_learning_curve(folder, trained) -> None:
    common = ("data.extxyz", "-r", "wb97xd_energy", "--cache", "model.h5.labels.db", "-q", "-k", 3)
    scores = json.loads(
        knncalc("cv", *common, "--trend", "linear", "--folds", 2, "--plot", "cv.png", "--json",
                cwd=folder).stdout
    )  # fmt: skip
    assert scores["linear"]["mae"] > 0
    assert (folder / "cv.png").read_bytes().startswith(b"\x89PNG")
    both = json.loads(
        knncalc("compare", *common, "--methods", "linear,none/distance", "--folds", 2, "--split",
                "composition", "--json", cwd=folder).stdout
    )  # fmt: skip
    assert set(both) == {"linear", "none/distance"}
    curve = json.loads(
        knncalc("learning-curve", *common, "--trends", "linear", "--sizes", "8,16", "--repeats", 1,
                "--plot", "curve.png", "--json", cwd=folder).stdout
    )  # fmt: skip
    assert [r["size"] for r in curve["linear"]] == [8, 16]


def test_explain_and_binding(folder, trained) -> None:
    rows = json.loads(knncalc("explain", "conformers.xyz", "-m", trained, "--json",
                              cwd=folder).stdout)  # fmt: skip
    for row in rows:
        assert sum(row["atoms"]) + row["charge"] == pytest.approx(row["trend"], abs=1e-6)
        assert len(row["neighbors"]) == len(row["features"])
    assert "Nearest training" in knncalc("explain", "conformers.xyz", "-m", trained,
                                         cwd=folder).stdout  # fmt: skip
    # The training data hold the lone molecules: the model knows them as monomers.
    arguments = ("binding", "conformers.xyz", "-m", trained)
    rows = json.loads(knncalc(*arguments, "--json", cwd=folder).stdout)
    assert all(row["molecules"] for row in rows)
    assert all(row["energy_std_kcal_mol"] > 0 for row in rows)
    assert all("which this model cannot tell" in row["geometries"] for row in rows)
    shown = knncalc(*arguments, cwd=folder).stdout
    assert "Binding energies" in shown
    assert shown.count("which this model cannot tell") == 1
    done = knncalc(*arguments, "--as", "9sa", cwd=folder, code=1)
    assert "9sa is" in done.stderr


def test_report_is_one_page(folder, trained) -> None:
    frames = read(folder / "data.extxyz", ":20")
    for i, atoms in enumerate(frames[:12]):
        atoms.rattle(0.01, seed=i)
    write(folder / "test.extxyz", frames)
    done = knncalc("report", trained, "-d", "test.extxyz", "-r", "wb97xd_energy", "--json", "-q",
                   cwd=folder)  # fmt: skip
    about = json.loads(done.stdout)
    assert about["report"] == "model.report.html"
    assert about["test"]["n"] == 12
    assert sum("in the model's training data" in text for text in about["refused"]) == 8
    text = (folder / "model.report.html").read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "1sa1w" in text
    plain = knncalc("report", trained, "-o", "alone.html", cwd=folder).stdout
    assert "--data" in plain
    assert (folder / "alone.html").exists()


def test_convert_jkqc_pair(folder, shared_data) -> None:
    jkqc = shared_data / "jkqc"
    arguments = (jkqc / "sa-w_DFT.pkl", "--low", jkqc / "sa-w_XTB.pkl", "-o", "sa-w.extxyz")
    assert "42 structures" in knncalc("convert", *arguments, cwd=folder).stdout
    frames = read(folder / "sa-w.extxyz", ":")
    assert all(np.isfinite(a.info["reference_energy"]) for a in frames)
    assert all(np.isfinite(a.info["baseline_energy"]) for a in frames)


def test_convert_and_train_on_two_files_in_other_order(folder, tmp_path) -> None:
    high = read(folder / "data.extxyz", ":")
    low = [a.copy() for a in reversed(high)]
    rng = np.random.default_rng(0)
    for i, a in enumerate(low):
        a.info = {"name": f"low-{i}", "xtb_energy": a.info["wb97xd_energy"] + rng.normal() / 50}
        a.rotate(30.0 * i, (1, 2, 3))
    low[0].positions *= 1.01
    write(folder / "low.extxyz", low)
    keys = ("-r", "wb97xd_energy", "--baseline-key", "xtb_energy", "--low", "low.extxyz")
    text = knncalc("convert", "data.extxyz", *keys, "-o", tmp_path / "p.extxyz", cwd=folder).stdout
    assert f"{len(high) - 1} structures matched" in text
    assert "1 of the high level only" in text
    about = json.loads(
        knncalc("convert", "data.extxyz", *keys, "-o", tmp_path / "p.csv", "--json",
                cwd=folder).stdout
    )  # fmt: skip
    assert about["pairs"]["low_only"] == ["low-0"]
    assert about["n_frames"] == len(high) + 1
    done = knncalc("train", "data.extxyz", "-o", "x.h5", "--low-monomers", "low.extxyz",
                   cwd=folder, code=1)  # fmt: skip
    assert "--monomers" in done.stderr


def test_train_on_jkqc_files_as_jkml_takes_them(folder, shared_data, tmp_path) -> None:
    d = shared_data / "jkqc"
    about = json.loads(
        knncalc(
            "train", d / "sa-w_DFT.pkl", "--low", d / "sa-w_XTB.pkl", "--monomers",
            d / "monsDFT.pkl", "--low-monomers", d / "monsXTB.pkl", "-o", tmp_path / "m.h5",
            "--trend", "linear", "--components", 3, "-k", 2, "-q", "--json", cwd=folder,
        ).stdout
    )  # fmt: skip
    assert about["n_structures"] == 44
    assert set(about["monomers"]) == {"1sa", "1w"}


def test_convert_without_labels(folder) -> None:
    knncalc("convert", "data.extxyz", "-r", "wb97xd_energy", "-o", "c.csv", cwd=folder)
    assert "reference_energy" in (folder / "c.csv").read_text().splitlines()[0]
    done = knncalc("convert", "data.extxyz", "-r", "wb97xd_energy", "-o", "c.csv", "--json",
                   cwd=folder)  # fmt: skip
    about = json.loads(done.stdout)
    assert about["n_frames"] == about["n_reference"] > 0
    assert about["output"] == "c.csv"


def test_sample_select_append(folder) -> None:
    done = knncalc(
        "sample", "w:2", "-n", 4, "--no-relax", "-o", "pool.extxyz", "--json", "-q", "-j", 1,
        cwd=folder,
    )  # fmt: skip
    assert json.loads(done.stdout)["structures"] == 4
    pool = read(folder / "pool.extxyz", ":")
    assert {a.info["composition"] for a in pool} == {"2w"}
    arguments = ("select", "pool.extxyz", "-n", 2, "-m", "tiny.h5", "-o", "chosen.extxyz", "-q")
    rows = json.loads(knncalc(*arguments, "--json", "--strategy", "diversity", cwd=folder).stdout)
    chosen = read(folder / "chosen.extxyz", ":")
    assert [a.info["name"] for a in chosen] == [r["name"] for r in rows]
    assert len(rows) == 2
    assert all(r["energy_std_kcal_mol"] > 0 for r in rows)
    for a in chosen:
        a.info["reference_energy"] = pair_energy(a)
    write(folder / "labelled.extxyz", chosen)
    (folder / "grown.h5").write_bytes((folder / "tiny.h5").read_bytes())
    arguments = ("append", "labelled.extxyz", "-m", "grown.h5", "--source", "by hand", "-q")
    first = json.loads(knncalc(*arguments, "-b", "none", "--json", cwd=folder).stdout)
    assert first["added"] == [a.info["name"] for a in chosen]
    about = json.loads(knncalc("info", "grown.h5", "--json", cwd=folder).stdout)
    assert about["n_structures"] == 62
    assert {r["source"] for r in about["provenance"]["additions"]} == {"by hand"}
    again = knncalc(*arguments, "-b", "none", cwd=folder).stdout
    assert "0 structures added" in again
    assert "has this structure already" in again


def test_active_loop(folder, monkeypatch) -> None:
    # tests/active has a loop that draws its figure.
    monkeypatch.setattr("ase_knncalc.active.report.plot_active", lambda path, reports: None)
    (folder / "active.toml").write_text(
        """
[loop]
directory = "loop"
iterations = 2
batch = 3
[model]
file = "tiny.h5"
baseline = "none"
[training]
check_labels = false
[pool]
sample = [["w:2"], ["w:3"]]
n = 4
settings = {relax = false}
[labeler]
kind = "ase"
calculator = "tblite.ase.TBLite"
method = "GFN2-xTB"
multiplicity_key = "multiplicity"
options = {method = "GFN2-xTB", verbosity = 0}
"""
    )
    plan = json.loads(knncalc("active", "active.toml", "--dry-run", "--json", cwd=folder).stdout)
    assert "8 structures would be sampled" in plan["note"]
    assert not (folder / "loop").exists()
    # GFN2-xTB is another level of theory than the pair energies of the model.
    text = (folder / "active.toml").read_text()
    strict = text.replace("check_labels = false", "").replace('"loop"', '"strict"')
    (folder / "strict.toml").write_text(strict)
    refused = knncalc("active", "strict.toml", "-q", cwd=folder, code=1)
    assert "another level of theory than 'pairs'" in refused.stderr
    assert len(read(folder / "strict" / "labelled.extxyz", ":")) == 3
    done = knncalc("active", "active.toml", "-q", cwd=folder)
    assert "learned" in done.stdout
    reports = json.loads(knncalc("active", "active.toml", "-q", "--json", cwd=folder).stdout)
    assert [r["labels"] for r in reports] == [3, 6]
    assert reports[0]["learned"] == "appended"
    assert len(read(folder / "loop" / "labelled.extxyz", ":")) == 6
    (folder / "wrong.toml").write_text("[loop]\nbach = 3\n")
    assert "loop.bach" in program("active", "wrong.toml", cwd=folder, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "nothing"), "neither a file nor one of the shipped"),
        (("report", "tiny.h5", "-o", "no/x.html"), "no/x.html"),
        (("report", "tiny.h5", "-d", "data.extxyz"), "wb97xd_energy"),
        (("sample", "xx:1", "-o", "x.extxyz"), "unknown molecule"),
        (("select", "conformers.xyz", "-m", "tiny.h5", "--strategy", "best"), "strategy must"),
        (("append", "data.extxyz", "-m", "saw-wb97xd"), "copy it first"),
        (("active", "nothing.toml"), "nothing.toml"),
        (("info", "nothing"), "neither a file nor one of the shipped"),
        (("predict", "missing.xyz", "-m", "tiny.h5"), "missing.xyz"),
        (("rank", "data.extxyz", "-m", "model.h5"), "conformers of one composition"),
        (("train", "data.extxyz", "-o", "x.h5"), "wb97xd_energy"),
        (("train", "data.extxyz", "-o", "x.h5", "--trend", "odd"), "trend must"),
        (("train", "data.extxyz", "-r", "wb97xd_energy", "-o", "no/x.h5", "-q"), "no/x.h5"),
        (("cv", "data.extxyz", "-r", "wb97xd_energy", "--folds", "999", "-q"), "folds asked for"),
        (("predict", "data.extxyz", "-m", "tiny.h5", "--strict"), "not covered"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_exit_code_1(folder, trained, arguments, message) -> None:
    done = knncalc(*arguments, cwd=folder, code=1)
    assert message in done.stderr
    assert len([x for x in done.stderr.splitlines() if x.startswith("knncalc: error")]) == 1


def test_unknown_option_is_exit_code_2(folder) -> None:
    program("rank", "--colour", cwd=folder, code=2)


@pytest.mark.parametrize("module", ["ase_knncalc", "ase_knncalc.calculator"])
def test_import_is_fast_because_it_is_lazy(module) -> None:
    """No heavy package is loaded by the import itself, nor by that of the calculator."""
    script = f"import sys, {module}; print(*[m for m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = "scipy sklearn h5py qmllib tblite xtb joblib pandas rich pydantic dask matplotlib"
    assert not set(heavy.split()) & set(loaded)
    assert not {"ase.io", "ase.db", "ase.build", "ase.optimize"} & set(loaded)
    if module == "ase_knncalc":
        assert not {"ase", "numpy"} & set(loaded)
