"""Reference labels: ASE calculators and lookup."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write
from helpers.labelers import Recorder, labelled, water

from ase_knncalc.active.config import LabelerTable
from ase_knncalc.active.labelling import make_labeler
from ase_knncalc.errors import (
    DataError,
    LabelerError,
    SettingsError,
)
from ase_knncalc.labelers import (
    ASELabeler,
    Label,
    Labeler,
    LookupLabeler,
    label_frames,
)


def hydroxyl() -> Atoms:
    return Atoms("OH", [[0, 0, 0], [0.3, 0.5, 0.8]])


class TestASECalculator:
    def test_energy_and_forces(self) -> None:
        labeler = ASELabeler(EMT(), "EMT")
        atoms = water()
        label = labeler.label(atoms)
        assert atoms.calc is None
        atoms.calc = EMT()
        assert label.energy == atoms.get_potential_energy()
        np.testing.assert_array_equal(label.forces, atoms.get_forces())
        assert isinstance(labeler, Labeler)
        assert label.method == "EMT"

    def test_energies_only(self) -> None:
        labeler = ASELabeler(Recorder(), "DLPNO-CCSD(T)", energies_only=True)
        assert not labeler.provides_forces
        assert labeler.label(water()) == Label(-1.0, None, pytest.approx(0, abs=5), labeler.method)

    def test_calculator_without_forces_keeps_energies(self) -> None:
        labeler = ASELabeler(Recorder(), "DLPNO-CCSD(T)")
        assert labeler.label(water()).forces is None
        with pytest.warns(UserWarning, match="carry no forces") as told:
            good, failures = label_frames(labeler, [water(1), water(2)])
        assert [a.info["reference_energy"] for a in good] == [-1.0, -1.0]
        assert not failures
        assert not any("reference_forces" in a.arrays for a in good)
        (said,) = (w for w in told if w.category is UserWarning)
        assert "energies_only = true" in str(said.message)

    def test_factory_knows_the_charge(self) -> None:
        seen = []

        def factory(charge: int, multiplicity: int) -> Recorder:
            seen.append((charge, multiplicity))
            return Recorder(charge=charge, mult=multiplicity)

        atoms = hydroxyl()
        atoms.info["charge"] = -1
        labeler = ASELabeler(factory, "test", energies_only=True)
        labeler.label(atoms)
        labeler.label(water())
        assert seen == [(-1, 1), (0, 1)]

    def test_instance_with_another_charge(self) -> None:
        atoms = hydroxyl()
        atoms.info["charge"] = -1
        labeler = ASELabeler(Recorder(), "test", energies_only=True)
        with pytest.raises(LabelerError, match=r"charge -1.*set to 0.*factory"):
            labeler.label(atoms)
        charged = ASELabeler(Recorder(charge=-1), "test", energies_only=True)
        assert charged.label(atoms).energy == -1.0

    @pytest.mark.parametrize(("energy", "message"), [(None, "code 55"), (np.nan, "NaN")])
    def test_failures(self, energy: float | None, message: str) -> None:
        labeler = ASELabeler(Recorder(energy=energy), "test", energies_only=True)
        with pytest.raises(LabelerError, match=message):
            labeler.label(water())

    def test_neither_calculator_nor_factory(self) -> None:
        with pytest.raises(SettingsError, match="str"):
            ASELabeler("orca", "test")  # type: ignore[arg-type]


class TestLookup:
    def test_known_structures(self) -> None:
        frames = [labelled(i, -float(i)) for i in range(1, 6)]
        labeler = LookupLabeler(frames)
        assert isinstance(labeler, Labeler)
        for i in (3, 5):
            asked = water(i)
            asked.positions += [1.0, 2.0, 3.0]
            label = labeler.label(asked)
            assert label.energy == -float(i)
            np.testing.assert_array_equal(label.forces, -float(i))

    def test_moved_structure_with_a_known_name(self) -> None:
        frames = [labelled(1, -1.0)]
        asked = frames[0].copy()
        asked.positions[0, 0] += 0.01
        with pytest.raises(LabelerError, match=r"1w: the nearest labelled frame differs by 0\.00"):
            LookupLabeler(frames).label(asked)
        assert LookupLabeler(frames, tolerance=0.1).label(asked).energy == -1.0

    def test_other_atoms_or_charge(self) -> None:
        labeler = LookupLabeler([labelled(1, -1.0), labelled(1, -2.0, charge=2)])
        asked = water(1)
        asked.info["charge"] = 2
        assert labeler.label(asked).energy == -2.0
        asked.info["charge"] = -2
        with pytest.raises(LabelerError, match="charge -2"):
            labeler.label(asked)
        with pytest.raises(LabelerError, match="CH4"):
            labeler.label(molecule("CH4"))

    def test_two_multiplicities_at_one_geometry(self) -> None:
        frames = [Atoms("O2", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.21]]) for _ in range(2)]
        for atoms, multiplicity in zip(frames, (1, 3), strict=True):
            atoms.info.update(multiplicity=multiplicity, reference_energy=-float(multiplicity))
        for order in (frames, frames[::-1]):
            labeler = LookupLabeler(order)
            assert [labeler.label(a).energy for a in frames] == [-1.0, -3.0]
        with pytest.raises(LabelerError, match="charge 0 and multiplicity 1"):
            LookupLabeler(frames[1:]).label(frames[0])

    def test_labels_are_not_shared(self) -> None:
        labeler = LookupLabeler([labelled(1, -1.0)])
        first = labeler.label(water(1))
        assert first.forces is not None
        first.forces[:] = 7.0
        np.testing.assert_array_equal(labeler.label(water(1)).forces, -1.0)

    def test_other_keys(self) -> None:
        frame = labelled(1, -1.0)
        frame.info["dlpno_energy"] = -3.0
        labeler = LookupLabeler([frame], energy_key="dlpno_energy", forces_key="none")
        assert not labeler.provides_forces
        assert labeler.label(water(1)).energy == -3.0
        with pytest.raises(DataError, match=r"1w \(frame 0\) has no info\['hof'\]"):
            LookupLabeler([frame], energy_key="hof")

    def test_labels_of_two_methods(self) -> None:
        frames = [labelled(i, -float(i), name=f"w{i}") for i in (1, 2, 3)]
        frames[1].info["reference_method"] = "wB97X-D/6-31++G(d,p)"
        labeler = LookupLabeler(frames)
        assert labeler.method == labeler.label(water(2)).method == "wB97X-D/6-31++G(d,p)"
        assert labeler.label(water(1)).method == "labels known before (reference_energy)"
        frames[2].info["reference_method"] = "GFN2-xTB"
        with pytest.raises(DataError, match=r"'wB97X-D/6.*\(w2.*'GFN2-xTB' \(w3"):
            LookupLabeler(frames)
        for frame in frames:  # they are the methods of another energy
            frame.info["dlpno_energy"] = -3.0
        other = LookupLabeler(frames, energy_key="dlpno_energy")
        assert other.label(water(3)).method == "labels known before (dlpno_energy)"

    def test_methods_in_files(self, tmp_path: Path) -> None:
        frames = [labelled(i, -float(i), name=f"w{i}") for i in (1, 2)]
        for frame, method in zip(frames, ("PBE", "B3LYP"), strict=True):
            frame.info.update(reference_method=method, dlpno_energy=-3.0)
        write(tmp_path / "a.extxyz", frames)
        table = {"kind": "lookup", "files": [tmp_path / "a.extxyz"]}
        with pytest.raises(DataError, match=r"'PBE'.*'B3LYP'"):
            make_labeler(LabelerTable(**table))
        other = make_labeler(LabelerTable(**table, reference_key="dlpno_energy"))
        assert other.label(water(2)).energy == pytest.approx(-3.0)
        write(tmp_path / "a.extxyz", frames[:1])
        assert make_labeler(LabelerTable(**table)).label(water(1)).method == "PBE"
