"""Outputs of Gaussian and ORCA: which energy, which geometry, which charge; what is no label."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, Hartree

from ase_knncalc.data import (
    KeyMap,
    iter_frames,
    read_dataset,
    read_structures,
    read_usable,
    write_frames,
)
from ase_knncalc.errors import DataError

WATER = molecule("H2O")
AMMONIA = molecule("NH3")
ENERGY = KeyMap(reference_energy="energy")

NORMAL = " Normal termination of Gaussian 16 at Fri Mar  1 10:00:00 2024.\n"
ERROR = " Error termination via Lnk1e in /g16/l502.exe at Fri Mar  1 10:00:00 2024.\n"
HEAD = " Entering Gaussian System, Link 0=g16\n Gaussian 16:  ES64L-G16RevC.01\n #P opt freq\n"
ENDED = "                             ****ORCA TERMINATED NORMALLY****\n"


def moved(atoms: Atoms, shift: float) -> Atoms:
    copy = atoms.copy()
    copy.positions[0, 2] += shift
    return copy


def g_state(charge: int, multiplicity: int, where: str = "") -> str:
    return f" Charge = {charge:2d} Multiplicity = {multiplicity:d}{where}\n"


def g_geometry(atoms: Atoms, kind: str = "Input") -> str:
    rule = " " + "-" * 69 + "\n"
    rows = "".join(
        f"{i:7d}{z:11d}{0:12d}    {x:12.6f}{y:12.6f}{z_:12.6f}\n"
        for i, (z, (x, y, z_)) in enumerate(zip(atoms.numbers, atoms.positions, strict=True), 1)
    )
    title = f"{kind} orientation:"
    return (
        f"{title:>45s}\n{rule} Center     Atomic      Atomic             Coordinates (Angstroms)\n"
        f" Number     Number       Type             X           Y           Z\n{rule}{rows}{rule}"
    )


def g_scf(energy: float, method: str = "RPBE1PBE") -> str:
    return f" SCF Done:  E({method}) =  {energy:.9f}     A.U. after   11 cycles\n"


def g_forces(atoms: Atoms, value: float) -> str:
    rule = " " + "-" * 67 + "\n"
    rows = "".join(
        f"{i:7d}{z:9d}    {value * i:15.9f}{0:15.9f}{-value:15.9f}\n"
        for i, z in enumerate(atoms.numbers, 1)
    )
    return (
        f" Center     Atomic                   Forces (Hartrees/Bohr)\n"
        f" Number     Number              X              Y              Z\n{rule}{rows}{rule}"
    )


def o_job(atoms: Atoms, energy: float, *, charge=0, mult=1, slope=None, note="", number=0) -> str:
    rows = "".join(
        f"  {s:4s} {x:11.6f} {y:11.6f} {z:11.6f}\n"
        for s, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    )
    rule = "---------------------------------\n"
    text = f"$$$$$$$$$$$$$$$$  JOB NUMBER  {number} $$$$$$$$$$$$$$\n" if number else ""
    text += f"{rule}CARTESIAN COORDINATES (ANGSTROEM)\n{rule}{rows}\n"
    text += f" Total Charge           Charge          ....   {charge:2d}\n"
    text += f" Multiplicity           Mult            ....    {mult}\n"
    text += f"FINAL SINGLE POINT ENERGY   {energy:.12f}{note}\n"
    if slope is not None:
        text += "------------------\nCARTESIAN GRADIENT\n------------------\n\n"
        text += "".join(
            f"   {i}   {s}   :   {slope * i:.9f}   0.000000000   0.000000000\n"
            for i, s in enumerate(atoms.get_chemical_symbols(), 1)
        )
        text += "\n"
    return text


O_HEAD = "                                 * O   R   C   A *\n"


def one(tmp_path, text: str, name: str = "a.log"):
    (tmp_path / name).write_text(text)
    (found,) = iter_frames(tmp_path / name)
    return found


def refused(tmp_path, text: str, why: str) -> None:
    (tmp_path / "bad.log").write_text(text)
    with pytest.raises(DataError, match=rf"bad\.log: .*{why}"):
        list(iter_frames(tmp_path / "bad.log"))


def test_the_energy_belongs_to_the_geometry_before_it(tmp_path) -> None:
    first, last, again = WATER, moved(WATER, 0.01), moved(WATER, 0.02)
    start = HEAD + g_state(0, 1)
    steps = start + g_geometry(first) + g_scf(-76.1) + g_forces(first, 0.1)
    text = (
        steps + g_geometry(last) + g_scf(-76.2) + g_forces(last, 0.2) + g_geometry(again) + NORMAL
    )
    found = one(tmp_path, text)
    np.testing.assert_allclose(found.positions, last.positions, atol=1e-6)
    assert found.get_potential_energy() == pytest.approx(-76.2 * Hartree)
    np.testing.assert_allclose(found.get_forces()[:, 0] * Bohr / Hartree, [0.2, 0.4, 0.6])
    # Forces of an earlier step are not those of the last.
    assert (
        "forces" not in one(tmp_path, steps + g_geometry(last) + g_scf(-76.2) + NORMAL).calc.results
    )
    # Of both orientations that of the input is that of the forces; the standard one has none.
    turned = last.copy()
    turned.rotate(40, "x")
    both = start + g_geometry(last) + g_geometry(turned, "Standard") + g_scf(-76.3)
    found = one(tmp_path, both + g_forces(last, 0.1) + NORMAL)
    np.testing.assert_allclose(found.positions, last.positions, atol=1e-6)
    assert "forces" in found.calc.results
    alone = start + g_geometry(turned, "Standard") + g_scf(-76.3) + g_forces(last, 0.1) + NORMAL
    found = one(tmp_path, alone)
    np.testing.assert_allclose(found.positions, turned.positions, atol=1e-6)
    assert "forces" not in found.calc.results
    assert "forces" in one(tmp_path, alone.replace("opt freq", "force nosymm")).calc.results
    # ORCA: the final energy of an optimisation.
    text = O_HEAD + o_job(first, -76.1, slope=0.1) + o_job(last, -76.2) + ENDED
    found = one(tmp_path, text, "a.out")
    np.testing.assert_allclose(found.positions, last.positions, atol=1e-6)
    assert found.calc.results == {"energy": pytest.approx(-76.2 * Hartree)}


@pytest.mark.parametrize("second", [WATER, AMMONIA], ids=["same", "other"])
def test_the_last_job_counts_alone(tmp_path, second) -> None:
    def job(atoms, energy, charge=0):
        return HEAD + g_state(charge, 1) + g_geometry(atoms) + g_scf(energy) + NORMAL

    found = one(tmp_path, job(WATER, -75.0, -2) + job(second, -56.5))
    assert found.get_chemical_formula() == second.get_chemical_formula()
    assert found.get_potential_energy() == pytest.approx(-56.5 * Hartree)
    assert (found.info["charge"], found.info["multiplicity"]) == (0, 1)
    text = o_job(WATER, -75.0, charge=-2, slope=0.1, number=1) + o_job(second, -56.5, number=2)
    found = one(tmp_path, O_HEAD + text + ENDED)
    assert found.get_chemical_formula() == second.get_chemical_formula()
    assert (found.info["charge"], "forces" in found.calc.results) == (0, False)
    # A second job that failed: what is there before may be of another level.
    for rest in (
        HEAD,
        HEAD + g_geometry(second),
        " Link1:  Proceeding to internal job step number  2.\n",
    ):
        refused(tmp_path, job(WATER, -75.0) + rest, "last job did not finish")
    refused(tmp_path, job(WATER, -75.0) + HEAD + g_state(0, 1) + ERROR, "last job failed")
    unfinished = "$$$$  JOB NUMBER  2 $$$$\nCARTESIAN COORDINATES (ANGSTROEM)\n"
    refused(
        tmp_path, O_HEAD + o_job(WATER, -75.0, number=1) + unfinished + ENDED, "no final energy"
    )


def test_what_did_not_converge_is_no_label(tmp_path) -> None:
    start = HEAD + g_state(0, 1) + g_geometry(WATER)
    not_met = " >>>>>>>>>> Convergence criterion not met.\n"
    refused(tmp_path, start + g_scf(-76.0), "no line of normal termination")
    refused(tmp_path, start + not_met + g_scf(-76.0) + NORMAL, "no SCF that converged")
    failure = " Convergence failure -- run terminated.\n"
    refused(tmp_path, start + not_met + g_scf(-76.0) + failure + ERROR, "SCF did not converge")
    steps = " Number of steps exceeded,  NStep= 100\n"
    refused(tmp_path, start + g_scf(-76.0) + steps + ERROR, "optimisation stopped before")
    # A second algorithm that converges after the first one did not is fine.
    found = one(tmp_path, start + not_met + g_scf(-75.9) + g_scf(-76.0) + NORMAL)
    assert found.get_potential_energy() == pytest.approx(-76.0 * Hartree)
    job = o_job(WATER, -76.0)
    refused(tmp_path, O_HEAD + job, "did not finish")
    refused(
        tmp_path, O_HEAD + "  SCF NOT CONVERGED AFTER 125 CYCLES\n" + job + ENDED, "not converge"
    )
    note = "   (Wavefunction not fully converged!)"
    refused(tmp_path, O_HEAD + o_job(WATER, -76.0, note=note) + ENDED, "not converge")
    stopped = "The optimization did not converge but reached the maximum number of\n"
    refused(tmp_path, O_HEAD + job + stopped + ENDED, "optimisation stopped before")
    # One that converged after another that did not.
    text = "SCF NOT CONVERGED AFTER 125 CYCLES\n" + o_job(WATER, -75.9) + o_job(WATER, -76.0)
    assert one(tmp_path, O_HEAD + text + ENDED).get_potential_energy() < -75.95 * Hartree


def test_the_second_part_of_an_energy(tmp_path) -> None:
    start = HEAD.replace("opt freq", "B2PLYPD3/def2TZVP") + g_state(0, 1) + g_geometry(WATER)
    scf = g_scf(-76.1, "RB2PLYPD3")
    second = " E2(B2PLYPD3) =    -0.1200000000D+00 E(B2PLYPD3) =    -0.76220000000000D+02\n"
    found = one(tmp_path, start + scf + second + NORMAL)
    assert found.get_potential_energy() == pytest.approx(-76.22 * Hartree)
    refused(tmp_path, start + scf + NORMAL, "second part of its energy")
    start = HEAD.replace("opt freq", "RMP2/aug-cc-pVTZ") + g_state(0, 1) + g_geometry(WATER)
    mp2 = " E2 =    -0.2000000000D+00 EUMP2 =    -0.76300000000000D+02\n"
    found = one(tmp_path, start + g_scf(-76.1, "RHF") + mp2 + NORMAL)
    assert found.get_potential_energy() == pytest.approx(-76.3 * Hartree)
    refused(tmp_path, start + g_scf(-76.1, "RHF") + NORMAL, "second part of its energy")


def test_fragments_and_counterpoise(tmp_path) -> None:
    pair = WATER.copy()
    pair += moved(AMMONIA, 0.0)
    pair.positions[3:] += [0.0, 0.0, 3.0]
    states = (
        g_state(1, 1, " in supermolecule")
        + g_state(0, 1, " in fragment      1.")
        + g_state(1, 1, " in fragment      2.")
    )
    whole = HEAD + states + g_geometry(pair) + g_scf(-132.9)
    found = one(tmp_path, whole + NORMAL)
    assert (found.info["charge"], len(found)) == (1, 7)
    parts = g_geometry(WATER) + g_scf(-76.4) + g_geometry(AMMONIA) + g_scf(-56.5)
    corrected = " Counterpoise corrected energy =    -132.890000000000\n"
    found = one(tmp_path, whole + parts + corrected + NORMAL)
    assert (found.get_potential_energy(), len(found)) == (pytest.approx(-132.9 * Hartree), 7)
    refused(tmp_path, whole + parts + corrected + whole + corrected + NORMAL, "counterpoise")
    two = HEAD + g_state(0, 1) + g_state(1, 2) + g_geometry(WATER) + g_scf(-76.0) + NORMAL
    refused(tmp_path, two, "2 different charges")


def test_energies_of_another_kind_are_refused(tmp_path) -> None:
    start = HEAD + g_state(0, 1) + g_geometry(WATER) + g_scf(-76.0)
    for line in (
        " ONIOM: extrapolated energy =     -80.000000000000\n",
        " Total Energy, E(TD-HF/TD-DFT) =  -75.700000000\n",
        " G4 Energy=                  -76.500000\n",
    ):
        refused(tmp_path, start + line + NORMAL, "put together from several")
    ghost = g_geometry(WATER).replace(f"{2:7d}{1:11d}", f"{2:7d}{0:11d}")
    refused(tmp_path, HEAD + g_state(0, 1) + ghost + g_scf(-76.0) + NORMAL, "ghost atoms")
    ghost_orca = o_job(WATER, -76.0).replace("  H    ", "  H :  ", 1)
    refused(tmp_path, O_HEAD + ghost_orca + ENDED, "ghost atoms")


def test_bad_outputs_in_a_folder_are_named(tmp_path) -> None:
    start = HEAD + g_state(0, 1)
    (tmp_path / "good.log").write_text(start + g_geometry(WATER) + g_scf(-76.4) + NORMAL)
    (tmp_path / "cut.log").write_text(start + g_geometry(WATER) + g_scf(-76.3))
    (tmp_path / "other.log").write_text("nothing of the kind\n")
    (tmp_path / "dead.out").write_text(O_HEAD + o_job(WATER, -76.2))
    dataset = read_dataset(tmp_path, keys=ENERGY)
    assert dataset.names == ["good"]
    assert {o.source for o in dataset.omitted} == {"cut.log", "other.log", "dead.out"}


def xyz(comment: str, shift: float = 0.0) -> str:
    """Water as programs that search for structures write it."""
    rows = (f" {s}   {x + shift:14.8f}{y:14.8f}{z:14.8f}" for s, (x, y, z) in
            zip(WATER.symbols, WATER.positions, strict=True))  # fmt: skip
    return "\n".join(["  3", comment, *rows, ""])


def names(folder) -> list[str]:
    return [a.info["name"] for a in read_structures(folder)]


def test_a_folder_of_crest_is_its_conformers(tmp_path) -> None:
    (tmp_path / "crest_conformers.xyz").write_text(
        xyz("        -5.76877105") + xyz("        -5.76800000", 0.5)
    )
    for name in ("crest_best.xyz", "crest_rotamers.xyz", "cregen_0.xyz", "struc.xyz"):
        (tmp_path / name).write_text(xyz("        -5.76877105"))
    (tmp_path / "crest.out").write_text("  CREST terminated normally.\n")
    first, second = read_structures(tmp_path)
    assert (first.info["name"], second.info["name"]) == ("crest_conformers-0", "crest_conformers-1")
    assert second.info["source"] == "crest_conformers.xyz#1"
    np.testing.assert_allclose(second.positions - first.positions, [[0.5, 0, 0]] * 3, atol=1e-8)


def test_a_folder_of_abcluster_or_xtb_is_its_structures(tmp_path) -> None:
    """ABCluster's by number; JKCS has logs of its own beside them, and pickles once it is done."""
    for number in (0, 2, 10, 1):
        (tmp_path / f"{number}.xyz").write_text(xyz(f"    -{number}.5"))
        (tmp_path / f"{number}.gjf").write_text("#")
    (tmp_path / "abc.out").write_text("ABCluster\n")
    assert names(tmp_path) == ["0", "1", "2", "10"]
    for number in (0, 1, 2, 10):
        (tmp_path / f"{number}.log").write_text(f"ABC\nABC energy: -{number}.5\n")
    (tmp_path / "2.xyz").write_text("3\n\nO 0 0\n")
    found, omitted = read_usable(tmp_path)
    assert [a.info["name"] for a in found] == ["0", "1", "10"]
    assert [o.name for o in omitted] == ["2"]
    done = tmp_path / "done"
    done.mkdir()
    write_frames(done / "collectionABC.pkl", found)
    assert names(done) == ["0", "1", "10"]


def test_outputs_come_before_the_structures_beside_them(tmp_path) -> None:
    (tmp_path / "a.log").write_text(
        HEAD + g_state(0, 1) + g_geometry(WATER) + g_scf(-76.4) + NORMAL
    )
    for name in ("a.xyz", "a_trj.xyz"):
        (tmp_path / name).write_text(xyz("Coordinates"))
    assert names(tmp_path) == ["a"]
    assert read_structures(tmp_path)[0].info["source"] == "a.log"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"nor structures \(\*\.xyz, \*\.pkl\)"):
        read_structures(empty)
