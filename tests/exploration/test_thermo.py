"""Gibbs energies of many structures, populations and binding."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.io import read, write
from helpers.commands import knncalc

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import pairs, ranges
from ase_knncalc.data import iter_frames
from ase_knncalc.errors import SettingsError
from ase_knncalc.exploration import Conditions, boltzmann, gibbs_table, minima_of, relax_frames
from ase_knncalc.thermochemistry import binding_gibbs_energy, minimum_of

MODEL = "multibase-wb97xd"
ARGON = {"1ar": {"numbers": [18], "positions": [[0.0, 0, 0]], "charge": 0, "reference_energy": 0.0}}
NEAREST = 3.4 * 2 ** (1 / 6)


def argon() -> LennardJones:
    return LennardJones(sigma=3.4, epsilon=0.05, rc=50.0)


def argons(*places: list[float]) -> Atoms:
    atoms = Atoms(f"Ar{len(places)}", np.array(places) * NEAREST)
    atoms.info["name"] = f"ar{len(places)}"
    return atoms


@pytest.fixture(scope="module")
def waters() -> list[Atoms]:
    """The dimer and the molecule at minima of a shipped model."""
    dimer = Atoms("OH2OH2", [[0.992, 0.962, -0.109], [1.479, 0.892, -0.935], [0.640, 1.855, -0.076],
                             [-1.050, -1.016, 0.113], [-0.344, -0.352, 0.059],
                             [-0.854, -1.539, 0.892]])  # fmt: skip
    found, omitted = relax_frames([dimer, dimer[:3]], f"model:{MODEL}", n_jobs=1, fmax=0.02)
    assert not omitted
    return found


def test_a_dimer_binds_against_its_atoms_on_the_same_surface() -> None:
    table = gibbs_table([argons([0, 0, 0], [0, 0, 1])], argon(), monomers=ARGON)
    (row,) = table.rows()
    assert table.parts == [{"1ar": 2}]
    assert (row["molecules"], row["symmetry"], row["imaginary_modes"]) == ("2ar", 2, 0)
    assert row["binding_kcal_mol"] == pytest.approx(-0.05 * KCAL_PER_MOL, rel=1e-3)
    cluster, atom = table.minima[0].at(), table.molecules["1ar"].at()
    gibbs, _ = binding_gibbs_energy(cluster, [atom, atom])
    assert row["binding_gibbs_kcal_mol"] == pytest.approx(KCAL_PER_MOL * gibbs)
    entropy = row["binding_entropy_cal_mol_K"] / 1000
    assert row["binding_gibbs_kcal_mol"] == pytest.approx(
        row["binding_enthalpy_kcal_mol"] - 298.15 * entropy
    )
    assert row["gibbs_std_eV"] is None, "nothing is known of the error"


def test_temperatures_pressures_and_treatments() -> None:
    conditions = Conditions(temperatures=(200.0, 300.0), pressures=(1e5, 1e3), treatment="grimme")
    table = gibbs_table([argons([0, 0, 0], [0, 0, 1])], argon(), conditions, monomers=ARGON)
    rows = table.rows()
    assert [(r["temperature_K"], r["pressure_Pa"]) for r in rows] == [
        (200, 1e5), (200, 1e3), (300, 1e5), (300, 1e3)
    ]  # fmt: skip
    # Two molecules become one: pressure helps by kT ln(p/p') for each that is lost.
    step = KCAL_PER_MOL * units.kB * 200 * math.log(100)
    gained = rows[1]["binding_gibbs_kcal_mol"] - rows[0]["binding_gibbs_kcal_mol"]
    assert gained == pytest.approx(step)
    with pytest.raises(SettingsError, match="treatment must be one of"):
        Conditions(treatment="grim")


def test_soft_modes_are_between_oscillator_and_rotor() -> None:
    """Oscillators of 10 and 3,000 cm⁻¹: R (1 − ln hν/kT) is 8.0, a free rotor has 5.1 cal/mol/K."""
    atom = argons([0, 0, 0])
    atom.calc = argon()
    plain = replace(minimum_of(atom), wavenumbers=np.array([10.0, 3000.0]))
    harmonic = plain.at(treatment="harmonic")
    grimme = plain.at(treatment="grimme")
    lost = 1000 * KCAL_PER_MOL * (harmonic.entropy - grimme.entropy)
    assert lost == pytest.approx(8.007 - 5.136, abs=0.01)
    assert (grimme.enthalpy, grimme.zero_point) == (harmonic.enthalpy, harmonic.zero_point)
    assert grimme.gibbs == pytest.approx(grimme.enthalpy - 298.15 * grimme.entropy)
    stiff = replace(plain, wavenumbers=np.array([3000.0]))
    assert stiff.at(treatment="grimme").entropy == pytest.approx(stiff.at().entropy, abs=1e-9)
    raised = plain.at(treatment="truhlar", lowest=100.0)
    assert raised.zero_point == pytest.approx(1550 * units.invcm)


def test_populations_of_conformers() -> None:
    atom = argons([0, 0, 0])
    atom.calc = argon()
    low = replace(minimum_of(atom).at(), energy_std=0.01)
    kt = units.kB * 298.15
    high = replace(low, gibbs=low.gibbs + kt * math.log(3), enthalpy=low.enthalpy + kt,
                   energy_std=0.03)  # fmt: skip
    found = boltzmann([low, high])
    assert found.populations == pytest.approx([0.75, 0.25])
    assert found.gibbs == pytest.approx(low.gibbs - kt * math.log(4 / 3))
    assert found.enthalpy == pytest.approx(low.enthalpy + 0.25 * kt)
    assert found.gibbs == pytest.approx(found.enthalpy - 298.15 * found.entropy)
    assert found.gibbs_std == pytest.approx(0.015)
    assert boltzmann([low]).gibbs == low.gibbs
    with pytest.raises(SettingsError, match="2 kinds"):
        boltzmann([low, replace(high, temperature=200.0)])
    with pytest.raises(SettingsError, match="states must be"):
        boltzmann([])


def test_conformers_are_weighed_within_their_composition() -> None:
    triangle = argons([0, 0, 0], [0, 0, 1], [0, math.sqrt(3) / 2, 0.5])
    frames = [triangle, argons([0, 0, 0], [0, 0, 1]), triangle.copy()]
    table = gibbs_table(frames, argon(), monomers=ARGON)
    assert [r["population"] for r in table.rows()] == pytest.approx([0.5, 1.0, 0.5])
    assert [r["relative_kcal_mol"] for r in table.rows()] == pytest.approx([0, 0, 0], abs=1e-6)
    both, pair = table.averages()
    assert (both["conformers"], pair["conformers"]) == (2, 1)
    mixed = table.rows()[0]["gibbs_eV"] - units.kB * 298.15 * math.log(2)
    assert both["gibbs_eV"] == pytest.approx(mixed)
    assert table.rows()[0]["symmetry"] == 6


def test_what_is_no_minimum_is_told() -> None:
    row3 = argons([0, 0, 0], [0, 0, 1], [0, 0, 2])
    row3.positions[:, 2] *= 0.99907  # no force is left but across the line
    far = argons([0, 0, 0], [0, 0, 0.95])
    table = gibbs_table([row3, far], argon(), monomers=ARGON)
    (row,) = table.rows()
    assert row["lowest_mode_cm1"] < 0
    (omission,) = table.omitted
    assert omission.index == 1
    assert "not relaxed" in omission.reason
    assert "knncalc relax" in omission.reason


def test_a_row_of_three_that_would_bend_has_no_gibbs_energy() -> None:
    atom = argons([0, 0, 0])
    atom.calc = argon()
    minimum = replace(minimum_of(atom), wavenumbers=np.array([-80.0, 40.0]))
    assert Conditions().of(minimum) == [None]
    table = gibbs_table([], argon(), monomers=ARGON)
    table = replace(table, minima=[minimum], parts=[None])
    (row,) = table.rows()
    assert (row["imaginary_modes"], row["lowest_mode_cm1"], row["gibbs_eV"]) == (1, -80.0, None)
    assert table.averages() == []


def test_water_dimer_on_a_shipped_model(waters, tmp_path) -> None:
    """Bound by some −5 kcal/mol, but not free energy, at 298 K; its error is that of the energy."""
    kept = tmp_path / "kept.db"
    table = gibbs_table(waters, f"model:{MODEL}", kept=kept, n_jobs=1)
    assert not table.omitted
    dimer, molecule = table.rows()
    assert molecule["molecules"] is None
    assert (molecule["symmetry"], dimer["symmetry"], dimer["molecules"]) == (2, 1, "2w")
    assert -8.0 < dimer["binding_kcal_mol"] < -4.0
    assert 0.0 < dimer["binding_gibbs_kcal_mol"] < 5.0
    assert dimer["gibbs_std_eV"] == pytest.approx(waters[0].info["energy_std"], rel=1e-3)
    assert dimer["binding_gibbs_std_kcal_mol"] > KCAL_PER_MOL * dimer["gibbs_std_eV"]
    again, _ = minima_of(waters, f"model:{MODEL}", kept=kept, n_jobs=1)
    np.testing.assert_array_equal(again[0].wavenumbers, table.minima[0].wavenumbers)
    (first, _) = table.frames()
    write(tmp_path / "out.extxyz", first)
    assert len(read(tmp_path / "out.extxyz").info["wavenumbers_cm1"]) == 12


def test_the_command(waters, tmp_path) -> None:
    write(tmp_path / "in.extxyz", waters[::-1])
    arguments = ("thermo", "in.extxyz", "-m", MODEL, "-q", "-j", 1)
    done = knncalc(*arguments, "-T", "250:300:25", "--treatment", "grimme", "-o", "out.db",
                   "--acdc", "HS.txt", "--acdc-names", "w=W",
                   "--json", "--csv", "out.csv", cwd=tmp_path)  # fmt: skip
    rows = json.loads(done.stdout)
    assert [r["temperature_K"] for r in rows] == 2 * [250, 275, 300]
    assert rows[0]["gibbs_eV"] > rows[2]["gibbs_eV"]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 7
    water, dimer = iter_frames(tmp_path / "out.db")
    assert water.info["gibbs_eV"] == pytest.approx(rows[0]["gibbs_eV"])
    assert len(dimer.info["wavenumbers_cm1"]) == 12
    assert [p.name for p in tmp_path.glob("*.part.db")] == []
    assert re.search(r"^2W\t-\d+\.\d+\t-\d+\.\d+$", (tmp_path / "HS.txt").read_text(), re.M)
    write(tmp_path / "in.extxyz", waters[1:])
    (mean,) = json.loads(knncalc(*arguments, "--boltzmann", "--json", cwd=tmp_path).stdout)
    assert (mean["conformers"], mean["most_populated"]) == (1, 1.0)
    assert "same surface" in knncalc(*arguments, cwd=tmp_path).stdout.replace("\n", " ")


def test_ranges_of_numbers() -> None:
    assert ranges("-T", "200:300:50,298.15") == (200.0, 250.0, 300.0, 298.15)
    assert ranges("-T", "10:12") == (10.0, 11.0, 12.0)
    for wrong in ("warm", "1:2:0", "3:1:1", "nan", "1:2:3:4", "1:inf:1", "1:9:1e-9"):
        with pytest.raises(SettingsError, match="expected numbers or ranges"):
            ranges("-T", wrong)


def test_pairs_of_names() -> None:
    assert pairs("--acdc-names", "sa=A, am=N,") == {"sa": "A", "am": "N"}
    assert pairs("--acdc-names", "") == {}
    for wrong in ("sa", "sa=", "sa=A=B", "=A"):
        with pytest.raises(SettingsError, match="expected pairs"):
            pairs("--acdc-names", wrong)


def test_learned_thermochemistry_and_vibrations_side_by_side(
    tmp_path, headed_model, water_frames
) -> None:
    """--fast asks the heads, at the same energies; both in one JSON."""
    from ase_knncalc import save_model

    save_model(headed_model, tmp_path / "m.h5")
    frames = [Atoms(a.numbers, a.positions) for a in water_frames[4:6]]
    relaxed, _ = relax_frames(frames, f"model:{tmp_path / 'm.h5'}", n_jobs=1, fmax=0.02)
    write(tmp_path / "relaxed.extxyz", relaxed)
    options = ("-m", tmp_path / "m.h5", "--json", "-q", "-j", "1", "-T", "260", "--fmax", "0.1")
    done = knncalc("thermo", tmp_path / "relaxed.extxyz", "--fast", *options, cwd=tmp_path)
    rows = json.loads(done.stdout)
    assert [r["vibrations"] for r in rows] == ["learned"] * len(relaxed)
    for row, atoms in zip(rows, relaxed, strict=True):
        thermal = headed_model.predict_properties(
            atoms, temperature=260.0, symmetry=row["symmetry"]
        ).thermochemistry
        added = row["gibbs_eV"] - row["energy_eV"]
        assert added == pytest.approx(thermal.gibbs_correction.value, abs=1e-8)
        assert row["gibbs_std_eV"] >= thermal.gibbs_correction.std
    both = knncalc("thermo", tmp_path / "relaxed.extxyz", "--fast", "--hessian", *options,
                   cwd=tmp_path)  # fmt: skip
    ways = [r["vibrations"] for r in json.loads(both.stdout)]
    assert ways == ["hessian"] * len(relaxed) + ["learned"] * len(relaxed)
    outside = knncalc("thermo", tmp_path / "relaxed.extxyz", "--fast", "-m", tmp_path / "m.h5",
                      "-T", "500", "--fmax", "0.1", "-q", "-j", "1", cwd=tmp_path,
                      code=1)  # fmt: skip
    assert "200 to 400 K" in outside.stderr
    for way in ("--fast", "--hessian"):
        failed = knncalc("thermo", tmp_path / "relaxed.extxyz", way, "-m", tmp_path / "m.h5",
                         "--fmax", "nan", "-q", "-j", "1", cwd=tmp_path, code=1)  # fmt: skip
        assert "fmax must be a finite number" in failed.stderr


def test_models_without_thermochemistry_are_refused(tmp_path, waters) -> None:
    write(tmp_path / "w.extxyz", waters)
    done = knncalc("thermo", tmp_path / "w.extxyz", "--fast", "-m", "saw-wb97xd-md", "-q",
                   cwd=tmp_path, code=1)  # fmt: skip
    assert "knows energies alone" in done.stderr
