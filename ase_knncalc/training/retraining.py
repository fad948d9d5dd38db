"""When a model that was appended to should be trained again."""

from __future__ import annotations

from dataclasses import dataclass

from ase_knncalc._lib.arguments import Positive, checked, instance
from ase_knncalc.model import KNNModel


@dataclass(frozen=True)
class RetrainingAdvice:
    """Whether to train again, and why.

    Attributes
    ----------
    needed : bool
    reasons : list of str
        Empty if not needed.
    growth : float
        Additions as a fraction of the structures that the model was trained on.
    coverage : float
        Fraction of additions inside their 90 % interval; NaN without additions.
    p_value : float
        Probability of a coverage this low, or lower, if the intervals are right.
    """

    needed: bool
    reasons: list[str]
    growth: float
    coverage: float
    p_value: float


def needs_retraining(
    model: KNNModel, *, growth: float = 0.2, significance: float = 0.01
) -> RetrainingAdvice:
    """Whether a model should be trained again with its additions.

    It should if the data have grown by more than a fraction ``growth`` since training, or if the
    additions' errors fell outside the 90 % intervals too often to be chance: a one-sided binomial
    test with probability ``significance`` of a false alarm.
    """
    instance("model", model, KNNModel)
    checked("growth", growth, Positive)
    checked("significance", significance, Positive)
    additions = model.info.provenance.additions
    n = len(additions)
    trained = model.info.provenance.trained_structures or model.info.n_structures
    grown = n / max(trained, 1)
    if not n:
        return RetrainingAdvice(False, [], 0.0, float("nan"), 1.0)
    from scipy.stats import binom

    inside = sum(bool(a["inside_90"]) for a in additions)
    p_value = float(binom.cdf(inside, n, 0.9))
    reasons = []
    if grown > growth:
        reasons.append(f"{n} additions are {grown:.0%} of the {trained} training structures")
    if p_value < significance:
        reasons.append(
            f"only {inside} of {n} additions lay inside their 90 % interval (p = {p_value:.2g})"
        )
    return RetrainingAdvice(bool(reasons), reasons, grown, inside / n, p_value)
