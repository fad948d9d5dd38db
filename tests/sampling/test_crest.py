"""CREST is driven where it is installed: here a program that takes its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.exploration import ExploreSettings, explore, pool
from ase_knncalc.exploration.compositions import proton_states
from ase_knncalc.sampling.crest import crest_conformers

STAND_IN = """#!{python}
import json, os, pathlib, sys
log = pathlib.Path({log!r})
with log.open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
text = pathlib.Path(sys.argv[1]).read_text().splitlines()
print("  CREST is looking\\n")
if os.environ.get("CREST_FAILS"):
    print("  ERROR: topology changed")
    sys.exit(int(os.environ["CREST_FAILS"]))
moved = [f"{{r.split()[0]}} " + " ".join(str(-float(x)) for x in r.split()[1:]) for r in text[2:]]
frames = [[text[0], "        -5.5000", *text[2:]], [text[0], "        -5.4000", *moved]]
pathlib.Path("crest_conformers.xyz").write_text("\\n".join(map("\\n".join, frames)) + "\\n")
"""


@pytest.fixture
def crest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in on the path; gives the file of its command lines."""
    folder, log = tmp_path / "bin", tmp_path / "crest.log"
    folder.mkdir()
    program = folder / "crest"
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return log


def test_what_it_is_asked_and_what_comes_of_it(crest: Path, monkeypatch) -> None:
    start = molecule("NH3")
    start.info.update(charge=1, multiplicity=2, energy=-3.0)
    first, second = crest_conformers(start, cluster=True, threads=3, options=("--quick",))
    assert json.loads(crest.read_text()) == [
        "start.xyz", "--gfn1", "--chrg", "1", "--uhf", "1", "-T", "3", "--noreftopo", "--nci",
        "--quick",
    ]  # fmt: skip
    np.testing.assert_allclose(first.positions, start.positions, atol=1e-9)
    np.testing.assert_allclose(second.positions, -start.positions, atol=1e-9)
    assert second.info == {"charge": 1, "multiplicity": 2, "sampled_by": "crest"}
    monkeypatch.setenv("CREST_FAILS", "1")
    with pytest.raises(KNNCalcError, match=r"without conformers \(code 1\).*topology"):
        crest_conformers(start, cluster=False)
    assert "--nci" not in json.loads(crest.read_text().splitlines()[-1])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match="install CREST"):
        crest_conformers(start, cluster=False)


def test_its_conformers_are_candidates(crest: Path, tmp_path: Path, monkeypatch) -> None:
    settings = ExploreSettings("1 am", candidates=1, engine="GFN1-xTB", fmax=0.03)
    found = explore(settings, tmp_path / "out", n_jobs=1)
    assert (found.candidates, found.unique) == (3, 1)
    assert found.notes == ["no acdc.txt: there is no cluster whose molecules are known and at "
                           "minima: ACDC's energies are those of binding"]  # fmt: skip
    assert len(crest.read_text().splitlines()) == 1
    assert explore(settings, tmp_path / "out", n_jobs=1).candidates == 3
    assert len(crest.read_text().splitlines()) == 1, "what is there is not searched again"
    (tmp_path / "out" / "candidates-1am-crest.extxyz").unlink()
    assert explore(settings, tmp_path / "out", n_jobs=1).candidates == 1
    assert len(crest.read_text().splitlines()) == 1, "nor what would come too late"


def test_without_it_or_where_it_fails_the_others_go_on(crest: Path, tmp_path, monkeypatch) -> None:
    def sampled(folder: str, **options: bool) -> list[str]:
        notes: list[str] = []
        settings = ExploreSettings("1 am", candidates=1, engine="GFN1-xTB", **options)
        (tmp_path / folder).mkdir()
        states = proton_states("1 am", settings.model, ions=False)
        frames = pool.sampled_candidates(
            tmp_path / folder, states, settings, notes, {"n_jobs": 1, "progress": False}
        )
        assert len(frames) == 1
        return notes

    monkeypatch.setenv("CREST_FAILS", "7")
    (note,) = sampled("a")
    assert note.startswith("1am-crest: ")
    assert "(code 7): CREST is looking ERROR: topology changed" in note
    monkeypatch.setenv("PATH", "/nowhere")
    (note,) = sampled("b")
    assert "CREST is not installed" in note
    assert sampled("c", crest=False) == []
