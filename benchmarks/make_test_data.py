"""Make labelled off-equilibrium frames of small clusters: ours from the first geometry on.

Molecules are put together from ideal bond lengths, packed at random, relaxed with GFN1-xTB and
shaken by Langevin dynamics at 300, 450 and 600 K. Each minimum and each snapshot is labelled with
ωB97X-D/6-31++G(d,p) (PySCF, energy and forces) and with GFN1-xTB (tblite). Seeds are fixed.

    python benchmarks/make_test_data.py run work.extxyz --minutes 75
    python benchmarks/make_test_data.py gather work.extxyz tests/data/clusters_wb97xd.extxyz

``run`` first writes all geometries to ``work.pool.extxyz``, then appends frames to ``work.extxyz``
as they are labelled, small ones first but all kinds interleaved; started again, it goes on.
Structures without a label go to ``work.failures.txt`` and are not tried again.
"""

from __future__ import annotations

import argparse
import os
import re
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from ase_knncalc.labelers import LabelResult, PySCFLabeler, label_frames
from ase_knncalc.sampling.molecules import sulfuric_acid

COUNTS = {"1w": 40, "2w": 60, "3w": 30, "1am": 10, "1sa": 30, "1sa1w": 60, "1sa1am": 15}
TEMPERATURES = (300, 450, 600)
SNAPSHOTS = 10  # of each trajectory
INTERVAL = 40  # steps of 0.5 fs between snapshots


MOLECULES = {"w": lambda: molecule("H2O"), "am": lambda: molecule("NH3"), "sa": sulfuric_acid}


def baseline_calculator() -> object:
    from tblite.ase import TBLite

    return TBLite(method="GFN1-xTB", charge=0, multiplicity=1, verbosity=0)


def pack(composition: str, rng: np.random.Generator) -> Atoms:
    """Molecules turned and placed at random, each 1.6 to 2.6 Å from the nearest of the others."""
    cluster = Atoms()
    for count, kind in re.findall(r"(\d+)([a-z]+)", composition):
        for _ in range(int(count)):
            while True:
                new = MOLECULES[kind]()
                new.euler_rotate(*rng.uniform(0, 360, 3), center="COM")
                new.positions += rng.uniform(-4, 4, 3) - new.get_center_of_mass()
                if not len(cluster):
                    break
                gaps = np.linalg.norm(cluster.positions[:, None] - new.positions, axis=-1)
                if 1.6 < gaps.min() < 2.6:
                    break
            cluster += new
    return cluster


def trajectory(composition: str, number: int) -> Iterator[Atoms]:
    """One relaxed packing and the snapshots of its dynamics."""
    rng = np.random.default_rng(zlib.crc32(f"{composition}/{number}".encode()))
    atoms = pack(composition, rng)
    atoms.calc = baseline_calculator()
    BFGS(atoms, logfile=None, maxstep=0.1).run(fmax=0.01, steps=500)
    yield snapshot(atoms, composition, f"{composition}-{number}-min", 0)
    temperature = TEMPERATURES[number % len(TEMPERATURES)]
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        fixcm=False,  # frames are centred when they are written
        rng=rng,
    )
    dynamics.run(INTERVAL)
    for i in range(SNAPSHOTS):
        dynamics.run(INTERVAL)
        yield snapshot(atoms, composition, f"{composition}-{number}-{i}", temperature)


def snapshot(atoms: Atoms, composition: str, name: str, temperature: int) -> Atoms:
    """A frame as it is written, with the baseline of exactly its eight decimals."""
    frame = Atoms(atoms.numbers, np.round(atoms.positions - atoms.get_center_of_mass(), 8))
    frame.calc = baseline_calculator()
    energy, forces = frame.get_potential_energy(), frame.get_forces()
    frame.calc = None
    frame.info.update(
        name=name,
        composition=composition,
        charge=0,
        multiplicity=1,
        temperature=temperature,
        baseline_energy=float(energy),
    )
    frame.set_array("baseline_forces", forces)
    return frame


def make_pool(path: Path, scale: float) -> list[Atoms]:
    """All geometries in the order in which they are labelled; kept in a file."""
    if not path.exists():
        pool: list[Atoms] = []
        for composition, full in COUNTS.items():
            count = max(1, round(full * scale))
            frames: list[Atoms] = []
            number = 0
            while sum(f.info["temperature"] > 0 for f in frames) < count:
                frames += trajectory(composition, number)
                number += 1
            # Minima lead their trajectories; deal trajectories out in turn to mix temperatures.
            frames.sort(key=lambda f: (not f.info["name"].endswith("min"), _turn(f)))
            pool += frames[: count + number]
        partial = path.with_suffix(".tmp")
        write_frames(pool, partial)
        os.replace(partial, path)
    return by_cost(read_frames(path))


def by_cost(pool: list[Atoms]) -> list[Atoms]:
    """All compositions interleaved, each as far as it is cheap (time goes as n_atoms^2.5)."""
    totals = Counter(f.info["composition"] for f in pool)
    seen: Counter[str] = Counter()
    keys = []
    for frame in pool:
        composition = frame.info["composition"]
        seen[composition] += 1
        keys.append(seen[composition] / totals[composition] * len(frame) ** 2.5)
    return [pool[i] for i in np.argsort(keys, kind="stable")]


def _turn(frame: Atoms) -> str:
    return str(frame.info["name"]).rsplit("-", 1)[-1]


def write_frames(frames: list[Atoms], path: Path, append: bool = False) -> None:
    forces = [k for k in ("reference_forces", "baseline_forces") if k in frames[0].arrays]
    write(
        path,
        frames,
        format="extxyz",
        columns=["symbols", "positions", *forces],
        write_results=False,
        append=append,
    )


def read_frames(path: Path) -> list[Atoms]:
    return list(read(path, ":", format="extxyz")) if path.exists() and path.stat().st_size else []


def drop_torn_frame(path: Path) -> None:
    """Cut off a frame that a kill left half written."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    good = 0
    while good < len(lines):
        end = good + int(lines[good]) + 2
        if end > len(lines) or not lines[end - 1].endswith(b"\n"):
            break
        good = end
    path.write_bytes(b"".join(lines[:good]))


class TimeIsUp(Exception):
    """The budget of wall time is spent."""


def run(path: Path, minutes: float, jobs: int, scale: float, frame_limit: float) -> None:
    start = time.monotonic()
    pool = make_pool(path.with_suffix(".pool.extxyz"), scale)
    drop_torn_frame(path)
    failures = path.with_suffix(".failures.txt")
    known = {f.info["name"] for f in read_frames(path)}
    if failures.exists():
        known |= {line.split("\t")[0] for line in failures.read_text().splitlines()}
    todo = [f for f in pool if f.info["name"] not in known]
    elapsed = time.monotonic() - start
    print(f"{len(pool)} geometries, {len(todo)} to label; {elapsed:.0f} s", flush=True)

    def keep(result: LabelResult) -> None:
        name = result.atoms.info["name"]
        elapsed = time.monotonic() - start
        if result.label is None:
            with failures.open("a") as file:
                file.write(f"{name}\t{' '.join(result.reason.split())}\n")
            print(f"{elapsed:7.0f} s  {name}: {result.reason}", flush=True)
        else:
            write_frames([result.atoms], path, append=True)
            print(f"{elapsed:7.0f} s  {name}: {result.label.seconds:.1f} s", flush=True)
        if elapsed > 60 * minutes:
            raise TimeIsUp

    labeler = PySCFLabeler(threads=1)
    try:
        label_frames(labeler, todo, n_jobs=jobs, time_limit=frame_limit, on_result=keep)
    except TimeIsUp:
        print(f"{minutes:g} minutes are over; start again to go on")


def gather(source: Path, target: Path) -> None:
    """Sort what is labelled by composition and name, and write it as test data."""
    drop_torn_frame(source)
    order = list(COUNTS)
    frames = read_frames(source)
    frames.sort(key=lambda f: (order.index(f.info["composition"]), f.info["name"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_frames(frames, target)
    counts = Counter(f.info["composition"] for f in frames)
    print(f"{len(frames)} frames in {target}: " + ", ".join(f"{k} {counts[k]}" for k in order))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="make geometries and label them")
    run_parser.add_argument("path", type=Path)
    run_parser.add_argument("--minutes", type=float, default=75.0, help="budget of wall time")
    run_parser.add_argument("--jobs", type=int, default=1, help="worker processes")
    run_parser.add_argument("--scale", type=float, default=1.0, help="part of the planned counts")
    run_parser.add_argument(
        "--frame-limit", type=float, default=1800.0, help="seconds after which a frame is given up"
    )
    gather_parser = commands.add_parser("gather", help="sort labelled frames into a test file")
    gather_parser.add_argument("source", type=Path)
    gather_parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(
            arguments.path,
            arguments.minutes,
            arguments.jobs,
            arguments.scale,
            arguments.frame_limit,
        )
    else:
        gather(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
