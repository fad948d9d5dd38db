"""Processor time of a step of dynamics, energies and forces, against tblite's own ASE calculator.

    python benchmarks/steps.py multibase_equilibrium.extxyz.gz

For clusters of about 10 to 60 atoms, one process and thread, all in one run: GFN1-xTB by
tblite's calculator with its defaults (warm SCF), the general model with ``warm_start`` for energies
and forces alone (``uncertainty="asked"``), with all that it says of each structure, and with
``forces_std`` asked for in each step, and without ``warm_start``. With numba installed, steps are
those of ``pip install "ase_knncalc[fast]"``.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from tblite.ase import TBLite

from ase_knncalc import KNNCalculator
from ase_knncalc.data.frames import iter_frames

HERE = Path(__file__).resolve().parent
SIZES = (11, 20, 30, 40, 60)
STEPS, REPEATS = 8, 5


def step_time(atoms: Atoms, calculator: Calculator, *, std: bool = False) -> float:
    """Processor seconds of a step at 300 K, after two to warm up."""
    moving = Atoms(atoms.numbers, atoms.positions)
    moving.calc = calculator
    MaxwellBoltzmannDistribution(moving, temperature_K=300, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(moving, 0.5 * units.fs)
    if std:
        dynamics.attach(lambda: calculator.get_property("forces_std", moving))
    dynamics.run(2)
    start = time.process_time()
    dynamics.run(STEPS)
    return (time.process_time() - start) / STEPS


def main(
    data: Path,
    model: str = "multibase-wb97xd",
    output: Annotated[Path, typer.Option("-o", "--output")] = HERE / "steps.json",
) -> None:
    """Write the ratios."""
    frames = list(iter_frames(data))
    sizes = np.array([len(a) for a in frames])
    found = []
    for wanted in SIZES:
        atoms = frames[int(np.argmin(np.abs(sizes - wanted)))]
        charge = int(atoms.info["charge"])

        def ours(warm: bool, charge: int = charge, **more: str) -> Calculator:
            options = {"charge": charge, "warm_start": warm, "on_novelty": "ignore", **more}
            return KNNCalculator(model, **options)

        def peer(charge: int = charge) -> Calculator:
            return TBLite(method="GFN1-xTB", charge=float(charge), verbosity=0)

        ways: dict[str, Callable[[], float]] = {
            "tblite": lambda a=atoms, p=peer: step_time(a, p()),
            "alone": lambda a=atoms, o=ours: step_time(a, o(True, uncertainty="asked")),
            "warm": lambda a=atoms, o=ours: step_time(a, o(True)),
            "warm_with_std": lambda a=atoms, o=ours: step_time(a, o(True), std=True),
            "cold": lambda a=atoms, o=ours: step_time(a, o(False)),
        }
        # Interleaved, so that what else the machine does is shared by all.
        times = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, way in ways.items():
                times[name].append(way())
        best = {name: min(values) for name, values in times.items()}
        found.append({"atoms": len(atoms), "milliseconds": {k: 1000 * v for k, v in best.items()}})
        found[-1]["ratios"] = {k: v / best["tblite"] for k, v in best.items() if k != "tblite"}
        print(json.dumps(found[-1]), flush=True)
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    typer.run(main)
