"""The labels that the project ships, and the script that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from ase_knncalc.data.frames import iter_frames, write_frames
from ase_knncalc.labelers import PySCFLabeler
from ase_knncalc.sameness import DuplicateFinder

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "trained_models" / "labels"
LEVELS = ("reference", "baseline")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The modules of ``benchmarks``, which run from their own folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import geometries
    import make_labels
    import tables

    return {"labels": make_labels, "geometries": geometries, "tables": tables}


@pytest.fixture(scope="module")
def shipped() -> dict[str, list[Atoms]]:
    return {p.stem: list(iter_frames(p)) for p in sorted(FOLDER.glob("*.extxyz"))}


class TestFiles:
    def test_frames_are_whole(self, shipped: dict[str, list[Atoms]]) -> None:
        frames = [atoms for part in shipped.values() for atoms in part]
        assert len({atoms.info["name"] for atoms in frames}) == len(frames) > 300
        assert len({atoms.info["reference_method"] for atoms in frames}) == 1
        for atoms in frames:
            kind, temperature = atoms.info["kind"], atoms.info["temperature"]
            assert kind in ("minimum", "modes", "hot", "path", "pulled")
            assert (temperature > 0) == (kind in ("modes", "hot"))
            assert atoms.info["multiplicity"] == 1
            assert (atoms.numbers.sum() - atoms.info["charge"]) % 2 == 0
            for level in LEVELS:
                forces = atoms.arrays[f"{level}_forces"]
                assert np.isfinite(atoms.info[f"{level}_energy"])
                np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-3)
                torque = np.cross(atoms.positions, forces).sum(axis=0)
                np.testing.assert_allclose(torque, 0, atol=0.05)  # the grid does not turn along
            if kind == "minimum":
                assert np.abs(atoms.arrays["baseline_forces"]).max() < 0.021

    def test_geometries_are_there_once(self, shipped: dict[str, list[Atoms]]) -> None:
        finder = DuplicateFinder(0.002)
        for part in shipped.values():
            for atoms in part:
                state = atoms.info["charge"], atoms.info["multiplicity"]
                assert finder.find_or_add(atoms, *state) is None, atoms.info["name"]

    def test_molecules_and_clusters(self, shipped: dict[str, list[Atoms]], scripts: Any) -> None:
        for stem, sizes in (("wb97xd_molecules", {1}), ("wb97xd_clusters", {2, 3})):
            compositions = {atoms.info["composition"] for atoms in shipped[stem]}
            assert {scripts["labels"].n_molecules(c) for c in compositions} == sizes

    def test_card_agrees(self, scripts: Any) -> None:
        card = (FOLDER / "README.md").read_text("utf-8")
        assert "<!-- labels -->" in card
        assert scripts["tables"].filled(card) == card

    def test_labels_can_be_made_again(self, shipped: dict[str, list[Atoms]], scripts: Any) -> None:
        pytest.importorskip("pyscf")
        pytest.importorskip("tblite")
        atoms = next(a for a in shipped["wb97xd_molecules"] if a.info["name"] == "wp-300-0")
        label = PySCFLabeler(threads=1, density_fit=True).label(atoms)
        assert label.method == atoms.info["reference_method"]
        assert label.energy == pytest.approx(atoms.info["reference_energy"], abs=1e-5)
        np.testing.assert_allclose(label.forces, atoms.arrays["reference_forces"], atol=1e-3)
        again = atoms.copy()
        scripts["labels"].add_baseline(again)
        assert again.info["baseline_energy"] == pytest.approx(atoms.info["baseline_energy"])
        np.testing.assert_allclose(
            again.arrays["baseline_forces"], atoms.arrays["baseline_forces"], atol=1e-4
        )

    @pytest.mark.slow
    def test_names_are_seeds(
        self, shipped: dict[str, list[Atoms]], scripts: Any, shared_data: Path
    ) -> None:
        pytest.importorskip("tblite")
        multibase = iter_frames(shared_data / "multibase_equilibrium.extxyz.gz")
        start = next(atoms for atoms in multibase if atoms.info["composition"] == "1w")
        made = scripts["geometries"].frames_of_molecule("w", start, 0)
        known = {atoms.info["name"]: atoms for atoms in shipped["wb97xd_molecules"]}
        compared = 0
        for atoms in made:
            if atoms.info["name"] in known and atoms.info["kind"] != "hot":
                old = known[atoms.info["name"]]
                np.testing.assert_allclose(atoms.positions, old.positions, atol=1e-3)
                assert atoms.info.items() <= old.info.items()
                compared += 1
        assert compared == 7


def labelled(name: str, stretch: float, composition: str = "1w", **info: Any) -> Atoms:
    atoms = Atoms("OH2", [[0, 0, 0], [stretch, 0, 0], [0, 1, 0.1]])
    atoms.info.update(
        name=name, composition=composition, charge=0, multiplicity=1, kind="hot", temperature=300
    )
    for level in LEVELS:
        atoms.info[f"{level}_energy"] = -stretch
        atoms.set_array(f"{level}_forces", np.array([[-0.1, 0, 0], [0.1, 0, 0], [0, 0, 0]]))
    atoms.info.update(info)
    return atoms


class TestScript:
    def test_merging(self, scripts: Any) -> None:
        first, turned = labelled("w-300-1", 1.1), labelled("w-300-2", 1.1)
        turned.rotate(40, "y")
        minimum = labelled("w-min", 1.2, kind="minimum")
        same_name = labelled("w-300-1", 1.3)
        torn, unfinished, drifting = (labelled(f"w-300-{i}", 1 + 0.1 * i) for i in (5, 6, 7))
        del torn.arrays["baseline_forces"]
        unfinished.info["reference_energy"] = np.nan
        drifting.arrays["reference_forces"][0] += 0.01
        frames = [first, turned, same_name, minimum, torn, unfinished, drifting]
        kept = [atoms.info["name"] for atoms in scripts["labels"].merged(frames)]
        assert kept == ["w-min", "w-300-1"]

    def test_gathering(self, scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        script, files = scripts["labels"], {k: tmp_path / f"{k}.extxyz" for k in (True, False)}
        monkeypatch.setattr(script, "FILES", files)
        work = tmp_path / "work.extxyz"
        write_frames(work, [labelled("w-300-0", 1.1), labelled("2w-0", 1.2, "2w")])
        with pytest.raises(script.typer.BadParameter, match="w-300-0 does not say its method"):
            script.gather([work])
        script.gather([work], method="PBE")
        write_frames(work, [labelled("w-300-1", 1.3, reference_method="PBE")])
        script.gather([work])
        script.gather([work])
        names = {k: [a.info["name"] for a in iter_frames(path)] for k, path in files.items()}
        assert names == {True: ["w-300-0", "w-300-1"], False: ["2w-0"]}
        assert {a.info["reference_method"] for a in iter_frames(files[True])} == {"PBE"}

    def test_a_kill_while_a_frame_is_written(self, scripts: Any, tmp_path: Path) -> None:
        path = tmp_path / "work.extxyz"
        write_frames(path, [labelled("w-300-0", 1.1), labelled("w-300-1", 1.2)])
        whole = path.read_bytes()
        one = whole.index(b"\n3\n") + 1
        for end in range(one, len(whole)):
            path.write_bytes(whole[:end])
            scripts["labels"].drop_torn_frame(path)
            assert path.read_bytes() == whole[:one]
        path.write_bytes(whole)
        scripts["labels"].drop_torn_frame(path)
        assert path.read_bytes() == whole

    def test_cheap_frames_come_first(self, scripts: Any) -> None:
        pool = [labelled(f"sa-{i}", 1.0, "1sa") for i in range(3)]
        for atoms in pool:
            atoms += Atoms("SO2", np.eye(3) + 3)
        pool += [labelled(f"w-{i}", 1.0, "1w") for i in range(3)]
        pool.append(labelled("pz-0", 1.0, "1pz"))
        order = [atoms.info["name"] for atoms in scripts["labels"].by_cost(pool)]
        assert order == ["w-0", "w-1", "sa-0", "pz-0", "w-2", "sa-1", "sa-2"]

    @pytest.mark.parametrize(
        ("composition", "n"), [("1w", 1), ("1so4", 1), ("1am1p", 1), ("2w", 2), ("1am1p1sa", 2)]
    )
    def test_counting_molecules(self, scripts: Any, composition: str, n: int) -> None:
        assert scripts["labels"].n_molecules(composition) == n

    def test_run_goes_on(
        self, scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("pyscf")
        pytest.importorskip("tblite")
        script = scripts["labels"]
        monkeypatch.setattr(script, "FILES", {})
        quick = {"basis": "sto-3g", "grid_level": 1, "threads": 1}
        monkeypatch.setattr(script, "PySCFLabeler", lambda **_: PySCFLabeler(**quick))
        pool, work = tmp_path / "pool.extxyz", tmp_path / "work.extxyz"
        geometries = [labelled(f"w-300-{i}", 1 + 0.1 * i) for i in range(3)]
        geometries[1].info["charge"] = 1  # no singlet
        write_frames(pool, geometries)
        script.run([pool], work, minutes=0.0)
        assert len(list(iter_frames(work))) == 1
        script.run([pool], work)
        done = list(iter_frames(work))
        assert sorted(atoms.info["name"] for atoms in done) == ["w-300-0", "w-300-2"]
        assert all(script.sound(atoms) for atoms in done)
        assert (tmp_path / "work.failures.txt").read_text().startswith("w-300-1\t")
        before = work.read_bytes()
        script.run([pool], work)
        assert work.read_bytes() == before
