"""Rows of numbers that need not fit into memory.

Training works on tables with one row an atom (descriptors) or one a structure (columns of the
regression). :func:`allocate` gives a NumPy array where that is small, and otherwise
:class:`DiskRows`, a scratch file with the same slicing, so that what reads a table block by
block does not know which of the two it has, and gets the same numbers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from copy import copy
from io import FileIO
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.errors import DataError

# Tables larger than this go to disk. Two or three of them are in use at a time.
MOST_IN_MEMORY = 512 * 2**20


class DiskRows:
    """A table (n, width) on disk, written and read by slices of rows.

    ``rows[a:b]`` and ``rows[indices]`` (integers, in any order) give arrays;
    ``rows[a:b] = block`` writes. :meth:`take` selects rows without reading them. The file vanishes
    with the last object that uses it in the process that made it; a pickled table finds it again
    by its path, on the same machine or a shared file system.

    Parameters
    ----------
    shape, dtype
        Of the table.
    folder
        Where the file is made; by default the folder for temporary files.

    Raises
    ------
    DataError
        If the folder cannot be written, or has too little space.
    """

    def __init__(
        self, shape: tuple[int, int], dtype: str, folder: str | os.PathLike[str] | None = None
    ) -> None:
        self._index: IntArray | None = None
        self._length, self.width = shape
        self.dtype = np.dtype(dtype)
        self._file = _ScratchFile(self._length * self._row_bytes, folder)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.width

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self._file.path.parent

    @property
    def _row_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def __len__(self) -> int:
        return self._length if self._index is None else len(self._index)

    def __getitem__(self, item: slice | IntArray | BoolArray) -> FloatArray:
        places: IntArray
        if isinstance(item, slice):
            places = np.arange(*item.indices(len(self)))
        else:
            places = np.flatnonzero(item) if item.dtype == bool else np.asarray(item, np.intp)
        if self._index is not None:
            places = self._index[places]
        out = np.empty((len(places), self.width), dtype=self.dtype)
        # Runs of consecutive rows are one access each.
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        with self._file.opened("rb") as file:
            for a, b in zip(np.r_[0, breaks], np.r_[breaks, len(places)], strict=True):
                if b > a:
                    _transfer(file, int(places[a]) * self._row_bytes, file.readinto, out[a:b])
        return out

    def __setitem__(self, item: slice, block: FloatArray) -> None:
        if self._index is not None:
            raise TypeError("a selection of rows cannot be written to")
        start, stop, _ = item.indices(len(self))
        rows = np.ascontiguousarray(np.broadcast_to(block, (stop - start, self.width)), self.dtype)
        with self._file.opened("r+b") as file:
            _transfer(file, start * self._row_bytes, file.write, rows)

    def take(self, indices: IntArray) -> DiskRows:
        """A view of some rows (indices ascending or not); nothing is copied."""
        view = copy(self)
        view._index = np.asarray(indices) if self._index is None else self._index[indices]
        return view


Rows: TypeAlias = "FloatArray | DiskRows"


def allocate(
    shape: tuple[int, int], dtype: str, folder: str | os.PathLike[str] | None = None
) -> Rows:
    """A table to be filled: in memory up to :data:`MOST_IN_MEMORY` bytes, else on disk."""
    if shape[0] * shape[1] * np.dtype(dtype).itemsize <= MOST_IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    return DiskRows(shape, dtype, folder)


def folder_of(rows: Rows) -> Path | None:
    """Where further tables beside this one may be made, None for no preference."""
    return rows.folder if isinstance(rows, DiskRows) else None


class _ScratchFile:
    """A file of its own that vanishes with this object; a pickled one knows its path alone.

    It is opened for each access, so that threads, forks and other processes may share it.
    """

    def __init__(self, size: int, folder: str | os.PathLike[str] | None) -> None:
        place = Path(folder) if folder is not None else Path(tempfile.gettempdir())
        try:
            free = shutil.disk_usage(place).free
            if size > free:
                raise DataError(
                    f"{place} has {free / 2**30:.1f} GiB free, but {size / 2**30:.1f} GiB of "
                    "scratch space are needed; name another folder (scratch=…, --scratch)"
                )
            descriptor, name = tempfile.mkstemp(".rows", "knncalc-", place)
            self.path = Path(name)
            weakref.finalize(self, _remove, name, os.getpid())
            with open(descriptor, "wb") as file:
                # Room is taken now: a full disk is an error here, not after hours.
                if size and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
        except OSError as e:
            raise DataError(
                f"cannot make a scratch file in {place}: {e.strerror or e}; name another folder "
                "(scratch=…, --scratch)"
            ) from e

    @contextlib.contextmanager
    def opened(self, mode: str) -> Iterator[FileIO]:
        """The file; what goes wrong with it is a :class:`DataError`."""
        try:
            with FileIO(self.path, mode) as file:
                yield file
        except OSError as e:
            raise DataError(
                f"cannot read or write the scratch file {self.path}: {e.strerror or e}; train "
                "again, with another folder (scratch=…, --scratch)"
            ) from e


def _transfer(
    file: FileIO, offset: int, move: Callable[[memoryview], int | None], rows: FloatArray
) -> None:
    """Read or write all of some rows: the system moves 2 GiB at most at a time."""
    left = rows.reshape(-1).view(np.uint8).data
    file.seek(offset)
    while left:
        moved = move(left)
        if not moved:
            raise OSError("it is shorter than its table")
        left = left[moved:]


def _remove(name: str, process: int) -> None:
    if process == os.getpid():
        with contextlib.suppress(OSError):
            os.unlink(name)
