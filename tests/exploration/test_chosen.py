"""The lowest structures, and inputs for other programs."""

from __future__ import annotations

import json

import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write
from ase.io.orca import read_geom_orcainp
from helpers.commands import knncalc

from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.exploration import Inputs, lowest_frames, write_inputs
from ase_knncalc.exploration.chosen import chosen_rows


def conformers() -> list[Atoms]:
    """Three waters, an ammonia and an ammonium, 1 kcal/mol (0.0434 eV) and more apart."""
    frames = [molecule("H2O") for _ in range(3)] + [molecule("NH3"), molecule("CH4")]
    for i, (atoms, energy) in enumerate(zip(frames, [-1.0, -1.05, -1.2, -9.0, -3.0], strict=True)):
        atoms.info.update(name=f"c/{i}", energy=energy)
    frames[4].numbers[0] = 7
    frames[4].info["charge"] = 1
    return frames


def test_the_lowest_of_each_composition_come_first() -> None:
    frames = conformers()
    assert lowest_frames(frames) == ([2, 1, 0, 3, 4], "energy")
    assert lowest_frames(frames, top=1)[0] == [2, 3, 4]
    assert lowest_frames(frames, window=3.5)[0] == [2, 1, 3, 4]
    assert lowest_frames(frames, window=0.0)[0] == [2, 3, 4]
    rows = chosen_rows(frames, [2, 1], "energy")
    assert [r["relative_kcal_mol"] for r in rows] == pytest.approx([0.0, 0.15 * 23.0605], rel=1e-4)
    for atoms, gibbs in zip(frames, [-5.0, -2.0, -3.0, 0.0, 0.0], strict=True):
        atoms.info["gibbs_eV"] = gibbs
    assert lowest_frames(frames, top=2) == ([0, 2, 3, 4], "gibbs")


def test_what_is_no_cluster_or_minimum_is_not_chosen() -> None:
    frames = conformers()[:3]
    frames[2].info["fell_apart"] = True
    frames[1].info["imaginary_modes"] = 1
    assert lowest_frames(frames)[0] == [0]
    frames[0].info["reacted"] = True
    with pytest.raises(DataError, match="all 3 structures"):
        lowest_frames(frames)
    with pytest.raises(DataError, match=r"no energy to choose it by"):
        lowest_frames([molecule("H2O")])
    for name in ("top", "window"):
        with pytest.raises(SettingsError, match=name):
            lowest_frames(frames, **{name: -1})


def test_inputs_hold_structure_charge_and_multiplicity(tmp_path) -> None:
    frames = conformers()[3:]
    frames.append(Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"name": "c/3", "multiplicity": 2}))
    inputs = Inputs(orca="r2SCAN-3c Opt", gaussian="wB97XD/6-31++G(d,p) Opt", cores=8, memory=500)
    names = write_inputs(tmp_path / "jobs", frames, inputs)
    assert names == ["c_3", "c_4", "c_3_2"]
    orca = (tmp_path / "jobs" / "c_4.inp").read_text()
    assert "! r2SCAN-3c Opt" in orca
    assert "nprocs 8" in orca
    assert "*xyz 1 1" in orca
    with open(tmp_path / "jobs" / "c_4.inp") as handle:
        there = read_geom_orcainp(handle)
    gaussian = (tmp_path / "jobs" / "c_3_2.gjf").read_text()
    assert "wB97XD/6-31++G(d,p) Opt" in gaussian
    assert "%mem=4000MB" in gaussian
    assert "\n0 2\n" in gaussian
    for name, atoms, found in (
        ("c_4", frames[1], there),
        ("c_4", frames[1], read(tmp_path / "jobs" / "c_4.gjf", format="gaussian-in")),
        ("c_3", frames[0], read(tmp_path / "jobs" / "c_3.xyz")),
    ):
        assert found.numbers.tolist() == atoms.numbers.tolist(), name
        assert found.positions == pytest.approx(atoms.positions, abs=1e-6)
    assert "charge=1 multiplicity=1" in (tmp_path / "jobs" / "c_4.xyz").read_text()
    assert len(read(tmp_path / "jobs" / "chosen.extxyz", ":")) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["jobs"]
    with pytest.raises(SettingsError, match="is there already"):
        write_inputs(tmp_path / "jobs", frames)
    with pytest.raises(SettingsError, match="no folder"):
        write_inputs(tmp_path / "nowhere" / "jobs", frames)


def test_the_command(tmp_path) -> None:
    frames = conformers()
    for atoms in frames:
        atoms.info["energy_predicted"] = atoms.info.pop("energy")
    write(tmp_path / "in.extxyz", frames)
    arguments = ("select", "in.extxyz", "--window", 10, "--top", 2, "-o", "jobs", "--json")
    rows = json.loads(knncalc(*arguments, cwd=tmp_path).stdout)
    assert [r["name"] for r in rows] == ["c/2", "c/1", "c/3", "c/4"]
    assert (tmp_path / "jobs" / "c_2.inp").read_text().startswith("! wB97X-D3 6-31++G(d,p)")
    assert "is there already" in knncalc(*arguments, cwd=tmp_path, code=1).stderr
