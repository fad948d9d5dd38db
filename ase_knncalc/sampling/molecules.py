"""Molecules by name, and random clusters of them.

Names are those of atmospheric cluster databases: ``sa`` sulfuric acid, ``b`` bisulfate (−1), ``w``
water, ``am`` ammonia, ``amp`` ammonium (+1), ``ma``, ``dma``, ``tma`` methyl-, dimethyl- and
trimethylamine. Where others come from is told by :mod:`ase_knncalc.sampling.ingredients`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import vdw_radii

from ase_knncalc._lib.arrays import BoolArray, FloatArray
from ase_knncalc.structure import relative_distances

# Smallest distance of two molecules' atoms in units of the sum of their van der Waals radii. A
# hydrogen bond of 1.7 Å between H and O is 0.63, a loose contact of 2.4 Å 0.88.
CONTACT = (0.63, 0.85)

# Longest bond of hydrogen in units of the sum of covalent radii; a shared proton has 1.25.
_BOND = 1.5

# Where ASE's table has none.
_DEFAULT_RADIUS = 2.0


@dataclass(frozen=True)
class Ingredient:
    """So many of one molecule.

    Attributes
    ----------
    name : str
    molecule : Atoms
        Charge and multiplicity in ``info``.
    count : int
    """

    name: str
    molecule: Atoms
    count: int


def sulfuric_acid() -> Atoms:
    """H2SO4 from ideal bond lengths: tetrahedral S, O–H bonds turned to the double bonds' side."""
    corners = np.array([[1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]) / np.sqrt(3)
    oxygen = corners * np.array([1.43, 1.43, 1.59, 1.59])[:, None]
    hydrogen = []
    for k, target in ((2, 0), (3, 1)):
        across = corners[target] - corners[k] * (corners[target] @ corners[k])
        direction = 0.3 * corners[k] + across / np.linalg.norm(across)
        hydrogen.append(oxygen[k] + 0.98 * direction / np.linalg.norm(direction))
    return Atoms("SO4H2", np.vstack([np.zeros(3), oxygen, hydrogen]))


def _bisulfate() -> Atoms:
    atoms = sulfuric_acid()
    del atoms[-1]
    atoms.info["charge"] = -1
    return atoms


def _ammonium() -> Atoms:
    corners = np.array([[1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]]) / np.sqrt(3)
    atoms = Atoms("NH4", np.vstack([np.zeros(3), 1.02 * corners]))
    atoms.info["charge"] = 1
    return atoms


def _from_g2(name: str) -> Callable[[], Atoms]:
    def build() -> Atoms:
        from ase.build import molecule

        found = molecule(name)
        return Atoms(found.numbers, found.positions)

    return build


MOLECULES: dict[str, Callable[[], Atoms]] = {
    "sa": sulfuric_acid,
    "b": _bisulfate,
    "w": _from_g2("H2O"),
    "am": _from_g2("NH3"),
    "amp": _ammonium,
    "ma": _from_g2("H3CNH2"),
    "dma": _from_g2("C2H6NH"),
    "tma": _from_g2("C3H9N"),
}


def composition_of(ingredients: Sequence[Ingredient]) -> str:
    """Label such as ``2am2sa``, names in alphabetical order."""
    return "".join(f"{i.count}{i.name}" for i in sorted(ingredients, key=lambda i: i.name))


def charge_and_multiplicity(ingredients: Sequence[Ingredient]) -> tuple[int, int]:
    """Of a cluster of these molecules: charges add up, and so do spins.

    With one open-shell molecule the cluster has its multiplicity; several are taken in their
    high-spin state: two radicals are a triplet.
    """
    from ase_knncalc.structure import resolve_charge

    charge, unpaired = 0, 0
    for i in ingredients:
        own, multiplicity = resolve_charge(i.molecule)
        charge += i.count * own
        unpaired += i.count * (multiplicity - 1)
    return charge, unpaired + 1


def pack(ingredients: Sequence[Ingredient], rng: np.random.Generator) -> Atoms:
    """A random cluster: each molecule turned at random and moved up to the others until it touches.

    Returns
    -------
    Atoms
        With ``info["charge"]`` and ``info["multiplicity"]`` (:func:`charge_and_multiplicity`) and,
        per atom, ``arrays["molecule"]``: the number of its molecule.
    """
    molecules = [i.molecule for i in ingredients for _ in range(i.count)]
    order = rng.permutation(len(molecules))
    cluster = Atoms()
    owner: list[int] = []
    for place, m in enumerate(order):
        new = Atoms(molecules[m].numbers, molecules[m].positions)
        new.positions = (new.positions - new.get_center_of_mass()) @ random_rotation(rng).T
        if len(cluster):
            _dock(cluster, new, rng)
        cluster += new
        owner += [place] * len(new)
        cluster.positions -= cluster.get_center_of_mass()
    cluster.info["charge"], cluster.info["multiplicity"] = charge_and_multiplicity(ingredients)
    cluster.set_array("molecule", np.array(owner))
    return cluster


def _dock(cluster: Atoms, new: Atoms, rng: np.random.Generator) -> None:
    """Move a molecule in along a random ray until its closest contact is as asked for."""
    target = rng.uniform(*CONTACT)
    ray = rng.normal(size=3)
    ray /= np.linalg.norm(ray)
    reach = np.linalg.norm(cluster.positions, axis=1).max()
    reach += np.linalg.norm(new.positions, axis=1).max() + 10.0
    near, far = 0.0, float(reach)
    # Contacts along the ray are not monotonic inside the cluster, but they are outside: the last
    # distance at which the molecule touches is bracketed by steps from the outside.
    for distance in np.arange(far, 0.0, -0.25):
        if contact(cluster, new, shift=distance * ray) < target:
            near, far = float(distance), float(distance) + 0.25
            break
    for _ in range(12):
        middle = 0.5 * (near + far)
        if contact(cluster, new, shift=middle * ray) < target:
            near = middle
        else:
            far = middle
    new.positions += far * ray


def contact(first: Atoms, second: Atoms, shift: FloatArray | float = 0.0) -> float:
    """Closest contact of two molecules in units of the sum of van der Waals radii.

    ``shift`` (3,) is added to the positions of the second one, Å.
    """
    gaps = np.linalg.norm(first.positions[:, None] - (second.positions + shift), axis=2)
    return float((gaps / (_radii(first)[:, None] + _radii(second))).min())


def _radii(atoms: Atoms) -> FloatArray:
    return np.asarray(np.nan_to_num(vdw_radii[atoms.numbers], nan=_DEFAULT_RADIUS))


def closest_contact(cluster: Atoms, of: BoolArray | None = None) -> float:
    """Closest contact of any two molecules of a cluster (``arrays["molecule"]``).

    ``of`` (n_atoms,) chooses atoms: only contacts of theirs with others count.
    """
    owner = cluster.arrays["molecule"]
    apart = owner[:, None] != owner
    if of is not None:
        apart &= of[:, None]
    radii = _radii(cluster)
    ratio = cluster.get_all_distances() / (radii[:, None] + radii)
    return float(ratio[apart].min(initial=np.inf))


def assign_hydrogens(cluster: Atoms) -> None:
    """Give each hydrogen to the molecule of the heavy atom that it is bonded to, in place.

    Relaxation and dynamics transfer protons; in ``arrays["molecule"]``, where there is one, the
    proton then goes along. A hydrogen that is nearest to another one, or to none, stays with its
    molecule. Distances are in units of the sum of covalent radii.
    """
    owner = cluster.arrays.get("molecule")
    if owner is None or len(cluster) < 2:
        return
    ratio = relative_distances(cluster)
    np.fill_diagonal(ratio, np.inf)
    nearest = ratio.argmin(axis=1)
    hydrogen = cluster.numbers == 1
    bonded = hydrogen & ~hydrogen[nearest] & (ratio.min(axis=1) < _BOND)
    owner[bonded] = owner[nearest[bonded]]


def is_one_cluster(cluster: Atoms, contact: float = 1.3) -> bool:
    """Whether no molecule has left: all hang together by contacts below the given one."""
    radii = _radii(cluster)
    linked = cluster.get_all_distances() < contact * (radii[:, None] + radii)
    reached = np.zeros(len(cluster), dtype=bool)
    reached[0] = True
    while True:
        grown = linked[reached].any(axis=0) | reached
        if grown.sum() == reached.sum():
            return bool(grown.all())
        reached = grown


def random_rotation(rng: np.random.Generator) -> FloatArray:
    """Uniformly distributed rotation matrix, shape (3, 3)."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = rng.normal(size=4)
    return np.asarray(Rotation.from_quat([x, y, z, w]).as_matrix())
