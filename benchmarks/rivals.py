"""This package beside its rivals: the same structures, one run, offline.

    python benchmarks/rivals.py DATA --output rivals.json
    python benchmarks/rivals.py DATA --amc param_gfn1-xtb.txt --most 20

``DATA`` is the folder of ``general_model.py``. A rival is skipped with a word where it is not
installed: ``rival_methods.py`` says which there are, and how each is installed. Where their
packages do not go together, ``--only NAME`` runs one of them: its rows take the place of its
earlier ones in ``--output``, and those of the others stay. Structures are those of ``--output``
where it is there, so that all are judged on the same ones whatever labels came since (``--relax``
must be theirs). KRR with the local kernel and the published
k-NN are of this package, trained here (``--trained``).

Structures that a rival does not cover (elements, charges) are left out of its row, and counted.
Rivals are of other reference methods, so that energies are compared **within a composition**: the
mean error of each composition is taken off, for everybody. Of ``multibase-wb97xd`` no number is of
a structure that it was trained on: energies of its training structures are those of the folds
without them (``model.held_out``), their forces are left out, and what it never saw (4sa5w) is
predicted. xTB was fitted by others, AIMNet2's data are not known structure by structure.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from general_model import KCAL_PER_MOL, labels, minima, unseen_size
from rival_methods import Rival, rivals, xtb
from scipy.stats import spearmanr

from ase_knncalc.analysis.membership import find_in_training
from ase_knncalc.data.frames import iter_frames
from ase_knncalc.errors import KNNCalcError

# A composition with fewer structures says nothing of their order.
RANKED = 5


# ------------------------------------------------------------------------------------ structures


def fingerprint(atoms: Atoms) -> str:
    """What a structure is known by: names are not unique, and their order changes."""
    places = np.round(atoms.positions, 4) + 0.0  # no negative zeros
    return sha256(
        atoms.numbers.astype("<i8").tobytes() + places.astype("<f8").tobytes()
    ).hexdigest()[:16]


def again(frames: list[Atoms], known: list[str]) -> list[Atoms]:
    """The frames with these fingerprints, in their order."""
    of = {fingerprint(atoms): atoms for atoms in frames}
    if missing := set(known) - set(of):
        raise typer.BadParameter(f"{len(missing)} structures of --output are in no data any more")
    return [of[f] for f in known]


def strata(
    folder: Path, most: int, most_atoms: int, known: dict[str, list[str]] | None = None
) -> dict[str, list[Atoms]]:
    """Structures with reference energies (and forces), by where they are from.

    Those with the fingerprints in ``known``, where it is given, whatever labels there are by now.
    """
    rng = np.random.default_rng(0)
    found: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in labels():
        charged = bool(atoms.info["charge"])
        relaxed = atoms.info.get("kind") == "minimum" or str(atoms.info["name"]).endswith("-min")
        temperature = float(atoms.info.get("temperature", 0))
        if charged:
            found["ions, all kinds"].append(atoms)
        elif relaxed:
            found["GFN1-xTB minima"].append(atoms)
        elif temperature:
            found["up to 400 K" if temperature <= 400 else "above 400 K"].append(atoms)
    by_composition: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in minima(folder):
        modes = atoms.info.get("frequencies_cm1")
        if len(atoms) <= most_atoms and modes is not None and modes.min() > 0:
            by_composition[str(atoms.info["composition"])].append(atoms)
    if known:
        found["minima"] = [atoms for of in by_composition.values() for atoms in of]
    large = [c for c, of in sorted(by_composition.items()) if len(of) >= 2 * RANKED]
    for i in rng.permutation(len(large))[: 0 if known else max(1, most // RANKED)]:
        of = by_composition[large[i]]
        found["minima"] += [of[j] for j in rng.permutation(len(of))[: 2 * RANKED]]
    found["4sa5w, minima"] = list(iter_frames(folder / "saw_4sa5w_equilibrium.extxyz.gz"))
    for atoms in found["4sa5w, minima"]:
        atoms.info["reference_energy"] = atoms.info["wb97xd_energy"]
    found["4sa5w, off equilibrium"] = list(unseen_size(folder))
    for name in ("minima", "4sa5w, minima"):
        for atoms in found[name]:
            atoms.arrays["reference_forces"] = np.zeros((len(atoms), 3))
    if known:
        return {name: again(found[name], of) for name, of in known.items()}
    chosen = {}
    for name, frames in found.items():
        order = rng.permutation(len(frames))[:most] if name != "minima" else range(len(frames))
        chosen[name] = [frames[i] for i in order]
    return chosen


def bare(atoms: Atoms) -> Atoms:
    """The structure with its state, without its labels."""
    state = {k: int(atoms.info.get(k, d)) for k, d in (("charge", 0), ("multiplicity", 1))}
    return Atoms(atoms.numbers, atoms.positions, info=state)


# ----------------------------------------------------------------------------------------- rows


@dataclass
class Said:
    """What a method says of the structures of a stratum: errors in eV and eV/Å."""

    energy: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    force: list[float] = field(default_factory=list)
    inside: list[bool] = field(default_factory=list)
    failed: int = 0
    left_out: int = 0

    def row(self) -> dict[str, Any]:
        """Errors within compositions, kcal/mol and eV/Å, and the order of their structures."""
        groups = np.array(self.groups)
        errors, orders, lowest = [], [], []
        for group in sorted(set(self.groups)):
            of = groups == group
            if of.sum() > 1:
                error = np.array(self.energy)[of]
                errors += (error - error.mean()).tolist()
            if of.sum() >= RANKED:
                own, known = np.array(self.predicted)[of], np.array(self.reference)[of]
                orders.append(float(spearmanr(own, known).statistic))
                lowest.append(bool(own.argmin() == known.argmin()))
        return {
            "n": len(self.energy),
            "failed": self.failed,
            "left_out": self.left_out,
            "energy_mae": _mean(KCAL_PER_MOL * np.abs(errors)),
            "force_mae": _mean(self.force),
            "n_forces": len(self.force),
            "n_energies": len(errors),
            "spearman": _mean(orders),
            "lowest_found": _mean(lowest),
            "inside_90": _mean(self.inside),
        }


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def judged(rival: Rival, frames: list[Atoms]) -> Said:
    """Energies and forces of the frames; of a model of ours, those of folds without them."""
    said, calculator = Said(), rival.make()
    place = {} if rival.own is None else {n.decode(): i for i, n in enumerate(rival.own.names)}
    for atoms in frames:
        if not rival.covers(atoms):
            said.left_out += 1
            continue
        # By the structure itself: names are not unique among sources.
        known = None if rival.own is None else find_in_training(rival.own, bare(atoms)).structure
        i = None if known is None else place[known]
        reference = float(atoms.info["reference_energy"])
        if rival.own is not None and i is not None:
            assert rival.own.held_out is not None
            if not rival.own.held_out.fair[i]:  # nothing fair is known of it
                continue
            energy = reference + float(rival.own.held_out.errors[i])
            half = rival.own.calibration.multiple(0.9) * float(rival.own.held_out.stds[i])
            said.inside.append(abs(energy - reference) <= half)
        else:
            structure = bare(atoms)
            try:
                forces = calculator.get_property("forces", structure)
                energy = float(calculator.get_property("energy", structure))
            except (KNNCalcError, RuntimeError):
                said.failed += 1
                continue
            said.force.append(float(np.abs(forces - atoms.arrays["reference_forces"]).mean()))
            if rival.own is not None:
                std = calculator.results["energy_std"]
                half = rival.own.calibration.multiple(0.9) * std
                said.inside.append(abs(energy - reference) <= half)
        said.energy.append(energy - reference)
        said.predicted.append(energy)
        said.reference.append(reference)
        said.groups.append(str(atoms.info["composition"]))
    return said


def relaxed(rival: Rival, frames: list[Atoms]) -> dict[str, Any]:
    """From minima of the reference: how far a method's own minimum lies from them, Å."""
    from ase.build import minimize_rotation_and_translation

    distances = []
    for atoms in filter(rival.covers, frames):
        moved, start = bare(atoms), bare(atoms)
        moved.calc = rival.make()
        try:
            BFGS(moved, logfile=None).run(fmax=0.02, steps=150)
        except (KNNCalcError, RuntimeError):
            continue
        minimize_rotation_and_translation(start, moved)
        distances.append(np.sqrt(np.mean(np.sum((start.positions - moved.positions) ** 2, axis=1))))
    return {"n": len(distances), "rmsd_median": float(np.median(distances)) if distances else None}


def timed() -> list[Atoms]:
    """Labelled clusters of about 6, 12 and 20 atoms."""
    frames = labels()
    sizes = np.array([len(a) if not a.info["charge"] else 0 for a in frames])
    return [frames[int(np.abs(sizes - n).argmin())] for n in (6, 12, 20)]


def cost(rival: Rival, frames: list[Atoms], steps: int) -> list[dict[str, Any]]:
    """Processor seconds of a step of dynamics, the method's own way, by size."""
    rows = []
    for atoms in frames:
        moving = bare(atoms)
        moving.calc = rival.make()
        dynamics = VelocityVerlet(moving, 0.5 * units.fs)
        dynamics.run(3)  # compilers that learn as they go have learned
        start = time.process_time()
        dynamics.run(steps)
        rows.append({"atoms": len(moving), "step_seconds": (time.process_time() - start) / steps})
    return rows


def trained(folder: Path, frames: list[Atoms]) -> dict[str, dict[str, Any]]:
    """KRR and the published k-NN, trained on the smaller clusters, of 4sa5w minima."""
    from comparators import knn_mlkr, local_krr

    from ase_knncalc import TrainingSettings
    from ase_knncalc.labels.training_data import prepare

    known = list(iter_frames(folder / "saw_equilibrium.extxyz.gz"))
    sets = []
    for of in (known, frames):
        copies = [a.copy() for a in of]
        for atoms in copies:
            atoms.info["reference_energy"] = atoms.info["wb97xd_energy"]
            atoms.info["baseline_energy"] = atoms.info["gfn1_energy"]
        sets.append(prepare(copies, settings=TrainingSettings(), n_jobs=1, check_labels=False))
    rows = {}
    for name, method in (("KRR, local kernel", lambda a, b: local_krr(a, b, library="blas")),
                         ("k-NN, MLKR (published)", knn_mlkr)):  # fmt: skip
        error = method(*sets).delta - sets[1].delta
        said = Said(
            error.tolist(),
            [float(a.info["wb97xd_energy"] + e) for a, e in zip(frames, error, strict=True)],
            [float(a.info["wb97xd_energy"]) for a in frames],
            [str(a.info["composition"]) for a in frames],
        )
        rows[name] = said.row()
    return rows


def placed(rows: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows with a new one: in place of the method's own, or after the last of its like."""

    def like(row: dict[str, Any]) -> tuple[Any, Any]:
        return row["kind"], row.get("stratum")

    rows = list(rows)
    for i, row in enumerate(rows):
        if like(row) == like(new) and row["method"] == new["method"]:
            rows[i] = new
            return rows
    last = [i for i, row in enumerate(rows) if like(row) == like(new)] or [len(rows) - 1]
    rows.insert(last[-1] + 1, new)
    return rows


def main(
    folder: Path,
    amc: Annotated[Path | None, typer.Option(help="AMC-xTB's param_gfn1-xtb.txt.")] = None,
    most: Annotated[int, typer.Option(help="Structures of a stratum.")] = 40,
    most_atoms: int = 25,
    relax: Annotated[int, typer.Option(help="Minima that are relaxed.")] = 10,
    steps: Annotated[int, typer.Option(help="Of dynamics that are timed.")] = 20,
    with_trained: Annotated[bool, typer.Option("--trained")] = False,
    only: Annotated[str, typer.Option(help="Methods with this in their name.")] = "",
    output: Path | None = None,
) -> None:
    """Judge all rivals on all strata."""
    found, absent = rivals(amc, only)
    for name, why in absent.items():
        print(f"{name} is left out: {why}")
    known = json.loads(output.read_text()) if output is not None and output.exists() else {}
    frames = strata(folder, most, most_atoms, known.get("structures"))
    structures = {name: [fingerprint(atoms) for atoms in of] for name, of in frames.items()}
    table: list[dict[str, Any]] = known.get("rows", [])

    def keep(**row: Any) -> None:
        nonlocal table
        table = placed(table, row)
        print(json.dumps(row), flush=True)
        if output is not None:
            there = {r["method"].split(" (")[0] for r in table}
            missing = {
                n: w for n, w in (known.get("absent", {}) | absent).items() if n not in there
            }
            found_all = {"rows": table, "absent": missing, "structures": structures}
            output.write_text(json.dumps(found_all, indent=1) + "\n")

    sizes = [*timed(), frames["4sa5w, minima"][0]]
    # Beside the run's own GFN1-xTB, as another run is on another machine, or a busier one.
    yard = [row["step_seconds"] for row in cost(xtb("GFN1-xTB", "tblite:GFN1-xTB"), sizes, steps)]
    for rival in found:
        keep(kind="cost", method=rival.name, licence=rival.licence, megabytes=rival.megabytes,
             coverage=rival.coverage, steps=cost(rival, sizes, steps),
             gfn1_step_seconds=yard)  # fmt: skip
    for name, of in frames.items():
        for rival in found:
            keep(kind="errors", stratum=name, method=rival.name, **judged(rival, of).row())
    small = [a for a in frames["minima"] if len(a) <= most_atoms][:relax]
    for rival in found:
        keep(kind="relaxed", method=rival.name, **relaxed(rival, small))
    if with_trained:
        for name, row in trained(folder, frames["4sa5w, minima"]).items():
            keep(kind="errors", stratum="4sa5w, minima", method=name, **row)


if __name__ == "__main__":
    typer.run(main)
