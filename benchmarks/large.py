"""Training and predicting with up to a quarter of a million structures.

    python benchmarks/large.py --data saw_equilibrium.extxyz.gz --sizes 25000,250000

Real clusters are taken in pairs, turned, brought into contact and displaced; what is to be learned
is an exact function of the positions (pair and three-body terms, :func:`label`), so that errors can
be measured on as many fresh structures as one likes. Each size is trained in a process of its own,
whose peak of memory and stages are recorded; then the model is saved, opened and asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.data import chemical_symbols
from scipy.spatial.transform import Rotation

from ase_knncalc import load_model, save_model, train
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.profiling import peak_memory, profiling
from ase_knncalc.analysis.ranking import correct_frames
from ase_knncalc.data import iter_frames
from ase_knncalc.labels.contradictions import composition_parts

KCAL_PER_MOL = units.mol / units.kcal
# eV. Like differences of total energies, so that offsets have to be learned, too.
_OFFSETS = {1: -13.6, 6: -1030.0, 7: -1480.0, 8: -2040.0, 16: -10800.0}
_NEAREST = 1.6  # Å, between two clusters brought into contact
_TESTED = 2000


def label(numbers: np.ndarray, positions: FloatArray) -> float:
    """Exact energy of a structure in eV: offsets, smooth pair terms, and three-body terms."""
    shift = positions[:, None] - positions
    distances = np.sqrt(np.einsum("ijk,ijk->ij", shift, shift))
    charge = np.sqrt(numbers[:, None] * numbers)
    # Fades by 6 Å, which descriptors see.
    fade = np.where(distances < 6.0, (1 - (distances / 6.0) ** 2) ** 3, 0.0)
    np.fill_diagonal(fade, 0.0)
    pair = 0.02 * charge * fade * (np.exp(-(distances - 1.2)) - 0.5 * np.exp(-0.4 * distances))
    # Σ over angles j–i–k of f(ij) f(ik) (cos θ + 1/3)², as products of matrices.
    soft = fade * np.exp(-((distances / 2.0) ** 2))
    safe = np.where(distances > 0, distances, 1.0)
    unit = shift / safe[..., None]
    vector = np.einsum("ij,ijk->ik", soft, unit)
    tensor = np.einsum("ij,ijk,ijl->ikl", soft, unit, unit)
    total = soft.sum(axis=1)
    cosines = (tensor**2).sum(axis=(1, 2)) + (vector**2).sum(axis=1) * 2 / 3 + total**2 / 9
    offsets = sum(_OFFSETS[int(z)] for z in numbers)
    return float(offsets + 0.5 * pair.sum() + 0.05 * np.sum(np.sqrt(numbers) * cosines))


def recombined(frames: list[Atoms], seed: int, largest: int) -> Iterator[Atoms]:
    """Endless pairs of clusters in contact, all atoms displaced by some hundredths of an Å."""
    rng = np.random.default_rng(seed)
    parts = [composition_parts(a.info["composition"]) for a in frames]
    number = 0
    while True:
        i, j = rng.integers(len(frames), size=2)
        if len(frames[i]) + len(frames[j]) > largest:
            continue
        first, second = (frames[k].positions - frames[k].positions.mean(axis=0) for k in (i, j))
        first = first + rng.normal(scale=rng.uniform(0.01, 0.06), size=first.shape)
        second = Rotation.random(random_state=rng).apply(second)
        second += rng.normal(scale=rng.uniform(0.01, 0.06), size=second.shape)
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        wanted = rng.uniform(_NEAREST, 2.4)
        # The distance along the direction at which the nearest atoms are as far apart as wanted:
        # the last root of |a − b − t u|² = wanted² over all pairs of atoms.
        gap = (first[:, None] - second).reshape(-1, 3)
        along = gap @ direction
        inside = along**2 - (gap**2).sum(axis=1) + wanted**2
        second = second + direction * np.max((along + np.sqrt(np.maximum(inside, 0)))[inside > 0])
        counts = {
            name: parts[i].get(name, 0) + parts[j].get(name, 0) for name in {*parts[i], *parts[j]}
        }
        atoms = Atoms(
            np.concatenate([frames[i].numbers, frames[j].numbers]), np.concatenate([first, second])
        )
        atoms.info = {
            "name": f"pair-{seed}-{number}",
            "composition": "".join(f"{n}{name}" for name, n in sorted(counts.items())),
            "charge": 0,
            "multiplicity": 1,
            "reference_energy": label(atoms.numbers, atoms.positions),
        }
        number += 1
        yield atoms


def write(path: Path, frames: Iterator[Atoms]) -> None:
    """Extended XYZ, frame by frame."""
    with open(path, "w", encoding="utf-8") as handle:
        for atoms in frames:
            info = " ".join(f"{k}={v}" for k, v in atoms.info.items())
            handle.write(f'{len(atoms)}\nProperties=species:S:1:pos:R:3 pbc="F F F" {info}\n')
            for z, (x, y, w) in zip(atoms.numbers, atoms.positions, strict=True):
                handle.write(f"{chemical_symbols[z]} {x:.8f} {y:.8f} {w:.8f}\n")


def one_size(path: Path, n: int, fresh: Path, metric_samples: int, scratch: Path) -> dict[str, Any]:
    """Train on the first n structures of a file, and ask the model about others."""
    start = time.perf_counter()
    with profiling() as profile:
        model = train(
            iter_frames(path, f":{n}"),
            baseline="none",
            reference="pair and three-body terms",
            n_jobs=1,
            metric_samples=metric_samples,
            scratch=scratch,
        )
    seconds = time.perf_counter() - start
    peak = peak_memory()
    file = scratch / "large.h5"
    save_model(model, file)
    start = time.perf_counter()
    model = load_model(file, baseline=None)
    opened = time.perf_counter() - start
    frames = list(iter_frames(fresh))
    sizes = [len(a) for a in frames]
    single = []
    for atoms in frames[:200]:
        start = time.perf_counter()
        model.correct(atoms.numbers, atoms.positions, 0)
        single.append(time.perf_counter() - start)
    start = time.perf_counter()
    found = correct_frames(model, frames)
    many = time.perf_counter() - start
    error = np.abs(found.delta - [a.info["reference_energy"] for a in frames])
    inside = error <= model.calibration.multiple(0.9) * found.energy_std
    return {
        "n": model.info.n_structures,
        "omitted": len(model.info.provenance.omitted),
        "mean_atoms": float(np.mean(sizes)),
        "train_seconds": seconds,
        "train_peak_mib": peak,
        "stages": profile.rows(),
        "columns": model.info.provenance.trend["environments"],
        "file_mib": file.stat().st_size / 2**20,
        "open_seconds": opened,
        "single_ms": 1000 * float(np.median(single)),
        "batch_ms": 1000 * many / len(frames),
        "fresh_mae_kcal": KCAL_PER_MOL * float(error.mean()),
        "fresh_coverage_90": float(inside.mean()),
        "stated_mae_kcal": KCAL_PER_MOL * model.info.errors["mae"],
        "knn": model.knn.settings.to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="real clusters to recombine")
    parser.add_argument("--sizes", default="25000,50000,100000,250000")
    parser.add_argument("--largest", type=int, default=20, help="most atoms of a structure")
    parser.add_argument("--metric-samples", type=int, default=5000)
    parser.add_argument("--scratch", type=Path, help="folder for the structures and large tables")
    parser.add_argument("--output", type=Path, default=Path("large.json"))
    parser.add_argument("--single", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single:
        folder = args.scratch
        result = one_size(
            folder / "large.xyz", args.single, folder / "fresh.xyz", args.metric_samples, folder
        )
        args.output.write_text(json.dumps(result))
        return
    sizes = [int(n) for n in args.sizes.split(",")]
    with tempfile.TemporaryDirectory(dir=args.scratch) as name:
        folder = Path(name)
        real = [a for a in iter_frames(args.data) if len(a) <= args.largest - 3]
        write(folder / "large.xyz", islice(recombined(real, 0, args.largest), max(sizes)))
        write(folder / "fresh.xyz", islice(recombined(real, 1, args.largest), _TESTED))
        results = []
        for n in sizes:
            part = folder / "result.json"
            command = [sys.executable, __file__, "--data", args.data, "--scratch", folder]
            command += ["--metric-samples", args.metric_samples, "--single", n, "--output", part]
            subprocess.run([str(c) for c in command], check=True)
            results.append(json.loads(part.read_text()))
            args.output.write_text(json.dumps(results, indent=1))
            print(json.dumps(results[-1], indent=1), flush=True)


if __name__ == "__main__":
    main()
