"""From labelled structures to arrays: baseline labels, descriptors, Δ, and what was left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import instance
from ase_knncalc._lib.arrays import FloatArray, IntArray
from ase_knncalc._lib.parallel import run
from ase_knncalc._lib.profiling import stage
from ase_knncalc._lib.progress import track
from ase_knncalc._lib.rowstore import allocate
from ase_knncalc.baselines import Baseline, make_baseline
from ase_knncalc.data import KeyMap, Omission, check_spread, check_units, read_dataset
from ase_knncalc.data.dataset import place_in_file
from ase_knncalc.data.keys import key_map
from ase_knncalc.data.properties import add_frequencies, frequencies_of
from ase_knncalc.descriptors import Descriptor, FeatureBatch, PowerSpectrum, compress, featurize
from ase_knncalc.errors import BaselineError, DataError
from ase_knncalc.labels.baseline import baseline_labels
from ase_knncalc.labels.brought import check_brought
from ase_knncalc.labels.curvatures import baseline_hessians, curvature_labels
from ase_knncalc.settings import TrainingSettings
from ase_knncalc.trend.force_labels import CurvatureLabels, ForceLabels

# In ``info`` of a frame whose zero forces nobody computed.
ASSUMED = "knncalc_assumed_minimum"

# Structures whose rows decide on the principal axes.
_COMPRESSED_FROM = 1500
# What a Hessian of the baseline costs grows with this power of the number of atoms.
_COST = 1.5


@dataclass(frozen=True)
class TrainingData:
    """Descriptors and Δ of n labelled structures.

    Attributes
    ----------
    descriptor : Descriptor
        What the rows in ``batch`` were computed with.
    batch : FeatureBatch
    delta : ndarray, shape (n,)
        Reference minus baseline energy, eV.
    groups : list of str
        Compositions: left out together in group cross-validation.
    names : list of str
    weights : ndarray, shape (n,)
        In the trend.
    forces : ForceLabels or None
        Δ forces of the structures that have them.
    curvatures : CurvatureLabels or None
        Δ curvatures of the structures whose harmonic frequencies are known.
    """

    descriptor: Descriptor
    batch: FeatureBatch
    delta: FloatArray
    groups: list[str]
    names: list[str]
    weights: FloatArray
    forces: ForceLabels | None = None
    curvatures: CurvatureLabels | None = None

    def __len__(self) -> int:
        return len(self.delta)

    def select(self, indices: Sequence[int] | IntArray) -> TrainingData:
        """The structures of the given indices, in that order."""
        indices = np.asarray(indices, dtype=np.intp)
        return TrainingData(
            self.descriptor,
            self.batch.select(indices),
            self.delta[indices],
            [self.groups[i] for i in indices],
            [self.names[i] for i in indices],
            self.weights[indices],
            None if self.forces is None else self.forces.select(indices),
            None if self.curvatures is None else self.curvatures.select(indices),
        )


@dataclass(frozen=True)
class Prepared:
    """Training data with the frames behind it.

    Attributes
    ----------
    data : TrainingData
    frames : list of Atoms
        In the order of ``data``; monomers last.
    n_monomers : int
        How many of the last frames are monomers.
    omitted : list of Omission
        Frames that were left out, with reasons.
    baseline : Baseline
    """

    data: TrainingData
    frames: list[Atoms]
    n_monomers: int
    omitted: list[Omission]
    baseline: Baseline


def prepare(
    data: Any,
    *,
    settings: TrainingSettings,
    monomers: Any = None,
    baseline: Any = "auto",
    keys: KeyMap | None = None,
    minima: bool = False,
    frequencies: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
    scratch: str | os.PathLike[str] | None = None,
) -> Prepared:
    """Read, label and describe structures; arguments as for :func:`ase_knncalc.train`.

    Raises
    ------
    DataError
        If fewer than 2 usable frames are left, or units are mixed.
    BaselineError
        If baseline energies in the data are not those of the baseline.
    """
    keys = key_map(keys)
    instance("settings", settings, TrainingSettings)
    method = make_baseline(baseline)
    with stage("reading"):
        dataset = read_dataset(data, keys=keys)
        if frequencies is not None:
            add_frequencies(dataset.frames, frequencies)
    frames, omitted, n_monomers = list(dataset.frames), list(dataset.omitted), 0
    if monomers is not None:
        zero = read_dataset(monomers, keys=keys)
        omitted += zero.omitted
        frames += zero.frames
        n_monomers = len(zero)
    if minima:
        # At a stationary point of the reference its forces are known without computing them.
        for a in frames:
            if "reference_forces" not in a.arrays and not _has_imaginary(a):
                a.arrays["reference_forces"] = np.zeros((len(a), 3))
                a.info[ASSUMED] = True
    if method.is_none:
        require_none(frames)
    with stage("baseline labels"):
        errors = complete_baseline(frames, method, cache=cache, n_jobs=n_jobs, progress=progress)
    omitted += [
        Omission(
            index=place_in_file(a, i),
            name=str(a.info["name"]),
            source=str(a.info.get("source", "")),
            reason=error,
            category="baseline",
        )
        for i, (a, error) in enumerate(zip(frames, errors, strict=True))
        if error
    ]
    weights = np.ones(len(frames))
    if n_monomers:
        weights[-n_monomers:] = settings.monomer_weight
    good = np.array([not error for error in errors], dtype=bool)
    if good.sum() < 2:
        raise DataError(
            f"training needs at least 2 usable frames, {int(good.sum())} are left"
            + (f"; the first problem is: {omitted[0].reason}" if omitted else "")
        )
    kept = [a for a, ok in zip(frames, good, strict=True) if ok]
    check_units(kept)
    if method.is_repeatable:  # other calculators may be anything
        check_spread(kept)
    base = settings.descriptor(np.unique(np.concatenate([a.numbers for a in kept])).tolist())
    descriptor = _compressed(base, kept, settings)
    with stage("descriptors"):
        batch = compute_features(
            descriptor, kept, n_jobs=n_jobs, progress=progress, scratch=scratch
        )
    with stage("baseline Hessians"):
        curvatures = _curvature_labels(
            kept, method, settings, cache=cache, n_jobs=n_jobs, progress=progress
        )
    arrays = TrainingData(
        descriptor=descriptor,
        batch=batch,
        delta=np.array([a.info["reference_energy"] - a.info["baseline_energy"] for a in kept]),
        groups=[str(a.info["composition"]) for a in kept],
        names=[str(a.info["name"]) for a in kept],
        weights=weights[good],
        forces=_force_labels(kept),
        curvatures=curvatures,
    )
    n_good_monomers = int(good[len(frames) - n_monomers :].sum())
    return Prepared(arrays, kept, n_good_monomers, omitted, method)


def _has_imaginary(atoms: Atoms) -> bool:
    """Whether a record that is said to be a minimum has an imaginary frequency."""
    return bool(np.any(frequencies_of(atoms) < 0))


def _compressed(
    base: Descriptor, frames: Sequence[Atoms], settings: TrainingSettings
) -> Descriptor:
    """The descriptor with its rows compressed, where they are too long to be kept."""
    if not isinstance(base, PowerSpectrum):
        return base
    rng = np.random.default_rng(settings.seed)
    chosen = np.sort(rng.permutation(len(frames))[:_COMPRESSED_FROM])
    structures = ((frames[i].numbers, frames[i].positions) for i in chosen)
    with stage("compression of descriptors"):
        return compress(base, structures, settings.compression)


def _force_labels(frames: Sequence[Atoms]) -> ForceLabels | None:
    rows = [
        i
        for i, a in enumerate(frames)
        if "reference_forces" in a.arrays and "baseline_forces" in a.arrays
    ]
    if not rows:
        return None
    return ForceLabels(
        np.array(rows, dtype=np.intp),
        [frames[i].numbers for i in rows],
        [frames[i].positions for i in rows],
        [frames[i].arrays["reference_forces"] - frames[i].arrays["baseline_forces"] for i in rows],
        np.array([bool(frames[i].info.get(ASSUMED)) for i in rows]),
    )


def _curvature_labels(
    frames: Sequence[Atoms], baseline: Baseline, settings: TrainingSettings, **options: Any
) -> CurvatureLabels | None:
    """Curvatures of a sample of the minima with frequencies: small ones, of every composition."""
    able = [i for i, a in enumerate(frames) if a.info.get(ASSUMED) and len(frequencies_of(a))]
    order = np.random.default_rng(settings.seed).permutation(len(able))
    seen: Counter[str] = Counter()
    costs = []
    for place in order:
        atoms = frames[able[place]]
        seen[atoms.info["composition"]] += 1
        costs.append(seen[atoms.info["composition"]] * len(atoms) ** _COST)
    cheap = order[np.argsort(costs, kind="stable")[: settings.sparse.curvature_frames]]
    rows = [able[place] for place in np.sort(cheap)]
    if not rows:
        return None
    chosen = [frames[i] for i in rows]
    hessians = baseline_hessians(chosen, baseline, **options)
    return curvature_labels(rows, chosen, hessians, [frequencies_of(a) for a in chosen])


def complete_baseline(
    frames: Sequence[Atoms],
    baseline: Baseline,
    *,
    cache: str | os.PathLike[str] | None = None,
    n_jobs: int = -1,
    progress: bool = False,
) -> list[str]:
    """Fill in missing baseline energies, and forces where there are reference forces.

    Returns an error text for each frame, empty where all is well. Without a baseline, energies of
    one that frames brought along are left out: what is learned or judged is the reference alone.

    Raises
    ------
    BaselineError
        If energies that the frames brought along are not those of the baseline.
    """
    if baseline.is_none:
        for atoms in frames:
            atoms.info.pop("baseline_energy", None)
            atoms.arrays.pop("baseline_forces", None)
    forces = ["reference_forces" in a.arrays and "baseline_forces" not in a.arrays for a in frames]
    missing = [i for i, a in enumerate(frames) if "baseline_energy" not in a.info or forces[i]]
    brought = [i for i, a in enumerate(frames) if "baseline_energy" in a.info]
    if brought and baseline.is_repeatable:
        check_brought([frames[i] for i in brought], baseline)
    errors = [""] * len(frames)
    # A baseline without a calculation costs less than looking it up.
    calculated = not (baseline.is_none or baseline.is_given)
    result = baseline_labels(
        [frames[i] for i in missing],
        baseline,
        forces=[forces[i] for i in missing],
        cache=cache if calculated else None,
        n_jobs=n_jobs if calculated else 1,
        progress=progress,
    )
    for i, energy, force, error in zip(
        missing, result.energies, result.forces, result.errors, strict=True
    ):
        errors[i] = error
        if not error:
            frames[i].info.setdefault("baseline_energy", float(energy))
        if not error and forces[i]:
            frames[i].arrays["baseline_forces"] = force
    return errors


def require_none(frames: Sequence[Atoms]) -> None:
    """Who wants no baseline shall not get a model of the difference to one."""
    for atoms in frames:
        energy = float(atoms.info.get("baseline_energy", 0.0))
        if energy != 0:
            raise BaselineError(
                f"{atoms.info['name']}: the data give a baseline energy of {energy:.6f} eV, and "
                "baseline='none' learns reference energies alone. To learn the difference, name "
                "the baseline ('given' if it can only come with the data); else name a key that "
                "the data do not have (KeyMap(baseline_energy=…), --baseline-key)"
            )


def compute_features(
    descriptor: Descriptor,
    frames: Sequence[Atoms],
    *,
    n_jobs: int = -1,
    progress: bool = False,
    chunk: int = 64,
    scratch: str | os.PathLike[str] | None = None,
) -> FeatureBatch:
    """Descriptors of frames (charge in ``info``), in parallel, rows in float32.

    Rows that are too many for memory go to an HDF5 file in the folder ``scratch``, chunk by chunk.
    """
    sizes = np.array([len(a) for a in frames], dtype=np.intp)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    local = allocate((int(starts[-1]), descriptor.n_features), "float32", scratch)
    firsts = range(0, len(frames), chunk)
    jobs = (
        (
            descriptor,
            [(a.numbers, a.positions, int(a.info.get("charge", 0))) for a in frames[i : i + chunk]],
        )
        for i in firsts
    )
    results = run(_describe, jobs, total=len(firsts), n_jobs=n_jobs if len(firsts) > 2 else 1)
    rows = track(results, total=len(firsts), text=descriptor.kind, show=progress)
    for i, block in zip(firsts, rows, strict=True):
        local[starts[i] : starts[min(i + chunk, len(frames))]] = block
    return FeatureBatch(
        np.concatenate([np.zeros(0, dtype=np.intp), *(a.numbers for a in frames)]),
        local,
        starts,
        np.array([int(a.info.get("charge", 0)) for a in frames], dtype=np.intp),
        descriptor.elements if descriptor.by_element else (),
    )


def _describe(
    descriptor: Descriptor, structures: Sequence[tuple[IntArray, FloatArray, int]]
) -> FloatArray:
    return np.asarray(featurize(descriptor, structures, "float32").local)
