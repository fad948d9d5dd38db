"""From a composition to a page, in one folder."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, write
from helpers.campaigns import killed_after
from helpers.commands import knncalc
from helpers.factories import DIMER

from ase_knncalc import load_model
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.exploration import (
    Conditions,
    ExploreSettings,
    GibbsTable,
    campaign,
    compositions,
    explore,
    pool,
    read_settings,
)
from ase_knncalc.settings import DEFAULT_MODEL
from ase_knncalc.thermochemistry import Minimum


@pytest.fixture
def settings(tmp_path) -> ExploreSettings:
    """Two candidates, of which one is the other turned and mirrored."""
    other = DIMER[::-1]
    other.positions = other.positions[:, [1, 0, 2]]
    frames = [DIMER, other]
    for i, atoms in enumerate(frames):
        atoms.info["name"] = f"<d{i}>"
    write(tmp_path / "dimers.xyz", frames, format="extxyz")
    return ExploreSettings(
        "2 w", candidates=0, files=(str(tmp_path / "dimers.xyz"),), fmax=0.03, steps=60
    )


def page_data(path) -> dict:  # type: ignore[no-untyped-def]
    text = path.read_text("utf-8")
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


def test_all_in_one_folder_and_on_after_a_kill(tmp_path, settings) -> None:
    """Killed after the first relaxation, and before the page: nothing is computed twice."""
    folder = tmp_path / "out"
    with killed_after(1) as asked:
        with pytest.raises(KeyboardInterrupt):
            explore(settings, folder, n_jobs=1)
        assert not (folder / "relaxed.extxyz").exists()
        with (
            mock.patch.object(campaign, "write_page", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            explore(settings, folder, n_jobs=1)
        # Two dimers, the molecule; vibrations of the one that is left, and of the molecule.
        done = ["_relax", "killed", "_relax", "_minimum", "_relax", "_minimum"]
        assert asked == done
        found = explore(settings, folder, n_jobs=1)
        assert asked == done
    assert (found.candidates, found.relaxed, found.unique) == (2, 2, 1)
    (row,) = found.rows
    assert (row["composition"], row["molecules"], row["population"]) == ("2w", "2w", 1.0)
    assert -8.0 < row["binding_kcal_mol"] < -4.0
    assert found.chosen == [row["name"]]
    assert found.notes == []
    assert (folder / "acdc.txt").read_text().splitlines()[-1].startswith("2w\t-")
    dipoles = (folder / "acdc-dipoles.txt").read_text().splitlines()
    assert [line.split()[0] for line in dipoles[2:]] == ["1w", "2w"]
    with (folder / "learned.csv").open(encoding="utf-8") as handle:
        (beside,) = csv.DictReader(handle)
    assert beside["binding_gibbs_kcal_mol"] == str(row["binding_gibbs_kcal_mol"])
    for what in ("enthalpy_correction", "gibbs_correction", "binding_gibbs"):
        by_modes, learned = (float(beside[f"{k}{what}_kcal_mol"]) for k in ("", "learned_"))
        assert by_modes == pytest.approx(learned, abs=1.5)
        assert 0.0 < float(beside[f"learned_{what}_std_kcal_mol"]) < 2.0
    assert float(dipoles[3].split()[1]) == pytest.approx(float(beside["dipole_debye"]), abs=1e-3)
    assert len(list((folder / "inputs").glob("*.inp"))) == 1
    assert len((folder / "gibbs.csv").read_text().splitlines()) == 2
    assert read(folder / "gibbs.extxyz").info["copies"] == 2
    page = (folder / "report.html").read_text("utf-8")
    assert "{{" not in page
    headings = re.findall("<th [^>]*>([^<]*)", page.partition('id="learned"')[2])[:9]
    assert headings == ["structure", "H − E", "learned H − E", "std", "G − E", "learned G − E",
                        "std", "ΔG binding", "learned ΔG binding"]  # fmt: skip
    assert f"{float(beside['learned_binding_gibbs_kcal_mol']):.3f}" in page
    assert f"{row['binding_gibbs_kcal_mol']:.3f}" in page
    assert "<d" not in page.split("<main>")[1].split("<script")[0].replace("<dl", "").replace(
        "<div", "").replace("<dt", "").replace("<dd", "")  # fmt: skip
    (structure,) = page_data(folder / "report.html")["structures"].values()
    assert structure["symbols"].count("O") == 2
    np.testing.assert_allclose(np.mean(structure["positions"], axis=0), 0.0, atol=1e-3)
    with pytest.raises(SettingsError, match=r"other settings \(top\)"):
        explore(replace(settings, top=3), folder, n_jobs=1)


def test_energies_of_another_level_rank_minima_of_the_reference(tmp_path, settings) -> None:
    """Cluster and molecule at the level, with the vibrations of the surface and a larger error."""
    model = load_model(DEFAULT_MODEL, baseline=None)
    with pytest.raises(SettingsError, match="no level of theory 'cc'"):
        explore(replace(settings, level="cc"), tmp_path / "none", n_jobs=1)
    assert not (tmp_path / "none").exists()
    found = explore(replace(settings, level="dlpno"), tmp_path / "out", n_jobs=1)
    atoms = read(tmp_path / "out" / "gibbs.extxyz")
    known = explore(settings, tmp_path / "reference", n_jobs=1)
    (row,), (of_reference,) = found.rows, known.rows
    added = model.predict_properties(atoms).levels["dlpno"]
    assert row["energy_eV"] - of_reference["energy_eV"] == pytest.approx(added.value, abs=1e-6)
    assert row["gibbs_std_eV"] > of_reference["gibbs_std_eV"]
    assert row["zero_point_eV"] == of_reference["zero_point_eV"]
    assert row["binding_kcal_mol"] != of_reference["binding_kcal_mol"]
    assert atoms.info["energy_predicted"] == pytest.approx(row["energy_eV"], abs=1e-6)
    assert "dlpno, at minima of the reference" in found.notes[0]


def test_sampling_of_one_molecule(tmp_path) -> None:
    settings = ExploreSettings(
        "1 w", candidates=1, methods=("packing",), engine="GFN1-xTB", fmax=0.03
    )
    with (tmp_path / "explore.toml").open("w", encoding="utf-8") as handle:
        handle.write(settings.toml())
    assert read_settings(tmp_path / "explore.toml") == settings
    done = knncalc("explore", "--config", "explore.toml", "-o", "out", "-q", "-j", 1, "--json",
                   cwd=tmp_path)  # fmt: skip
    found = json.loads(done.stdout)
    assert found["rows"][0]["symmetry"] == 2
    assert "no acdc.txt" in done.stderr
    assert [p.name for p in (tmp_path / "out").glob("candidates-*")] == ["candidates-1w.extxyz"]
    table = knncalc("explore", "-o", "out", "-q", "-j", 1, cwd=tmp_path).stdout
    assert "same surface" in " ".join(table.split())
    assert "report.html" in "".join(table.split())


def test_a_campaign_without_a_minimum_ends_in_its_page(tmp_path, settings) -> None:
    frames = read(settings.files[0], ":")
    for atoms in frames:
        atoms.info.update(
            energy=-1.0,
            converged=True,
            fell_apart=False,
            reacted=False,
            protons_moved=0,
            outside=False,
        )
    minimum = Minimum(frames[0], -1.0, 0.1, np.array([-99.0, 50.0]), 1, 0, 1)
    table = GibbsTable([minimum], Conditions(), [None], {}, [])
    higher = replace(minimum, atoms=frames[1], energy=-0.5, wavenumbers=np.full(12, 99.0))
    notes: list[str] = []
    both = replace(table, minima=[minimum, higher], parts=[None, None])
    rows = campaign._ranked(tmp_path, both, both.frames(), notes)
    assert [row["name"] for row in rows] == ["<d1>", "<d0>"]
    assert notes[0].startswith("<d0> has a lower energy than all minima")
    with (
        mock.patch.object(campaign, "relax_frames", return_value=(frames, [])),
        mock.patch.object(campaign, "gibbs_table", return_value=table),
    ):
        found = explore(settings, tmp_path / "out", n_jobs=1)
    assert found.chosen == []
    assert "none of the 1 lowest structures is a minimum" in found.notes[1]
    assert not (tmp_path / "out" / "inputs").exists()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "it is no minimum of the model" in page
    assert "no minimum: 1 imaginary modes" in page


def test_what_sits_on_a_saddle_point_is_shaken_off_it(settings) -> None:
    """Where it falls into a minimum that is there already, that one is kept, else it is new."""
    frames = read(settings.files[0], ":")
    frames[1].rotate(70, "x")
    frames[1].positions[:3] += [0.5, 0.5, 0.0]
    for atoms, energy in zip(frames, (-1.0, -2.0), strict=True):
        atoms.info["energy"] = energy
    minima = [
        Minimum(a, -1.0, 0.1, np.array([mode, 50.0]), 1, 0, 1)
        for a, mode in zip(frames, (40.0, -99.0), strict=True)
    ]
    table = GibbsTable(minima, Conditions(), [None, None], {}, [])
    taken = []

    def tabled(given, *_, **__):  # type: ignore[no-untyped-def]
        taken.append([a.info["name"] for a in given])
        return table

    def relaxed(given, *_, **options):  # type: ignore[no-untyped-def]
        assert options["fmax"] == settings.fmax / 4
        assert np.abs(given[0].positions - frames[1].positions).max() > 0.01
        return results.pop(), []

    again = frames[0].copy()
    again.info["name"] = "again"
    results = [[again], [frames[1]]]
    with (
        mock.patch.object(campaign, "gibbs_table", tabled),
        mock.patch.object(campaign, "relax_frames", relaxed),
    ):
        for _ in range(2):
            campaign._mended(table, frames, [0, 1], settings, None, {})  # type: ignore[arg-type]
    assert taken == [["<d0>", "<d1>"], ["<d0>"]]


def test_protons_are_placed_in_all_ways() -> None:
    def states(composition: str, **options: bool) -> list[dict[str, int]]:
        found = compositions.proton_states(composition, DEFAULT_MODEL, **options)
        return [{i.name: i.count for i in state} for state in found]

    assert states("2 sa, 2am") == [
        {"sa": 2, "am": 2}, {"sa": 1, "b": 1, "am": 1, "amp": 1}, {"b": 2, "amp": 2}
    ]  # fmt: skip
    assert states("2 sa, 2 am", ions=False) == [{"sa": 2, "am": 2}]
    assert states("sa, dma, w")[1] == {"b": 1, "dmap": 1, "w": 1}
    assert states("3 w") == [{"w": 3}]
    for made in compositions.proton_states("1 sa, 1 am", DEFAULT_MODEL):
        assert sum(i.molecule.info.get("charge", 0) * i.count for i in made) == 0
    for wrong in ("", "2", "0 sa", "sa,,am", "4-2 sa", "0-2 sa", "0-x sa", "2 sa 2 am"):
        with pytest.raises(SettingsError, match="expected such as"):
            states(wrong)


def test_candidates_that_do_not_fit_are_told(tmp_path, settings) -> None:
    """Unreadable files, other molecules, another charge; two of one name are told apart."""
    dimers = read(settings.files[0], ":")
    bad = tmp_path / "bad.xyz"
    bad.write_text("3\nno numbers\nO 0 0\n", encoding="utf-8")
    ion, other = dimers[0].copy(), molecule("H2O")
    ion.info.update(name="ion", charge=2)
    other.info["name"] = "other"
    write(tmp_path / "mixed.xyz", [ion, other, dimers[0]], format="extxyz")
    files = (*settings.files, str(bad), str(tmp_path / "mixed.xyz"))
    seen = []

    def relaxed(frames, *_, **__):  # type: ignore[no-untyped-def]
        seen.extend(frames)
        return [], [mock.Mock(reason="no")]

    with (
        mock.patch.object(campaign, "relax_frames", relaxed),
        pytest.raises(DataError, match="no candidate could be relaxed"),
    ):
        explore(replace(settings, files=files), tmp_path / "out", n_jobs=1)
    assert [a.info["name"] for a in seen] == ["<d0>", "<d1>", "<d0>_2"]
    assert {(a.info["charge"], a.info["multiplicity"]) for a in seen} == {(0, 1)}
    _, omitted = pool.given_candidates(tmp_path / "none", replace(settings, files=files))
    assert [o.name for o in omitted] == ["bad"]
    state = compositions.proton_states("2 w", DEFAULT_MODEL)[0]
    reasons = [o.reason for o in pool.fitting([ion, other], state)[1]]
    assert "charge" in reasons[0]
    assert reasons[1] == "it is H2O, and not H4O2"
    with pytest.raises(DataError, match=r"bad\.xyz"):
        explore(replace(settings, files=(str(bad),)), tmp_path / "new", n_jobs=1)
    assert not (tmp_path / "new").exists()


def test_minima_of_another_model_are_refused(tmp_path) -> None:
    atoms = molecule("H2O")
    atoms.info["model_checksum"] = "of another file"
    with pytest.raises(SettingsError, match="relaxed with another file"):
        campaign._check_model(tmp_path, [atoms], f"model:{DEFAULT_MODEL}")
    campaign._check_model(tmp_path, [molecule("H2O")], f"model:{DEFAULT_MODEL}")


def test_what_cannot_be_explored_is_told(tmp_path, settings) -> None:
    with pytest.raises(SettingsError, match="unknown molecule 'xyzzy'"):
        explore(replace(settings, composition="xyzzy"), tmp_path / "a", n_jobs=1)
    with pytest.raises(SettingsError, match="nothing to explore"):
        explore(replace(settings, files=()), tmp_path / "a", n_jobs=1)
    with pytest.raises(SettingsError, match=r"no explore\.toml"):
        explore(settings, tmp_path, n_jobs=1)
    assert not (tmp_path / "a").exists()
    (tmp_path / "bad.toml").write_text('composition = "2 w"\ncandidtes = 3\n')
    with pytest.raises(SettingsError, match=r"bad\.toml: candidtes: unknown key"):
        read_settings(tmp_path / "bad.toml")
    assert "what is to be explored" in knncalc("explore", cwd=tmp_path, code=1).stderr
    with (
        mock.patch.object(campaign, "relax_frames", return_value=([], [mock.Mock(reason="no")])),
        pytest.raises(DataError, match="no candidate could be relaxed; the first: no"),
    ):
        explore(settings, tmp_path / "b", n_jobs=1)
