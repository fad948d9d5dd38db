"""One bad file or structure among many: the others are done, and what was left out is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import Trajectory, write
from helpers.commands import knncalc
from helpers.factories import water_clusters

from ase_knncalc import save_model
from ase_knncalc.data import read_structures


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_model):
    """Good structures, and one file of each kind that is not."""
    folder = tmp_path_factory.mktemp("files")
    save_model(tiny_model, folder / "m.h5")
    good = [a for a in water_clusters(12, seed=3) if len(a) == 6][:3]
    write(folder / "good.extxyz", good)
    text = (folder / "good.extxyz").read_text()
    (folder / "symbol.extxyz").write_text(text.replace("\nO ", "\nQx ", 1))
    (folder / "cut.extxyz").write_text(text[: len(text) // 2])
    (folder / "garbage.xyz").write_bytes(b"\x93\xff nonsense")
    write(folder / "other.extxyz", molecule("CH4", info={"name": "methane"}))
    write(folder / "radical.extxyz", Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"name": "oh"}))
    return folder


BAD = ("symbol.extxyz", "cut.extxyz", "garbage.xyz", "other.extxyz", "radical.extxyz", "none.xyz")


def test_predict_and_rank_go_on(files) -> None:
    alone = json.loads(knncalc("predict", "good.extxyz", "-m", "m.h5", "--json", "-q", "-j", 1,
                               cwd=files).stdout)  # fmt: skip
    options = ("-m", "m.h5", "--json", "-q", "-j", 1)
    done = knncalc("predict", *BAD, "good.extxyz", *options, cwd=files)
    rows = json.loads(done.stdout)
    # Of two files the frames that can be read are there, and the very same numbers.
    assert len(rows) == 2 + 1 + 3
    assert [r["energy_eV"] for r in rows[-3:]] == pytest.approx([r["energy_eV"] for r in alone])
    assert "6 of 12 frames left out" in done.stderr
    for said in (
        "symbol.extxyz: frame 0 (line 1)", "'Qx' is not a chemical symbol", "cut.extxyz: frame 1",
        "is cut off", "garbage.xyz: frame 0 or one soon after it is no UTF-8 text",
        "methane (other.extxyz#0)",
        "oh (radical.extxyz#0)", "nothing says the multiplicity", "none.xyz: no such file",
    ):  # fmt: skip
        assert said in done.stderr, said
    done = knncalc("rank", "radical.extxyz", "good.extxyz", "garbage.xyz", *options, cwd=files)
    assert len(json.loads(done.stdout)) == 3
    assert "2 of 5 frames left out" in done.stderr
    for command in ("predict", "rank"):
        strict = ("--strict", "--csv", "t.csv")
        done = knncalc(command, "good.extxyz", "none.xyz", *strict, *options, cwd=files, code=1)
        assert "--strict" in done.stderr
        assert not (files / "t.csv").exists()
        done = knncalc(command, "garbage.xyz", "none.xyz", *options, cwd=files, code=1)
        assert "none.xyz: no such file" in done.stderr
    done = knncalc("predict", "other.extxyz", *options, cwd=files, code=1)
    assert done.stderr.startswith("knncalc: error: methane")


def test_train_and_convert_go_on(files, tmp_path) -> None:
    write(tmp_path / "train.extxyz", water_clusters(24, seed=5))
    options = ("--trend", "linear", "-k", 3, "-b", "none", "-q", "-j", 1)
    data = ("train.extxyz", files / "garbage.xyz", files / "radical.extxyz")
    done = knncalc("train", *data, *options, "-o", "t.h5", cwd=tmp_path)
    assert "2 of 26 frames left out" in done.stderr
    assert "garbage.xyz: frame 0 or one soon after it is no UTF-8 text" in done.stderr
    assert (tmp_path / "t.h5").exists()
    done = knncalc("train", *data, *options, "--strict", "-o", "s.h5", cwd=tmp_path, code=1)
    assert "garbage.xyz" in done.stderr
    assert not (tmp_path / "s.h5").exists()
    done = knncalc("convert", *data, "-o", "c.extxyz", cwd=tmp_path)
    assert "24 structures written" in done.stdout
    assert "garbage.xyz: frame 0 or one soon after it is no UTF-8 text" in done.stdout
    knncalc("convert", *data, "-o", "d.extxyz", "--strict", cwd=tmp_path, code=1)
    assert not (tmp_path / "d.extxyz").exists()


def test_frames_of_every_format_are_left_out_one_by_one(tmp_path, monkeypatch) -> None:
    frames = [Atoms("He", [[i, 0, 0]]) for i in range(3)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    with Trajectory(tmp_path / "t.traj", "w") as trajectory:
        for atoms in frames:
            trajectory.write(atoms)
    with connect(tmp_path / "t.db") as database:
        for atoms in frames:
            database.write(atoms)
    real = Atoms.__init__

    def broken(self, *args, **kwargs):
        real(self, *args, **kwargs)
        if len(self) and np.isclose(self.positions[0, 0], 1.0):
            raise RuntimeError("torn")

    monkeypatch.setattr(Atoms, "__init__", broken)
    for name in ("t.traj", "t.db"):
        told = []
        found = read_structures(tmp_path / name, on_error=lambda p, e, told=told: told.append(e))
        assert [a.positions[0, 0] for a in found] == [0.0, 2.0]
        assert len(told) == 1
        assert name in str(told[0])
        assert "torn" in str(told[0])


def test_rank_writes_the_lowest_in_every_output(files) -> None:
    options = (
        "-m",
        "m.h5",
        "-q",
        "-j",
        1,
        "--top",
        2,
        "--csv",
        "r.csv",
        "-o",
        "r.extxyz",
        "--json",
    )
    done = knncalc("rank", "good.extxyz", *options, cwd=files)
    names = [row["name"] for row in json.loads(done.stdout)]
    assert len(names) == 2
    assert [line.split(",")[0] for line in (files / "r.csv").read_text().splitlines()[1:]] == names
    written = read_structures(files / "r.extxyz")
    assert [a.info["name"] for a in written] == names
    assert written[0].info["energy_predicted"] <= written[1].info["energy_predicted"]
