"""What a structure must be before anything is computed for it: atoms, charge, multiplicity, names.

The functions here are called first by the baselines, the model and the data readers, so that a
structure which cannot be handled is refused once, early, and with the same words everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from ase_knncalc._lib.arguments import NotNegative, checked
from ase_knncalc._lib.arrays import AnyArray, FloatArray
from ase_knncalc.charges import agreed, stated_charges, stated_multiplicities
from ase_knncalc.errors import ChargeError, StructureError

_FARTHEST = 1e6
# Å; floating-point numbers of that size are 1e-10 apart.

_BLOCK_PAIRS = 2**20
# Distances are computed in blocks of this many pairs: 1000 atoms in one, memory bounded beyond.

_LAST_PLACES = 5
# Units in the last place by which the calculator's ``free_energy`` lies above its ``energy``: some
# 1e-12 eV. Other calculations have the same number twice, or two that differ by physics.


def resolve_charge(atoms: Atoms, charge: Any = None, multiplicity: Any = None) -> tuple[int, int]:
    """Total charge and spin multiplicity of a structure.

    For each of the two the sources are

    1. the argument;
    2. ``atoms.info`` under the usual names: ``charge``, ``total_charge``, ``net_charge``, ``q``, …;
       ``multiplicity``, ``spin_multiplicity``, ``mult``, or the number of unpaired electrons in
       ``uhf``, …; ``spin`` and ``total_spin`` where they can mean one multiplicity only;
    3. the attributes ``atoms.charge`` and ``atoms.spin_multiplicity``, as pymatgen's adaptor sets
       them;
    4. the sum of the initial charges; the absolute sum of the initial magnetic moments plus one
       (only where the array exists and is not all zero, because ASE's default is zero);
    5. charge 0; multiplicity 1, where the number of electrons is even.

    A source that is missing or ``None`` is passed over. All sources that do give a value have to
    agree: a contradiction is an error, not a matter of precedence. So is an odd number of electrons
    where nothing says the multiplicity, since it mostly is an ion without its charge.

    Parameters
    ----------
    atoms : ase.Atoms
        The structure; it is not changed.
    charge : int, optional
        Total charge in units of e. Python and NumPy integers, floats within 1e-3 of an integer,
        and strings such as ``"-1"`` are understood, here as in ``atoms.info``.
    multiplicity : int, optional
        2S + 1, where 2S is the number of unpaired electrons.

    Returns
    -------
    charge, multiplicity : tuple of int

    Raises
    ------
    ChargeError
        If sources contradict each other, a value is not an integer or can mean several things,
        the number of electrons is odd and nothing says the multiplicity, or charge, multiplicity
        and the number of electrons do not fit together (see :func:`check_electrons`).
    """
    label = Label(atoms)
    charges = stated_charges(atoms, charge, label)
    total_charge = agreed("charge", charges, label) or 0
    n_electrons = _electron_count(atoms, total_charge)
    multiplicities = stated_multiplicities(atoms, multiplicity, n_electrons, label)
    total_multiplicity = agreed("multiplicity", multiplicities, label)
    if total_multiplicity is None:
        if n_electrons % 2 and n_electrons > 0:
            raise ChargeError(
                f"{label}: charge {total_charge:+d} leaves {n_electrons} electrons, an odd number, "
                "and nothing says the multiplicity: is it an ion whose charge is missing, or a "
                'radical? Set atoms.info["charge"], or atoms.info["multiplicity"] (2 for a doublet)'
            )
        total_multiplicity = 1
    try:
        check_electrons(atoms, total_charge, total_multiplicity)
    except ChargeError as error:
        origin = [f"charge from {', '.join(charges) or 'default'}"]
        origin.append(f"multiplicity from {', '.join(multiplicities) or 'default'}")
        raise ChargeError(f"{error} ({'; '.join(origin)})") from None
    return total_charge, total_multiplicity


def lowest_multiplicity(atoms: Atoms, charge: int) -> int:
    """1 for an even number of electrons, 2 for an odd one."""
    return 1 + _electron_count(atoms, charge) % 2


def check_electrons(atoms: Atoms, charge: int, multiplicity: int) -> None:
    """Check that charge and multiplicity are possible for the electrons of a structure.

    Parameters
    ----------
    atoms : ase.Atoms
    charge : int
        Total charge in units of e.
    multiplicity : int
        2S + 1.

    Raises
    ------
    ChargeError
        If the charge removes more electrons than there are, the multiplicity is below 1 or asks
        for more unpaired electrons than there are, or an odd number of electrons goes with an odd
        multiplicity (or even with even).
    """
    label = Label(atoms)
    n_electrons = _electron_count(atoms, charge)
    if n_electrons < 0:
        raise ChargeError(
            f"{label}: charge {charge:+d} removes more electrons than the "
            f"{n_electrons + charge} that the neutral structure has; check the charge"
        )
    if multiplicity < 1:
        raise ChargeError(
            f"{label}: multiplicity {multiplicity} is not possible; it is 2S + 1 and at least 1 "
            "(1 for a closed shell, 2 for a radical)"
        )
    if multiplicity - 1 > n_electrons:
        raise ChargeError(
            f"{label}: multiplicity {multiplicity} needs {multiplicity - 1} unpaired electrons, "
            f"but with charge {charge:+d} there are {n_electrons} electrons; "
            f"expected at most multiplicity {n_electrons + 1}"
        )
    if (n_electrons + multiplicity) % 2 == 0:
        kind, expected = ("odd", "even") if n_electrons % 2 else ("even", "odd")
        raise ChargeError(
            f"{label}: charge {charge:+d} leaves {n_electrons} electrons, an {kind} number, which "
            f"does not go with multiplicity {multiplicity}; expected an {expected} multiplicity: "
            "check charge and multiplicity"
        )


def check_structure(atoms: Atoms, *, min_distance_factor: float = 0.5) -> None:
    """Check that a structure is a molecule or cluster that can be computed.

    Parameters
    ----------
    atoms : ase.Atoms
        The structure; it is not changed. A single atom is fine.
    min_distance_factor : float, default 0.5
        Atoms count as overlapping when their distance is below this factor times the sum of their
        covalent radii (``ase.data.covalent_radii``): 0.31 Å for H-H, 0.49 Å for O-H, 0.76 Å for
        C-C. Compressed bonds of hot molecular dynamics stay well above it; doubled atoms, wrong
        units (Bohr read as nanometre) and fused molecules fall below. 0 switches the check off.

    Raises
    ------
    StructureError
        If ``atoms`` is no ``ase.Atoms``, has no atoms, has NaN, infinite or vast positions, is
        periodic, has dummy atoms (``X``, atomic number 0), or has overlapping atoms.
    SettingsError
        If ``min_distance_factor`` is negative or not finite.

    Notes
    -----
    All pairs are compared, in O(n²) time; about 30 ms for 1000 atoms.
    """
    if not isinstance(atoms, Atoms):
        hint = "pass its frames one by one" if isinstance(atoms, list | tuple) else "convert it"
        hint = "read files with ase.io.read first" if isinstance(atoms, str) else hint
        raise StructureError(
            f"expected one ase.Atoms object, got {type(atoms).__module__}."
            f"{type(atoms).__qualname__}; {hint}"
        )
    global _passed
    known = tuple(a.tobytes() for a in (atoms.numbers, atoms.positions, atoms.pbc))
    if _passed == (*known, min_distance_factor):
        return
    checked("min_distance_factor", min_distance_factor, NotNegative)
    if len(atoms) == 0:
        raise StructureError("the structure has no atoms; expected at least one")
    unknown = np.flatnonzero(atoms.numbers >= len(chemical_symbols))
    if unknown.size:  # they have no name that a label could be made of
        raise StructureError(
            f"atomic number {atoms.numbers[unknown[0]]} of {_indices(unknown[:1])} is that of no "
            f"element; the last is {len(chemical_symbols) - 1}"
        )
    label = Label(atoms)
    if atoms.pbc.any():
        raise StructureError(
            f"{label}: periodic (pbc={atoms.pbc.tolist()}), but only molecules and clusters are "
            "supported; set `atoms.pbc = False` if it is meant as a molecule"
        )
    dummies = np.flatnonzero(atoms.numbers <= 0)
    if dummies.size:
        raise StructureError(
            f"{label}: ghost or dummy atoms (atomic number 0) at {_indices(dummies)}; remove them"
        )
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if bad.size:
        raise StructureError(
            f"{label}: NaN or infinite positions of {_indices(bad)}; expected finite numbers in Å "
            "(did a simulation explode, or a file end early?)"
        )
    far = np.flatnonzero(np.abs(atoms.positions).max(axis=1) > _FARTHEST)
    if far.size:
        raise StructureError(
            f"{label}: {_indices(far)} farther than {_FARTHEST:g} Å from the origin, where "
            "coordinates lose digits; move the structure to the origin (did a simulation explode?)"
        )
    _check_overlap(atoms, min_distance_factor, label)
    _passed = (*known, min_distance_factor)


# What of the structure that passed last: a model asks before its baseline does.
_passed: tuple[Any, ...] = ()


def structure_label(atoms: Atoms, index: int | None = None) -> str:
    """Name of a structure for messages.

    Parameters
    ----------
    atoms : ase.Atoms
    index : int, optional
        Position among the frames of a file, counted from 0.

    Returns
    -------
    str
        ``atoms.info["name"]``, else the formula in Hill order; with ``index`` followed by
        ``(frame <index>)``.
    """
    name = _info_text(atoms, "name") or atoms.get_chemical_formula(mode="hill") or "no atoms"
    return name if index is None else f"{name} (frame {index})"


class Label:
    """:func:`structure_label` for messages that few structures need: made when one is formatted."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms

    def __str__(self) -> str:
        return structure_label(self.atoms)


def composition_label(atoms: Atoms) -> str:
    """Label under which structures of the same composition are grouped.

    Parameters
    ----------
    atoms : ase.Atoms

    Returns
    -------
    str
        ``atoms.info["composition"]`` (such as ``"3sa4w"``), else the formula in Hill order.
    """
    return _info_text(atoms, "composition") or str(atoms.get_chemical_formula(mode="hill"))


def _electron_count(atoms: Atoms, charge: int) -> int:
    return int(atoms.numbers.sum()) - charge


def _check_overlap(atoms: Atoms, factor: float, label: object) -> None:
    """Raise StructureError when two atoms are closer than factor × sum of covalent radii."""
    n_atoms = len(atoms)
    # Symmetric reductions, no matter how the atoms are numbered; squares avoid n² square roots.
    x, y, z = np.ascontiguousarray(atoms.positions.T)
    radii = covalent_radii[atoms.numbers] * factor
    n_overlaps, worst = 0, (math.inf, 0, 0)
    rows = max(1, _BLOCK_PAIRS // n_atoms)
    for start in range(0, n_atoms, rows):
        block = slice(start, min(start + rows, n_atoms))
        distance2 = (x[block, None] - x) ** 2
        distance2 += (y[block, None] - y) ** 2
        distance2 += (z[block, None] - z) ** 2
        i, j = np.nonzero(distance2 < (radii[block, None] + radii) ** 2)
        upper = i + start < j  # each pair once, and no atom with itself
        i, j = i[upper], j[upper]
        if i.size:
            n_overlaps += i.size
            ratio = np.sqrt(distance2[i, j]) / (radii[i + start] + radii[j])
            k = int(np.argmin(ratio))
            worst = min(worst, (float(ratio[k]), int(i[k]) + start, int(j[k])))
    if n_overlaps:
        _, a, b = worst
        distance = float(np.linalg.norm(atoms.positions[a] - atoms.positions[b]))
        more = f" (and {n_overlaps - 1} more pairs)" if n_overlaps > 1 else ""
        raise StructureError(
            f"{label}: atoms {a} ({chemical_symbols[atoms.numbers[a]]}) and {b} "
            f"({chemical_symbols[atoms.numbers[b]]}) overlap at a distance of {distance:.3f} Å"
            f"{more}; expected at least {radii[a] + radii[b]:.3f} Å: "
            "check for doubled atoms and for the unit of the positions"
        )


def _info_text(atoms: Atoms, key: str) -> str:
    value = atoms.info.get(key)
    # Names such as 0001 come back from extended XYZ as integers.
    return "" if value is None else plain_text(value).strip()


def plain_text(value: Any) -> str:
    """A value as text that every file can hold: what has no UTF-8 (lone surrogates) is escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _indices(indices: np.ndarray, limit: int = 5) -> str:
    listed = ", ".join(str(int(i)) for i in indices[:limit])
    more = f" and {len(indices) - limit} more" if len(indices) > limit else ""
    return f"atom{'s' if len(indices) > 1 else ''} {listed}{more}"


def label_bytes(labels: Sequence[str]) -> AnyArray:
    """Names as fixed-width UTF-8, the form in which the model keeps them, shape (n,)."""
    # Names may hold what no UTF-8 has, such as bytes of old file names.
    encoded = [label.encode("utf-8", "backslashreplace") for label in labels]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def relative_distances(atoms: Atoms) -> FloatArray:
    """Distances in units of the sum of two atoms' covalent radii, shape (n_atoms, n_atoms)."""
    radii = covalent_radii[atoms.numbers]
    return np.asarray(atoms.get_all_distances() / (radii[:, None] + radii))


def marked_free_energy(energy: float) -> float:
    """The predicted energy (eV) as ``free_energy``: the same but for its last digits, a mark."""
    return float(energy + _LAST_PLACES * np.spacing(energy))
