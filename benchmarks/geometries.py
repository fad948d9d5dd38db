"""Geometries off equilibrium, for ``make_labels.py``.

Of single molecules and ions: minima of GFN1-xTB, thermal distortions along its normal modes, and
snapshots of Langevin dynamics. Of clusters: minima, snapshots, geometries on the way of a
relaxation, and molecules pulled apart; and packings of ideal molecules, with their snapshots.

Random numbers of a frame depend on the molecule, composition or packing in its name and on what was
made of it before, and on nothing else.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.optimize import BFGS
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ase_knncalc.sampling.molecules import sulfuric_acid

# Names as in the multibase set; a name with p has a proton more, one with m a proton less.
NEUTRAL = ("w", "am", "ma", "dma", "tma", "eda", "sa", "msa", "gd", "fa", "nta", "oa", "fd", "ml",
           "mea", "b", "mda", "pda", "put", "sua", "pxfa", "pxml", "pz")  # fmt: skip
BASES = ("am", "ma", "dma", "tma", "eda", "gd", "mea", "w", "gly", "put")
ACIDS = ("w", "msa", "fa", "nta", "oa", "gly", "sua")
# What most clusters consist of: 23 frames each instead of seven.
CORE = ("w", "am", "ma", "dma", "tma", "eda", "sa", "msa", "gd", "gly", "fa", "b", "wp", "amp",
        "map", "dmap", "tmap", "edap", "gdp", "glyp", "glym", "msam", "wm", "oa", "oam", "mea",
        "meap")  # fmt: skip

# Small molecules of the atmosphere that the multibase set lacks, by their names in ASE's G2 set,
# and which of them are made without a proton, too, and with one more. None with a sulfur that is
# bound to hydrogen or carbon alone: all other sulfur is oxidised, and one offset has to serve it.
OTHERS = {
    "sdo": "SO2", "cdo": "CO2", "hooh": "H2O2", "fal": "H2CO", "hcn": "HCN", "mol": "CH3OH",
    "dmso": "C2H6SO", "ace": "CH3COOH", "acd": "CH3CHO", "act": "CH3COCH3", "acn": "CH3CN",
    "mfo": "HCOOCH3", "dme": "CH3OCH3", "eto": "CH3CH2OH", "aam": "CH3CONH2", "glx": "OCHCHO",
    "nme": "CH3NO2", "hyd": "N2H4", "ket": "H2CCO", "nno": "N2O", "met": "CH4", "ene": "C2H4",
    "yne": "C2H2",
}  # fmt: skip
OTHER_ACIDS = ("hooh", "mol", "ace")
OTHER_BASES = ("acn", "hcn", "hyd", "aam")

# What an ion is put beside.
PARTNERS = ("w", "am", "ma", "fa", "nta", "ml", "fd", "sa")


def neighbours(atoms: Atoms) -> dict[int, list[int]]:
    """Bonded atoms of each atom."""
    found: dict[int, list[int]] = defaultdict(list)
    for i, j in zip(*neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.25)), strict=True):
        found[int(i)].append(int(j))
    return found


def fragments(atoms: Atoms) -> list[list[int]]:
    """Atoms of each molecule; a hydrogen beyond 1.25 Å is not bonded."""
    i, j, d = neighbor_list("ijd", atoms, natural_cutoffs(atoms, mult=1.25))
    kept = (d < 1.25) | ((atoms.numbers[i] > 1) & (atoms.numbers[j] > 1))
    graph = coo_array((kept[kept], (i[kept], j[kept])), shape=(len(atoms), len(atoms)))
    n, owner = connected_components(graph, directed=False)
    return [np.flatnonzero(owner == k).tolist() for k in range(n)]


def protonated(name: str, atoms: Atoms) -> Atoms:
    """With a proton on the nitrogen of least hydrogens, or on the oxygen of water."""
    bonded = neighbours(atoms)
    heavy = [i for i in range(len(atoms)) if atoms.numbers[i] == (8 if name == "w" else 7)]
    hydrogens = {i: sum(atoms.numbers[j] == 1 for j in bonded[i]) for i in heavy}
    site = min(heavy, key=lambda i: (hydrogens[i], i))
    centre = atoms.positions[site]
    bonds = atoms.positions[bonded[site]] - centre
    away = -(bonds / np.linalg.norm(bonds, axis=1)[:, None]).sum(axis=0)
    if np.linalg.norm(away) < 0.3:  # a planar site: out of the plane
        away = np.cross(bonds[0], bonds[-1])
    ion = atoms.copy()
    ion.append("H")
    ion.positions[-1] = centre + 1.02 * away / np.linalg.norm(away)
    return ion


def deprotonated(atoms: Atoms) -> Atoms:
    """Without the last hydrogen that is bound to oxygen, or to nitrogen where there is none."""
    distances = atoms.get_all_distances()
    np.fill_diagonal(distances, np.inf)
    nearest = atoms.numbers[distances.argmin(axis=1)]
    ion = atoms.copy()
    acidic = [np.flatnonzero((atoms.numbers == 1) & (nearest == n)) for n in (8, 7)]
    del ion[int(next(hydrogens[-1] for hydrogens in acidic if len(hydrogens)))]
    return ion


def molecules_and_ions(compositions: dict[str, list[Atoms]]) -> dict[str, tuple[Atoms, int]]:
    """Start and charge of each molecule, from the first frame that has it."""
    found: dict[str, tuple[Atoms, int]] = {}
    for name in NEUTRAL:
        first = compositions[f"1{name}"][0]
        found[name] = bare(first), int(first.info["charge"])
    for composition in ("1gly1sa", "1gly1sa1w", "1gly2sa"):  # glycine is in clusters alone
        first = compositions[composition][0]
        for part in fragments(first):
            if np.count_nonzero(first.numbers[part] == 6) == 2:
                charge = len(part) - 10
                found.setdefault("glyp" if charge else "gly", (bare(first)[part], charge))
    for name in BASES:
        if f"{name}p" not in found:
            found[f"{name}p"] = protonated(name, found[name][0]), 1
    for name in ACIDS:
        found[f"{name}m"] = deprotonated(found[name][0]), -1
    found["so4"] = deprotonated(found["b"][0]), -2
    return found


def other_molecules() -> dict[str, tuple[Atoms, int]]:
    """Start and charge of each of :data:`OTHERS` and its ions, and of sulfur trioxide."""
    found = {name: (molecule(of_ase), 0) for name, of_ase in OTHERS.items()}
    angles = 2 * np.pi / 3 * np.arange(3)
    corners = 1.42 * np.column_stack([np.cos(angles), np.sin(angles), np.zeros(3)])
    found["sto"] = Atoms("SO3", np.vstack([np.zeros(3), corners])), 0
    for name in OTHER_BASES:
        found[f"{name}p"] = protonated(name, found[name][0]), 1
    for name in OTHER_ACIDS:
        found[f"{name}m"] = deprotonated(found[name][0]), -1
    return found


def bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions)


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def baseline(charge: int = 0) -> Any:
    from tblite.ase import TBLite

    return TBLite(method="GFN1-xTB", charge=charge, multiplicity=1, verbosity=0)


def relaxed(atoms: Atoms, charge: int, fmax: float = 0.02) -> tuple[Atoms, list[np.ndarray]]:
    """The minimum of GFN1-xTB, and the positions on the way to it."""
    atoms = bare(atoms)
    atoms.calc = baseline(charge)
    way: list[np.ndarray] = []
    optimizer = BFGS(atoms, logfile=None, maxstep=0.1)
    optimizer.attach(lambda: way.append(atoms.positions.copy()))
    optimizer.run(fmax=fmax, steps=500)
    return bare(atoms), way


def dynamics(
    atoms: Atoms,
    charge: int,
    temperature: int,
    rng: np.random.Generator,
    snapshots: int,
    interval: int,
    start: int = 200,
) -> list[Atoms]:
    """Snapshots of Langevin dynamics with GFN1-xTB, ``interval`` steps of 0.5 fs apart."""
    atoms = bare(atoms)
    atoms.calc = baseline(charge)
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    walk = Langevin(
        atoms,
        0.5 * units.fs,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        fixcm=False,  # frames are centred when they are kept
        rng=rng,
    )
    walk.run(start)
    found = []
    for _ in range(snapshots):
        walk.run(interval)
        found.append(bare(atoms))
    return found


def vibrated(
    atoms: Atoms, charge: int, temperature: int, rng: np.random.Generator, n: int
) -> list[Atoms]:
    """Thermal distortions of a minimum, as quantum oscillators along GFN1-xTB's normal modes."""
    if len(atoms) < 3:  # dynamics gives a diatomic all bond lengths
        return []
    moved, step = bare(atoms), 0.005
    moved.calc = baseline(charge)
    hessian = np.zeros((atoms.positions.size,) * 2)
    for i in range(len(hessian)):
        for sign in (1, -1):
            moved.positions = atoms.positions
            moved.positions.flat[i] += sign * step
            hessian[i] -= sign * moved.get_forces().ravel() / (2 * step)
    weights = np.repeat(atoms.get_masses(), 3) ** -0.5
    curvature, modes = np.linalg.eigh((hessian + hessian.T) / 2 * weights * weights[:, None])
    curvature, modes = np.clip(curvature[6:], 1e-3, None), modes[:, 6:]
    quantum = units._hbar * 1e10 / np.sqrt(units._e * units._amu) * np.sqrt(curvature)
    variance = quantum / (2 * curvature) / np.tanh(quantum / (2 * units.kB * temperature))
    deviation = np.minimum(np.sqrt(variance), 0.6)
    found = []
    for _ in range(n):
        shift = modes @ (deviation * rng.normal(size=len(deviation))) * weights
        found.append(Atoms(atoms.numbers, atoms.positions + shift.reshape(-1, 3)))
    return found


def frame(
    atoms: Atoms, name: str, composition: str, charge: int, kind: str, temperature: int = 0
) -> Atoms:
    """A geometry of exactly the eight decimals that files hold."""
    made = Atoms(atoms.numbers, np.round(atoms.positions - atoms.get_center_of_mass(), 8))
    made.info.update(
        name=name,
        composition=composition,
        charge=charge,
        multiplicity=1,
        kind=kind,
        temperature=temperature,
    )
    return made


def frames_of_molecule(name: str, start: Atoms, charge: int) -> Iterator[Atoms]:
    """The minimum; distortions along modes and snapshots of four temperatures in turn."""
    rng, n, composition = generator(name), 6 if name in CORE else 2, f"1{name}"
    minimum, _ = relaxed(start, charge)
    yield frame(minimum, f"{name}-min", composition, charge, "minimum")
    modes = vibrated(minimum, charge, 300, rng, n)
    hot = {t: dynamics(minimum, charge, t, rng, n * 2 // 3, 120) for t in (300, 500, 700, 1000)}
    for i in range(n):
        for atoms in modes[i : i + 1]:
            yield frame(atoms, f"{name}-q{i}", composition, charge, "modes", 300)
        for t in (1000, 300, 700, 500):
            for atoms in hot[t][i : i + 1]:
                yield frame(atoms, f"{name}-{t}-{i}", composition, charge, "hot", t)


def frames_of_clusters(composition: str, clusters: list[Atoms]) -> Iterator[Atoms]:
    """Two clusters: minimum, four snapshots, a step of the relaxation, one molecule pulled away."""
    rng = generator(composition)
    for j, chosen in enumerate(rng.permutation(len(clusters))[:2]):
        charge, prefix = int(clusters[chosen].info["charge"]), f"{composition}-{j}"
        minimum, way = relaxed(clusters[chosen], charge)
        yield frame(minimum, f"{prefix}-min", composition, charge, "minimum")
        hot = {t: dynamics(minimum, charge, t, rng, 2, 150) for t in ((300, 500), (500, 400))[j]}
        for t, found in hot.items():
            yield frame(found[0], f"{prefix}-{t}-0", composition, charge, "hot", t)
        molecules = fragments(minimum)
        if len(molecules) > 1:
            atoms, chosen = minimum.copy(), molecules[rng.integers(len(molecules))]
            others = np.setdiff1d(np.arange(len(atoms)), chosen)
            away = atoms.positions[chosen].mean(axis=0) - atoms.positions[others].mean(axis=0)
            distance = rng.choice([0.4, 0.8, 1.3, 2.0, 3.0, 4.5])
            atoms.positions[chosen] += distance * away / np.linalg.norm(away)
            yield frame(atoms, f"{prefix}-pull", composition, charge, "pulled")
        if len(way) > 4:
            atoms = Atoms(minimum.numbers, way[len(way) // 3])
            yield frame(atoms, f"{prefix}-path", composition, charge, "path")
        for t, found in hot.items():
            yield frame(found[1], f"{prefix}-{t}-1", composition, charge, "hot", t)


def ideal(composition: str) -> list[Atoms]:
    """Molecules of sulfuric acid, water and ammonia that a composition such as ``1sa2w`` names."""
    made = {"sa": sulfuric_acid(), "w": molecule("H2O"), "am": molecule("NH3")}
    parts = re.findall(r"(\d+)([a-z]+)", composition)
    return [made[kind] for count, kind in parts for _ in range(int(count))]


def packing(parts: Iterable[Atoms], rng: np.random.Generator) -> Atoms:
    """Molecules turned and placed at random, each 1.6 to 2.6 Å from the nearest of the others."""
    cluster = Atoms()
    for part in parts:
        while True:
            new = part.copy()
            new.euler_rotate(*rng.uniform(0, 360, 3), center="COM")
            new.positions += rng.uniform(-4, 4, 3) - new.get_center_of_mass()
            if not len(cluster):
                break
            gaps = np.linalg.norm(cluster.positions[:, None] - new.positions, axis=-1)
            if 1.6 < gaps.min() < 2.6:
                break
        cluster += new
    return cluster


def pairs_of_ions(starts: dict[str, tuple[Atoms, int]]) -> dict[str, tuple[list[Atoms], int]]:
    """Molecules and charge of each ion beside each small partner, at most 12 atoms, by name."""
    found = {}
    for ion, (atoms, charge) in starts.items():
        for name in PARTNERS if charge else ():
            partner, _ = starts[name]
            if len(atoms) + len(partner) <= 12:
                found[pair_name(ion, name)] = [bare(atoms), bare(partner)], charge
    return found


def pair_name(ion: str, partner: str) -> str:
    """Composition as the multibase set writes it: a proton is one more part."""
    parts = [ion.removesuffix("p"), "p"] if ion.endswith("p") else [ion]
    counts = Counter([*parts, partner])
    return "".join(f"{counts[part]}{part}" for part in sorted(counts))


def frames_of_pair(composition: str, parts: list[Atoms], charge: int) -> Iterator[Atoms]:
    """The minimum of a packing, and snapshots of three temperatures."""
    rng, prefix = generator(f"{composition}/ions"), f"{composition}-ions"
    minimum, _ = relaxed(packing(parts, rng), charge)
    yield frame(minimum, f"{prefix}-min", composition, charge, "minimum")
    for t in (300, 600, 1000):
        (hot,) = dynamics(minimum, charge, t, rng, 1, 200)
        yield frame(hot, f"{prefix}-{t}", composition, charge, "hot", t)


def frames_of_packing(composition: str, count: int) -> Iterator[Atoms]:
    """Minima of random packings, then ten snapshots of each at 300, 450 or 600 K, dealt in turn."""
    walks = []
    for number in range(math.ceil(count / 10)):
        rng, prefix = generator(f"{composition}/{number}"), f"{composition}-{number}"
        minimum, _ = relaxed(packing(ideal(composition), rng), 0, fmax=0.01)
        yield frame(minimum, f"{prefix}-min", composition, 0, "minimum")
        t = (300, 450, 600)[number % 3]
        walks.append(
            [
                frame(atoms, f"{prefix}-{i}", composition, 0, "hot", t)
                for i, atoms in enumerate(dynamics(minimum, 0, t, rng, 10, 40, start=40))
            ]
        )
    yield from [atoms for turn in zip(*walks, strict=True) for atoms in turn][:count]
