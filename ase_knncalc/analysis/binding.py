"""Binding energies: which molecules a cluster is made of, and what it gains over them apart.

    E_bind = E(cluster) − Σ_m n_m E_ref(m)

Molecules are recognised by their heavy atoms (connected within a molecule, never across a hydrogen
bond), so that a proton may sit on either side; hydrogen atoms and the total charge then decide
which of several monomers with the same heavy atoms (an acid and its anion) are meant. Of what is
left, conformers of one molecule under two names and the molecule that keeps the proton of an ion,
the monomers of lowest energy are the zero.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, product
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.symbols import Symbols

from ase_knncalc._lib.arguments import checked, instance
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc.errors import StructureError
from ase_knncalc.model import KNNModel
from ase_knncalc.store.integrity import check_monomers
from ase_knncalc.structure import relative_distances, structure_label

if TYPE_CHECKING:
    from ase_knncalc.prediction import Prediction

Monomers = Mapping[str, Mapping[str, Any]]
Skeleton = tuple[tuple[int, str], ...]

# Atoms nearer than this multiple of the sum of their covalent radii are bonded: hydrogen-bonded
# oxygen atoms are 2.4 Å apart at least, bonds are within 1.2 times the sum.
_BOND = 1.25
# Sets of monomers whose energies differ by less are one set under several names, eV.
_SAME_ENERGY = 1e-3
# Largest force (eV/Å) on an atom of a cluster that is taken for relaxed.
_RELAXED = 0.05
# More ways of assigning monomers than this are not tried one by one.
_MOST_WAYS = 100_000


@dataclass(frozen=True)
class Binding:
    """Binding energy of one cluster.

    Attributes
    ----------
    molecules : dict
        How many of each monomer, by name.
    charge : int
    energy : float
        Predicted energy of the cluster, eV.
    monomer_energy : float
        Sum of the monomers' reference energies, eV.
    binding_energy : float
        Their difference, eV; negative where the cluster is bound.
    energy_std : float
        Calibrated standard deviation of the binding energy, eV: that of the cluster, where the
        monomers have reference energies; predicted ones add theirs.
    prediction : Prediction
    geometries : str
        Why the difference is biased: the monomers of a model are at minima of its reference, and
        the cluster is not, or the model cannot tell. Empty where all are.
    """

    molecules: dict[str, int]
    charge: int
    energy: float
    monomer_energy: float
    binding_energy: float
    energy_std: float
    prediction: Prediction
    geometries: str = ""


def binding_energy(
    model: KNNModel,
    atoms: Atoms,
    *,
    monomers: Monomers | None = None,
    molecules: str | None = None,
    charge: int | None = None,
    multiplicity: int | None = None,
    baseline_energy: float | None = None,
) -> Binding:
    """Binding energy of a cluster relative to its molecules in their lowest known structures.

    Parameters
    ----------
    model
        With a baseline.
    atoms
        The cluster.
    monomers
        Further monomers, as in ``model.info.monomers``; they go before those of the model.
    molecules
        What the cluster is made of, e.g. ``"2sa1am"``, where it is not to be recognised.
    charge, multiplicity, baseline_energy
        As for :meth:`KNNModel.predict`.

    Raises
    ------
    StructureError
        If the molecules are unknown, ambiguous, or do not add up to the cluster; or if the model
        does not cover it.
    BaselineError
        If the baseline fails.
    """
    instance("model", model, KNNModel)
    checked("molecules", molecules, str | None)
    if monomers is not None:
        check_monomers(instance("monomers", monomers, Mapping))
    own = {name: {**record, "own": True} for name, record in (monomers or {}).items()}
    known: dict[str, Mapping[str, Any]] = {**model.info.monomers, **own}
    total = model.check(atoms, charge, multiplicity)
    parts = _given(molecules, atoms, total, known) if molecules else recognise(atoms, total, known)
    slopes = model.trained_on_forces and baseline_energy is None
    prediction = model.predict(
        atoms,
        charge=charge,
        multiplicity=multiplicity,
        baseline_energy=baseline_energy,
        forces=slopes,
    )
    apart = monomer_sum(parts, known)
    energy = prediction.energy
    # Copies of one monomer have one error, different monomers errors of their own.
    stds = [n * float(known[name].get("energy_std", 0.0)) for name, n in parts.items()]
    return Binding(
        molecules=parts,
        charge=total,
        energy=energy,
        monomer_energy=apart,
        binding_energy=energy - apart,
        energy_std=math.hypot(prediction.energy_std, *stds),
        prediction=replace(prediction, delta_forces=None, baseline_forces=None),
        geometries="" if set(parts) <= set(own) else _geometries(model, prediction.forces),
    )


def _geometries(model: KNNModel, forces: FloatArray | None) -> str:
    """What is known of a cluster's level beside monomers at minima of the reference."""
    reference = f"{model.info.reference or 'the reference'}, as the monomers of the model are"
    if forces is None:
        return (
            f"only right if it is at a minimum of {reference}, which this model cannot tell; at a "
            "geometry of another level it is bound too weakly"
        )
    force = float(np.linalg.norm(forces, axis=1).max(initial=0.0))
    if force <= _RELAXED:
        return ""
    return (
        f"bound too weakly: with forces up to {force:.2f} eV/Å it is at no minimum of {reference}; "
        "relax it with the model, or give monomers of its own level (--monomers)"
    )


def read_monomers(
    data: Any,
    reference_key: str = "reference_energy",
    model: KNNModel | None = None,
    baseline_key: str = "baseline_energy",
) -> dict[str, dict[str, Any]]:
    """Monomers from file(s) or frames, by their names.

    Parameters
    ----------
    data
        Relaxed monomers. Their name is ``info["name"]``, else a composition such as ``1am``, else
        that of a file with one frame.
    reference_key
        Of their energies.
    model
        Predicts the energies of monomers that have none; ``energy_std`` then says how well.
    baseline_key
        Of the baseline energies that a model with ``baseline="given"`` needs for that.

    Raises
    ------
    DataError
        If they cannot be read, or one has no energy and there is no model.
    """
    from ase_knncalc.data import KeyMap, read_dataset
    from ase_knncalc.labels.baseline import brought_energy

    keys = KeyMap(reference_energy=reference_key, baseline_energy=baseline_key)
    frames = read_dataset(data, keys=keys, require_reference=model is None).frames
    found = {}
    for atoms in frames:
        record = {}
        if "reference_energy" not in atoms.info:
            assert model is not None
            brought = brought_energy(model.baseline, atoms)
            prediction = model.predict(atoms, baseline_energy=brought)
            atoms.info["reference_energy"] = prediction.energy
            record["energy_std"] = prediction.energy_std
        found[_monomer_name(atoms)] = _record(atoms) | record
    return found


def _monomer_name(atoms: Atoms) -> str:
    name, composition = str(atoms.info["name"]), str(atoms.info.get("composition", ""))
    # Frames without a name are called after their file and their number in it.
    stem, _, number = name.rpartition("-")
    unnamed = stem and number.isdigit() and str(atoms.info.get("source", "")).startswith(stem)
    if not unnamed:
        return name
    return composition if re.fullmatch(r"1[A-Za-z]+", composition) else stem


def monomer_records(frames: Iterable[Atoms]) -> dict[str, dict[str, Any]]:
    """What a model keeps of labelled monomers, by their names."""
    return {str(a.info["name"]): _record(a) for a in frames}


def lone_molecules(frames: Iterable[Atoms]) -> dict[str, dict[str, Any]]:
    """Molecules among labelled clusters, by composition, the lowest conformer of each.

    A molecule has a composition such as ``1dma``, or ``1am1p`` with a proton. ``structures`` says
    how many of the frames hold it.
    """
    lowest: dict[str, Atoms] = {}
    uses: Counter[str] = Counter()
    for atoms in frames:
        name = str(atoms.info["composition"])
        uses.update(f"1{part}" for part in set(re.findall(r"[A-Za-z]+", name)))
        molecule = re.sub(r"^1p(?=1)|1p$", "", name)
        if not re.fullmatch(r"1[A-Za-z]+", molecule):
            continue
        best = lowest.get(name)
        if best is None or atoms.info["reference_energy"] < best.info["reference_energy"]:
            lowest[name] = atoms
    return {
        name: _record(atoms) | {"structures": uses[name]} for name, atoms in sorted(lowest.items())
    }


def _record(atoms: Atoms) -> dict[str, Any]:
    record = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "charge": int(atoms.info.get("charge", 0)),
        "reference_energy": float(atoms.info["reference_energy"]),
    }
    if "baseline_energy" in atoms.info:
        record["baseline_energy"] = float(atoms.info["baseline_energy"])
    return record


def recognise(atoms: Atoms, charge: int, monomers: Monomers) -> dict[str, int]:
    """Numbers of each monomer in a cluster.

    Parameters
    ----------
    atoms, charge
        The cluster and its total charge.
    monomers
        By name: ``numbers``, ``charge`` and, where isomers are to be told apart, ``positions``.

    Raises
    ------
    StructureError
        If no combination of monomers has the cluster's atoms and charge, or several have that may
        be isomers: some have no positions to tell them apart.
    """
    skeletons = Counter(skeleton(part) for part in fragments(atoms))
    label = structure_label(atoms)
    if not skeletons:
        raise StructureError(f"{label} has hydrogen atoms only: no molecules are recognised")
    candidates = []
    for kind in skeletons:
        fitting = _fitting(kind, monomers)
        if not fitting:
            raise StructureError(
                f"{label} holds a molecule with the heavy atoms {_formula(kind)}, for which no "
                f"monomer is known; known are {', '.join(sorted(monomers)) or 'none'}. Give the "
                "missing one with its reference energy (monomers=…, --monomers)"
            )
        candidates.append(fitting)
    hydrogens = int(np.sum(atoms.numbers == 1))
    found = [
        way
        for way in _ways(candidates, list(skeletons.values()), label)
        if _total(way, monomers, "hydrogens") == hydrogens
        and _total(way, monomers, "charge") == charge
    ]
    if not found:
        raise StructureError(
            f"{label} (charge {charge:+d}, {hydrogens} H) cannot be put together from "
            f"{', '.join(sorted({name for group in candidates for name in group}))}: hydrogen "
            "atoms or charge do not add up. Is the charge right? Otherwise a monomer is missing "
            "(monomers=…, --monomers)"
        )
    fewest = min(_ions(way, monomers) for way in found)
    best = [way for way in found if _ions(way, monomers) == fewest]
    own = max(_own(way, monomers) for way in best)
    best = [way for way in best if _own(way, monomers) == own]
    if len(best) > 1 and not all("positions" in monomers[name] for way in best for name in way):
        several = " or ".join(_text(way) for way in best[:4])
        raise StructureError(f"{label} may be {several}: say which (molecules='…', --as)")
    least = min(monomer_sum(way, monomers) for way in best)
    near = [way for way in best if monomer_sum(way, monomers) <= least + _SAME_ENERGY]
    # Of two names for one molecule, the one that most structures have.
    usual = max(near, key=lambda way: (_uses(way, monomers), sorted(way.items())))
    return dict(sorted(usual.items()))


def _own(way: Counter[str], monomers: Monomers) -> int:
    """Molecules for which the user brought the monomer: these go before the model's."""
    return sum(n for name, n in way.items() if monomers[name].get("own"))


def _uses(way: Counter[str], monomers: Monomers) -> int:
    return sum(n * int(monomers[name].get("structures", 0)) for name, n in way.items())


def monomer_sum(molecules: Mapping[str, int], monomers: Monomers) -> float:
    """Sum of the reference energies of molecules apart, eV."""
    return float(sum(n * monomers[name]["reference_energy"] for name, n in molecules.items()))


def fragments(atoms: Atoms) -> list[Atoms]:
    """Heavy atoms that are bonded to each other, without hydrogen, one ``Atoms`` a molecule."""
    heavy = Atoms(atoms.numbers, atoms.positions)[atoms.numbers > 1]
    owner = molecule_numbers(heavy)
    return [heavy[owner == i] for i in range(owner.max(initial=-1) + 1)]


def molecule_numbers(heavy: Atoms) -> IntArray:
    """Which molecule each heavy atom belongs to, shape (n_heavy,), counted by their first atoms."""
    from scipy.sparse.csgraph import connected_components

    if not len(heavy):
        return np.zeros(0, dtype=np.intp)
    return np.asarray(connected_components(_bonded(heavy), directed=False)[1], dtype=np.intp)


def hydrogen_hosts(atoms: Atoms) -> IntArray:
    """Heavy atom, counted among these, that each hydrogen is nearest to, shape (n_hydrogen,).

    In units of the sum of covalent radii. Without heavy atoms it is 0.
    """
    heavy, hydrogen = atoms.numbers > 1, atoms.numbers == 1
    if not heavy.any():
        return np.zeros(int(hydrogen.sum()), dtype=np.intp)
    ratio = relative_distances(atoms)
    return np.asarray(ratio[np.ix_(hydrogen, heavy)].argmin(axis=1))


def skeleton(atoms: Atoms) -> Skeleton:
    """Heavy atoms of a molecule with all that is bonded to them: equal for conformers.

    Atoms are told apart by their neighbours, these by theirs, and so on (colour refinement
    [1]_), so that isomers differ unless they differ in space alone.

    References
    ----------
    .. [1] B. Weisfeiler, A. Leman, Nauchno-Tekhnicheskaya Informatsia 2(9), 12 (1968).
    """
    heavy = Atoms(atoms.numbers, atoms.positions)[atoms.numbers > 1]
    bonded = _bonded(heavy)
    colours = [str(z) for z in heavy.numbers]
    for _ in range(len(heavy)):
        seen = [sorted(c for c, b in zip(colours, row, strict=True) if b) for row in bonded]
        colours = [
            hashlib.sha1(f"{own}:{','.join(near)}".encode()).hexdigest()
            for own, near in zip(colours, seen, strict=True)
        ]
    return tuple(sorted(zip(map(int, heavy.numbers), colours, strict=True)))


def _bonded(heavy: Atoms) -> FloatArray:
    radii = covalent_radii[heavy.numbers]
    near: FloatArray = heavy.get_all_distances() < _BOND * (radii[:, None] + radii)
    np.fill_diagonal(near, False)
    return near


def _fitting(kind: Skeleton, monomers: Monomers) -> list[str]:
    """Monomers with these heavy atoms: by their bonds where positions are known."""
    elements = sorted(z for z, _ in kind)
    found = []
    for name, monomer in monomers.items():
        if sorted(z for z in monomer["numbers"] if z > 1) != elements:
            continue
        positions = monomer.get("positions")
        if positions is None or skeleton(Atoms(monomer["numbers"], positions)) == kind:
            found.append(name)
    return sorted(found)


def _ways(candidates: list[list[str]], counts: list[int], label: str) -> Iterator[Counter[str]]:
    choices = [
        list(combinations_with_replacement(names, n))
        for names, n in zip(candidates, counts, strict=True)
    ]
    if np.prod([float(len(c)) for c in choices]) > _MOST_WAYS:
        raise StructureError(
            f"{label} has too many molecules with several possible monomers: say what it is made "
            "of (molecules='…', --as)"
        )
    for way in product(*choices):
        yield Counter(name for names in way for name in names)


def _total(way: Counter[str], monomers: Monomers, what: str) -> int:
    if what == "charge":
        return sum(n * int(monomers[name]["charge"]) for name, n in way.items())
    return sum(n * list(monomers[name]["numbers"]).count(1) for name, n in way.items())


def _ions(way: Counter[str], monomers: Monomers) -> int:
    return sum(n * abs(int(monomers[name]["charge"])) for name, n in way.items())


def _given(text: str, atoms: Atoms, charge: int, monomers: Monomers) -> dict[str, int]:
    """Molecules as the user says, after making sure that they add up."""
    parts: Counter[str] = Counter()
    for number, name in re.findall(r"(\d*)\s*([A-Za-z][A-Za-z_+-]*)", text):
        match = next((m for m in (f"1{name}", name) if m in monomers), None)
        if match is None:
            raise StructureError(
                f"no monomer {name!r} is known; known are {', '.join(sorted(monomers)) or 'none'}"
            )
        parts[match] += int(number or 1)
    if not parts:
        raise StructureError(f"cannot read molecules from {text!r}; write e.g. '2sa1am'")
    numbers = Counter(z for name, n in parts.items() for z in list(monomers[name]["numbers"]) * n)
    have = Counter(atoms.numbers.tolist())
    total = _total(parts, monomers, "charge")
    if numbers != have or total != charge:
        raise StructureError(
            f"{_text(parts)} is {_symbols(numbers)} with charge {total:+d}, but "
            f"{structure_label(atoms)} is {_symbols(have)} with charge {charge:+d}"
        )
    return dict(sorted(parts.items()))


def _text(way: Counter[str]) -> str:
    """Molecules in short: names in models begin with the number 1, which is not repeated."""
    return " ".join(f"{n}{name.removeprefix('1')}" for name, n in sorted(way.items()))


def _formula(kind: Skeleton) -> str:
    return str(Symbols([z for z, _ in kind]).formula.format("hill"))


def _symbols(numbers: Counter[int]) -> str:
    return str(Symbols(list(numbers.elements())).formula.format("hill"))
