"""What a campaign is of: numbers of molecules, grids of them, and where the protons sit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product

from ase_knncalc.errors import SettingsError
from ase_knncalc.sampling import parse_ingredients
from ase_knncalc.sampling.molecules import MOLECULES, Ingredient
from ase_knncalc.store import load_model

# A number or a range, and a name: neither "-x sa" after "0", nor "sa 2 am" without its comma.
_PART = re.compile(r"\s*(?:(\d+)(?:\s*-\s*(\d+))?)?\s*(-|(?!-)[^\d\s](?:(?!\s\d+\s).)*?)\s*")

# More ways to place the protons than this are not tried.
MOST_STATES = 30


def molecule_counts(composition: str) -> dict[str, int]:
    """Numbers of molecules by name, of a text such as ``"2 sa, 2 am"``.

    Raises
    ------
    SettingsError
        If the text is none, or has ranges.
    """
    counts: dict[str, int] = {}
    for name, low, high in _parts(composition):
        if low != high or low == 0:
            raise SettingsError(
                f"composition {composition!r}: expected such as '2 sa, 2 am'; ranges such as "
                "'0-4 sa' make a grid (--grid, explore_grid)"
            )
        counts[name] = counts.get(name, 0) + low
    return counts


def is_grid(composition: str) -> bool:
    """Whether there is a range in it."""
    return any(low != high for _, low, high in _parts(composition))


def grid_compositions(grid: str, exclude: Sequence[str] = ()) -> list[str]:
    """Compositions of a grid such as ``"0-4 sa, 0-4 am"``, those of few molecules first.

    Parameters
    ----------
    grid
        Of each molecule a number, or a range of them, both ends included.
    exclude
        Compositions, or grids of them, to leave out. A molecule that is not in such a text is not
        in what it means: ``"2-4 am"`` are clusters of ammonia alone.

    Returns
    -------
    list of str
        Such as ``"1 sa, 2 am"``; the empty one is none of them.

    Raises
    ------
    SettingsError
        If a text is none, names a molecule twice, or leaves out one that is not there; or if
        nothing is left.
    """
    ranges = _ranges(grid)
    without = [_ranges(text) for text in exclude]
    for text, each in zip(exclude, without, strict=True):
        if unknown := sorted(each.keys() - ranges.keys()):
            raise SettingsError(f"exclude {text!r}: there is no {unknown[0]} in the grid {grid!r}")

    def is_wanted(numbers: Mapping[str, int]) -> bool:
        return any(numbers.values()) and not any(
            all(n in each.get(name, range(1)) for name, n in numbers.items()) for each in without
        )

    every = (dict(zip(ranges, numbers, strict=True)) for numbers in product(*ranges.values()))
    found = sorted(filter(is_wanted, every), key=lambda numbers: sum(numbers.values()))
    if not found:
        raise SettingsError(f"nothing is left of the grid {grid!r}")
    return [", ".join(f"{n} {name}" for name, n in each.items() if n) for each in found]


def _ranges(grid: str) -> dict[str, range]:
    ranges: dict[str, range] = {}
    for name, low, high in _parts(grid):
        if name in ranges:
            raise SettingsError(f"grid {grid!r}: {name} is there twice")
        ranges[name] = range(low, high + 1)
    return ranges


def _parts(text: str) -> list[tuple[str, int, int]]:
    """Molecules with their lowest and highest number."""
    parts = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        low = int(match[1] or 1) if match else 0
        high = int(match[2] or low) if match else 0
        if match is None or high < low:
            raise SettingsError(
                f"composition {text!r}: expected such as '2 sa, 2 am', or '0-4 sa, 0-4 am' for a "
                "grid"
            )
        parts.append((match[3], low, high))
    return parts


def proton_states(composition: str, model: str, *, ions: bool = True) -> list[list[Ingredient]]:
    """Molecules for each way to give protons of acids to bases, none first.

    Parameters
    ----------
    composition
        Such as ``"2 sa, 2 am"``.
    model
        Whose molecules are known, beside those of every installation.
    ions
        Whether there are any ways but the first.

    Raises
    ------
    SettingsError
        If the composition is none, or a molecule unknown.
    """
    counts = molecule_counts(composition)
    states = _states(counts, model) if ions else [counts]
    return [parse_ingredients([f"{k}:{n}" for k, n in state.items()], model) for state in states]


def _states(counts: Mapping[str, int], model: str) -> list[dict[str, int]]:
    monomers = load_model(model, baseline=None).info.monomers
    known = {name.removeprefix("1") for name in monomers} | set(MOLECULES)
    # Water takes part in what relaxation makes of it: ions of it alone are no minima.
    acids = {n: a for n in counts if n != "w" and (a := {"sa": "b"}.get(n, f"{n}m")) in known}
    bases = {n: f"{n}p" for n in counts if n != "w" and f"{n}p" in known}
    found = []
    for given in product(*(range(counts[n] + 1) for n in acids)):
        for taken in product(*(range(counts[n] + 1) for n in bases)):
            if sum(given) != sum(taken):
                continue
            state = dict(counts)
            for own, ions, numbers in ((acids, acids, given), (bases, bases, taken)):
                for name, n in zip(own, numbers, strict=True):
                    state[name] -= n
                    state[ions[name]] = state.get(ions[name], 0) + n
            if min(state.values()) >= 0:
                found.append((sum(given), {k: n for k, n in state.items() if n}))
    return [state for _, state in sorted(found, key=lambda f: f[0])]
