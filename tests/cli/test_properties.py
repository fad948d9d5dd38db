"""Commands on properties beside the energy."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from helpers.commands import knncalc
from helpers.factories import labelled_with_properties

from ase_knncalc import load_model, save_model


@pytest.fixture
def labelled(tmp_path, water_frames):
    """A file of labelled structures, and a table beside it."""
    frames = labelled_with_properties(water_frames)
    with open(tmp_path / "table.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["name", "frequencies_cm1", "alpha", "cc_energy", "cc_set"])
        for a in frames:
            modes = ";".join(f"{w:.6f}" for w in a.info.pop("frequencies_cm1"))
            table.writerow([a.info["name"], modes, *(a.info.pop(k) for k in
                            ("alpha", "cc_energy", "cc_set"))])  # fmt: skip
    write(tmp_path / "frames.extxyz", frames)
    return tmp_path


def test_add_predict_and_info(labelled, headed_model, water_frames) -> None:
    from dataclasses import replace

    save_model(replace(headed_model, heads=None), labelled / "bare.h5")
    made = knncalc(
        "add-properties", labelled / "bare.h5", labelled / "frames.extxyz",
        "-o", labelled / "more.h5", "--property", "thermochemistry", "--property",
        "polarizability=alpha", "--property", "level:cc=cc_energy@cc_set", "--property-table",
        labelled / "table.csv", "--json", "-q", "-j", "1", cwd=labelled,
    )  # fmt: skip
    rows = json.loads(made.stdout)["properties"]
    assert [r["property"] for r in rows][-2:] == ["polarizability", "cc"]
    assert {r["unit"] for r in rows} == {"kcal/mol", "Å³"}
    found = knncalc("predict", labelled / "frames.extxyz", "-m", labelled / "more.h5",
                    "--properties", "-T", "250", "--json", "-q", "-j", "1",
                    cwd=labelled)  # fmt: skip
    first = json.loads(found.stdout)[0]
    model = load_model(labelled / "more.h5")
    said = model.predict_properties(water_frames[0], temperature=250.0)
    assert first["gibbs_correction_eV"] == pytest.approx(
        said.thermochemistry.gibbs_correction.value
    )
    assert first["polarizability_angstrom3"] == pytest.approx(said.polarizability.value)
    assert first["cc_minus_reference_eV"] == pytest.approx(said.levels["cc"].value)
    hot = knncalc("predict", labelled / "frames.extxyz", "-m", labelled / "more.h5",
                  "--properties", "-T", "500", "-j", "1", cwd=labelled, code=1)  # fmt: skip
    assert "200 to 400 K" in hot.stderr
    assert "corrections" not in hot.stderr, "it is told before any work"
    # On the screen they are in a table of their own, each with its error.
    printed = knncalc("predict", labelled / "frames.extxyz", "-m", labelled / "more.h5",
                      "--properties", "-q", "-j", "1", cwd=labelled).stdout  # fmt: skip
    energies, _, others = printed.partition("Properties")
    assert "novelty" in energies
    assert "polarizability" not in energies
    assert others.count(" ± ") == 6 * len(water_frames)
    info = json.loads(knncalc("info", labelled / "more.h5", "--json", cwd=labelled).stdout)
    assert set(info["heads"]) == {"thermochemistry", "polarizability", "cc"}
    assert "polarizability" in knncalc("info", labelled / "more.h5", cwd=labelled).stdout


def test_training_learns_properties_along(labelled) -> None:
    knncalc(
        "train", labelled / "frames.extxyz", "-o", labelled / "own.h5", "-b", "none",
        "--property", "shift=alpha", "--property-table", labelled / "table.csv",
        "--environments", "40", "--components", "5", "-k", "5", "-q", "-j", "1", cwd=labelled,
    )  # fmt: skip
    model = load_model(labelled / "own.h5")
    assert [h.name for h in model.heads] == ["shift"]
    errors = next(iter(model.heads)).details["errors"]["shift"]
    assert 0 < errors["mae"] < 0.1
    assert np.isfinite(errors["group_mae"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no property is named"),
        (["--property", "g"], "expected one of thermochemistry"),
        (["--property", "g=nothing"], "at least 20 structures"),
    ],
)
def test_what_is_wrong_is_told(labelled, headed_model, options, message) -> None:
    save_model(headed_model, labelled / "m.h5")
    failed = knncalc("add-properties", labelled / "m.h5", labelled / "frames.extxyz", "-o",
                     labelled / "n.h5", "-q", "-j", "1", *options,
                     cwd=labelled, code=1)  # fmt: skip
    assert message in failed.stderr
    assert not (labelled / "n.h5").exists()


def test_ranks_at_another_level(labelled, headed_model, water_frames) -> None:
    save_model(headed_model, labelled / "m.h5")
    places = [i for i, a in enumerate(water_frames) if len(a) == len(water_frames[0])][:6]
    write(labelled / "same.extxyz", [Atoms(water_frames[i].numbers, water_frames[i].positions)
                                     for i in places])  # fmt: skip
    ranked = ("rank", labelled / "same.extxyz", "-m", labelled / "m.h5", "--json", "-q", "-j", "1")
    plain, at_level = (
        {r["name"]: r for r in json.loads(knncalc(*ranked, *more, cwd=labelled).stdout)}
        for more in ((), ("--level", "cc"))
    )
    for number, i in enumerate(places):
        (name,) = (n for n in plain if n.endswith(f"{number}"))
        added = headed_model.predict_properties(water_frames[i]).levels["cc"]
        gained = at_level[name]["energy_eV"] - plain[name]["energy_eV"]
        assert gained == pytest.approx(added.value, abs=1e-9)
        assert at_level[name]["energy_std_kcal_mol"] > plain[name]["energy_std_kcal_mol"]
    failed = knncalc(*ranked, "--level", "mp2", cwd=labelled, code=1)
    assert "no level of theory 'mp2'" in failed.stderr
