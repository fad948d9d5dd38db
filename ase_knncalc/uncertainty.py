"""How far to trust a prediction: calibrated standard deviation, intervals and novelty.

Signals that are known before the answer is (posterior variance of the trend, residuals and
distances of the neighbours, size) are joined into one standard deviation by a power law whose
exponents are fitted to cross-validated errors; quantiles of the normalised errors then give
intervals with a stated coverage (normalised conformal prediction).

References
----------
H. Papadopoulos, V. Vovk, A. Gammerman, *Regression conformal prediction with nearest neighbours*,
J. Artif. Intell. Res. 40, 815 (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from ase_knncalc._lib.arguments import checked
from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.errors import SettingsError, TrainingError
from ase_knncalc.knn.term import KNNEstimate

SIGNAL_NAMES = ("trend", "spread", "distance", "size", "remoteness")
# Those that files of before have exponents for.
_FIRST_SIGNALS = 4

# Limits of what a calibration can come to: exponents are fitted between 0 and 2, and what is below
# the second number overflows in a quotient.
_STEEPEST, _TINY = 4.0, 1e-150
# Where all held-out structures are at distance zero (duplicates, one point), any distance is news.
_ANY = float(np.finfo(np.float64).tiny) ** 0.25

_COVERAGES = np.array([0.5, 0.6, 0.68, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99])


@dataclass(frozen=True)
class Signals:
    """What is known of a prediction before its error is, one entry a structure.

    Attributes
    ----------
    leverage : ndarray, shape (n,)
        Posterior variance of the trend in units of its noise variance.
    spread : ndarray, shape (n,)
        Root mean square of the neighbours' residuals, eV.
    distance : ndarray, shape (n,)
        Mean distance of the neighbours in the metric.
    n_atoms : ndarray, shape (n,)
    remoteness : ndarray, shape (n,)
        Mean distance of the atoms from those of training structures, 1 where it is usual, 0 where
        it is not known.
    """

    leverage: FloatArray
    spread: FloatArray
    distance: FloatArray
    n_atoms: FloatArray
    remoteness: FloatArray

    def __len__(self) -> int:
        return len(self.leverage)

    def columns(self) -> FloatArray:
        """Positive quantities whose powers make the standard deviation, (n, n_signals)."""
        return np.column_stack(
            [
                np.sqrt(self.leverage),
                self.spread,
                self.distance,
                np.sqrt(self.n_atoms),
                self.remoteness,
            ]
        )

    @staticmethod
    def of(
        leverage: FloatArray,
        estimates: Sequence[KNNEstimate],
        n_atoms: IntArray,
        remoteness: FloatArray | None = None,
    ) -> Signals:
        """Signals of structures from their trend and their neighbours."""
        return Signals(
            np.asarray(leverage, dtype=np.float64),
            np.array([e.spread for e in estimates]),
            np.array([e.distances.mean() if len(e.distances) else np.inf for e in estimates]),
            np.asarray(n_atoms, dtype=np.float64),
            np.zeros(len(estimates)) if remoteness is None else np.asarray(remoteness),
        )

    def take(self, rows: BoolArray | IntArray) -> Signals:
        """Some of the structures."""
        return Signals(*(getattr(self, f.name)[rows] for f in fields(Signals)))

    @staticmethod
    def join(first: Signals, second: Signals) -> Signals:
        """Both sets of structures, one after the other."""
        return Signals(
            *(
                np.concatenate([getattr(first, f.name), getattr(second, f.name)])
                for f in fields(Signals)
            )
        )


@dataclass(frozen=True)
class Calibration:
    """Turns :class:`Signals` into a standard deviation, intervals and a novelty.

    Attributes
    ----------
    scale : float
        Standard deviation where all signals have their reference value, eV.
    exponents, references, floors : ndarray, shape (n_signals,)
        std = scale · Π (max(signal, floor) / reference) ** exponent; of files of before, without
        the last signal.
    coverages, quantiles : ndarray, shape (n_coverages,)
        Multiples of the standard deviation that cover the stated fraction of held-out errors.
    leverage_limit, distance_limit : float
        What the 99th percentile of held-out training structures reaches: novelty 1.
    remoteness_limit : float
        The same of :attr:`Signals.remoteness`; 0 where that is not known.
    """

    scale: float
    exponents: FloatArray
    references: FloatArray
    floors: FloatArray
    coverages: FloatArray
    quantiles: FloatArray
    leverage_limit: float
    distance_limit: float
    remoteness_limit: float

    def validate(self) -> None:
        """Raise :class:`SettingsError` unless shapes fit and values have a meaning."""
        n = min(max(self.exponents.size, _FIRST_SIGNALS), len(SIGNAL_NAMES))
        for name in ("exponents", "references", "floors"):
            array = getattr(self, name)
            if array.shape != (n,):
                raise SettingsError(f"calibration: {name} has shape {array.shape}, expected {(n,)}")
        if self.coverages.ndim != 1 or len(self.coverages) < 2:
            raise SettingsError(f"calibration: coverages has shape {self.coverages.shape}")
        if self.quantiles.shape != self.coverages.shape:
            raise SettingsError(
                f"calibration: {len(self.coverages)} coverages, but quantiles has shape "
                f"{self.quantiles.shape}"
            )
        rising = np.all(np.diff(self.coverages) > 0) and np.all(np.diff(self.quantiles) >= 0)
        if not rising or self.coverages[0] <= 0 or self.coverages[-1] > 1 or self.quantiles[0] < 0:
            raise SettingsError("calibration: coverages and quantiles must rise from 0")
        if np.any(np.abs(self.exponents) > _STEEPEST):
            raise SettingsError(f"calibration: exponents {self.exponents} make no sense")
        for name in ("scale", "references", "floors", "leverage_limit", "distance_limit"):
            if np.any(np.asarray(getattr(self, name)) < _TINY):
                raise SettingsError(f"calibration: {name} must be positive")
        if self.remoteness_limit != 0 and self.remoteness_limit < _TINY:
            raise SettingsError("calibration: remoteness_limit must not be negative")

    def std(self, signals: Signals) -> FloatArray:
        """Standard deviation of each prediction in eV, shape (n,).

        Beyond the range of the held-out structures nothing was fitted: there it grows with the
        square of the atoms' distance from known environments, as the error of a smooth function
        does that is right at them.
        """
        known = signals.columns()[:, : len(self.exponents)]
        relative = np.maximum(known, self.floors) / self.references
        near = self.scale * np.exp(np.log(relative) @ self.exponents)
        return np.asarray(near * np.maximum(self._remoteness(signals), 1.0) ** 2)

    def _remoteness(self, signals: Signals) -> FloatArray:
        """In units of its limit, zero where it is not known, shape (n,)."""
        if not self.remoteness_limit:
            return np.zeros(len(signals))
        return np.asarray(signals.remoteness / self.remoteness_limit)

    def multiple(self, coverage: float) -> float:
        """Half-width of the interval of the given coverage in standard deviations.

        Raises
        ------
        SettingsError
            If the coverage lies outside those that were calibrated.
        """
        lowest, highest = float(self.coverages[0]), float(self.coverages[-1])
        try:
            checked("coverage", coverage, Annotated[float, Ge(lowest), Le(highest)])
        except SettingsError as e:
            raise SettingsError(
                f"{e}; intervals were calibrated between {lowest:g} and {highest:g}"
            ) from None
        return float(np.interp(coverage, self.coverages, self.quantiles))

    def novelty(self, signals: Signals) -> FloatArray:
        """Distance from the training data, 1 at its 99th held-out percentile, shape (n,)."""
        return np.asarray(np.max(list(self.novelties(signals).values()), axis=0))

    def novelties(self, signals: Signals) -> dict[str, FloatArray]:
        """What novelty is the largest of: by the trend's variance, neighbours and environments."""
        return {
            "variance": np.sqrt(signals.leverage / self.leverage_limit),
            "neighbors": signals.distance / self.distance_limit,
            "environments": self._remoteness(signals),
        }


def calibrate(
    signals: Signals,
    errors: FloatArray,
    group_signals: Signals | None = None,
    group_errors: FloatArray | None = None,
    *,
    off_equilibrium: BoolArray | None = None,
    group_off_equilibrium: BoolArray | None = None,
) -> Calibration:
    """Fit a calibration to cross-validated errors.

    The exponents come from leave-one-out and, where given, leave-group-out errors together (so
    that the standard deviation has seen larger distances); intervals and novelty from
    leave-one-out errors alone.

    Where some structures are off equilibrium, three strata count alike, however many structures
    each has: minima left out alone, minima left out with their group, and structures off
    equilibrium, which are always left out with their group. In the intervals, structures off
    equilibrium count four times as much as each of the others: that is where they are asked for,
    and where those of all alike hold too little.

    Parameters
    ----------
    signals, errors
        Leave-one-out signals and errors (eV, shape (n,)).
    group_signals, group_errors
        The same with the structure's whole group (composition) left out.
    off_equilibrium, group_off_equilibrium
        Which structures of the two are off equilibrium, shape (n,).
    """
    from scipy.optimize import minimize

    if len(errors) < 2:
        raise TrainingError(f"calibration needs at least 2 held-out errors, got {len(errors)}")
    pooled = signals if group_signals is None else Signals.join(signals, group_signals)
    pooled_errors = errors if group_errors is None else np.concatenate([errors, group_errors])
    weights: FloatArray = np.ones(len(pooled_errors))
    stratified = off_equilibrium is not None and bool(off_equilibrium.any())
    if stratified:
        strata = _strata(len(errors), off_equilibrium, group_off_equilibrium)
        weights = 1.0 / np.bincount(strata, minlength=3)[strata]
    weights /= weights.mean()
    columns = pooled.columns()
    references = np.array([_positive_median(c) for c in columns.T])
    floors = 1e-2 * references
    logs = np.log(np.maximum(columns, floors) / references)
    varying = logs.std(axis=0) > 1e-9
    size = np.abs(pooled_errors)
    floor = max(1e-3 * float(np.median(size)), 1e-9)
    # Beyond this an error is a bad label; it says nothing of what the signals mean.
    size = np.clip(size, floor, 3.0 * max(float(np.quantile(size, 0.99)), floor))

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        # Laplace likelihood: a few bad labels must not set the scale. The weak pull on the
        # exponents only decides where the data say nothing.
        log_std = parameters[0] + logs @ parameters[1:]
        ratio = size * np.exp(-log_std)
        slope = weights * (1.0 - ratio) / len(size)
        value = float(np.mean(weights * (log_std + ratio))) + 1e-3 * float(
            parameters[1:] @ parameters[1:]
        )
        gradient = np.concatenate([[slope.sum()], slope @ logs + 2e-3 * parameters[1:]])
        return value, gradient

    start = np.zeros(1 + logs.shape[1])
    start[0] = np.log(np.mean(weights * size))
    # An error that falls with distance or spread would be an artefact of small data; one that falls
    # with size, of large minima beside small structures off equilibrium.
    bounds = [(None, None)] + [(0.0, 2.0) if v else (0.0, 0.0) for v in varying]
    parameters = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    z = size / np.exp(parameters[0] + logs @ parameters[1:])
    spread = float(np.sqrt(np.mean(weights * np.minimum(z, np.quantile(z, 0.995)) ** 2)))
    scale = float(np.exp(parameters[0])) * spread

    def limit(values: FloatArray) -> float:
        if not stratified:
            return float(np.quantile(values, 0.99))
        return float(_weighted_quantiles(values, weights[: len(values)], np.array([0.99]))[0])

    draft = Calibration(
        scale,
        parameters[1:],
        references,
        floors,
        _COVERAGES,
        _COVERAGES,
        limit(signals.leverage) or _ANY,
        limit(signals.distance) or _ANY,
        limit(signals.remoteness),
    )
    # Of the largest of several the 99th percentile is higher than that of each.
    excess = max(limit(draft.novelty(signals)), 1e-12)
    draft = replace(
        draft,
        leverage_limit=draft.leverage_limit * excess**2,
        distance_limit=draft.distance_limit * excess,
        remoteness_limit=draft.remoteness_limit * excess,
    )
    if stratified:
        normalised = np.abs(pooled_errors) / draft.std(pooled)
        asked = np.where(strata == _OFF, 4.0, 1.0) * weights
        return replace(draft, quantiles=_weighted_quantiles(normalised, asked, _COVERAGES))
    normalised = np.abs(errors) / draft.std(signals)
    # The finite-sample correction of conformal prediction.
    levels = np.minimum(_COVERAGES * (1 + 1 / len(errors)), 1.0)
    return replace(draft, quantiles=np.quantile(normalised, levels, method="higher"))


@dataclass(frozen=True)
class ForceCalibration:
    """Turns the posterior variance of forces into a standard deviation for each atom.

    Attributes
    ----------
    elements : ndarray of int, shape (n_elements,)
        Atomic numbers.
    scales : ndarray, shape (n_elements,)
        Standard deviation of a force component where the variance has its reference value, eV/Å.
    exponent, reference, floor : float
        std = scale · (max(√variance, floor) / reference) ** exponent.
    """

    elements: IntArray
    scales: FloatArray
    exponent: float
    reference: float
    floor: float

    def validate(self, elements: Sequence[int]) -> None:
        """Raise :class:`SettingsError` unless it fits the elements and values have a meaning."""
        if self.elements.tolist() != list(elements) or self.scales.shape != self.elements.shape:
            raise SettingsError(
                "force_calibration: elements and scales must be those of the descriptor"
            )
        if not abs(self.exponent) <= _STEEPEST:
            raise SettingsError(f"force_calibration: exponent {self.exponent} makes no sense")
        for name in ("scales", "reference", "floor"):
            if np.any(np.asarray(getattr(self, name)) < _TINY):
                raise SettingsError(f"force_calibration: {name} must be positive")

    def std(self, numbers: IntArray, leverage: FloatArray) -> FloatArray:
        """Standard deviation of each atom's force components in eV/Å, shape (n_atoms,).

        Parameters
        ----------
        numbers
            Atomic numbers, all of them among ``elements``, shape (n_atoms,).
        leverage
            Mean posterior variance of each atom's components, shape (n_atoms,).
        """
        relative = np.maximum(np.sqrt(leverage), self.floor) / self.reference
        scales = self.scales[np.searchsorted(self.elements, numbers)]
        return np.asarray(scales * relative**self.exponent)


# An element with fewer held-out atoms than this has the scale of all.
_FEW_ATOMS = 20


def calibrate_forces(
    elements: Sequence[int], numbers: IntArray, leverage: FloatArray, errors: FloatArray
) -> ForceCalibration:
    """Fit a force calibration to the errors of held-out atoms.

    Parameters
    ----------
    elements
        Atomic numbers that the model covers, ascending.
    numbers, leverage, errors
        Of held-out atoms, shape (n,): atomic number, mean posterior variance, and root mean square
        error of the three components (eV/Å).
    """
    if len(errors) < 2:
        raise TrainingError(f"calibration needs at least 2 held-out forces, got {len(errors)}")
    signal = np.sqrt(leverage)
    reference = _positive_median(signal)
    floor = 1e-2 * reference
    logs = np.log(np.maximum(signal, floor) / reference)
    # A bad label must not set the scale.
    size = np.minimum(errors, 3.0 * np.quantile(errors, 0.99))
    members = [m for m in (numbers == e for e in elements) if m.sum() >= _FEW_ATOMS]

    def loss(exponent: float) -> float:
        # Laplace likelihood with the best scale for each element.
        ratio = size * np.exp(-exponent * logs)
        terms = [m.sum() * np.log(max(ratio[m].mean(), 1e-12)) for m in members]
        rest = ~np.any(members, axis=0) if members else np.ones(len(size), dtype=bool)
        if rest.any():
            terms.append(rest.sum() * np.log(max(ratio[rest].mean(), 1e-12)))
        return float(sum(terms)) + exponent * float(logs.sum())

    exponents = np.linspace(0.0, 2.0, 41)
    exponent = float(min(exponents, key=loss)) if logs.std() > 1e-9 else 0.0
    squares = (size * np.exp(-exponent * logs)) ** 2
    scales = np.full(len(elements), np.sqrt(squares.mean()))
    for e, number in enumerate(elements):
        mask = numbers == number
        if mask.sum() >= _FEW_ATOMS:
            scales[e] = np.sqrt(squares[mask].mean())
    return ForceCalibration(np.asarray(elements), scales, exponent, reference, floor)


def _positive_median(values: FloatArray) -> float:
    positive = values[values > 0]
    return float(np.median(positive)) if len(positive) else 1.0


_OFF = 2


def _strata(
    n_one: int, off_equilibrium: BoolArray | None, group_off_equilibrium: BoolArray | None
) -> IntArray:
    """Stratum of structures left out alone and of those left out with their group."""
    off = np.zeros(n_one, dtype=bool) if off_equilibrium is None else off_equilibrium
    by_group = np.zeros(0, dtype=bool) if group_off_equilibrium is None else group_off_equilibrium
    # A structure off equilibrium is left out with its group in both: it is one stratum.
    return np.concatenate([np.where(off, _OFF, 0), np.where(by_group, _OFF, 1)])


def _weighted_quantiles(values: FloatArray, weights: FloatArray, levels: FloatArray) -> FloatArray:
    return np.asarray(np.quantile(values, levels, weights=weights, method="inverted_cdf"))
