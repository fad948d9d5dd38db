"""Many calculations in one process, with an eye on its memory and its open files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import molecule

from ase_knncalc import KNNCalculator

MIB = float(2**20)


def resident_mib() -> float:
    """Memory of this process that is in use, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def open_files() -> int:
    """Number of files that this process has open."""
    return len(os.listdir("/proc/self/fd"))


def water_dimers(seed: int) -> Iterator[Atoms]:
    """Water dimers without end, no two alike."""
    rng = np.random.default_rng(seed)
    first, second = molecule("H2O"), molecule("H2O")
    second.positions += [0.0, 0.0, 3.0]
    dimer = first + second
    while True:
        atoms = dimer.copy()
        atoms.positions += rng.normal(0.0, 0.03, (6, 3))
        yield atoms


def run(
    library: str,
    calculations: int,
    *,
    model: str = "saw-wb97xd",
    forces: bool = False,
    samples: int = 50,
) -> dict[str, Any]:
    """Calculate, each with a new ``Atoms``, one calculator for all of them.

    Returns what was seen: memory and open files at ``samples`` times, and the growth of memory from
    a tenth of the way to the end (the highest of the last tenth against the highest of the second).
    """
    calculator = KNNCalculator(model, baseline=library, on_novelty="ignore")
    every = max(1, calculations // samples)
    seen: list[tuple[int, float, int]] = []
    total = 0.0
    start = time.perf_counter()
    for i, atoms in zip(range(1, calculations + 1), water_dimers(0), strict=False):
        atoms.calc = calculator
        total += atoms.get_potential_energy()
        if forces:
            total += float(np.abs(atoms.get_forces()).sum())
        if i % every == 0:
            seen.append((i, resident_mib(), open_files()))
    tenth = max(1, len(seen) // 10)
    memory = [m for _, m, _ in seen]
    return {
        "library": library,
        "model": model,
        "calculations": calculations,
        "forces": forces,
        "seconds": time.perf_counter() - start,
        "mean_energy_ev": total / calculations,
        "memory_growth_mib": max(memory[-tenth:]) - max(memory[tenth : 2 * tenth]),
        "open_files_growth": seen[-1][2] - seen[0][2],
        "seen": [{"calculation": i, "memory_mib": m, "open_files": n} for i, m, n in seen],
    }
