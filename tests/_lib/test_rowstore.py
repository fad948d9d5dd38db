"""Tables on disk behave as arrays do."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc._lib import rowstore
from ase_knncalc._lib.rowstore import DiskRows, allocate
from ase_knncalc.errors import DataError


def filled(n: int = 50, width: int = 3, **options) -> tuple[DiskRows, np.ndarray]:
    expected = np.random.default_rng(0).normal(size=(n, width)).astype("float32")
    rows = DiskRows((n, width), "float32", **options)
    rows[: n // 2] = expected[: n // 2]
    rows[n // 2 :] = expected[n // 2 :]
    return rows, expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_slices_and_selections_are_those_of_an_array(data) -> None:
    rows, expected = filled()
    for _ in range(2):
        a, b = (data.draw(st.integers(-5, 60)) for _ in range(2))
        np.testing.assert_array_equal(rows[a:b], expected[a:b])
        if len(expected) == 0:
            return
        chosen = np.array(data.draw(st.lists(st.integers(0, len(expected) - 1))), dtype=int)
        np.testing.assert_array_equal(rows[chosen], expected[chosen])
        mask = np.zeros(len(expected), dtype=bool)
        mask[chosen] = True
        np.testing.assert_array_equal(rows[mask], expected[mask])
        # The second round looks at a selection of rows.
        rows, expected = rows.take(chosen), expected[chosen]
        assert rows.shape == expected.shape


def test_file_vanishes_with_its_last_view(tmp_path) -> None:
    rows, expected = filled(folder=tmp_path)
    view = rows.take(np.array([4, 2]))
    copy = pickle.loads(pickle.dumps(view))
    del rows
    gc.collect()
    np.testing.assert_array_equal(view[:], expected[[4, 2]])
    np.testing.assert_array_equal(copy[:], expected[[4, 2]])
    assert len(list(tmp_path.iterdir())) == 1
    del view
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_small_tables_stay_in_memory(monkeypatch) -> None:
    assert isinstance(allocate((10, 3), "float64"), np.ndarray)
    monkeypatch.setattr(rowstore, "MOST_IN_MEMORY", 10 * 3 * 8 - 1)
    assert isinstance(allocate((10, 3), "float64"), DiskRows)


def test_a_folder_that_does_not_serve_is_told(tmp_path) -> None:
    with pytest.raises(DataError, match=r"cannot make a scratch file in .*missing"):
        DiskRows((10, 3), "float64", tmp_path / "missing")
    with pytest.raises(DataError, match="GiB of scratch space are needed"):
        DiskRows((2**40, 2**10), "float64", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_selections_are_read_only() -> None:
    rows, _ = filled()
    with pytest.raises(TypeError, match="selection"):
        rows.take(np.array([1]))[0:1] = np.zeros((1, 3))
