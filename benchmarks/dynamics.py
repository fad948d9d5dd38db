"""Forces put to work: accuracy, consistency, relaxation, energy conservation and cost.

    python benchmarks/dynamics.py --output dynamics.json [--picoseconds 10]

Every figure is measured beside plain GFN1-xTB in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from scipy.stats import spearmanr

from ase_knncalc import KeyMap, KNNCalculator, KNNModel, load_model, read_dataset
from ase_knncalc.baselines import make_baseline
from ase_knncalc.labels.training_data import prepare
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.training import fit_model
from ase_knncalc.trend.sparse import SparseSettings

KCAL_PER_MOL = units.mol / units.kcal
# The forces in this file are labelled eV/Å but 1/Bohr times too large: GFN1-xTB's own say so.
OFF_EQUILIBRIUM = KeyMap(
    reference_energy="wb97xd_energy", baseline_energy="gfn1_energy", force_unit=units.Bohr
)
MD = TrainingSettings(sparse=SparseSettings(length_scale=10.0))


def plain_gfn1() -> Calculator:
    """GFN1-xTB alone through the same baseline code, as an ASE calculator."""
    baseline = make_baseline("auto")

    class Bare(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=("energy",), changes=all_changes):
            super().calculate(atoms, properties, changes)
            energy, forces = baseline.energy_and_forces(self.atoms, 0, 1)
            self.results = {"energy": energy, "forces": forces}

    return Bare()


def force_accuracy(data: Path, cache: Path | None) -> dict[str, float]:
    """Train on minima and a random half of the off-equilibrium frames, test on the other half."""
    off = read_dataset(data / "saw_4sa5w_offequilibrium.extxyz.gz", keys=OFF_EQUILIBRIUM)
    minima = read_dataset(data / "saw_equilibrium.extxyz.gz", keys=OFF_EQUILIBRIUM)
    order = np.random.default_rng(0).permutation(len(off))
    known, asked = order[: len(off) // 2], order[len(off) // 2 :]
    frames = [*minima.frames, *(off.frames[i] for i in known)]
    start = time.process_time()
    prepared = prepare(frames, settings=MD, minima=True, cache=cache)
    model = fit_model(prepared.data, MD).model
    seconds = time.process_time() - start
    errors, slopes, raw, stds = [], [], [], []
    for i in asked:
        atoms = off.frames[i]
        found = model.correct(atoms.numbers, atoms.positions, 0, forces_std=True)
        delta = atoms.arrays["reference_forces"] - atoms.arrays["baseline_forces"]
        errors.append(
            found.delta - (atoms.info["reference_energy"] - atoms.info["baseline_energy"])
        )
        slopes.append(np.abs(found.delta_forces - delta))
        raw.append(np.abs(delta).mean())
        stds.append(np.repeat(found.forces_std[:, None], 3, axis=1))
    error, std = np.concatenate(slopes).ravel(), np.concatenate(stds).ravel()
    return {
        "energy_mae_kcal_mol": KCAL_PER_MOL * float(np.abs(errors).mean()),
        "force_mae": float(np.mean(error)),
        "forces_std_covers_1": float(np.mean(error < std)),
        "forces_std_covers_2": float(np.mean(error < 2 * std)),
        "forces_std_spearman": float(spearmanr(error, std).statistic),
        "force_mae_gfn1": float(np.mean(raw)),
        "train_cpu_seconds": seconds,
    }


def consistency(model: KNNModel, frames: list[Atoms]) -> dict[str, float]:
    """Analytic against numerical derivative of the correction, net force and torque."""
    rng = np.random.default_rng(0)
    worst, net, torque = 0.0, 0.0, 0.0
    for atoms in frames:
        moved = atoms.copy()
        moved.rattle(0.05, rng=rng)
        found = model.correct(moved.numbers, moved.positions, 0, forces=True).delta_forces
        centre = moved.positions - moved.positions.mean(axis=0)
        net = max(net, float(np.abs(found.sum(axis=0)).max()))
        torque = max(torque, float(np.abs(np.cross(centre, found).sum(axis=0)).max()))
        for _ in range(6):
            i, c = int(rng.integers(len(moved))), int(rng.integers(3))
            values = []
            for sign in (1, -1):
                positions = moved.positions.copy()
                positions[i, c] += sign * 1e-3
                values.append(model.correct(moved.numbers, positions, 0).delta)
            worst = max(worst, abs(-(values[0] - values[1]) / 2e-3 - found[i, c]))
    return {"worst_difference": worst, "net_force": net, "net_torque": torque}


def relaxations(model: KNNModel, frames: list[Atoms], steps: int = 1000) -> dict[str, float]:
    """From GFN1-xTB minima to minima of the corrected surface."""
    converged, used = 0, []
    for frame in frames:
        atoms = Atoms(frame.numbers, frame.positions)
        atoms.calc = plain_gfn1()
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=steps)
        atoms.calc = KNNCalculator(model, on_novelty="ignore")
        optimizer = BFGS(atoms, logfile=None)
        converged += bool(optimizer.run(fmax=0.01, steps=steps))
        used.append(optimizer.nsteps)
    return {"clusters": len(frames), "converged": converged, "median_steps": float(np.median(used))}


def conservation(model: KNNModel, start: Atoms, picoseconds: float) -> dict[str, float]:
    """NVE drift at 300 K and 0.5 fs (eV/atom/ps), of the model and of plain GFN1-xTB."""
    found: dict[str, float] = {"picoseconds": picoseconds}
    for name in ("model", "gfn1"):
        atoms = Atoms(start.numbers, start.positions)
        atoms.calc = plain_gfn1() if name == "gfn1" else KNNCalculator(model, on_novelty="ignore")
        BFGS(atoms, logfile=None).run(fmax=0.05, steps=300)
        MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(0))
        Stationary(atoms)
        ZeroRotation(atoms)
        total: list[float] = []
        novelty: list[float] = []
        dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)

        def record(atoms=atoms, total=total, novelty=novelty) -> None:
            total.append(atoms.get_total_energy())
            novelty.append(atoms.calc.results.get("novelty", 0.0))

        dynamics.attach(record, interval=5)
        dynamics.run(int(picoseconds * 2000))
        t = np.arange(len(total)) * 0.0025
        found[f"{name}_drift"] = float(np.polyfit(t, total, 1)[0] / len(atoms))
        found[f"{name}_fluctuation"] = float(np.std(total) / len(atoms))
        if name == "model":
            found["largest_novelty"] = float(np.max(novelty))
    return found


def cost(model: KNNModel, atoms: Atoms, repeats: int = 5) -> dict[str, float]:
    """Wall time of energy, and of energy with forces, over that of GFN1-xTB alone."""
    baseline = make_baseline("auto")
    full = model.with_baseline(baseline)

    def best(call) -> float:
        call()
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            times.append(time.perf_counter() - begin)
        return min(times)

    return {
        "atoms": len(atoms),
        "energy_ratio": best(lambda: full.predict(atoms))
        / best(lambda: baseline.energy(atoms, 0, 1)),
        "forces_ratio": best(lambda: full.predict(atoms, forces=True))
        / best(lambda: baseline.energy_and_forces(atoms, 0, 1)),
    }


def main() -> None:
    """Run everything and write one JSON."""
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=here / "benchmarks" / "dynamics.json")
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, help="label cache of baseline energies and forces")
    parser.add_argument("--model", default="saw-wb97xd-md")
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--parts", default="cost,consistency,relaxations,conservation,accuracy")
    arguments = parser.parse_args()
    minima = read_dataset(arguments.data / "saw_equilibrium.extxyz.gz", keys=OFF_EQUILIBRIUM)
    large = read_dataset(arguments.data / "saw_4sa5w_equilibrium.extxyz.gz", keys=OFF_EQUILIBRIUM)
    model = load_model(arguments.model)
    rng = np.random.default_rng(1)
    some = [minima.frames[i] for i in rng.choice(len(minima), 50, replace=False)]
    start = next(a for a in minima.frames if a.info["composition"] == "3sa3w")
    parts = {
        "cost": lambda: cost(model, large.frames[0]),
        "consistency": lambda: consistency(model, some),
        "relaxations": lambda: relaxations(model, some[:20]),
        "conservation": lambda: conservation(model, start, arguments.picoseconds),
        "accuracy": lambda: force_accuracy(arguments.data, arguments.cache),
    }
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for name in arguments.parts.split(","):
        found[name] = parts[name]()
        print(name, json.dumps(found[name]), flush=True)
        arguments.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
