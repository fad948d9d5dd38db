"""Processor time of predictions of many structures, beside GFN1-xTB alone for the same ones.

    python benchmarks/batches.py multibase_equilibrium.extxyz.gz --most 1000

Shaken copies of one cluster of 20 atoms, 10 and ten times as many until ``--most``; one process and
thread, all in one run, in turn: tblite's own interface, and ``predict_frames`` with the general
model.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms
from ase.units import Bohr
from tblite.interface import Calculator

from ase_knncalc import KNNModel, load_model, predict_frames
from ase_knncalc._lib.threads import alone_on_one_thread
from ase_knncalc.data.frames import iter_frames

HERE = Path(__file__).resolve().parent
ATOMS = 20


def shaken(cluster: Atoms, n: int) -> list[Atoms]:
    """Copies whose atoms are moved by some 0.02 Å."""
    rng = np.random.default_rng(0)
    info = {"charge": int(cluster.info["charge"])}
    shape = cluster.positions.shape
    return [
        Atoms(cluster.numbers, cluster.positions + rng.normal(0.0, 0.02, shape), info=dict(info))
        for _ in range(n)
    ]


def plain(frames: list[Atoms]) -> None:
    """GFN1-xTB and nothing else."""
    with alone_on_one_thread("tblite.interface"):
        for atoms in frames:
            charge = float(atoms.info["charge"])
            one = Calculator("GFN1-xTB", atoms.numbers, atoms.positions / Bohr, charge=charge)
            one.set("verbosity", 0)
            one.singlepoint().get("energy")


def seconds(call: Callable[..., Any], *arguments: Any, **options: Any) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call(*arguments, **options)
    return time.process_time() - start


def main(
    data: Path,
    most: int = 1000,
    repeats: int = 2,
    output: Annotated[Path, typer.Option("-o", "--output")] = HERE / "batches.json",
) -> None:
    """Write milliseconds a structure, and the ratios."""
    model: KNNModel = load_model("multibase-wb97xd")
    cluster = next(a for a in iter_frames(data) if len(a) == ATOMS and not a.info["charge"])
    predict_frames(model, shaken(cluster, 2), n_jobs=1)
    found, n = [], 10
    while n <= most:
        frames = shaken(cluster, n)
        times = [
            (seconds(plain, frames), seconds(predict_frames, model, frames, n_jobs=1))
            # Of few structures more often: the best of two short runs is noise.
            for _ in range(max(repeats, 100 // n))
        ]
        alone, ours = (1000 * min(column) / n for column in zip(*times, strict=True))
        found.append({"structures": n, "gfn1_ms": alone, "predict_ms": ours, "ratio": ours / alone})
        print(json.dumps(found[-1]), flush=True)
        n *= 10
    output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    typer.run(main)
