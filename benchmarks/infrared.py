"""Infrared intensities: slopes of dipoles as the general model learned them, and the baseline's.

    python benchmarks/infrared.py DATA multibase-wb97xd.h5 [--molecule 1w]

At the published minima of water, ammonia and sulfuric acid, against slopes of ωB97X-D/6-31++G(d,p)
with density fitting, all by central differences and along the same modes, those of the model. The
reference is in ``infrared.json``; what is not there is computed with PySCF: 6 SCFs for each atom.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import numpy as np
import typer
from ase import Atoms, units
from ase.vibrations import VibrationsData

from ase_knncalc import KNNCalculator, KNNModel, load_model
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.data import iter_frames
from ase_knncalc.heads.dipole import baseline_dipole

HERE = Path(__file__).resolve().parent
DATA = "multibase_equilibrium.extxyz.gz"
MOLECULES = ("1w", "1am", "1sa")
# Å
SHIFT = 0.01
# From (D/Å)² per amu to km/mol.
KM_PER_MOL = 42.2561


def slopes(dipole: Callable[[FloatArray], FloatArray], positions: FloatArray) -> FloatArray:
    """Derivatives of a dipole by positions, e, shape (3 n_atoms, 3)."""
    found = np.empty((positions.size, 3))
    for k in range(positions.size):
        ends = []
        for sign in (1.0, -1.0):
            moved = positions.copy()
            moved.flat[k] += sign * SHIFT
            ends.append(dipole(moved))
        found[k] = (ends[0] - ends[1]) / (2.0 * SHIFT)
    return found


def reference(atoms: Atoms) -> Callable[[FloatArray], FloatArray]:
    """Dipoles of ωB97X-D, e Å: its dispersion has none."""
    from pyscf import dft, gto

    start = None

    def dipole(positions: FloatArray) -> FloatArray:
        nonlocal start
        molecule = gto.M(
            atom=list(zip(atoms.numbers.tolist(), positions, strict=True)),
            basis="6-31++g(d,p)", charge=int(atoms.info["charge"]), cart=True, verbose=0,
        )  # fmt: skip
        scf = dft.RKS(molecule, xc="HYB_GGA_XC_WB97X_D").density_fit("def2-universal-jkfit")
        scf.grids.level = 2
        scf.kernel(dm0=start)
        start = scf.make_rdm1()
        return np.asarray(scf.dip_moment(unit="AU", verbose=0)) * units.Bohr

    return dipole


def modes(atoms: Atoms, calculator: KNNCalculator) -> tuple[FloatArray, FloatArray]:
    """Wavenumbers (cm⁻¹) of vibrations, and displacements, Å for an amu, (3 n_atoms, n_modes)."""
    hessian = calculator.get_hessian(atoms).reshape(atoms.positions.size, -1)
    energies, vectors = VibrationsData.from_2d(atoms, hessian).get_energies_and_modes()
    return np.abs(energies[6:]) / units.invcm, vectors[6:].reshape(-1, atoms.positions.size).T


def intensities(of: FloatArray, displacements: FloatArray) -> FloatArray:
    """Of slopes and modes, km/mol."""
    along = displacements.T @ of / units.Debye
    return np.asarray(KM_PER_MOL * np.sum(along**2, axis=1))


def compared(model: KNNModel, atoms: Atoms, of_reference: FloatArray) -> dict[str, Any]:
    """Intensities by each way, km/mol, and the sum of their errors over that of the reference's."""
    charge = int(atoms.info["charge"])

    def baseline(positions: FloatArray) -> FloatArray:
        return baseline_dipole(model.baseline, Atoms(atoms.numbers, positions), charge, 1)

    def learned(positions: FloatArray) -> FloatArray:
        return model.predict_dipole(Atoms(atoms.numbers, positions), charge=charge).value

    wavenumbers, displacements = modes(atoms, KNNCalculator(model, on_novelty="ignore"))
    truth = intensities(of_reference, displacements)
    found = {"wavenumbers": wavenumbers.tolist(), "reference": truth.tolist()}
    for name, dipole in (("baseline", baseline), ("learned", learned)):
        said = intensities(slopes(dipole, atoms.positions), displacements)
        found |= {name: said.tolist(), f"{name}_error": np.abs(said - truth).sum() / truth.sum()}
    return found


def main(
    folder: Path,
    file: Path,
    molecule: Annotated[Optional[list[str]], typer.Option()] = None,  # noqa: UP045
    output: Path = HERE / "infrared.json",
) -> None:
    """Compare, and write the table."""
    known: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    model = load_model(file)
    # Of several of a name the last.
    frames = {str(a.info["name"]): a for a in iter_frames(folder / DATA)}
    for name in molecule or MOLECULES:
        frame = frames[name]
        atoms = Atoms(frame.numbers, frame.positions, info={"charge": frame.info["charge"]})
        of = known.setdefault(name, {})
        if "slopes" not in of:
            of["slopes"] = np.round(slopes(reference(atoms), atoms.positions), 5).tolist()
        of |= compared(model, atoms, np.array(of["slopes"]))
        output.write_text(json.dumps(known) + "\n")
        print(name, json.dumps({k: v for k, v in of.items() if k != "slopes"}), flush=True)


if __name__ == "__main__":
    typer.run(main)
