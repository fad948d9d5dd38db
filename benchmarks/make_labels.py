"""Make labelled frames off equilibrium: geometries, labels, and the files that the project ships.

    python benchmarks/make_labels.py molecules multibase_equilibrium.extxyz.gz molecules.extxyz
    python benchmarks/make_labels.py clusters multibase_equilibrium.extxyz.gz clusters.extxyz
    python benchmarks/make_labels.py ions multibase_equilibrium.extxyz.gz ions.extxyz
    python benchmarks/make_labels.py others others.extxyz
    python benchmarks/make_labels.py run molecules.extxyz clusters.extxyz -o work.extxyz
    python benchmarks/make_labels.py gather work.extxyz       # into trained_models/labels
    python benchmarks/make_labels.py compare                  # with labels without density fitting

and those of ``tests/data``:

    python benchmarks/make_labels.py packed packed.extxyz
    python benchmarks/make_labels.py run packed.extxyz -o work.extxyz --exact
    python benchmarks/make_labels.py gather work.extxyz --target tests/data/clusters_wb97xd.extxyz

Geometries are those of ``geometries.py``. ``run`` labels them with ωB97X-D/6-31++G(d,p) and
GFN1-xTB, cheap ones first but all kinds interleaved, and appends each frame to its output as it
comes. What fails goes to a file beside it, and is not tried again. All commands go on where they
were stopped.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ase import Atoms
from ase.io import write
from geometries import (
    CORE,
    bare,
    baseline,
    frames_of_clusters,
    frames_of_molecule,
    frames_of_packing,
    frames_of_pair,
    molecules_and_ions,
    other_molecules,
    pairs_of_ions,
)

from ase_knncalc.data.frames import iter_frames, write_frames
from ase_knncalc.labelers import LabelResult, PySCFLabeler, label_frames
from ase_knncalc.sameness import DuplicateFinder
from ase_knncalc.sampling.walks import FAILURES

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent / "trained_models" / "labels"
FILES = {True: SHIPPED / "wb97xd_molecules.extxyz", False: SHIPPED / "wb97xd_clusters.extxyz"}
# Compositions of tests/data, and how many snapshots each.
PACKED = {"1w": 40, "2w": 60, "3w": 30, "1am": 10, "1sa": 30, "1sa1w": 60, "1sa1am": 15}


def frames_in(path: Path) -> list[Atoms]:
    return list(iter_frames(path)) if path.exists() and path.stat().st_size else []


def extend_pool(pool: Path, parts: dict[str, Callable[[], Iterable[Atoms]]]) -> None:
    """Add the compositions that are not in a pool yet."""
    frames = frames_in(pool)
    known = {atoms.info["composition"] for atoms in frames}
    for composition, make in parts.items():
        if composition in known:
            continue
        made: list[Atoms] = []
        try:
            made.extend(make())
        except FAILURES as e:
            print(f"{composition}: {type(e).__name__}: {e}")
        # Two atoms on each other are no label that any model should see.
        made = [a for a in made if a.get_all_distances()[np.triu_indices(len(a), 1)].min() > 0.6]
        print(f"{composition}: {len(made)} geometries", flush=True)
        frames += made
        if made:
            write_frames(pool, frames)


def drop_torn_frame(path: Path) -> None:
    """Cut off a frame that a kill left half written."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    good = 0
    while good < len(lines):
        end = good + int(lines[good]) + 2
        if end > len(lines) or not lines[end - 1].endswith(b"\n"):
            path.write_bytes(b"".join(lines[:good]))
            return
        good = end


def n_molecules(composition: str) -> int:
    """Molecules of a composition such as ``1am1p1sa``, whose proton belongs to one of them."""
    parts = re.findall(r"(\d+)([a-zA-Z]+)", composition)
    return sum(int(count) for count, name in parts if name != "p")


def by_cost(pool: list[Atoms]) -> list[Atoms]:
    """All compositions interleaved, each as far as it is cheap; ions and common molecules first."""
    seen: Counter[str] = Counter()
    keyed = []
    for atoms in pool:
        composition = atoms.info["composition"]
        seen[composition] += 1
        weight = 0.9 if atoms.info["charge"] else 1.3
        if n_molecules(composition) == 1:
            weight = 1.0 if composition.removeprefix("1") in CORE else 2.5
        keyed.append(seen[composition] * weight * len(atoms) ** 1.15)
    return [pool[i] for i in np.argsort(keyed, kind="stable")]


def add_baseline(atoms: Atoms) -> None:
    """Energy and forces of GFN1-xTB, from a calculator that has seen no other structure."""
    copy = bare(atoms)
    copy.calc = baseline(atoms.info["charge"])
    atoms.info["baseline_energy"] = float(copy.get_potential_energy())
    atoms.set_array("baseline_forces", copy.get_forces())


def sound(atoms: Atoms) -> bool:
    """Whether a label is whole: forces of a converged calculation add up to nothing."""
    energies = [atoms.info.get(f"{level}_energy", np.nan) for level in ("reference", "baseline")]
    forces = [atoms.arrays.get(f"{level}_forces") for level in ("reference", "baseline")]
    return bool(
        np.isfinite(energies).all()
        and all(f is not None and np.abs(f.sum(axis=0)).max() < 1e-3 for f in forces)
    )


def merged(frames: Iterable[Atoms], tolerance: float = 0.002) -> list[Atoms]:
    """Sound frames in an order of their own, each name and each geometry once.

    The tolerance, in Å, is what relaxations that meet in one minimum differ by.
    """
    named: dict[str, Atoms] = {}
    for atoms in filter(sound, frames):
        named.setdefault(atoms.info["name"], atoms)
    finder = DuplicateFinder(tolerance)

    def place(atoms: Atoms) -> tuple[Any, ...]:
        composition, kind = atoms.info["composition"], atoms.info["kind"]
        return len(atoms), len(composition), composition, kind != "minimum", atoms.info["name"]

    return [
        atoms
        for atoms in sorted(named.values(), key=place)
        if finder.find_or_add(atoms, atoms.info["charge"], atoms.info["multiplicity"]) is None
    ]


app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


def by_composition(multibase: Path) -> dict[str, list[Atoms]]:
    found: dict[str, list[Atoms]] = defaultdict(list)
    for atoms in iter_frames(multibase):
        found[atoms.info["composition"]].append(atoms)
    return found


@app.command()
def molecules(multibase: Path, pool: Path) -> None:
    """Make geometries of the molecules and ions of the multibase set."""
    starts = molecules_and_ions(by_composition(multibase))
    extend_pool(pool, {f"1{n}": partial(frames_of_molecule, n, *s) for n, s in starts.items()})


@app.command()
def clusters(multibase: Path, pool: Path, most_atoms: int = 22) -> None:
    """Make geometries of its dimers and trimers."""
    small = {
        composition: [atoms for atoms in frames if len(atoms) <= most_atoms]
        for composition, frames in by_composition(multibase).items()
        if sum(int(n) for n in re.findall(r"\d+", composition)) in (2, 3)
    }
    order = sorted((c for c in small if small[c]), key=lambda c: len(small[c][0]))
    extend_pool(pool, {c: partial(frames_of_clusters, c, small[c]) for c in order})


@app.command()
def ions(multibase: Path, pool: Path) -> None:
    """Make geometries of pairs of an ion and a small molecule."""
    pairs = pairs_of_ions(molecules_and_ions(by_composition(multibase)))
    extend_pool(pool, {c: partial(frames_of_pair, c, *pair) for c, pair in pairs.items()})


@app.command()
def others(pool: Path) -> None:
    """Make geometries of small molecules of the atmosphere, and their ions, that it lacks."""
    starts = other_molecules()
    few = {
        f"1{n}": partial(lambda *of: islice(frames_of_molecule(*of), 5), n, *start)
        for n, start in starts.items()
    }
    extend_pool(pool, few)


@app.command()
def packed(pool: Path) -> None:
    """Make the geometries of ``tests/data`` (run them with ``--exact``)."""
    extend_pool(pool, {c: partial(frames_of_packing, c, n) for c, n in PACKED.items()})


class TimeIsUp(Exception):
    """The budget of wall time is spent."""


@app.command()
def run(
    pools: list[Path],
    output: Annotated[Path, typer.Option("-o", help="frames are appended here")],
    jobs: Annotated[int, typer.Option(help="processes")] = 1,
    minutes: Annotated[float, typer.Option(help="wall time after which to stop")] = math.inf,
    frame_limit: Annotated[float, typer.Option(help="seconds for a frame")] = 1800.0,
    exact: Annotated[bool, typer.Option("--exact", help="no density fitting")] = False,
) -> None:
    """Label what is in no output and not shipped yet."""
    start = time.monotonic()
    drop_torn_frame(output)
    failures = output.with_suffix(".failures.txt")
    known = {atoms.info["name"] for atoms in frames_in(output)}
    if not exact:
        known |= {atoms.info["name"] for path in FILES.values() for atoms in frames_in(path)}
    if failures.exists():
        known |= {line.split("\t")[0] for line in failures.read_text().splitlines()}
    pool = by_cost([atoms for path in pools for atoms in frames_in(path)])
    todo = [atoms for atoms in pool if atoms.info["name"] not in known]
    print(f"{len(pool)} geometries, {len(todo)} to label", flush=True)

    def keep(result: LabelResult) -> None:
        atoms, reason = result.atoms, result.reason
        if result.label is not None:
            try:
                add_baseline(atoms)
            except FAILURES as e:
                reason = f"{type(e).__name__}: {e}"
        if reason:
            with failures.open("a") as file:
                file.write(f"{atoms.info['name']}\t{' '.join(reason.split())}\n")
        else:
            columns = ["symbols", "positions", "reference_forces", "baseline_forces"]
            write(output, atoms, format="extxyz", columns=columns, write_results=False, append=True)
        elapsed = time.monotonic() - start
        print(f"{elapsed:7.0f} s  {atoms.info['name']}  {reason}", flush=True)
        if elapsed > 60 * minutes:
            raise TimeIsUp

    labeler = PySCFLabeler(threads=1, density_fit=not exact)
    try:
        label_frames(labeler, todo, n_jobs=jobs, time_limit=frame_limit, on_result=keep)
    except TimeIsUp:
        print(f"{minutes:g} minutes are over; start again to go on")


@app.command()
def gather(
    outputs: list[Path],
    target: Annotated[
        Path | None, typer.Option(help="one file, instead of the shipped ones")
    ] = None,
    method: Annotated[str, typer.Option(help="of labels that do not say theirs")] = "",
) -> None:
    """Merge outputs of any number of runs into the files that the project ships."""
    found = [atoms for path in outputs for atoms in frames_in(path)]
    for atoms in found:
        if not atoms.info.setdefault("reference_method", method):
            raise typer.BadParameter(f"{atoms.info['name']} does not say its method: --method")
    for single, path in ((None, target),) if target else FILES.items():
        here = [a for a in found if single in (None, n_molecules(a.info["composition"]) == 1)]
        old = frames_in(path)
        new = merged([*old, *here])
        write_frames(path, new)
        print(f"{path.name}: {len(old)} frames before, {len(new)} now")


@app.command()
def compare(
    source: Path = FILES[True],
    n: int = 12,
    most_atoms: int = 6,
    seed: int = 0,
    output: Path = HERE / "density_fitting.json",
) -> None:
    """Label some frames again without density fitting, and keep the differences."""
    found = json.loads(output.read_text()) if output.exists() else []
    known = {row["name"] for row in found}
    frames = [a for a in frames_in(source) if len(a) <= most_atoms]
    chosen = [frames[i] for i in np.random.default_rng(seed).permutation(len(frames))[:n]]
    for atoms in chosen:
        if atoms.info["name"] in known:
            continue
        label = PySCFLabeler(threads=1).label(atoms)
        differences = np.abs(atoms.arrays["reference_forces"] - label.forces)
        found.append(
            {
                "name": atoms.info["name"],
                "elements": atoms.symbols.formula.count(),
                "charge": atoms.info["charge"],
                "energy": atoms.info["reference_energy"] - label.energy,
                "forces_mean": float(differences.mean()),
                "forces_max": float(differences.max()),
            }
        )
        output.write_text(json.dumps(found, indent=1) + "\n")
        print(found[-1], flush=True)


if __name__ == "__main__":
    app()
