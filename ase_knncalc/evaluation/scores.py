"""Errors on structures that were held out, and how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray


@dataclass(frozen=True)
class Scores:
    """Errors of predictions (eV) and of what is said about them.

    Attributes
    ----------
    n : int
    mae, rmse, p95 : float
        Mean absolute, root mean square, and 95th percentile of the absolute error, eV.
    coverage : float
        Fraction of errors inside the 90 % interval.
    spearman : float
        Rank correlation of absolute error and predicted standard deviation.
    novel : float
        Fraction with novelty above 1.
    train_seconds : float
        Processor time of training, descriptors and labels excluded.
    predict_milliseconds : float
        Wall time a structure of trend, neighbours and uncertainty, descriptors excluded.
    """

    n: int
    mae: float
    rmse: float
    p95: float
    coverage: float
    spearman: float
    novel: float
    train_seconds: float
    predict_milliseconds: float

    def to_dict(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Held:
    """Predictions for structures that the method has not seen, in the order of the data.

    Attributes
    ----------
    indices : ndarray of int, shape (m,)
        Which structures.
    error, std, half_width, novelty : ndarray, shape (m,)
        Predicted minus true Δ, standard deviation and half of the 90 % interval in eV; novelty.
    train_seconds, predict_seconds : float
        Totals over all folds.
    """

    indices: IntArray
    error: FloatArray
    std: FloatArray
    half_width: FloatArray
    novelty: FloatArray
    train_seconds: float
    predict_seconds: float

    @property
    def scores(self) -> Scores:
        """Summary of these predictions."""
        from scipy.stats import spearmanr

        size = np.abs(self.error)
        varies = len(size) > 2 and np.ptp(self.std) > 0 and np.ptp(size) > 0
        return Scores(
            n=len(size),
            mae=float(size.mean()),
            rmse=float(np.sqrt(np.mean(size**2))),
            p95=float(np.quantile(size, 0.95)),
            coverage=float(np.mean(size <= self.half_width)),
            spearman=float(spearmanr(size, self.std).statistic) if varies else float("nan"),
            novel=float(np.mean(self.novelty > 1)),
            train_seconds=self.train_seconds,
            predict_milliseconds=1000 * self.predict_seconds / len(size),
        )

    @staticmethod
    def join(parts: Sequence[Held]) -> Held:
        """Several folds as one, ordered by structure."""
        order = np.argsort(np.concatenate([p.indices for p in parts]), kind="stable")

        def stack(name: str) -> AnyArray:
            return np.asarray(np.concatenate([getattr(p, name) for p in parts])[order])

        return Held(
            stack("indices"),
            stack("error"),
            stack("std"),
            stack("half_width"),
            stack("novelty"),
            sum(p.train_seconds for p in parts),
            sum(p.predict_seconds for p in parts),
        )
