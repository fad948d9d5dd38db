"""Calibration: standard deviations that mean what they say."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from ase_knncalc.errors import SettingsError, TrainingError
from ase_knncalc.uncertainty import Signals, calibrate


def made_up(n: int, seed: int, stretch: float = 1.0) -> tuple[Signals, np.ndarray]:
    """Errors whose true standard deviation is a power law of two signals."""
    rng = np.random.default_rng(seed)
    leverage = rng.lognormal(sigma=1.2, size=n) * stretch
    distance = rng.lognormal(sigma=0.5, size=n) * stretch
    std = 0.02 * np.sqrt(leverage) * distance**0.5
    signals = Signals(leverage, rng.lognormal(size=n), distance, rng.integers(3, 50, n) * 1.0,
                      0.9 + 0.1 * rng.random(n))  # fmt: skip
    return signals, std * rng.normal(size=n)


def test_std_and_intervals_hold_on_new_errors() -> None:
    calibration = calibrate(*made_up(4000, 0))
    signals, errors = made_up(4000, 1)
    std = calibration.std(signals)
    assert np.std(errors / std) == pytest.approx(1.0, abs=0.08)
    truth = 0.02 * np.sqrt(signals.leverage) * np.sqrt(signals.distance)
    assert spearmanr(std, truth).statistic > 0.95
    for coverage in (0.5, 0.68, 0.9, 0.95):
        observed = np.mean(np.abs(errors) <= calibration.multiple(coverage) * std)
        assert observed == pytest.approx(coverage, abs=0.03)


def test_calibration_holds_where_std_is_small_and_where_it_is_large() -> None:
    """Right on average is not enough (Pernot, arXiv:2303.07170)."""
    calibration = calibrate(*made_up(4000, 0))
    signals, errors = made_up(4000, 1)
    std = calibration.std(signals)
    for part in np.array_split(np.argsort(std), 5):
        ratio = np.sqrt(np.mean(errors[part] ** 2)) / np.sqrt(np.mean(std[part] ** 2))
        assert 0.8 < ratio < 1.25


def test_strata_count_however_few_structures_they_have() -> None:
    """Five hundred structures off equilibrium, with errors twice as large as their signals say,
    beside five thousand minima: intervals are those of all strata, not of the minima, and most of
    all hold off equilibrium."""
    alone, errors = made_up(4000, 0)
    by_group, group_errors = made_up(1000, 1, stretch=2.0)
    hot, hot_errors = made_up(500, 2, stretch=3.0)
    parts = (
        Signals.join(alone, hot),
        np.concatenate([errors, 2 * hot_errors]),
        Signals.join(by_group, hot),
        np.concatenate([group_errors, 2 * hot_errors]),
    )
    plain = calibrate(*parts)
    fair = calibrate(
        *parts,
        off_equilibrium=np.repeat([False, True], [4000, 500]),
        group_off_equilibrium=np.repeat([False, True], [1000, 500]),
    )
    new = [(made_up(3000, 3), 1), (made_up(3000, 4, stretch=2.0), 1), (made_up(3000, 5, 3.0), 2)]
    held = {
        name: [
            float(np.mean(np.abs(factor * e) <= c.multiple(0.9) * c.std(signals)))
            for (signals, e), factor in new
        ]
        for name, c in (("plain", plain), ("fair", fair))
    }
    assert held["plain"][2] < 0.75
    assert held["fair"][2] > held["plain"][2] + 0.05
    assert np.average(held["fair"], weights=[1, 1, 4]) == pytest.approx(0.9, abs=0.02)


def test_what_is_far_from_known_environments_is_told_from_what_is_near() -> None:
    """Errors that grow with the distance of atoms from environments, at one variance: minima are
    near to them, structures off equilibrium are not."""

    def errors_of(seed: int) -> tuple[Signals, np.ndarray]:
        rng = np.random.default_rng(seed)
        leverage, remoteness = rng.lognormal(size=4000), rng.lognormal(sigma=0.5, size=4000)
        nothing = np.ones(4000)
        signals = Signals(leverage, nothing, nothing, nothing, remoteness)
        return signals, 0.01 * np.sqrt(leverage) * remoteness * rng.normal(size=4000)

    calibration = calibrate(*errors_of(0))
    signals, errors = errors_of(1)
    inside = np.abs(errors) <= calibration.multiple(0.9) * calibration.std(signals)
    for part in np.array_split(np.argsort(signals.remoteness), 4):
        assert 0.87 < inside[part].mean() < 0.93


def test_a_calibration_of_before_says_what_it_said() -> None:
    """Without an exponent for that distance."""
    now = calibrate(*made_up(500, 0))
    signals, _ = made_up(50, 1)
    before = replace(
        now, **{name: getattr(now, name)[:4] for name in ("exponents", "references", "floors")}
    )
    before.validate()
    flat = replace(now, exponents=np.append(now.exponents[:4], 0.0))
    np.testing.assert_allclose(before.std(signals), flat.std(signals), rtol=1e-12)
    for shape in (3, 6):
        wrong = replace(now, exponents=np.ones(shape))
        with pytest.raises(SettingsError, match="shape"):
            wrong.validate()


def test_std_grows_with_every_signal() -> None:
    calibration = calibrate(*made_up(500, 0), *made_up(500, 1, stretch=4.0))
    base = Signals(*(np.array([1.0]) for _ in range(5)))
    for name in ("leverage", "spread", "distance"):
        more = Signals(**{**vars_of(base), name: np.array([100.0])})
        assert calibration.std(more)[0] >= calibration.std(base)[0]


def vars_of(signals: Signals) -> dict[str, np.ndarray]:
    return {f.name: getattr(signals, f.name) for f in fields(signals)}


def test_novelty_is_one_at_the_99th_percentile() -> None:
    signals, errors = made_up(5000, 0)
    calibration = calibrate(signals, errors)
    assert np.mean(calibration.novelty(signals) > 1) == pytest.approx(0.01, abs=0.002)
    far, _ = made_up(1000, 1, stretch=1000.0)
    assert np.mean(calibration.novelty(far) > 1) > 0.99


def test_a_few_absurd_labels_do_not_set_the_scale() -> None:
    signals, errors = made_up(2000, 0)
    clean = calibrate(signals, errors)
    errors[::400] += 50.0
    spoiled = calibrate(signals, errors)
    probe, _ = made_up(100, 3)
    assert np.median(spoiled.std(probe) / clean.std(probe)) < 1.6


@pytest.mark.parametrize("coverage", [0.0, 0.3, 0.999, 1.0, float("nan")])
def test_coverage_that_was_not_calibrated(coverage: float) -> None:
    with pytest.raises(SettingsError, match=r"coverage .*calibrated between 0\.5 and 0\.99"):
        calibrate(*made_up(50, 0)).multiple(coverage)


def test_smallest_and_degenerate_data() -> None:
    one = np.ones(1)
    with pytest.raises(TrainingError, match="at least 2"):
        calibrate(Signals(one, one, one, one, one), one)
    zero = np.zeros(5)
    calibration = calibrate(Signals(zero, zero, zero, np.full(5, 3.0), zero), zero)
    std = calibration.std(Signals(zero, zero, zero, np.full(5, 3.0), zero))
    assert np.isfinite(std).all()
    assert np.all(std > 0)


def test_intervals_are_those_of_a_conformal_library() -> None:
    """Normalised conformal prediction as `crepes` computes it from the same errors and std."""
    crepes = pytest.importorskip("crepes", reason="crepes is in the extra [test]")
    signals, errors = made_up(999, 5)
    calibration = calibrate(signals, errors)
    peer = crepes.ConformalRegressor().fit(errors, sigmas=calibration.std(signals))
    others, _ = made_up(50, 6)
    std = calibration.std(others)
    for coverage in (0.5, 0.68, 0.8, 0.9, 0.95, 0.99):
        bounds = peer.predict_int(np.zeros(50), sigmas=std, confidence=coverage)
        # Libraries differ by one order statistic where (n + 1) · coverage is a whole number.
        np.testing.assert_allclose(calibration.multiple(coverage) * std, bounds[:, 1], rtol=0.02)


def test_strange_environments_are_novel_and_widen_the_std() -> None:
    signals, errors = made_up(2000, 7)
    calibration = calibrate(signals, errors)
    assert np.mean(calibration.novelty(signals) > 1) == pytest.approx(0.01, abs=0.003)
    limit = calibration.remoteness_limit * np.ones(len(errors))
    edge, far = (replace(signals, remoteness=times * limit) for times in (1, 2))
    grown = 4 * 2 ** calibration.exponents[-1]
    np.testing.assert_allclose(calibration.std(far), grown * calibration.std(edge))
    assert np.all(calibration.novelty(far) >= 2)
    assert calibration.novelties(far)["environments"] == pytest.approx(2.0)
    # Where it is not known it has no say.
    unknown = replace(signals, remoteness=np.zeros(len(errors)))
    blind = calibrate(unknown, errors)
    assert blind.remoteness_limit == 0.0
    np.testing.assert_array_equal(blind.std(far), blind.std(unknown))
