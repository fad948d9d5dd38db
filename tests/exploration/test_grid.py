"""All compositions of a grid in one folder."""

from __future__ import annotations

import json
from dataclasses import replace
from unittest import mock

import pytest
from ase.build import molecule
from ase.io import read, write
from helpers.campaigns import killed_after
from helpers.commands import knncalc
from helpers.factories import DIMER

from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.exploration import ExploreSettings, explore, explore_grid, grid
from ase_knncalc.exploration.compositions import grid_compositions, is_grid

MADE = ("w", "am", "2w")


@pytest.fixture
def settings(tmp_path) -> ExploreSettings:
    """Water, ammonia and the dimer of water are there; 1am1w is missing, methane fits nothing."""
    water, ammonia = molecule("H2O"), molecule("NH3")
    frames = [water, ammonia, DIMER, molecule("CH4")]
    for atoms, name in zip(frames, (*MADE, "methane"), strict=True):
        atoms.info["name"] = name
    write(tmp_path / "given.xyz", frames, format="extxyz")
    return ExploreSettings(
        "0-2 w, 0-1 am", exclude=("2 w, 1 am",), candidates=0, files=(str(tmp_path / "given.xyz"),),
        fmax=0.03, steps=100,
    )  # fmt: skip


def test_a_grid_is_all_its_compositions() -> None:
    assert grid_compositions("0-1 sa, 0-2 am") == [
        "1 am", "1 sa", "2 am", "1 sa, 1 am", "1 sa, 2 am"
    ]  # fmt: skip
    assert grid_compositions("1 sa, 0-1w") == ["1 sa", "1 sa, 1 w"]
    assert len(grid_compositions("0-4 sa, 0-4 am")) == 24
    without = grid_compositions("0-4 sa, 0-4 am", ["4 sa", "2-4 am", "4 sa, 0-4 am"])
    assert len(without) == 24 - 3 - 5
    assert is_grid("0-4 sa")
    assert not is_grid("4 sa, 1 am")
    for wrong, match in (("0-1 sa, 2 sa", "twice"), ("0 sa", "nothing is left"),
                         ("2-1 sa", "expected such as")):  # fmt: skip
        with pytest.raises(SettingsError, match=match):
            grid_compositions(wrong)
    with pytest.raises(SettingsError, match="there is no dma"):
        grid_compositions("0-4 sa", ["1 dma"])
    with pytest.raises(SettingsError, match="ranges such as"):
        explore(ExploreSettings("0-2 w"), "never made")


def test_a_grid_goes_on_after_a_kill(tmp_path, settings) -> None:
    """Killed in the second composition and before the page: nothing is computed twice."""
    folder = tmp_path / "grid"
    with killed_after(3) as asked:
        with pytest.raises(KeyboardInterrupt):
            explore_grid(settings, folder, n_jobs=1)
        with (
            mock.patch.object(grid, "write_grid_page", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            explore_grid(settings, folder, n_jobs=1)
        done = list(asked)
        found = explore_grid(settings, folder, n_jobs=1)
        assert asked == done
    # Each molecule and the dimer, relaxed and its modes; and the molecule that the dimer is of.
    assert sorted(asked) == ["_minimum"] * 4 + ["_relax"] * 4 + ["killed"]
    assert list(found.found) == ["1am", "1w", "2w"]
    assert list(found.failed) == ["1am1w"]
    assert "there is no candidate" in found.failed["1am1w"]
    assert [o.name for o in found.omitted] == ["methane"]
    assert found.notes == []
    lines = (folder / "acdc.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines if "\t" in line] == ["2w"]
    assert len((folder / "gibbs.csv").read_text().splitlines()) == 4
    page = (folder / "report.html").read_text("utf-8")
    assert "{{" not in page
    assert '<a href="2w/report.html">' in page
    structures = json.loads(page.split('id="data">')[1].split("</script>")[0])["structures"]
    assert list(structures) == ["found:1am", "found:1w", "found:2w"]
    assert read(folder / "2w" / "relaxed.extxyz").info["composition"] == "2w"
    with pytest.raises(SettingsError, match=r"other settings \(exclude\)"):
        explore_grid(replace(settings, exclude=()), folder, n_jobs=1)
    (tmp_path / "given.xyz").unlink()
    done_again = knncalc("explore", "-o", "grid", "-q", "-j", 1, "--json", cwd=tmp_path)
    assert list(json.loads(done_again.stdout)["found"]) == ["1am", "1w", "2w"]
    assert "1am1w: there is no candidate" in done_again.stderr
    assert "failed.txt to try again" in done_again.stderr


def test_a_grid_of_nothing_is_told(tmp_path, settings) -> None:
    with pytest.raises(DataError, match=r"nothing was found of any composition.*1am1w"):
        explore_grid(replace(settings, composition="1 am, 1-2 w", exclude=()), tmp_path / "a")
    with pytest.raises(SettingsError, match="unknown molecule 'xyzzy'"):
        explore_grid(replace(settings, composition="0-1 xyzzy", exclude=()), tmp_path / "b")
    assert not (tmp_path / "b").exists()
    done = knncalc("explore", "1 w", "--grid", "0-2 w", cwd=tmp_path, code=1)
    assert "give one of them" in done.stderr
