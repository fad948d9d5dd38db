"""Training from tables on disk: the same model as from memory, in flat memory."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.factories import tiny, water_clusters

from ase_knncalc._lib import rowstore
from ase_knncalc._lib.profiling import profiling
from ase_knncalc._lib.rowstore import DiskRows
from ase_knncalc.trend import ridge
from ase_knncalc.trend.sparse import SparseSettings

SPARSE = SparseSettings(environments=40, variance_environments=20, rank=30)


@pytest.fixture(scope="module")
def frames():
    return water_clusters(230)


@pytest.mark.parametrize("trend", ["none", "linear", "sparse"])
def test_model_from_disk_is_bit_for_bit_that_from_memory(
    frames, trend: str, monkeypatch, tmp_path
) -> None:
    options = {"trend": trend, "sparse": SPARSE, "check_labels": True}
    from_memory = tiny(frames, **options)
    made = []
    original = DiskRows.__init__

    def watched(self, shape, dtype, folder=None):
        made.append(shape)
        original(self, shape, dtype, folder)

    monkeypatch.setattr(DiskRows, "__init__", watched)
    monkeypatch.setattr(rowstore, "MOST_IN_MEMORY", 0)
    from_disk = tiny(frames, scratch=tmp_path, **options)
    assert len(made) >= (3 if trend == "sparse" else 1), "descriptors, and columns of the trend"
    assert from_disk.info.errors == from_memory.info.errors
    a, b = from_disk.predict(frames[:40]), from_memory.predict(frames[:40])
    for name in ("energy", "energy_std", "novelty"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert list(tmp_path.iterdir()) == [], "scratch files are gone"


def test_small_blocks_give_the_same_model_to_rounding(frames, monkeypatch) -> None:
    one_block = tiny(frames, trend="sparse", sparse=SPARSE)
    monkeypatch.setattr(ridge, "_BLOCK_BYTES", 0)
    monkeypatch.setattr(rowstore, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(ridge, "_BLOCK_ROWS", 50)
    blocks = tiny(frames, trend="sparse", sparse=SPARSE)
    np.testing.assert_allclose(
        blocks.predict(frames[:40]).trend, one_block.predict(frames[:40]).trend, atol=1e-7
    )
    assert blocks.info.errors["group_trend_mae"] == pytest.approx(
        one_block.info.errors["group_trend_mae"], rel=1e-4
    )


def test_profile_names_the_stages(frames) -> None:
    with profiling() as profile:
        tiny(frames[:60], trend="sparse", sparse=SPARSE)
    names = [row["name"] for row in profile.rows()]
    assert names[:3] == ["reading", "baseline labels", "descriptors"]
    assert {"trend: normal equations", "metric", "calibration"} <= set(names)
    assert all(row["seconds"] >= 0 and row["peak_mib"] > 10 for row in profile.rows())
    tiny(frames[:10], k=3)
    assert len(profile.rows()) == len(names), "nothing is added after the profile is closed"
