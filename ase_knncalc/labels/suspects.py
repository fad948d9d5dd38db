"""Finding labelled structures whose Δ (reference − baseline) is wrong.

Real data hold wrong labels: a cation computed as an anion, one energy in Hartree, an SCF that
converged to another state. They spoil the trend around them. Each structure is judged by its
residual from a trend that was fitted without it, in units of the spread of structures like it
(:mod:`ase_knncalc.labels.residuals`): the smaller one of two trends, linear and sparse. A molecule
that xTB describes badly in all its clusters is chemistry and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc._lib.constants import MAD
from ase_knncalc.data import Omission
from ase_knncalc.data.dataset import place_in_file
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import DataError
from ase_knncalc.labels import contradictions
from ase_knncalc.labels.brought import wrong_baselines
from ase_knncalc.labels.residuals import Residuals, robust_residuals
from ase_knncalc.labels.training_data import Prepared, TrainingData
from ase_knncalc.trend.base import composition_columns
from ase_knncalc.trend.choice import choose_environments
from ase_knncalc.trend.sparse import SparseSettings

# Scores from which a structure is listed; is wrong beyond doubt if something else explains it; and
# is wrong beyond doubt by itself.
_LISTED = 6.0
_CERTAIN_IF_EXPLAINED = 10.0
_CERTAIN = 20.0

# Robust standard deviations of the element-wise fit beyond which no chemistry reaches: molecules
# that xTB describes badly come to 30.
_GROSS = 100.0
_MIN_STRUCTURES = 20  # for any statement on residuals
_MIN_SPARSE = 200  # for the sparse trend
_MIN_FAMILY = 5  # for certainty on grounds of a residual alone
_COMMON = 0.05
_LINEAR_PENALTIES = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)  # of the mean variance
_SPARSE = SparseSettings(
    environments=150,
    length_scale=10.0,
    rank=60,
    selection="random",
    sample=5_000,
)
_SPARSE_PENALTIES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
_SPARSE_SAMPLE = 2_000  # structures that environments are chosen from


@dataclass(frozen=True)
class Suspect:
    """A structure whose label is wrong or doubtful.

    Attributes
    ----------
    index : int
        Its place in the training data.
    name, composition : str
    category : str
        What is the matter: ``unit``, ``sign``, ``charge``, ``multiplicity``, ``composition``,
        ``duplicate``, ``fragments``, ``baseline``, ``no-minimum`` or ``outlier`` (of unknown
        reason).
    reason : str
        The same in words, with numbers.
    residual_ev : float
        Leave-one-out residual of Δ, eV (NaN if there are too few structures to tell).
    expected_ev : float
        Robust standard deviation of such residuals for structures like it, eV.
    score : float
        Their ratio, the smaller one of the two trends.
    certain : bool
        Whether the label is wrong beyond doubt.
    """

    index: int
    name: str
    composition: str
    category: str
    reason: str
    residual_ev: float
    expected_ev: float
    score: float
    certain: bool


def find_suspects(
    data: TrainingData,
    frames: Sequence[Atoms] | None = None,
    *,
    listed: float = _LISTED,
    certain: float = _CERTAIN,
    sparse: SparseSettings | None = None,
    seed: int = 0,
) -> list[Suspect]:
    """Structures whose labels are wrong or doubtful.

    Parameters
    ----------
    data
        Training data: descriptors and Δ.
    frames
        The structures themselves, in the order of ``data``, with ``info["reference_energy"]`` and
        ``info["baseline_energy"]``: for units, multiplicities and distances of fragments. Without
        them these are not looked at.
    listed, certain
        Scores from which a residual without an explanation is listed, and from which it is wrong
        beyond doubt.
    sparse, seed
        Settings and random choices of the sparse trend; few environments are enough.

    Returns
    -------
    list of Suspect
        The certain ones first, then by score.

    Raises
    ------
    DataError
        If there are not as many frames as rows of ``data``.
    """
    n = len(data)
    if frames is not None and len(frames) != n:
        raise DataError(
            f"there are {len(frames)} frames, but training data of {n} structures; give the frames "
            "that the data were prepared from, in the same order"
        )
    parts = [contradictions.composition_parts(g) for g in data.groups]
    contradicted, charges = contradictions.wrong_charges(data, parts)
    # Beside a wrong charge the trend's offset per charge would have one structure to itself.
    batch = replace(data.batch, charges=charges)
    families = contradictions.families(batch, parts)
    units = contradictions.unit_slips(batch, frames, data.descriptor.elements)
    distrusted = sorted({*contradicted, *units})
    residuals = _judge(data, batch, families, distrusted, sparse or _SPARSE, seed)
    lone = contradictions.lone_hydrogens(frames)
    far = contradictions.far_fragments(frames)
    # Many of them are there on purpose: a dissociation curve.
    common = len(far) > max(2, _COMMON * n)
    notes = {
        "charge": {**contradictions.odd_states(data, None), **contradicted},
        "multiplicity": contradictions.odd_states(data, frames),
        "composition": contradictions.wrong_compositions(data, parts),
        "duplicate": contradictions.conflicting_duplicates(
            data, batch, residuals.residual, residuals.expected
        ),
        "fragments": {**far, **lone},
    }
    population = np.bincount(families)[families]
    # On few structures there is one trend only, and it is easily surprised.
    alone = certain if n >= _MIN_SPARSE else 3 * certain
    found = []
    for i, score in enumerate(residuals.score.tolist()):
        residual, expected = float(residuals.residual[i]), float(residuals.expected[i])
        off = f"Δ is {residual:+.3f} eV from what the other structures suggest"
        slip = None
        if score >= listed and frames is not None:
            slip = contradictions.energy_slip(frames[i], residual, expected)
        category = next((name for name, of in notes.items() if i in of), "outlier")
        if i in units:
            category, reason = "unit", units[i]
        elif slip is not None:
            category, reason = slip
        elif common and category == "fragments" and i not in lone and score < listed:
            continue
        elif category != "outlier":
            reason = notes[category][i] + (f"; {off}" if score >= listed else "")
        elif score >= listed:
            reason = f"{off}, {score:.0f} times the usual spread"
        else:
            continue
        beyond_doubt = (
            i in units
            or ((i in contradicted or i in lone) and score > _CERTAIN_IF_EXPLAINED)
            or (score > alone and int(population[i]) >= _MIN_FAMILY)
        )
        found.append(
            Suspect(
                index=i,
                name=data.names[i],
                composition=data.groups[i],
                category=category,
                reason=reason,
                residual_ev=residual,
                expected_ev=expected,
                score=score,
                certain=beyond_doubt,
            )
        )
    return sorted(found, key=lambda s: (not s.certain, -np.nan_to_num(s.score), s.index))


def recheck_baselines(
    prepared: Prepared, suspects: Sequence[Suspect], *, refuse: bool
) -> list[Suspect]:
    """The same suspects; of some, the baseline energy turns out to be what is wrong.

    Parameters
    ----------
    prepared
        What the suspects were found in.
    suspects
        From :func:`find_suspects`. Some that are certain, and not explained by a unit, a sign or a
        state, are computed again with the baseline.
    refuse
        Whether more than one wrong baseline energy is an error, as for training.

    Raises
    ------
    BaselineError
        If ``refuse`` is set, and the data mix baselines.
    """
    places = [
        place
        for place, s in enumerate(suspects)
        if s.certain and s.category in ("outlier", "duplicate", "fragments")
    ]
    frames = [prepared.frames[suspects[place].index] for place in places]
    found = list(suspects)
    for i, reason in wrong_baselines(frames, prepared.baseline, refuse=refuse).items():
        found[places[i]] = replace(suspects[places[i]], category="baseline", reason=reason)
    return found


def leave_out(prepared: Prepared, suspects: Iterable[Suspect]) -> Prepared:
    """Training data without the certain suspects, which join ``omitted``.

    Parameters
    ----------
    prepared
        What the suspects were found in.
    suspects
        From :func:`find_suspects`; those that are not certain stay.

    Raises
    ------
    DataError
        If fewer than 2 structures would be left.
    """
    certain = {s.index: s for s in suspects if s.certain}
    if not certain:
        return prepared
    n = len(prepared.frames)
    keep = [i for i in range(n) if i not in certain]
    if len(keep) < 2:
        first = next(iter(certain.values()))
        raise DataError(
            f"the labels of {len(certain)} of {n} structures are wrong beyond doubt, and training "
            f"needs at least 2 others; the first: {first.name}: {first.reason}"
        )
    first_monomer = n - prepared.n_monomers
    omitted = []
    for i, suspect in sorted(certain.items()):
        info = prepared.frames[i].info
        omitted.append(
            Omission(
                index=place_in_file(prepared.frames[i], i),
                name=suspect.name,
                source=str(info.get("source", "")),
                reason=suspect.reason,
                category="suspect",
            )
        )
    return replace(
        prepared,
        data=prepared.data.select(keep),
        frames=[prepared.frames[i] for i in keep],
        n_monomers=sum(i >= first_monomer for i in keep),
        omitted=[*prepared.omitted, *omitted],
    )


def _judge(
    data: TrainingData,
    batch: FeatureBatch,
    families: IntArray,
    distrusted: list[int],
    settings: SparseSettings,
    seed: int,
) -> Residuals:
    """Residuals of that trend, linear or sparse, that finds a structure less conspicuous."""
    elements, delta = data.descriptor.elements, data.delta
    free = composition_columns(batch, elements)
    kept = ~_gross(free, delta)
    kept[distrusted] = False
    if kept.sum() < _MIN_STRUCTURES:
        return Residuals(*np.full((3, len(data)), np.nan))
    summed = batch.summed()
    scale = max(float(summed.var(axis=0).mean()), 1e-12) * len(data)
    penalties = [scale * p for p in _LINEAR_PENALTIES]
    linear = robust_residuals(free, summed, delta, penalties, batch.sizes, families, kept)
    if len(data) < _MIN_SPARSE:
        return linear
    sample = _sample(batch, elements, linear.score < _CERTAIN, seed)
    environments = choose_environments(batch.select(sample), elements, settings, seed)
    (columns,) = environments.columns(batch, environments.whiteners())
    local = robust_residuals(free, columns, delta, _SPARSE_PENALTIES, batch.sizes, families, kept)
    choice = (local.score < linear.score).astype(int)[None]
    return Residuals(
        *(
            np.take_along_axis(np.stack(pair), choice, axis=0)[0]
            for pair in (
                (linear.residual, local.residual),
                (linear.expected, local.expected),
                (linear.leverage, local.leverage),
            )
        )
    )


def _sample(batch: FeatureBatch, elements: Sequence[int], usual: BoolArray, seed: int) -> IntArray:
    """Some of the usual structures, and one with each element that these lack."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.flatnonzero(usual))[:_SPARSE_SAMPLE]
    counts = batch.counts(elements)
    lacking = counts[chosen].sum(axis=0) == 0
    return np.unique(np.concatenate([chosen, counts[:, lacking].argmax(axis=0)]))


def _gross(free: FloatArray, delta: FloatArray, rounds: int = 30) -> BoolArray:
    """Structures that no fit should see: far from least absolute deviations on compositions."""
    weights = np.ones(len(delta))
    deviation = np.zeros(len(delta))
    for _ in range(rounds):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(root[:, None] * free, root * delta, rcond=None)[0]
        deviation = np.abs(delta - free @ coefficients)
        weights = 1.0 / np.maximum(deviation, 1e-3 * np.median(deviation) + 1e-9)
    return np.asarray(deviation > _GROSS * MAD * np.median(deviation) + 1e-3)
