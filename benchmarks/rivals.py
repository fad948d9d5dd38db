"""This package beside its rivals: the same structures, one run, offline.

    python benchmarks/rivals.py DATA --output rivals.json
    python benchmarks/rivals.py DATA --amc param_gfn1-xtb.txt --most 20

``DATA`` is the folder of ``general_model.py``. A rival is skipped with a word where it is not
installed:

- GFN1-xTB, GFN2-xTB: tblite, which comes with this package;
- AMC-xTB: ``--amc``, the published ``param_gfn1-xtb.txt`` (``"tblite:amc-xtb"`` says where it is);
- AIMNet2: ``pip install torch`` and ``pip install --no-deps auto3d==2.3.1``, which has it;
- MACE-OFF and others fetch their weights from the network: not offline, so not here;
- KRR with the local kernel and the published k-NN: of this package, trained here (``--trained``).

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
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from general_model import KCAL_PER_MOL, labels, minima, unseen_size
from scipy.stats import spearmanr

from ase_knncalc import KNNCalculator, load_model
from ase_knncalc.analysis.membership import find_in_training
from ase_knncalc.baselines import TBLiteBaseline, make_baseline
from ase_knncalc.data.frames import iter_frames
from ase_knncalc.errors import KNNCalcError
from ase_knncalc.model import KNNModel
from ase_knncalc.sampling.engines import BaselineCalculator
from ase_knncalc.store import find_model

MODEL = "multibase-wb97xd"
# A composition with fewer structures says nothing of their order.
RANKED = 5


class AIMNet2(Calculator):  # type: ignore[misc]
    """The ensemble of AIMNet2 that auto3d 2.3.1 ships, as it is called there."""

    implemented_properties = ("energy", "forces")

    def __init__(self) -> None:
        import torch

        super().__init__()
        spec = find_spec("Auto3D")
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / "models" / "aimnet2_wb97m_ens_f.jpt"
        self.path, self.torch = path, torch
        torch.set_num_threads(1)
        self.net = torch.jit.load(str(path), map_location="cpu")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        torch = self.torch
        places = torch.tensor(self.atoms.positions, dtype=torch.float32).unsqueeze(0)
        charge = float(self.atoms.info.get("charge", 0))
        found = self.net(
            {
                "coord": places,
                "numbers": torch.tensor(self.atoms.numbers).unsqueeze(0),
                "charge": torch.tensor([charge]),
            }
        )
        self.results = {
            "energy": float(found["energy"]),
            "forces": found["forces"].detach()[0].numpy().astype(float),
        }


@dataclass(frozen=True)
class Rival:
    """A method: what makes its calculator, and what there is to say of it."""

    name: str
    make: Callable[[], Calculator]
    megabytes: Callable[[], float | None]
    licence: str
    own: KNNModel | None = None


def rivals(amc: Path | None) -> tuple[list[Rival], dict[str, str]]:
    """Those that are installed, and why the others are not."""

    def xtb(name: str, spec: str) -> Rival:
        baseline = make_baseline(spec)
        assert isinstance(baseline, TBLiteBaseline)
        # Warm starts, as tblite's own ASE calculator has them.
        return Rival(
            name, lambda: BaselineCalculator(baseline.following()), lambda: None, "LGPL-3.0"
        )

    model = load_model(MODEL)
    found = [
        Rival(
            MODEL,
            lambda: KNNCalculator(model, on_novelty="ignore", warm_start=True),
            lambda: find_model(MODEL).stat().st_size / 1e6,
            "MIT",
            model,
        ),
        xtb("GFN1-xTB", "tblite:GFN1-xTB"),
        xtb("GFN2-xTB", "tblite:GFN2-xTB"),
    ]
    absent = {
        "MACE-OFF": "its weights are fetched from the network at the first call",
        "ANI-2xt": "needs torchani beside auto3d; knows no ions",
        "g-xTB": "no package index has it",
    }
    if amc is None:
        absent["AMC-xTB"] = "no --amc: the parameters are published, not shipped"
    else:
        found.append(xtb("AMC-xTB", f"tblite:{amc}"))
    try:
        calculator = AIMNet2()
        found.append(
            Rival("AIMNet2 (auto3d 2.3.1)", lambda: calculator,
                  lambda: calculator.path.stat().st_size / 1e6, "MIT")
        )  # fmt: skip
    except (ImportError, AssertionError, ValueError, RuntimeError) as e:
        absent["AIMNet2"] = f"torch and auto3d==2.3.1 are not installed ({type(e).__name__}: {e})"
    return found, absent


# ------------------------------------------------------------------------------------ structures


def strata(folder: Path, most: int, most_atoms: int) -> dict[str, list[Atoms]]:
    """Structures with reference energies (and forces), by where they are from."""
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
        known = atoms.info.get("frequencies_cm1")
        if len(atoms) <= most_atoms and known is not None and known.min() > 0:
            by_composition[str(atoms.info["composition"])].append(atoms)
    large = [c for c, of in sorted(by_composition.items()) if len(of) >= 2 * RANKED]
    for i in rng.permutation(len(large))[: max(1, most // RANKED)]:
        of = by_composition[large[i]]
        found["minima"] += [of[j] for j in rng.permutation(len(of))[: 2 * RANKED]]
    found["4sa5w, minima"] = list(iter_frames(folder / "saw_4sa5w_equilibrium.extxyz.gz"))
    for atoms in found["4sa5w, minima"]:
        atoms.info["reference_energy"] = atoms.info["wb97xd_energy"]
    found["4sa5w, off equilibrium"] = list(unseen_size(folder))
    for name in ("minima", "4sa5w, minima"):
        for atoms in found[name]:
            atoms.arrays["reference_forces"] = np.zeros((len(atoms), 3))
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
    for atoms in frames:
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
    found, absent = rivals(amc)
    found = [rival for rival in found if only in rival.name]
    frames = strata(folder, most, most_atoms)
    table: list[dict[str, Any]] = []

    def keep(**row: Any) -> None:
        table.append(row)
        print(json.dumps(row), flush=True)
        if output is not None:
            output.write_text(json.dumps({"rows": table, "absent": absent}, indent=1) + "\n")

    sizes = [*timed(), frames["4sa5w, minima"][0]]
    for rival in found:
        keep(kind="cost", method=rival.name, licence=rival.licence, megabytes=rival.megabytes(),
             steps=cost(rival, sizes, steps))  # fmt: skip
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
