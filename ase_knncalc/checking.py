"""Finding labelled structures whose Δ (reference − baseline) is wrong.

Real data hold wrong labels: a cation computed as an anion, one energy in Hartree, an SCF that
converged to another state. They spoil the trend around them. Here the residual of each structure is
taken from a trend that was fitted without it (exact leave-one-out) and without the other doubtful
ones (refitted a few times, so that bad labels neither hide themselves nor discredit their
neighbours), in units of the robust spread of structures like it:

    score = |e| / (s √(1 + v)),    s = 1.4826 median |e| / √(1 + v)

with the leave-one-out residual e and the posterior variance v of the prediction in units of the
noise; s is taken over structures of about the same size, and over those with the same rarest
molecule if that is larger. A molecule that xTB describes badly in all its clusters is chemistry and
no error. The score is the smaller one of two trends, linear and sparse.

Cook & Weisberg, *Residuals and Influence in Regression* (1982), studentised residuals; Rousseeuw &
Leroy, *Robust Regression and Outlier Detection* (1987), reweighted least squares and the MAD.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.formula import Formula

from ase_knncalc.data import KeyMap, Omission, mixed_units
from ase_knncalc.data.keys import ENERGY_UNITS, LEVELS
from ase_knncalc.descriptors import FeatureBatch
from ase_knncalc.errors import DataError, KNNCalcError
from ase_knncalc.preparation import Prepared, TrainingData
from ase_knncalc.regression import RidgeFit, RidgeProblem
from ase_knncalc.sparse import SparseSettings
from ase_knncalc.trend import composition_columns, fit_trend

FloatArray = np.ndarray
IntArray = np.ndarray
BoolArray = np.ndarray

# Scores from which a residual is listed; is left out of the next fit; is beyond doubt if something
# else explains it; and is beyond doubt by itself.
_LISTED = 6.0
_DOUBTFUL = 10.0
_CERTAIN_IF_EXPLAINED = 10.0
_CERTAIN = 20.0

# Robust standard deviations of the element-wise fit beyond which no chemistry reaches: molecules
# that xTB describes badly come to 30.
_GROSS = 100.0
# Weight of a doubtful structure: it has a residual, but no influence.
_IGNORED = 1e-12
_ROUNDS = 4
_MIN_STRUCTURES = 20  # for any statement on residuals
_MIN_SPARSE = 200  # for the sparse trend
_MIN_FAMILY = 5  # for certainty on grounds of a residual alone
_SMALL_FAMILY = 30
_LINEAR_PENALTIES = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)  # of the mean variance
_SPARSE = SparseSettings(
    environments=150,
    variance_environments=150,
    length_scale=10.0,
    rank=60,
    selection="random",
    penalties=(1e-5,),
    sample=5_000,
)
_SPARSE_PENALTIES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
_SPARSE_SAMPLE = 2_000  # structures that environments are chosen from

# Å. Hydrogen bonds and contacts are shorter than the first, all bonds of hydrogen than the second.
_MAX_GAP = 4.0
_MAX_HYDROGEN_BOND = 1.8
# Pairs whose summed descriptors differ by less than this share have the same Δ within the noise.
_SAME_STRUCTURE = 0.003
_CONFLICT = 5.0
_MAD = 1.4826  # of a normal distribution: standard deviation over median |x|

_PARTS: dict[str, tuple[str, int]] = {
    "sa": ("H2SO4", 0),
    "w": ("H2O", 0),
    "am": ("NH3", 0),
    "ma": ("CH5N", 0),
    "dma": ("C2H7N", 0),
    "tma": ("C3H9N", 0),
    "eda": ("C2H8N2", 0),
    "b": ("HSO4", -1),
    "p": ("H", 1),
}
"""Formula and charge of what compositions such as ``4am1p`` are made of."""


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
        ``duplicate``, ``fragments`` or ``outlier`` (of unknown reason).
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


@dataclass(frozen=True)
class Residuals:
    """Robust leave-one-out residuals of n structures.

    Attributes
    ----------
    residual, expected : ndarray, shape (n,)
        eV.
    leverage : ndarray, shape (n,)
        Posterior variance in units of the noise variance.
    """

    residual: FloatArray
    expected: FloatArray
    leverage: FloatArray

    @property
    def score(self) -> FloatArray:
        """Magnitude in units of what is expected, shape (n,)."""
        return np.abs(self.residual) / self.expected


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
    parts = [composition_parts(g) for g in data.groups]
    wrong_charges, charges = _wrong_charges(data, parts)
    # Beside a wrong charge the trend's offset per charge would have one structure to itself.
    batch = replace(data.batch, charges=charges)
    units = _unit_slips(batch, frames, data.descriptor.elements)
    families = _families(batch, parts)
    residuals = _judge(data, batch, families, units, sparse or _SPARSE, seed)
    numerous = np.bincount(families)[families] >= _MIN_FAMILY
    notes = {
        "charge": {**_odd_states(data, None), **wrong_charges},
        "multiplicity": _odd_states(data, frames),
        "composition": _wrong_compositions(data, parts),
        "duplicate": _conflicting_duplicates(data, batch, residuals),
        "fragments": _far_fragments(frames),
    }
    lone = _lone_hydrogens(frames)
    found = []
    for i in range(n):
        residual, expected = float(residuals.residual[i]), float(residuals.expected[i])
        score = float(residuals.score[i])
        high = score >= listed
        slip = _energy_slip(frames[i], residual, expected) if high and frames is not None else None
        off = f"Δ is {residual:+.3f} eV from what the other structures suggest"
        category = next((c for c, of in notes.items() if i in of), "outlier")
        if i in units:
            category, reason = "unit", units[i]
        elif slip is not None:
            category, reason = slip
        elif i in lone and high:
            category, reason = "fragments", f"{lone[i]}; {off}"
        elif category != "outlier":
            reason = notes[category][i] + (f"; {off}" if high else "")
        elif high:
            reason = f"{off}, {score:.0f} times the usual spread"
        else:
            continue
        explained = i in wrong_charges or (i in lone and category == "fragments")
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
                certain=i in units
                or (explained and score > _CERTAIN_IF_EXPLAINED)
                or (score > certain and bool(numerous[i]) and i not in _odd_charges(notes, wrong_charges)),
            )
        )
    return sorted(found, key=lambda s: (not s.certain, -np.nan_to_num(s.score), s.index))


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
                index=int(info.get("index", i)),
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


def screen_units(
    frames: Sequence[Atoms], keys: KeyMap | None = None
) -> tuple[list[Atoms], list[Omission]]:
    """Take out frames whose energies are in another unit than those of the rest.

    Reading a dataset refuses such frames with an error, because all that follows would be wrong;
    a check rather lists them and goes on.

    Parameters
    ----------
    frames
        As read, before any other check.
    keys
        Where they keep their energies.

    Returns
    -------
    kept : list of Atoms
    omitted : list of Omission
        With the category ``"suspect"``.
    """
    keys = keys or KeyMap()
    elements = np.unique(np.concatenate([np.zeros(0, int), *(a.numbers for a in frames)]))
    counts = np.array([[np.sum(a.numbers == z) for z in elements] for a in frames], dtype=float)
    reasons: dict[int, str] = {}
    for level in LEVELS:
        energies = np.full(len(frames), np.nan)
        for i, atoms in enumerate(frames):
            try:
                energy = keys.energy(atoms, level)
            except KNNCalcError:
                continue  # Reading lists it with the right words.
            energies[i] = np.nan if energy is None else energy
        for slip in mixed_units(energies, counts):
            text = _slip_text(level, slip.factor, slip.looks_like)
            reasons.update(dict.fromkeys(slip.indices, text))
    omitted = [
        Omission(
            index=i,
            name=str(frames[i].info.get(keys.name, f"frame-{i}")),
            source=str(frames[i].info.get("source", "")),
            reason=reason,
            category="suspect",
        )
        for i, reason in sorted(reasons.items())
    ]
    return [a for i, a in enumerate(frames) if i not in reasons], omitted


# ------------------------------------------------------------------------------------- residuals


def _judge(
    data: TrainingData,
    batch: FeatureBatch,
    families: list[str],
    units: dict[int, str],
    settings: SparseSettings,
    seed: int,
) -> list[Residuals]:
    """Robust residuals of the linear and, with enough structures, the sparse trend."""
    elements, delta = data.descriptor.elements, data.delta
    free = composition_columns(batch, elements)
    kept = ~_gross(free, delta)
    kept[list(units)] = False
    summed = batch.summed()
    rest = summed - summed.mean(axis=0)
    scale = float(np.einsum("ij,ij->", rest, rest)) / summed.shape[1]
    penalties = [scale * p for p in _LINEAR_PENALTIES]
    linear = robust_residuals(free, summed, delta, penalties, batch.sizes, families, kept)
    if len(data) < _MIN_SPARSE:
        return [linear]
    usual = np.flatnonzero(kept & (linear.score < _CERTAIN))
    # Choice of the environments; the fit itself is thrown away.
    trend = fit_trend(
        "sparse", batch.select(usual), delta[usual], elements, sparse=settings, seed=seed
    ).trend
    columns = trend.variance_columns(batch)  # type: ignore[attr-defined]
    return [
        linear,
        robust_residuals(free, columns, delta, _SPARSE_PENALTIES, batch.sizes, families, kept),
    ]


def _gross(free: FloatArray, delta: FloatArray, rounds: int = 30) -> BoolArray:
    """Structures that no fit should see: far from least absolute deviations on compositions."""
    weights = np.ones(len(delta))
    deviation = np.zeros(len(delta))
    for _ in range(rounds):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(root[:, None] * free, root * delta, rcond=None)[0]
        deviation = np.abs(delta - free @ coefficients)
        weights = 1.0 / np.maximum(deviation, 1e-3 * np.median(deviation) + 1e-9)
    return np.asarray(deviation > _GROSS * _MAD * np.median(deviation) + 1e-3)


def robust_residuals(
    free: FloatArray,
    columns: FloatArray,
    delta: FloatArray,
    penalties: Sequence[float],
    sizes: IntArray,
    families: Sequence[str],
    kept: BoolArray,
) -> Residuals:
    """Leave-one-out residuals of a ridge fit that doubtful structures have no part in.

    Parameters
    ----------
    free, columns
        Unpenalised and penalised columns, shapes (n, n_free) and (n, n_columns).
    delta
        Targets in eV, shape (n,).
    penalties
        Tried in each round.
    sizes
        Numbers of atoms, shape (n,).
    families
        Labels of structures that share their chemistry, shape (n,).
    kept
        Structures that the first fit sees, booleans of shape (n,).
    """
    start = kept.copy()
    found = Residuals(delta, delta, delta)
    for _ in range(_ROUNDS):
        problem = RidgeProblem(free, columns, delta, np.where(kept, 1.0, _IGNORED))
        fits = [problem.solve(float(p)) for p in penalties]
        fit = min(fits, key=lambda f: float(np.abs(f.leave_one_out[kept]).mean()))
        found = _scaled(fit, sizes, families, kept)
        usual = found.score < _LISTED
        # What most of a family does is chemistry that the fit has yet to learn, if it may see it.
        for family, count in Counter(
            f for f, ok in zip(families, usual, strict=True) if not ok
        ).items():
            members = np.array([f == family for f in families])
            if count >= 3 and count > members.sum() / 3:
                usual |= members & start
        if np.array_equal(usual, kept):
            break
        kept = usual
    return found


def _scaled(fit: RidgeFit, sizes: IntArray, families: Sequence[str], kept: BoolArray) -> Residuals:
    root = np.sqrt(1.0 + fit.leverage)
    student = np.abs(fit.leave_one_out) / root
    overall = _MAD * float(np.median(student[kept])) + 1e-12
    scale = np.full(len(student), overall)
    order = np.argsort(sizes, kind="stable")
    for part in np.array_split(order, max(1, len(order) // 100)):
        inside = student[part][kept[part]]
        if len(inside):
            scale[part] = max(0.5 * overall, _MAD * float(np.median(inside)))
    labels = np.asarray(families)
    for family in np.unique(labels):
        members = np.flatnonzero(labels == family)
        for i in members if len(members) <= 30 else members[:1]:
            others = student[members[members != i]] if len(members) <= 30 else student[members]
            if not len(others):
                continue
            least = _MAD * float(np.median(others))
            which = [i] if len(members) <= 30 else members
            scale[which] = np.maximum(scale[which], least)
    return Residuals(fit.leave_one_out, scale * root, fit.leverage)


# ---------------------------------------------------------------------------------- explanations


@dataclass(frozen=True)
class _Explanations:
    """What is known of single structures, by index, beside their residuals."""

    units: dict[int, str]
    charges: dict[int, str]
    multiplicities: dict[int, str]
    compositions: dict[int, str]
    duplicates: dict[int, str]
    gaps: FloatArray | None

    def of(
        self,
        i: int,
        high: bool,
        frames: Sequence[Atoms] | None,
        residual: float,
        expected: float,
    ) -> tuple[str, str]:
        """Category and reason of structure ``i``, both empty if there is nothing to say.

        Labels that contradict each other are reported without a high residual, too.
        """
        off = f"Δ is {residual:+.3f} eV from what the other structures suggest"
        off += f" ({abs(residual) / expected:.0f} × their spread)" if expected > 0 else ""
        if i in self.units:
            return "unit", self.units[i]
        if high and frames is not None:
            found = _energy_slip(frames[i], residual, expected)
            if found:
                return found
        for category, notes in (
            ("charge", self.charges),
            ("multiplicity", self.multiplicities),
            ("composition", self.compositions),
            ("duplicate", self.duplicates),
        ):
            if i in notes:
                return category, f"{notes[i]}; {off}" if high else notes[i]
        if self.gaps is not None and self.gaps[i] > _MAX_GAP:
            text = f"its fragments are {self.gaps[i]:.1f} Å apart at the nearest atoms"
            return "fragments", f"{text}; {off}" if high else text
        return ("outlier", off) if high else ("", "")


def composition_parts(composition: str) -> dict[str, int]:
    """Molecules of a composition such as ``4am1p``, or elements of a formula such as ``H2O``.

    Empty if it is neither.
    """
    if re.fullmatch(r"(\d+[A-Za-z]+)+", composition):
        parts: Counter[str] = Counter()
        for number, name in re.findall(r"(\d+)([A-Za-z]+)", composition):
            parts[name] += int(number)
        return dict(parts)
    try:
        return dict(Formula(composition).count())
    except ValueError:
        return {}


def _known_parts(parts: dict[str, int]) -> tuple[Counter[int], int] | None:
    """Atoms (by atomic number) and charge of a composition, None if a part is not known."""
    if not parts or any(name not in _PARTS for name in parts):
        return None
    atoms: Counter[int] = Counter()
    charge = 0
    for name, number in parts.items():
        formula, unit_charge = _PARTS[name]
        charge += number * unit_charge
        for symbol, count in Formula(formula).count().items():
            atoms[atomic_numbers[symbol]] += number * count
    return atoms, charge


def _atoms_of(batch: FeatureBatch, i: int) -> Counter[int]:
    return Counter(batch.numbers[batch.starts[i] : batch.starts[i + 1]].tolist())


def _expected_charges(
    data: TrainingData, parts: list[dict[str, int]]
) -> tuple[IntArray, dict[int, str]]:
    """Charges that compositions imply, shape (n,), and notes on structures that have another one.

    Where a composition is not understood, the charge of nearly all others of that composition
    counts.
    """
    charges = data.batch.charges.copy()
    notes: dict[int, str] = {}
    members: dict[str, list[int]] = {}
    for i, group in enumerate(data.groups):
        members.setdefault(group, []).append(i)
    for group, rows in members.items():
        known = _known_parts(parts[rows[0]])
        usual, count = Counter(charges[rows].tolist()).most_common(1)[0]
        for i in rows:
            given = int(data.batch.charges[i])
            if known is not None and known[0] == _atoms_of(data.batch, i):
                expected, why = known[1], f"its composition {group} implies {known[1]:+d}"
            elif len(rows) >= 5 and count >= 0.8 * len(rows):
                expected, why = usual, f"{count} of {len(rows)} structures {group} have {usual:+d}"
            else:
                continue
            if expected != given:
                notes[i] = f"its charge is {given:+d}, but {why}"
                charges[i] = expected
    return charges, notes


def _wrong_compositions(data: TrainingData, parts: list[dict[str, int]]) -> dict[int, str]:
    """Structures whose atoms are not those of their composition."""
    notes: dict[int, str] = {}
    n_understood = 0
    for i, group in enumerate(data.groups):
        known = _known_parts(parts[i])
        if known is None:
            continue
        n_understood += 1
        atoms = _atoms_of(data.batch, i)
        if known[0] != atoms:
            notes[i] = (
                f"its composition {group} stands for {_formula(known[0])}, but its atoms are "
                f"{_formula(atoms)}"
            )
    # Abbreviations mean other molecules in other people's data.
    return notes if len(notes) <= 0.1 * n_understood else {}


def _formula(atoms: Counter[int]) -> str:
    symbols = "".join(chemical_symbols[z] * k for z, k in sorted(atoms.items()))
    return str(Formula(symbols).format("hill"))


def _odd_multiplicities(data: TrainingData, frames: Sequence[Atoms] | None) -> dict[int, str]:
    """Structures in another spin state than nearly all others of their composition and charge."""
    if frames is None:
        return {}
    states: dict[tuple[str, int], list[int]] = {}
    for i, group in enumerate(data.groups):
        states.setdefault((group, int(data.batch.charges[i])), []).append(i)
    notes: dict[int, str] = {}
    for (group, _), rows in states.items():
        values = [int(frames[i].info.get("multiplicity", 1)) for i in rows]
        usual, count = Counter(values).most_common(1)[0]
        if len(rows) < 5 or count < 0.8 * len(rows):
            continue
        for i, value in zip(rows, values, strict=True):
            if value != usual:
                notes[i] = (
                    f"its multiplicity is {value}, but {count} of {len(rows)} structures {group} "
                    f"have {usual}"
                )
    return notes


def _families(data: TrainingData, parts: list[dict[str, int]]) -> list[str]:
    """The rarest part of each structure, in terms of structures that have it."""
    number = Counter(name for p in parts for name in p)
    return [
        min(p, key=lambda name: (number[name], name)) if p else group
        for p, group in zip(parts, data.groups, strict=True)
    ]


def _unit_slips(
    batch: FeatureBatch, frames: Sequence[Atoms] | None, elements: Sequence[int]
) -> dict[int, str]:
    """Structures whose total energies are in another unit than the others'."""
    if frames is None:
        return {}
    counts = batch.counts(elements)
    notes: dict[int, str] = {}
    for level in LEVELS:
        energies = np.array([a.info.get(f"{level}_energy", np.nan) for a in frames], dtype=float)
        for slip in mixed_units(energies, counts):
            text = _slip_text(level, slip.factor, slip.looks_like)
            notes.update(dict.fromkeys(slip.indices, text))
    return notes


def _slip_text(level: str, factor: float, looks_like: str) -> str:
    size, relation = (factor, "larger") if factor > 1 else (1.0 / factor, "smaller")
    return (
        f"its {level} energy is {relation} by a factor of {size:.6g} than the other structures "
        f"suggest: {looks_like}"
    )


def _energy_slip(atoms: Atoms, residual: float, expected: float) -> tuple[str, str] | None:
    """Category and reason if a changed unit or sign of one energy explains a residual of Δ."""
    for level, sign in (("reference", 1.0), ("baseline", -1.0)):
        energy = float(atoms.info.get(f"{level}_energy", 0.0))
        right = energy - sign * residual
        uncertainty = 5.0 * expected
        if energy == 0.0 or abs(right) < 100.0 * uncertainty:
            continue
        if abs(energy + right) < uncertainty:
            return "sign", f"its {level} energy {energy:.6g} eV has the wrong sign"
        for unit, size in ENERGY_UNITS.items():
            for factor, text in ((1.0 / size, f"{unit} among eV"), (size, f"eV among {unit}")):
                if unit != "eV" and abs(energy / factor - right) < uncertainty:
                    return "unit", _slip_text(level, factor, text)
    return None


def _gaps(frames: Sequence[Atoms] | None) -> FloatArray | None:
    """Greatest distance that parts of a structure keep from the rest, Å, shape (n,).

    That is the longest edge of the minimum spanning tree of its atoms.
    """
    if frames is None:
        return None
    from scipy.sparse.csgraph import minimum_spanning_tree

    gaps = np.zeros(len(frames))
    for i, atoms in enumerate(frames):
        if len(atoms) > 1:
            shift = atoms.positions[:, None] - atoms.positions
            gaps[i] = minimum_spanning_tree(np.sqrt((shift**2).sum(axis=2))).max()
    return gaps


def _conflicting_duplicates(
    data: TrainingData, batch: FeatureBatch, residual: FloatArray, expected: FloatArray
) -> dict[int, str]:
    """Structures that are nearly the same as another one, but have another Δ."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, group in enumerate(data.groups):
        groups.setdefault((group, int(data.batch.charges[i])), []).append(i)
    summed = batch.summed()
    notes: dict[int, str] = {}
    for rows in groups.values():
        if len(rows) < 2:
            continue
        x = summed[rows]
        squares = np.einsum("ij,ij->i", x, x)
        distances = squares[:, None] + squares - 2.0 * x @ x.T
        near = np.triu(distances < (_SAME_DISTANCE**2) * squares.mean(), 1)
        for a, b in zip(*np.nonzero(near), strict=True):
            i, j = rows[a], rows[b]
            difference = float(data.delta[i] - data.delta[j])
            if not abs(difference) > _LISTED * max(expected[i], expected[j]):
                continue
            # The one that fits the rest worse.
            worse, other = (i, j) if abs(residual[i]) > abs(residual[j]) else (j, i)
            notes.setdefault(
                worse,
                f"it is nearly the same structure as {data.names[other]}, but Δ differs by "
                f"{abs(difference):.3f} eV",
            )
    return notes
