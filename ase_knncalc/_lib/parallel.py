"""Work spread over processes with joblib: on this machine, or over a Dask cluster.

Everything that runs in parallel here goes through :func:`run`. Inside :func:`cluster` the same
calls go to the workers of a Dask scheduler. A worker that dies costs the time of what it was
doing, nothing else; on this machine, of what the others were doing as well.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Annotated, Any, TypeVar

from annotated_types import Ge

from ase_knncalc._lib.arguments import checked
from ase_knncalc._lib.threads import one_blas_thread
from ase_knncalc.errors import KNNCalcError, SettingsError

T = TypeVar("T")

_ADDRESS = re.compile(r"inproc://\S+|([a-z]+://)?([^\s/:]+|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
# s. For the first answer of a scheduler.
_PATIENCE = 10.0
# Deaths of workers with nothing done between them that are taken for no accident.
_DEATHS = 3
_START = (
    "start one with `dask scheduler` and give the address that it prints, such as "
    "tcp://10.0.0.1:8786"
)


def run(
    function: Callable[..., T],
    jobs: Iterable[tuple[Any, ...]],
    *,
    total: int,
    n_jobs: int = -1,
    ordered: bool = True,
) -> Iterator[T]:
    """``function(*job)`` for each job, as an iterator of the results.

    Parameters
    ----------
    function
        Of a module, so that other processes find it.
    jobs, total
        Arguments, taken only when a process is free for them; and how many there are.
    n_jobs
        Processes (−1: all cores, or all of the cluster). 1 runs here.
    ordered
        Whether results come in the order of the jobs; otherwise as they are ready.

    Raises
    ------
    SettingsError
        If ``n_jobs`` is neither positive nor −1.
    KNNCalcError
        If processes of this machine end again and again.
    """
    check_jobs(n_jobs)
    return _run(function, jobs, total, min(n_jobs, max(total, 1)), ordered)


def check_jobs(n_jobs: int) -> None:
    """Make sure that a number of processes is one.

    Raises
    ------
    SettingsError
        If it is neither positive nor −1.
    """
    if checked("n_jobs", n_jobs, Annotated[int, Ge(-1)]) == 0:
        raise SettingsError("n_jobs must be a positive number, or -1 for all cores, got 0")


def _run(
    function: Callable[..., T],
    jobs: Iterable[tuple[Any, ...]],
    total: int,
    n_jobs: int,
    ordered: bool,
) -> Iterator[T]:
    if n_jobs == 1 or total < 2:
        for job in jobs:
            yield function(*job)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # Jobs that were taken and have no result: those that a worker took with it are done again.
    pending: dict[int, tuple[Any, ...]] = {}
    numbered = enumerate(jobs)

    def taken(again: list[tuple[int, tuple[Any, ...]]]) -> Iterator[tuple[int, _Job]]:
        for number, job in chain(again, numbered):
            pending[number] = job
            yield number, _Job(function, job)

    way = "generator" if ordered else "generator_unordered"
    fruitless = 0
    while True:
        work = taken(sorted(pending.items()))
        try:
            for number, result in Parallel(n_jobs=n_jobs, return_as=way)(
                delayed(_call)(number, job) for number, job in work
            ):
                del pending[number]
                fruitless = 0
                yield result
        except TerminatedWorkerError as e:
            fruitless += 1
            if fruitless == _DEATHS:
                raise KNNCalcError(
                    f"processes ended {_DEATHS} times in a row in the middle of their work: is "
                    f"there memory for {n_jobs} of them? Take fewer (n_jobs, --jobs)"
                ) from e
        else:
            return


class _Job:
    """A function and its arguments in one.

    Without ``__weakref__`` on purpose: joblib would give anything else that is large to one Dask
    worker ahead of the call, and it would be lost with that worker.
    """

    __slots__ = ("arguments", "function")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments


def _call(number: int, job: _Job) -> tuple[int, Any]:
    # Workers are as many as there are cores: more threads spend most of their time waiting for each
    # other, and a user's OMP_NUM_THREADS asks for them.
    with one_blas_thread():
        return number, job.function(*job.arguments)


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Everything inside runs on the Dask cluster of that scheduler; None: on this machine.

    Parameters
    ----------
    address
        Of the scheduler, such as ``"tcp://10.0.0.1:8786"``.

    Raises
    ------
    SettingsError
        If dask.distributed is not installed, or no scheduler answers there.
    """
    if address is None:
        yield
        return
    if not _ADDRESS.fullmatch(address):
        raise SettingsError(f"{address!r} is no address of a Dask scheduler; {_START}")
    try:
        from distributed import Client
    except ImportError:
        raise SettingsError(
            "a Dask cluster needs dask.distributed: pip install 'ase_knncalc[dask]'"
        ) from None
    from joblib import parallel_config

    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as e:
        raise SettingsError(
            f"no Dask scheduler answers at {address} ({e or type(e).__name__}); {_START}"
        ) from e
    with client, parallel_config(backend="dask", client=client):
        yield


def on_cluster() -> bool:
    """Whether :func:`run` sends its jobs to a Dask cluster."""
    from joblib.parallel import get_active_backend

    return type(get_active_backend()[0]).__name__ == "DaskDistributedBackend"
