"""Linear algebra on one thread, and afterwards on as many as before."""

from __future__ import annotations

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from ase_knncalc._lib.threads import alone_on_one_thread, one_blas_thread


def threads(api: str) -> list[int]:
    return [
        pool.num_threads for pool in ThreadpoolController().select(user_api=api).lib_controllers
    ]


@pytest.mark.parametrize("alone", [False, True])
def test_limits_are_taken_back(alone) -> None:
    with threadpool_limits(2):
        before = threads("blas")
        if 2 not in before:
            pytest.skip("this BLAS has one thread")
        with one_blas_thread():
            inner = alone_on_one_thread("numpy") if alone else one_blas_thread()
            with inner:
                assert set(threads("blas")) == {1}
            assert set(threads("blas")) == {1}, "the outer one still holds"
        assert threads("blas") == before
