"""Where the time of a training goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stage:
    """What one part of the work took.

    Attributes
    ----------
    name : str
    seconds, cpu_seconds : float
        Wall time, and processor time of this process (other processes are not counted).
    peak_mib : float
        Most memory that this process has held until the end of the part, MiB.
    """

    name: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


@dataclass
class Profile:
    """Stages in the order in which they began; a stage that comes back is added up."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Plain values, one dictionary a stage."""
        return [vars(s).copy() for s in self.stages.values()]


_current: ContextVar[Profile | None] = ContextVar("profile", default=None)


@contextlib.contextmanager
def profiling() -> Iterator[Profile]:
    """Collect the stages of all that runs inside."""
    profile = Profile()
    token = _current.set(profile)
    try:
        yield profile
    finally:
        _current.reset(token)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """A named part of the work. Costs nothing unless :func:`profiling` is on."""
    profile = _current.get()
    if profile is None:
        yield
        return
    known = profile.stages.setdefault(name, Stage(name, 0.0, 0.0, 0.0))
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        known.seconds += time.perf_counter() - wall
        known.cpu_seconds += time.process_time() - cpu
        known.peak_mib = peak_memory()


def peak_memory() -> float:
    """Most memory that this process has held so far, MiB (NaN where that is not known)."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return float("nan")
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
