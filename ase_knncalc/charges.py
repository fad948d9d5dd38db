"""Charge and spin of a structure, under all the names that programs give them.

What is read here is what :func:`ase_knncalc.structure.resolve_charge` decides on. Names are
compared without case and punctuation: ``Total-Charge`` is ``total_charge``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ase_knncalc.errors import ChargeError

_CHARGE_NAMES = frozenset(
    {"charge", "totalcharge", "netcharge", "totcharge", "systemcharge", "formalcharge"}
    | {"molecularcharge", "molcharge", "chargestate", "chrg"}
)
_MULTIPLICITY_NAMES = frozenset({"multiplicity", "spinmultiplicity", "mult", "spinmult"})
_UNPAIRED_NAMES = frozenset(
    {"uhf", "nuhf", "unpaired", "nunpaired", "unpairedelectrons", "numunpaired"}
    | {"numberofunpairedelectrons"}
)
_SPIN_NAMES = frozenset({"spin", "totalspin", "netspin"})
_ALL_NAMES = _CHARGE_NAMES | _MULTIPLICITY_NAMES | _UNPAIRED_NAMES | _SPIN_NAMES

ATTRIBUTES = ("charge", "spin_multiplicity")
"""What pymatgen's adaptor sets on ``Atoms`` objects, and ``Atoms.copy`` drops."""

_INTEGER_TOLERANCE = 1e-3
# Sums of partial charges, which are written with two or three digits, carry their rounding.
_SUM_TOLERANCE = 0.05


def stated(atoms: Atoms) -> dict[str, Any]:
    """Everything beside the initial charges and moments that says something of charge or spin.

    Returns
    -------
    dict
        Values as they stand, by ``info.<key>`` or ``atoms.<attribute>``.
    """
    found = {f"info.{key}": value for _, key, value in _entries(atoms)}
    return found | {f"atoms.{name}": value for name, value in _beside_info(atoms).items()}


def stated_copy(atoms: Atoms) -> Atoms:
    """``atoms.copy()`` with what the object, or the calculator of a file, says of its charge."""
    copy = atoms.copy()
    vars(copy).update(_beside_info(atoms))
    return copy


def info_with_state(atoms: Atoms) -> dict[Any, Any]:
    """``info`` for a file, with charge and multiplicity that stand beside it."""
    names = {name for name, _, _ in _entries(atoms)}
    beside = _beside_info(atoms)
    info = dict(atoms.info)
    if "charge" in beside and names.isdisjoint(_CHARGE_NAMES):
        info["charge"] = beside["charge"]
    if "spin_multiplicity" in beside and names.isdisjoint(_MULTIPLICITY_NAMES | _UNPAIRED_NAMES):
        info["multiplicity"] = beside["spin_multiplicity"]
    return info


def _beside_info(atoms: Atoms) -> dict[str, Any]:
    """Attributes; and where there is none, the parameters that a file keeps of a calculation."""
    found = {}
    if isinstance(atoms.calc, SinglePointCalculator):
        given = getattr(atoms.calc, "parameters", None) or {}
        found = {
            "charge": given.get("charge"),
            "spin_multiplicity": given.get("multiplicity", given.get("mult")),
        }
    found |= {
        name: vars(atoms).get(name) for name in ATTRIBUTES if vars(atoms).get(name) is not None
    }
    return {name: value for name, value in found.items() if value is not None}


def stated_charges(atoms: Atoms, argument: Any, label: object) -> dict[str, int]:
    """What each source says of the total charge, by the name of the source.

    Raises
    ------
    ChargeError
        If a value is no integer, or only keys that are not known seem to speak of a charge.
    """
    found = _given("charge", argument, atoms, "charge", _CHARGE_NAMES, label)
    if atoms.has("initial_charges"):
        values = np.asarray(atoms.get_initial_charges(), dtype=float)
        if np.any(values != 0):  # NaN counts as given, and is refused as a value
            source = "sum of initial charges"
            found[source] = to_int(float(values.sum()), source, label, _SUM_TOLERANCE)
    if not found:
        _refuse_unknown(atoms, ("charge", "anion", "cation"), _CHARGE_NAMES, "charge", label)
    return found


def stated_multiplicities(
    atoms: Atoms, argument: Any, n_electrons: int, label: object
) -> dict[str, int]:
    """What each source says of the multiplicity 2S + 1, by the name of the source.

    Numbers under ``spin`` or ``total_spin`` are 2S + 1, 2S or S, as programs have it. They count
    where the number of electrons, or another source, leaves one meaning.

    Raises
    ------
    ChargeError
        If a value is no number, can mean several things or contradicts the others.
    """
    found = _given("multiplicity", argument, atoms, "spin_multiplicity", _MULTIPLICITY_NAMES, label)
    for name, key, value in _entries(atoms):
        if name in _UNPAIRED_NAMES and value is not None:
            source = f'atoms.info["{key}"]'
            found[f"{source} + 1"] = to_int(value, source, label) + 1
    if atoms.has("initial_magmoms"):
        moments = np.asarray(atoms.get_initial_magnetic_moments(), dtype=float)
        if moments.ndim != 1:
            raise ChargeError(
                f"{label}: initial magnetic moments are vectors (shape {moments.shape}), but only "
                "collinear spins are supported; set one number per atom, or remove them and give "
                "multiplicity"
            )
        if np.any(moments != 0):
            source = "|sum of initial magnetic moments| + 1"
            found[source] = to_int(abs(float(moments.sum())) + 1.0, source, label, _SUM_TOLERANCE)
    if not found:
        _refuse_unknown(
            atoms, ("multiplicit", "unpaired"), _MULTIPLICITY_NAMES | _UNPAIRED_NAMES,
            "multiplicity", label,
        )  # fmt: skip
    known = next(iter(found.values()), None)
    for name, key, value in _entries(atoms):
        if name in _SPIN_NAMES and value is not None:
            source = f'atoms.info["{key}"]'
            found[f"{source} = {value}, as multiplicity,"] = _spin(
                value, known, n_electrons, source, label
            )
    return found


def _spin(value: Any, known: int | None, n_electrons: int, source: str, label: object) -> int:
    """Multiplicity from a number that is 2S + 1, 2S or S."""
    number = math.nan if isinstance(value, bool | np.bool_) else _number(value)
    if not (math.isfinite(number) and abs(2 * number - round(2 * number)) <= _INTEGER_TOLERANCE):
        raise ChargeError(
            f"{label}: {source} is {value!r}, expected a number; correct or remove it, and set "
            'atoms.info["multiplicity"] (2S + 1)'
        )
    twice = round(2 * number)
    # 2S + 1, 2S, and S, which alone can be half an integer.
    meanings = {twice + 1} if twice % 2 else {twice // 2, twice // 2 + 1, twice + 1}
    if known is not None:
        fitting = sorted(meanings & {known})
    else:
        fitting = sorted(m for m in meanings if m > 0 and (m + n_electrons) % 2)
    # 1 is a singlet for those who mean 2S + 1; a triplet that is meant as S = 1 has to be said.
    if len(fitting) == 1 or fitting[:1] == [1]:
        return fitting[0]
    state = known or 1 + n_electrons % 2
    raise ChargeError(
        f"{label}: {source} = {value} means neither 2S nor 2S + 1 of multiplicity {state}, or may "
        "mean several things; programs disagree on what it is: set "
        'atoms.info["multiplicity"] (2S + 1) instead'
    )


def agreed(what: str, given: dict[str, int], label: object) -> int | None:
    """The one value all sources give, or None without a source.

    Raises
    ------
    ChargeError
        If they differ.
    """
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{source} = {value}" for source, value in given.items())
        raise ChargeError(
            f"{label}: sources of the {what} contradict each other: {listed}; "
            "correct or remove all but one"
        )
    return next(iter(given.values()), None)


def to_int(value: Any, source: str, label: object, tolerance: float = _INTEGER_TOLERANCE) -> int:
    """Read an integer, however it is written, or raise a ChargeError that names its source."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    # bool is an int to Python, but True as a charge is a mistake and not a cation.
    if not isinstance(value, bool | np.bool_):
        if isinstance(value, int | np.integer):
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value):
            return int(value)
        if isinstance(value, float | np.floating) and math.isfinite(value):
            nearest = round(float(value))
            if abs(float(value) - nearest) <= tolerance:
                return nearest
    raise ChargeError(f"{label}: {source} is {value!r}, expected an integer; correct or remove it")


@lru_cache(maxsize=1024)
def _name(key: Any) -> str:
    if key == "q":
        return "charge"
    return re.sub(r"[^a-z]", "", key.lower()) if isinstance(key, str) else ""


def _entries(atoms: Atoms) -> Iterator[tuple[str, Any, Any]]:
    """Plain name, key and value of the entries of ``info`` under one of the names above."""
    for key, value in atoms.info.items():
        name = _name(key)
        if name in _ALL_NAMES:
            yield name, key, value


def _given(
    what: str, argument: Any, atoms: Atoms, attribute: str, names: frozenset[str], label: object
) -> dict[str, int]:
    sources = {f"argument {what}": argument}
    sources |= {f'atoms.info["{k}"]': v for name, k, v in _entries(atoms) if name in names}
    sources[f"atoms.{attribute}"] = _beside_info(atoms).get(attribute)
    return {s: to_int(value, s, label) for s, value in sources.items() if value is not None}


def _refuse_unknown(
    atoms: Atoms, words: tuple[str, ...], known: frozenset[str], what: str, label: object
) -> None:
    """Refuse numbers that may be the charge (multiplicity) under keys that are not known."""
    for key, value in atoms.info.items():
        name = _name(key)
        if name in known or not any(word in name for word in words):
            continue
        number = _number(value)
        if number and number.is_integer():
            raise ChargeError(
                f'{label}: atoms.info["{key}"] = {value} may be the {what}, but is none of the '
                f'names that are read; set atoms.info["{what}"], or remove it'
            )


def _number(value: Any) -> float:
    """A scalar as a number, NaN where it is none."""
    if isinstance(value, bool | np.bool_) or np.ndim(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
