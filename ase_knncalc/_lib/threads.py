"""One thread for what has to be the same to the bit: parallel sums depend on their order.

Limits of thread pools belong to the process, not to a thread of it. Who sets one and takes it back
while another thread is at work changes the other's digits, so they are counted here, in one place.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_COUNT_LOCK = threading.Lock()
_ALONE = threading.RLock()


# Pools that had more threads than one, with their number.
_Limits = list[tuple[Any, int]]


def _limit(pools: Any) -> _Limits:
    """One thread for each pool.

    As threadpoolctl's own limits, which look all of a pool up at each turn: a twentieth of a step.
    """
    before = [(pool, pool.get_num_threads()) for pool in pools.lib_controllers]
    changed = [(pool, n) for pool, n in before if n != 1]
    for pool, _ in changed:
        pool.set_num_threads(1)
    return changed


def _restore(changed: _Limits) -> None:
    for pool, n in changed:
        pool.set_num_threads(n)


class _SharedLimit:
    """The limit of numpy's and scipy's BLAS, set by the first and taken back by the last."""

    def __init__(self) -> None:
        self._holders = 0
        self._limiters: list[_Limits] = []
        self._limited: Any = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        with _COUNT_LOCK:
            pools = _shared_pools()
            if pools is not self._limited:  # none is held, or scipy has come since
                self._limiters.append(_limit(pools))
                self._limited = pools
            self._holders += 1
        try:
            yield
        finally:
            with _COUNT_LOCK:
                self._holders -= 1
                if not self._holders:
                    while self._limiters:
                        _restore(self._limiters.pop())
                    self._limited = None


_BLAS = _SharedLimit()


@functools.cache
def _pools(modules: tuple[str, ...]) -> Any:
    """Thread pools of the process, looked up once the modules have brought their own."""
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    for module in modules:
        importlib.import_module(module)
    return ThreadpoolController()


def _loaded() -> tuple[str, ...]:
    """Which of numpy and scipy are there: importing scipy takes as long as some predictions.

    What uses it under a limit imports it before, such as :class:`~ase_knncalc.knn.term.KNNTerm`.
    """
    return ("numpy", "scipy.linalg") if "scipy.linalg" in sys.modules else ("numpy",)


@functools.cache
def _blas_of(modules: tuple[str, ...]) -> Any:
    return _pools(modules).select(user_api="blas")


def _shared_pools() -> Any:
    return _blas_of(_loaded())


def _other_pools(module: str) -> Any:
    """What a library brings along, and OpenMP, whose limit is the calling thread's own."""
    return _beside(_loaded(), module)


@functools.cache
def _beside(modules: tuple[str, ...], module: str) -> Any:
    shared = {pool.filepath for pool in _blas_of(modules).lib_controllers}
    found = _pools((*modules, module))
    return found.select(
        filepath=[p.filepath for p in found.lib_controllers if p.filepath not in shared]
    )


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Linear algebra on one thread; several threads of the process may be here at once."""
    with _BLAS.hold():
        yield


@contextmanager
def alone_on_one_thread(module: str) -> Iterator[None]:
    """Run alone in the process, BLAS and OpenMP on one thread, with a library of that module."""
    with _ALONE, _BLAS.hold():
        changed = _limit(_other_pools(module))
        try:
            yield
        finally:
            _restore(changed)
