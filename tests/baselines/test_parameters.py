"""xTB with parameters of one's own: files, and models that remember them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.fd import calculate_numerical_forces
from helpers.factories import water_clusters

from ase_knncalc import KNNCalculator, load_model, save_model, train
from ase_knncalc.baselines import (
    Baseline,
    ParameterBaseline,
    TBLiteBaseline,
    baseline_of,
    make_baseline,
)
from ase_knncalc.baselines.parameters import as_text, exported, read_parameters
from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.sampling.engines import BaselineCalculator

library = pytest.importorskip("tblite.library")


@pytest.fixture(scope="module")
def stiff() -> dict:
    """GFN1-xTB as tblite exports it, with another repulsion."""
    table = exported("GFN1-xTB")
    table["meta"]["name"] = "stiff"
    table["repulsion"]["effective"]["kexp"] *= 1.05
    return table


@pytest.fixture
def path(stiff, tmp_path) -> Path:
    file = tmp_path / "stiff.json"
    file.write_text(json.dumps(stiff))
    return file


# What the program xtb reads: a few lines change GFN1-xTB, the others stay.
TEXT = """$info
level 1
name mine
$globpar
ks 1.86
kp 2.25
kd 2.0
ksp 2.08
kdiff 2.9
enscale -0.8
ipeashift 1.78069
cns 0.6
cnp -0.25
cnd1 -0.5
cnd2 0.5
alphaj 2.0
a1 0.6
a2 5.0
s8 2.4
s9 0.0
kexp 1.5
kexplight 1.5
xbdamp 0.44
xbrad 1.3
$end
$pairpar
  1  7  1.05
$end
$Z= 8 Sat Nov  4 2017
 ao=2s2p
 lev=  -20.2  -15.5
 exp=   2.35   2.03
 GAM=   0.58
 GAM3= -0.31
 REPA=  1.56
 REPB=  4.45
 POLYS= -13.6
 POLYP=  -5.2
 LPARP= -0.3
$end
"""


def test_unchanged_parameters_are_the_method_itself(tmp_path) -> None:
    file = tmp_path / "gfn1.json"
    file.write_text(json.dumps(exported("GFN1-xTB")))
    atoms = molecule("CH3NO2")
    point = make_baseline(f"tblite:{file}").single_point(atoms, 0, 1)
    expected = TBLiteBaseline().single_point(atoms, 0, 1)
    assert point.energy == pytest.approx(expected.energy, abs=1e-9)
    np.testing.assert_allclose(point.forces, expected.forces, atol=1e-8)
    np.testing.assert_allclose(point.charges, expected.charges, atol=1e-9)


def test_changed_ones_give_their_own_energies_forces_and_charges(path) -> None:
    baseline = make_baseline(f"tblite:{path},accuracy=0.01")
    assert isinstance(baseline, Baseline)
    assert baseline.method.startswith("stiff#")
    atoms = molecule("CH3OH")
    atoms.rattle(0.02, seed=2)
    ion = molecule("H2O")
    assert abs(baseline.energy(ion, 0, 1) - TBLiteBaseline().energy(ion, 0, 1)) > 0.01
    assert baseline.energy(ion, 1, 2) - baseline.energy(ion, 0, 1) > 5.0
    point = baseline.single_point(ion, 1, 2)
    assert point.charges.sum() == pytest.approx(1.0, abs=1e-5)
    atoms.calc = BaselineCalculator(baseline)
    numerical = calculate_numerical_forces(atoms, eps=1e-3, iatoms=[0, 1])
    np.testing.assert_allclose(atoms.get_forces()[:2], numerical, atol=1e-3)
    again = make_baseline(baseline.spec())
    assert again == baseline_of(baseline.spec()) == baseline
    assert again.energy(ion, 0, 1) == baseline.energy(ion, 0, 1)
    warm = baseline.following()
    assert warm.energy(ion, 0, 1) == pytest.approx(baseline.energy(ion, 0, 1), abs=1e-6)
    assert warm.method == baseline.method


def test_one_set_of_parameters_has_one_name_however_it_is_written(path, stiff, tmp_path) -> None:
    lines = []

    def write(table, prefix=""):
        plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
        if plain:
            lines.append(f"[{prefix[:-1]}]")
            lines.extend(f"{k} = {json.dumps(v)}" for k, v in reversed(plain.items()))
        for key, value in reversed(table.items()):
            if isinstance(value, dict):
                write(value, f"{prefix}{key}.")

    write(stiff)
    toml = tmp_path / "other name.toml"
    toml.write_text("\n".join(lines))
    assert make_baseline(f"tblite:{toml}") == make_baseline(f"tblite:{path}")


def test_texts_of_the_program_xtb_are_read_as_it_reads_them(tmp_path, monkeypatch) -> None:
    """The same energies as xtb itself with that file."""
    interface = pytest.importorskip("xtb.interface")
    (tmp_path / "param_gfn1-xtb.txt").write_text(TEXT + _rest_of_text())
    baseline = make_baseline(f"tblite:{tmp_path / 'param_gfn1-xtb.txt'},accuracy=0.01")
    monkeypatch.chdir(tmp_path)
    for name in ("H2O", "CH3NO2", "HCOOH"):
        atoms = molecule(name)
        atoms.rotate(37, (1, 2, 3))
        other = interface.Calculator(
            interface.Param.GFN1xTB, atoms.numbers, atoms.positions / 0.529177210903
        )
        other.set_verbosity("muted")
        other.set_accuracy(0.01)
        energy = other.singlepoint().get_energy() * 27.211386
        assert baseline.energy(atoms, 0, 1) == pytest.approx(energy, abs=2e-4)
        assert abs(energy - TBLiteBaseline().energy(atoms, 0, 1)) > 0.01


def _rest_of_text() -> str:
    """Elements that the text leaves as they are: xtb itself takes none for granted."""
    table = exported("GFN1-xTB")["element"]
    blocks = []
    for z, symbol in ((1, "H"), (6, "C"), (7, "N")):
        e = table[symbol]
        lines = [f"$Z= {z} x", f" ao={''.join(e['shells'])}"]
        lines += [f" lev= {'  '.join(map(str, e['levels']))}"]
        lines += [f" exp= {'  '.join(map(str, e['slater']))}"]
        lines += [f" GAM= {e['gam']}", f" GAM3= {10 * e['gam3']}"]
        lines += [f" REPA= {e['arep']}", f" REPB= {e['zeff']}"]
        if symbol != "H":
            lines += [f" POLYS= {100 * e['shpoly'][0]}", f" POLYP= {100 * e['shpoly'][1]}"]
            lines += [f" LPARP= {10 * (e['lgam'][1] - 1)}"]
        blocks.append("\n".join([*lines, "$end", ""]))
    return "".join(blocks)


def test_what_a_text_leaves_open_is_gfn1(tmp_path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(TEXT)
    table = read_parameters(str(file))
    found, before = table["element"]["Br"], exported("GFN1-xTB")["element"]["Br"]
    s, p, d = before.pop("kcn")
    assert found.pop("kcn") == pytest.approx([s, p * 0.25 / 0.3, d])  # cnp is of all elements
    assert found == before
    assert table["hamiltonian"]["xtb"]["shell"]["ss"] == 1.86
    assert table["hamiltonian"]["xtb"]["kpair"]["N-H"] == 1.05


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no tables 'hamiltonian'"),
        ("[element]\n", "no tables 'hamiltonian'"),
        ("{", "no parameters of GFN-xTB"),
        ("$info\nlevel 2\n$end\n", "level 1"),
        (TEXT.replace("2s2p", "2s2p3d"), "shells"),
        (TEXT.replace("2.35", "two"), "two"),
        ("[element.H]\n[hamiltonian.xtb]\n", "tblite says"),
    ],
)
def test_files_that_hold_none_are_told(tmp_path, text, says) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        make_baseline(f"tblite:{file}")


def test_names_that_lead_nowhere_say_what_to_do(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"elmjonas/ACDB.*tblite:/path/param_gfn1-xtb\.txt"):
        make_baseline("tblite:AMC-xTB")
    with pytest.raises(SettingsError, match=r"file of parameters \(\.toml"):
        make_baseline("tblite:GFN3-xTB")
    with pytest.raises(SettingsError, match="cannot be read"):
        make_baseline(f"tblite:{tmp_path / 'nowhere.toml'}")
    with pytest.raises(SettingsError, match="cannot be read"):
        ParameterBaseline(parameters="no JSON")


def test_shipped_parameters_go_by_their_name() -> None:
    shipped, gfn1 = make_baseline("tblite:GFN1-multibase"), make_baseline("tblite:GFN1-xTB")
    assert shipped.method.startswith("GFN1-multibase#")
    assert baseline_of(shipped.spec()) == shipped
    assert make_baseline(f"tblite:{shipped.method}") == shipped
    model = load_model("multibase-wb97xd", baseline=" tblite")
    assert model.baseline == shipped
    other = model.with_baseline(gfn1, allow_other=True)
    assert KNNCalculator(other, baseline="tblite").model.baseline == shipped
    with pytest.raises(SettingsError, match="the parameters are those of GFN1-multibase#"):
        make_baseline("tblite:GFN1-multibase#00000000")
    # What the error of a failed SCF advises is something that can be done.
    with pytest.raises(BaselineError, match="max_iterations=1000") as failed:
        make_baseline("tblite:gfn1-multibase,max_iterations=1").energy(molecule("CH3COOH"), 0, 1)
    (advice,) = re.findall(r"baseline='([^']*)'", str(failed.value))
    assert make_baseline(advice).energy(molecule("H2O"), 0, 1) < 0
    water = molecule("H2O")
    # GFN1-xTB's own minimum, within what was learned: neither the same method nor nonsense.
    energy, forces = shipped.energy_and_forces(water, 0, 1)
    assert abs(energy - gfn1.energy(water, 0, 1)) > 0.1
    assert np.abs(forces).max() < 1.0
    with pytest.raises(BaselineError, match="no parameters for Cl"):
        shipped.energy(molecule("HCl"), 0, 1)


def test_a_tblite_that_takes_none_is_told(path, monkeypatch) -> None:
    monkeypatch.delattr(library, "dict_to_table")
    with pytest.raises(BaselineError, match="pip install -U tblite"):
        make_baseline(f"tblite:{path}")


def test_elements_and_states_without_parameters_are_refused(stiff) -> None:
    table = {**stiff, "element": {k: stiff["element"][k] for k in ("H", "O")}}
    baseline = ParameterBaseline(parameters=as_text(table))
    with pytest.raises(BaselineError, match="no parameters for C, N"):
        baseline.energy(molecule("CH3NO2"), 0, 1)
    with pytest.raises(BaselineError, match="too few"):
        baseline.energy(molecule("H2O"), 10, 1)
    assert baseline.energy(Atoms("H"), 0, 2) < 0


# ------------------------------------------------------------------------------------ models


@pytest.fixture(scope="module")
def frames():
    return water_clusters(30, largest=2)


def test_a_model_remakes_its_baseline_and_refuses_others(
    path, stiff, frames, tmp_path, monkeypatch
) -> None:
    model = train(
        [a.copy() for a in frames], baseline=f"tblite:{path}", trend="linear", n_components=3,
        metric_iterations=5, k=3, n_jobs=1, check_labels=False, reference="pairs",
    )  # fmt: skip
    save_model(model, tmp_path / "stiff.h5")
    path.unlink()  # the model needs it no more
    monkeypatch.chdir(tmp_path)
    loaded = load_model("stiff.h5")
    assert loaded.baseline.method == model.baseline.method
    assert loaded.predict(frames[1]).energy == model.predict(frames[1]).energy
    assert KNNCalculator("stiff.h5", warm_start=True, on_novelty="ignore").get_property(
        "energy", frames[1]
    ) == pytest.approx(model.predict(frames[1]).energy, abs=1e-5)
    stiff = json.loads(json.dumps(stiff))
    stiff["repulsion"]["effective"]["kexp"] += 0.001
    other = ParameterBaseline(parameters=as_text(stiff))
    for wrong in ("GFN1-xTB", other):
        with pytest.raises(BaselineError, match="the model corrects stiff#"):
            load_model("stiff.h5", baseline=wrong)
    monkeypatch.setattr("ase_knncalc.baselines.factory.installed_libraries", lambda: ["xtb"])
    assert baseline_of(loaded.info.baseline).library == "tblite", "never xtb's built-in ones"
