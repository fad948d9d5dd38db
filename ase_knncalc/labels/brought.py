"""Whether baseline energies that came with structures are those of the baseline, by samples.

A model that was trained on other baseline energies than it is used with is silently wrong, and so
is one of data that mix two baselines: of a file from here and a file from there, or of small
structures and large ones. All energies cannot be computed again, but a few can.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from ase import Atoms

from ase_knncalc.baselines import Baseline
from ase_knncalc.errors import BaselineError, DataError
from ase_knncalc.labels.baseline import baseline_labels

# eV per atom: above rounding and versions of a library, below any two methods.
TOLERANCE = 1e-3

_SMALLEST = 3
_SAMPLED = 10
_FILES = 5
# Atoms of sampled structures, and of the largest one: a tenth and a third of a second of xTB.
_SAMPLED_ATOMS = 40
_MOST_ATOMS = 60
_RECHECKED = 12


def check_brought(frames: Sequence[Atoms], baseline: Baseline) -> None:
    """Compute some baseline energies (and forces) of the data again: always the same few.

    The three smallest structures, one of the largest that xTB does in a second, and ten between
    them, of different files and compositions.

    Parameters
    ----------
    frames
        With ``info["baseline_energy"]``, all of them.
    baseline
        What the energies should be those of.

    Raises
    ------
    BaselineError
        If an energy is another one than the baseline gives; says whether all are.
    DataError
        If forces are in another unit.
    """
    sample = [frames[i] for i in _sample(frames)]
    forces = ["baseline_forces" in a.arrays for a in sample]
    result = baseline_labels(sample, baseline, forces=forces, n_jobs=1)
    done = np.isfinite(result.energies)
    off = [i for i in np.flatnonzero(done) if _differs(sample[i], result.energies[i])]
    if off:
        atoms, energy = sample[off[0]], float(result.energies[off[0]])
        name, given = atoms.info["name"], float(atoms.info["baseline_energy"])
        message = (
            f"{name}: the data give a baseline energy of {given:.6f} eV, {baseline.method} "
            f"gives {energy:.6f} eV"
        )
        if len(off) == done.sum():
            raise BaselineError(
                f"{message}; name the baseline the data were made with, or leave their baseline "
                "energies out"
            )
        raise BaselineError(
            f"{message}. So it is with {len(off)} of {done.sum()} structures that were computed "
            f"again, and with the others it is not: the data mix baselines. {_REMEDY}"
        )
    for atoms, found in zip(sample, result.forces, strict=True):
        if found is None or "baseline_forces" not in atoms.arrays:
            continue
        labels = atoms.arrays["baseline_forces"]
        ratio = float(np.vdot(found, labels) / max(np.vdot(found, found), 1e-12))
        if np.abs(labels - found).max() > 0.02 * max(1.0, np.abs(found).max()):
            raise DataError(
                f"{atoms.info['name']}: the baseline forces in the data are {ratio:.4f} times "
                f"those of {baseline.method}, so their unit is not the one assumed"
                + (f"; give force_unit={1 / ratio:.6f} (--force-unit)" if ratio > 0 else "")
            )


_REMEDY = (
    "Leave out the baseline energies of another method, or all of them "
    "(KeyMap(baseline_energy=…), --baseline-key with a key that the data do not have): they are "
    "computed then"
)


def wrong_baselines(
    frames: Sequence[Atoms], baseline: Baseline | None, *, refuse: bool = True
) -> dict[int, str]:
    """Which structures with doubtful labels have a wrong baseline energy, in words, by index.

    A dozen of them are computed again, spread evenly; baselines other than xTB are trusted.

    Parameters
    ----------
    frames
        With ``info["baseline_energy"]``.
    baseline
        Of the model.
    refuse
        Whether more than one wrong energy is an error: where two are, there are more that are not
        found by their labels.

    Raises
    ------
    BaselineError
        If ``refuse`` is set, and more than one energy is wrong.
    """
    if baseline is None or not baseline.is_repeatable:
        return {}
    able = [i for i, a in enumerate(frames) if len(a) <= _MOST_ATOMS]
    if len(able) > _RECHECKED:
        able = [able[i] for i in np.linspace(0, len(able) - 1, _RECHECKED).astype(int)]
    energies = baseline_labels([frames[i] for i in able], baseline, n_jobs=1).energies
    found = {
        i: f"its baseline energy is {float(frames[i].info['baseline_energy']):.6f} eV, where "
        f"{baseline.method} gives {energy:.6f} eV"
        for i, energy in zip(able, energies.tolist(), strict=True)
        if np.isfinite(energy) and _differs(frames[i], energy)
    }
    if refuse and len(found) > 1:
        first = next(iter(found))
        raise BaselineError(
            f"{frames[first].info['name']}: {found[first]}. So it is with {len(found)} of "
            f"{len(able)} structures whose Δ is far off that were computed again: the data mix "
            f"baselines. {_REMEDY}"
        )
    return found


def _differs(atoms: Atoms, energy: float) -> bool:
    return abs(float(atoms.info["baseline_energy"]) - energy) > TOLERANCE * len(atoms)


def _sample(frames: Sequence[Atoms]) -> list[int]:
    """Indices of the structures to compute again, the smallest first."""
    sizes = np.array([len(a) for a in frames])
    order = np.argsort(sizes, kind="stable")
    largest = order[sizes[order] <= _MOST_ATOMS][-1:]
    chosen = dict.fromkeys([*order[:_SMALLEST].tolist(), *largest.tolist()])
    most = len(chosen) + _SAMPLED
    candidates = np.random.default_rng(0).permutation(np.flatnonzero(sizes <= _SAMPLED_ATOMS))
    files = islice(_one_of_each(frames, candidates, chosen, _file), _FILES)
    compositions = _one_of_each(frames, candidates, chosen, _composition)
    for i in chain(list(files), compositions, candidates.tolist()):
        if len(chosen) == most:
            break
        chosen[i] = None
    return sorted(chosen, key=lambda i: (sizes[i], i))


def _one_of_each(
    frames: Sequence[Atoms],
    candidates: np.ndarray,
    chosen: Iterable[int],
    kind: Callable[[Atoms], Hashable],
) -> Iterator[int]:
    """The first candidate of each kind that none of the chosen ones is of."""
    seen = {kind(frames[i]) for i in chosen}
    for i in candidates.tolist():
        this = kind(frames[i])
        if this not in seen:
            seen.add(this)
            yield i


def _file(atoms: Atoms) -> str:
    source = str(atoms.info.get("source", ""))
    return source.rpartition("#")[0] or source


def _composition(atoms: Atoms) -> tuple[bytes, int]:
    return np.sort(atoms.numbers).tobytes(), int(atoms.info.get("charge", 0))
