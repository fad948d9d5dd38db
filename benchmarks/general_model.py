"""The general model: how it is trained, and how right it is on what was left out.

    python benchmarks/general_model.py train DATA -o multibase-wb97xd.h5
    python benchmarks/general_model.py train DATA -o judged.h5 --leave-out
    python benchmarks/general_model.py judge DATA judged.h5 --output general_model.json
    python benchmarks/general_model.py dynamics DATA multibase-wb97xd.h5
    python benchmarks/general_model.py held-out multibase-wb97xd.h5

``DATA`` is a folder with ``multibase_equilibrium.extxyz.gz``, ``multibase_properties.csv.gz``
(frequencies), ``saw_equilibrium.extxyz.gz``, ``saw_monomers.extxyz.gz`` and, to judge,
``saw_4sa5w_offequilibrium.extxyz.gz``. Labels off equilibrium are those of
``trained_models/labels`` and ``tests/data``. ``--leave-out`` leaves whole compositions out, minima
and labels alike, which ``judge`` then looks at. ``dynamics`` is 10 ps without a thermostat.
``held-out`` shows the energies of labels as the folds of a training without their compositions saw
them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from ase import Atoms, units
from ase.build import minimize_rotation_and_translation
from ase.optimize import BFGS
from dynamics import conservation
from geometries import relaxed as baseline_minimum
from scipy.stats import spearmanr

from ase_knncalc import KNNCalculator, TrainingSettings, load_model, save_model, train
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.analysis.thermochemistry import wavenumbers
from ase_knncalc.data.frames import iter_frames
from ase_knncalc.data.properties import add_frequencies
from ase_knncalc.model import KNNModel

HERE = Path(__file__).resolve().parent
LABELS = (
    HERE.parent / "trained_models" / "labels" / "wb97xd_molecules.extxyz",
    HERE.parent / "trained_models" / "labels" / "wb97xd_clusters.extxyz",
    HERE.parent / "tests" / "data" / "clusters_wb97xd.extxyz",
)
BASELINE = "tblite:gfn1-multibase"
KCAL_PER_MOL = units.mol / units.kcal
# Of the published forces of the 4sa5w set, a Bohr was taken for an Å.
BOHR = units.Bohr
# So many of each stratum are pooled, as minima would be nearly all else.
POOLED = 150
BANDS = {"0-300": (0, 300), "300-1000": (300, 1000), "1000-2000": (1000, 2000), "X-H": (2000, 5000)}


def left_out(composition: str) -> bool:
    """Whether a composition is among the tenth that is judged."""
    return digest(composition) % 10 == 0


def digest(name: str) -> int:
    """A number that is the same everywhere, and without a pattern."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def minima(folder: Path) -> list[Atoms]:
    """Published minima with energies and, where they are known, harmonic frequencies."""
    frames = list(iter_frames(folder / "multibase_equilibrium.extxyz.gz"))
    add_frequencies(frames, folder / "multibase_properties.csv.gz")
    frames += iter_frames(folder / "saw_equilibrium.extxyz.gz")
    for atoms in frames:
        atoms.info["reference_energy"] = atoms.info["wb97xd_energy"]
    return frames


def some(frames: list[Atoms], n: int) -> list[Atoms]:
    """As many frames, from all compositions in turn."""
    seen: Counter[str] = Counter()
    order = np.random.default_rng(0).permutation(len(frames))
    turns = []
    for i in order:
        composition = str(frames[i].info["composition"])
        seen[composition] += 1
        turns.append(seen[composition])
    return [frames[i] for i in np.sort(order[np.argsort(turns, kind="stable")[:n]])]


def labels() -> list[Atoms]:
    """Labels off equilibrium."""
    return [atoms for path in LABELS for atoms in iter_frames(path)]


def without_baseline(frames: list[Atoms]) -> list[Atoms]:
    """The same frames without what they know of GFN1-xTB, which is another baseline."""
    for atoms in frames:
        atoms.info.pop("baseline_energy", None)
        atoms.arrays.pop("baseline_forces", None)
    return frames


def unseen_size(folder: Path) -> Iterator[Atoms]:
    """4sa5w off equilibrium: larger than all sulfuric acid-water clusters of the training."""
    for atoms in iter_frames(folder / "saw_4sa5w_offequilibrium.extxyz.gz"):
        atoms.info["reference_energy"] = atoms.info["wb97xd_energy"]
        atoms.arrays["reference_forces"] = BOHR * atoms.arrays["wb97xd_forces"]
        yield atoms


app = typer.Typer(add_completion=False)


@app.command("train")
def train_model(
    folder: Path,
    output: Annotated[Path, typer.Option("-o", "--output")],
    leave_out: bool = False,
    environments: int = 1800,
    minima_rows: int = 8,
    minima_weight: float = 0.2,
    curvature_frames: int = 600,
    most_minima: int = 0,
    cache: Path = Path("general_model.cache"),
) -> None:
    """Train on all, or on what is not left out."""
    known = [a for a in minima(folder) if not (leave_out and held(a))]
    frames = some(known, most_minima or len(known))
    frames += [a for a in labels() if not (leave_out and held(a))]
    model = train(
        without_baseline(frames),
        baseline=BASELINE,
        monomers=monomers(folder),
        reference="ωB97X-D/6-31++G(d,p)",
        minima=True,
        settings=TrainingSettings.for_forces(
            environments=environments,
            minima_rows=minima_rows,
            minima_weight=minima_weight,
            curvature_frames=curvature_frames,
            force_weights=(0.03, 0.06),
            penalties=(1e-4, 3e-4),
        ),
        cache=cache,
        progress=True,
    )
    save_model(model, output)


def monomers(folder: Path) -> list[Atoms]:
    """Sulfuric acid and water, the zero of binding."""
    frames = list(iter_frames(folder / "saw_monomers.extxyz.gz"))
    for atoms in frames:
        atoms.info["reference_energy"] = atoms.info["wb97xd_energy"]
    return frames


def held(atoms: Atoms) -> bool:
    """Whether a frame is judged where compositions are left out."""
    return left_out(str(atoms.info["composition"]))


def parts(composition: str) -> int:
    """Molecules of a composition; a proton belongs to one of them."""
    found = re.findall(r"(\d+)([a-zA-Z]+)", composition)
    return sum(int(n) for n, name in found if name != "p")


def stratum(atoms: Atoms) -> str:
    """Which row of the table a label belongs to."""
    size = "clusters" if parts(str(atoms.info["composition"])) > 1 else "molecules"
    relaxed = atoms.info.get("kind") == "minimum" or str(atoms.info["name"]).endswith("-min")
    return f"{size}, {'GFN1-xTB minima' if relaxed else 'off equilibrium'}"


def judged(model: KNNModel, frames: list[Atoms]) -> dict[str, float]:
    """Errors of energies (kcal/mol) and forces (eV/Å), and what the model says of them."""
    energy, std, half, novelty, force, force_std = [], [], [], [], [], []
    for atoms in frames:
        bare = Atoms(atoms.numbers, atoms.positions)
        said = model.predict_one(
            bare, int(atoms.info["charge"]), int(atoms.info["multiplicity"]), forces_std=True
        )
        energy.append(said.energy - atoms.info["reference_energy"])
        std.append(said.energy_std)
        half.append(said.calibration.multiple(0.9) * said.energy_std)
        novelty.append(said.novelty)
        assert said.forces is not None
        assert said.forces_std is not None
        force.append(np.abs(said.forces - atoms.arrays["reference_forces"]).mean())
        force_std.append(said.forces_std.mean())
    error = np.abs(energy)
    return {
        "n": len(frames),
        "energy_mae": float(KCAL_PER_MOL * error.mean()),
        "energy_median": float(KCAL_PER_MOL * np.median(error)),
        "energy_std": float(KCAL_PER_MOL * np.mean(std)),
        "inside_90": float(np.mean(error <= half)),
        "spearman": float(spearmanr(error, std).statistic),
        "novel": float(np.mean(np.array(novelty) > 1)),
        "force_mae": float(np.mean(force)),
        "force_median": float(np.median(force)),
        "force_spearman": float(spearmanr(force, force_std).statistic),
        "force_std": float(np.mean(force_std)),
    }


def moved_by(atoms: Atoms, positions: FloatArray) -> float:
    """Root mean square distance (Å) of positions from those of a structure, best turned."""
    start, end = atoms.copy(), Atoms(atoms.numbers, positions)
    minimize_rotation_and_translation(start, end)
    return float(np.sqrt(np.mean(np.sum((start.positions - end.positions) ** 2, axis=1))))


def descend(model: KNNModel, start: Atoms, frame: Atoms) -> tuple[Atoms, float, float]:
    """Relax a frame's atoms from some positions: the end, and how far its energy (eV) and atoms are
    from the frame's, which is a minimum of the reference (root mean square, Å)."""
    moved = Atoms(start.numbers, start.positions)
    moved.info.update(charge=frame.info["charge"], multiplicity=frame.info["multiplicity"])
    moved.calc = KNNCalculator(model, on_novelty="ignore")
    BFGS(moved, logfile=None).run(fmax=0.005, steps=300)
    error = moved.get_potential_energy() - frame.info["reference_energy"]
    return moved, error, moved_by(frame, moved.positions)


def distances_of(errors: list[float], distances: list[float]) -> dict[str, float]:
    """Medians and 90th percentiles, kcal/mol and Å."""
    error = KCAL_PER_MOL * np.abs(errors)
    return {
        "n": len(errors),
        "energy_median": float(np.median(error)),
        "energy_90": float(np.quantile(error, 0.9)),
        "rmsd_median": float(np.median(distances)),
        "rmsd_90": float(np.quantile(distances, 0.9)),
    }


def relaxed_from_baseline(model: KNNModel, frames: list[Atoms]) -> dict[str, float]:
    """Relaxed from the minimum that GFN1-xTB falls into from the reference's; kcal/mol and Å."""
    energies, distances, raw = [], [], []
    for atoms in frames:
        start, _ = baseline_minimum(atoms, int(atoms.info["charge"]), 0.005)
        raw.append(moved_by(atoms, start.positions))
        _, energy, distance = descend(model, start, atoms)
        energies.append(energy)
        distances.append(distance)
    return {
        **distances_of(energies, distances),
        "rmsd_median_gfn1": float(np.median(raw)),
        "within_0.1": float(np.mean(np.array(distances) < 0.1)),
        "within_0.1_gfn1": float(np.mean(np.array(raw) < 0.1)),
    }


def relaxed(model: KNNModel, frames: list[Atoms]) -> dict[str, float]:
    """Relaxed from minima of the reference: how far they go, kcal/mol and Å; and vibrations there.

    Wavenumbers are compared in the order of their size, by bands of the reference's.
    """
    energies, distances, zero_point, imaginary = [], [], [], 0
    bands: dict[str, list[float]] = {name: [] for name in BANDS}
    for atoms in frames:
        moved, energy, distance = descend(model, atoms, atoms)
        energies.append(energy)
        distances.append(distance)
        own = np.sort(wavenumbers(moved))
        known = np.sort(atoms.info["frequencies_cm1"])
        if len(own) != len(known):
            continue
        imaginary += int(np.sum(own < -20.0))
        zero_point.append(0.5 * units.invcm * (own[own > 0].sum() - known.sum()))
        for name, (low, high) in BANDS.items():
            of = (known >= low) & (known < high)
            bands[name] += np.abs(own[of] - known[of]).tolist()
    return {
        **distances_of(energies, distances),
        "zero_point_mae": float(KCAL_PER_MOL * np.mean(np.abs(zero_point))),
        "imaginary_modes": imaginary,
        **{f"wavenumbers {name}": float(np.mean(of)) for name, of in bands.items() if of},
    }


def held_minima(folder: Path) -> list[Atoms]:
    """Minima that were left out, but for records that are none."""
    shipped = load_model("multibase-wb97xd", baseline=None).info.provenance.trend
    bad = set(shipped.get("not_minima", ()))
    found = []
    for atoms in minima(folder):
        known = atoms.info.get("frequencies_cm1")
        if held(atoms) and known is not None and known.min() > 0 and atoms.info["name"] not in bad:
            atoms.arrays["reference_forces"] = np.zeros((len(atoms), 3))
            found.append(atoms)
    return found


@app.command()
def judge(
    folder: Path,
    file: Path,
    output: Path | None = None,
    most: int = 300,
    relax: int = 40,
    relax_atoms: int = 40,
) -> None:
    """Errors and coverage on compositions left out, stratum by stratum."""
    model = load_model(file)
    strata: dict[str, list[Atoms]] = {}
    rng = np.random.default_rng(0)
    for atoms in filter(held, labels()):
        strata.setdefault(stratum(atoms), []).append(atoms)
        if atoms.info["charge"]:
            strata.setdefault("ions of all kinds", []).append(atoms)
    found = held_minima(folder)
    order = rng.permutation(len(found))
    strata["minima"] = [found[i] for i in order[:most]]
    strata["4sa5w, off equilibrium"] = list(unseen_size(folder))[::5]
    table = []
    for name, frames in sorted(strata.items()):
        table.append({"stratum": name, **judged(model, frames)})
        print(json.dumps(table[-1]), flush=True)
    # By name, so that other models, which call other records no minima, are judged on the same.
    small = [a for a in found if len(a) <= relax_atoms]
    small = sorted(small, key=lambda a: digest(a.info["name"]))[:relax]
    table.append({"stratum": "relaxed from minima", **relaxed(model, small)})
    print(json.dumps(table[-1]), flush=True)
    table.append({"stratum": "relaxed from GFN1-xTB minima", **relaxed_from_baseline(model, small)})
    print(json.dumps(table[-1]), flush=True)
    if output is not None:
        output.write_text(json.dumps(table, indent=1) + "\n")


@app.command()
def dynamics(
    folder: Path,
    file: Path,
    output: Path = HERE / "general_dynamics.json",
    compositions: tuple[str, str] = ("2am2sa", "1dma1sa2w"),
    picoseconds: float = 10.0,
) -> None:
    """Drift of the energy at 300 K from the first minimum of two compositions, and novelty."""
    model = load_model(file)
    found = {}
    for wanted in compositions:
        start = next(a for a in minima(folder) if a.info["composition"] == wanted)
        found[wanted] = conservation(model, start, picoseconds)
        print(wanted, json.dumps(found[wanted]), flush=True)
        output.write_text(json.dumps(found, indent=1) + "\n")


@app.command("held-out")
def held_out(file: Path) -> None:
    """Energies of labels off equilibrium in the folds without their compositions, kcal/mol."""
    model = load_model(file, baseline=None)
    assert model.held_out is not None
    place = {name.decode(): i for i, name in enumerate(model.names)}
    strata: dict[str, list[int]] = {"all structures": list(range(len(model)))}
    for atoms in labels():
        i = place.get(str(atoms.info["name"]))
        if i is not None:
            strata.setdefault(stratum(atoms), []).append(i)
            if atoms.info["charge"]:
                strata.setdefault("ions of all kinds", []).append(i)
    labelled = {i for name, rows in strata.items() if name != "all structures" for i in rows}
    strata["minima"] = [i for i in range(len(model)) if i not in labelled]
    rng = np.random.default_rng(0)
    each = [rows for name, rows in strata.items() if name != "all structures"]
    strata["strata alike"] = [i for of in each for i in rng.permutation(of)[:POOLED].tolist()]
    multiple = model.calibration.multiple(0.9)
    for name, members in sorted(strata.items()):
        rows = [i for i in members if model.held_out.fair[i]]
        error = np.abs(model.held_out.errors[rows])
        std = model.held_out.stds[rows]
        row = {
            "stratum": name,
            "n": len(rows),
            "energy_mae": float(KCAL_PER_MOL * error.mean()),
            "energy_median": float(KCAL_PER_MOL * np.median(error)),
            "energy_std": float(KCAL_PER_MOL * std.mean()),
            "inside_90": float(np.mean(error <= multiple * std)),
            "spearman": float(spearmanr(error, std).statistic),
        }
        print(json.dumps(row))
    print(json.dumps({k: v for k, v in model.info.provenance.trend.items() if k != "not_minima"}))


if __name__ == "__main__":
    app()
