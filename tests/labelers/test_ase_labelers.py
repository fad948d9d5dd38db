"""ASE calculators as labelers: a folder for each calculation, and charge and multiplicity."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.calculators.orca import ORCA, OrcaProfile
from helpers.standin import PROGRAM, Program

from ase_knncalc.active.config import LabelerTable
from ase_knncalc.active.labelling import NamedCalculator, make_labeler
from ase_knncalc.errors import LabelerError, SettingsError
from ase_knncalc.labelers import ASELabeler, label_frames
from ase_knncalc.labelers.folders import fresh_folders

posix = pytest.mark.skipif(os.name != "posix", reason="runs a script as a program")


def waters(n: int) -> list[Atoms]:
    frames = []
    for i in range(n):
        frames.append(molecule("H2O"))
        frames[-1].positions[1] += [0.0, 0.0, 0.1 * i]
        frames[-1].info["name"] = f"w {i}"
    return frames


def energy(atoms: Atoms) -> float:
    return float(np.linalg.norm(atoms.positions - atoms.positions[0], axis=1).sum() * units.Hartree)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "stand-in.py"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; the current one is another, empty too."""
    for name in ("scratch", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "scratch"


def hydroxide() -> Atoms:
    return Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"name": "oh", "charge": -1})


def triplet() -> Atoms:
    return Atoms("O2", [[0, 0, 0], [0, 0, 1.2]], info={"name": "oxygen", "multiplicity": 3})


class TestFolders:
    @posix
    @pytest.mark.parametrize("kind", ["file", "orca", "instance"])
    def test_no_label_of_another_structure(self, kind: str, program: Path, scratch: Path) -> None:
        def orca(charge: int, multiplicity: int) -> ORCA:
            return ORCA(profile=OrcaProfile(command=str(program)), charge=charge, mult=multiplicity)

        calculator: Any = {
            "file": lambda charge, multiplicity: Program(program),
            "orca": orca,
            "instance": Program(program),
        }[kind]
        frames = waters(8)
        labelled, failed = label_frames(
            ASELabeler(calculator, "stand-in", energies_only=True), frames, n_jobs=2
        )
        assert [f.reason for f in failed] == []
        found = [a.info["reference_energy"] for a in labelled]
        np.testing.assert_allclose(found, [energy(a) for a in frames], atol=1e-4)
        assert list(scratch.iterdir()) == []
        assert list(Path().iterdir()) == []

    @posix
    def test_folder_of_the_user_keeps_what_failed(self, program: Path, scratch: Path) -> None:
        (good,), (bad,) = waters(1), [molecule("SO2")]
        bad.info["name"] = "2sa/1 a"
        calculator = Program(program, directory="runs")
        labeler = ASELabeler(calculator, "stand-in", energies_only=True)
        assert labeler.label(good).energy == pytest.approx(energy(good), abs=1e-4)
        assert list(Path("runs").iterdir()) == []
        for _ in range(2):
            with pytest.raises(LabelerError, match=r"2sa/1 a.*its files are in") as caught:
                labeler.label(bad)
        assert calculator.directory == "runs"
        assert labeler.label(good).energy == pytest.approx(energy(good), abs=1e-4)
        kept = sorted(Path("runs").iterdir())
        assert len(kept) == 2
        assert all(folder.name.startswith("2sa-1-a-") for folder in kept)
        assert any(str(folder.absolute()) in str(caught.value) for folder in kept)
        assert all((folder / "in.xyz").exists() for folder in kept)
        assert list(scratch.iterdir()) == []

    @posix
    def test_default_folder_of_a_failure_is_removed(self, program: Path, scratch: Path) -> None:
        calculator = Program(program)
        with pytest.raises(LabelerError, match=r"O2S.*files are removed") as caught:
            ASELabeler(calculator, "stand-in", energies_only=True).label(molecule("SO2"))
        assert "its files are in" not in str(caught.value)
        assert calculator.directory == "."
        assert list(scratch.iterdir()) == []
        assert list(Path().iterdir()) == []

    @posix
    def test_killed_calculation_leaves_no_files(self, program: Path, scratch: Path) -> None:
        labeler = ASELabeler(Program(program), "stand-in", energies_only=True)
        frames = [molecule("CH4"), *waters(1)]
        labelled, failed = label_frames(labeler, frames, time_limit=4.0)
        assert [f.index for f in failed] == [0]
        assert "time limit" in failed[0].reason
        assert labelled[0].info["reference_energy"] == pytest.approx(energy(frames[1]), abs=1e-4)
        assert list(scratch.iterdir()) == []

    def test_parts_of_a_calculator_have_folders_of_their_own(self, scratch: Path) -> None:
        parts = [Program(Path("a")), Program(Path("a"), directory="runs"), EMT()]
        total = SumCalculator(parts)
        with fresh_folders(total, "w") as folders_given:
            folders = {p.directory for p in parts}
            assert len(folders) == 3
            assert all(Path(folder).is_dir() for folder in folders)
            assert folders_given.kept == [parts[1].directory]
        assert [p.directory for p in parts] == [".", "runs", "."]
        assert list(scratch.iterdir()) == []
        assert list(Path("runs").iterdir()) == []

    def test_folder_that_cannot_be_set(self, scratch: Path) -> None:
        class Fixed(LennardJones):
            @property
            def directory(self) -> str:  # type: ignore[override]
                return "."

            @directory.setter
            def directory(self, value: str) -> None:
                self._directory = "."
                if value != ".":
                    raise ValueError("no other folder")

        label = ASELabeler(Fixed(), "LJ").label(molecule("H2O"))
        assert label.energy == ASELabeler(LennardJones(), "LJ").label(molecule("H2O")).energy
        assert list(scratch.iterdir()) == []

    def test_folder_that_cannot_be_made(self, scratch: Path) -> None:
        Path("file").write_text("")
        labeler = ASELabeler(EMT(directory="file/below"), "EMT")
        with pytest.raises(LabelerError, match=r"no folder.*below"):
            labeler.label(molecule("H2O"))


class Open(Calculator):
    """Declares nothing, and takes whatever it is given."""

    implemented_properties = ["energy"]  # noqa: RUF012

    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.results["energy"] = -1.0 - self.parameters.get("q", 0)


def by_name(calculator: str, **options: Any) -> ASELabeler:
    labeler = make_labeler(LabelerTable(kind="ase", method="m", calculator=calculator, **options))
    assert isinstance(labeler, ASELabeler)
    return labeler


class TestChargeAndMultiplicity:
    @pytest.mark.parametrize(
        "keys", [{}, {"charge_key": "charge", "multiplicity_key": "multiplicity"}]
    )
    def test_tblite_is_told(self, keys: dict[str, str]) -> None:
        tblite = pytest.importorskip("tblite.ase")
        options = {"method": "GFN2-xTB", "verbosity": 0}
        labeler = by_name("tblite.ase.TBLite", options=options, **keys)
        for atoms, state in (
            (hydroxide(), {"charge": -1, "multiplicity": 1}),
            (triplet(), {"charge": 0, "multiplicity": 3}),
        ):
            expected, wrong = atoms.copy(), atoms.copy()
            expected.calc = tblite.TBLite(**options, **state)
            wrong.calc = tblite.TBLite(**options)
            found = labeler.label(atoms).energy
            assert found == pytest.approx(expected.get_potential_energy(), abs=1e-6)
            assert abs(found - wrong.get_potential_energy()) > 0.05

    @pytest.mark.parametrize(
        ("key", "name"), [("charge_key", "chrg"), ("multiplicity_key", "mult")]
    )
    def test_key_that_the_calculator_does_not_have(self, key: str, name: str) -> None:
        pytest.importorskip("tblite.ase")
        with pytest.raises(SettingsError, match=rf"labeler\.{key}.*'{name}'.*multiplicity"):
            by_name("tblite.ase.TBLite", **{key: name})
        with pytest.raises(SettingsError, match=rf"labeler\.{key}.*epsilon"):
            by_name("lj", **{key: name})

    @pytest.mark.parametrize("calculator", ["emt", "lj", "morse"])
    def test_calculator_without_charges(self, calculator: str) -> None:
        labeler = by_name(calculator)
        assert np.isfinite(labeler.label(molecule("H2O")).energy)
        with pytest.raises(LabelerError, match=r"oh: .*no parameter for the charge"):
            labeler.label(hydroxide())
        with pytest.raises(LabelerError, match=r"oxygen: .*no parameter for the multiplicity"):
            labeler.label(triplet())

    def test_empty_key_is_none(self) -> None:
        pytest.importorskip("tblite.ase")
        labeler = by_name("tblite.ase.TBLite", charge_key="", options={"verbosity": 0})
        assert np.isfinite(labeler.label(triplet()).energy)
        with pytest.raises(LabelerError, match="charge_key"):
            labeler.label(hydroxide())

    def test_calculator_that_declares_nothing(self) -> None:
        name = f"{__name__}.Open"
        with pytest.raises(LabelerError, match=r"no parameter for the charge.*charge_key"):
            by_name(name, energies_only=True).label(hydroxide())
        labeler = by_name(name, energies_only=True, charge_key="q")
        assert labeler.label(hydroxide()).energy == 0.0

    @pytest.mark.parametrize(
        ("calculator", "keys"),
        [
            ("orca", ("charge", "mult")),
            ("gaussian", ("charge", "mult")),
            ("psi4", ("charge", "multiplicity")),
            ("qchem", ("charge", "multiplicity")),
            ("cp2k", ("charge", "multiplicity")),
            ("nwchem", ("charge", "")),
            ("mopac", ("charge", "")),
            ("gamess_us", ("", "")),
            ("ase_knncalc.KNNCalculator", ("charge", "multiplicity")),
        ],
    )
    def test_names_of_programs(self, calculator: str, keys: tuple[str, str]) -> None:
        assert NamedCalculator(calculator).keys() == keys

    def test_orca_writes_them(self, tmp_path: Path) -> None:
        made = NamedCalculator("orca", {"profile": OrcaProfile(command="orca")})(-1, 3)
        made.directory = tmp_path
        made.write_inputfiles(hydroxide(), ["energy"])
        assert "*xyz -1 3" in (tmp_path / "orca.inp").read_text()

    def test_instance_that_is_not_set_to_a_state(self) -> None:
        labeler = ASELabeler(EMT(), "EMT")
        with pytest.raises(LabelerError, match=r"oh has charge -1.*factory"):
            labeler.label(hydroxide())
        with pytest.raises(LabelerError, match=r"oxygen has .*multiplicity 3.*factory"):
            labeler.label(triplet())
        radical = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"multiplicity": 2})
        with pytest.raises(LabelerError, match=r"multiplicity 2.*factory"):
            labeler.label(radical)

    def test_instance_that_is_set_to_it(self) -> None:
        tblite = pytest.importorskip("tblite.ase")
        labeler = ASELabeler(tblite.TBLite(multiplicity=3, verbosity=0), "GFN2-xTB")
        expected = by_name("tblite.ase.TBLite", options={"verbosity": 0}).label(triplet())
        assert labeler.label(triplet()).energy == pytest.approx(expected.energy, abs=1e-6)
        with pytest.raises(LabelerError, match=r"multiplicity 1.*set to 0 and 3"):
            labeler.label(molecule("H2O"))

    def test_factory_that_fails(self) -> None:
        def factory(charge: int, multiplicity: int) -> EMT:
            raise RuntimeError("no licence")

        with pytest.raises(LabelerError, match=r"H2O: EMT cannot be set up: RuntimeError: no lic"):
            ASELabeler(factory, "EMT").label(molecule("H2O"))
