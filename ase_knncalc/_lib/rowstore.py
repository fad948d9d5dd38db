"""Rows of numbers that need not fit into memory.

Training works on tables with one row an atom (descriptors) or one a structure (columns of the
regression). :func:`allocate` gives a NumPy array where that is small, and otherwise
:class:`DiskRows`, a scratch HDF5 file with the same slicing, so that what reads a table block by
block does not know which of the two it has, and gets the same numbers.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ase_knncalc._lib.arrays import FloatArray, IntArray
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
        self._length = shape[0]
        self.width = shape[1]
        self.dtype = np.dtype(dtype)
        self._file = _ScratchFile.create(shape, self.dtype, folder)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self), self.width

    @property
    def folder(self) -> Path:
        """Where the file lies."""
        return self._file.path.parent

    def __len__(self) -> int:
        return self._length if self._index is None else len(self._index)

    def __getitem__(self, item: slice | IntArray) -> FloatArray:
        if isinstance(item, slice):
            start, stop, step = item.indices(len(self))
            if self._index is None and step == 1:
                return self._file.read(start, max(start, stop), self.width, self.dtype)
            item = np.arange(start, stop, step)
        places = np.asarray(item)
        if places.dtype == bool:
            places = np.flatnonzero(places)
        if self._index is not None:
            places = self._index[places]
        out = np.empty((len(places), self.width), dtype=self.dtype)
        # Runs of consecutive rows are one access each.
        breaks = np.flatnonzero(np.diff(places) != 1) + 1
        for a, b in zip(np.r_[0, breaks], np.r_[breaks, len(places)], strict=True):
            if b > a:
                self._file.read_into(out, int(a), int(b), int(places[a]))
        return out

    def __setitem__(self, item: slice, block: FloatArray) -> None:
        if self._index is not None:
            raise TypeError("a selection of rows cannot be written to")
        start, _, _ = item.indices(len(self))
        self._file.write(start, np.asarray(block, dtype=self.dtype))

    def take(self, indices: IntArray) -> DiskRows:
        """A view of some rows (indices ascending or not); nothing is copied."""
        view = DiskRows.__new__(DiskRows)
        view.__dict__.update(self.__dict__)
        view._index = np.asarray(indices) if self._index is None else self._index[indices]
        return view

    def __getstate__(self) -> dict[str, Any]:
        self._file.flush()
        return self.__dict__


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
    """One dataset in one file; only the process that made the file removes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = 0
        self._handle: Any = None
        self._process = 0

    @classmethod
    def create(
        cls, shape: tuple[int, int], dtype: np.dtype[Any], folder: str | os.PathLike[str] | None
    ) -> _ScratchFile:
        import shutil

        place = Path(folder) if folder is not None else Path(tempfile.gettempdir())
        needed = shape[0] * shape[1] * dtype.itemsize
        try:
            free = shutil.disk_usage(place).free
            if needed > free:
                raise DataError(
                    f"{place} has {free / 2**30:.1f} GiB free, but {needed / 2**30:.1f} GiB of "
                    "scratch space are needed; name another folder (scratch=…, --scratch)"
                )
            descriptor, name = tempfile.mkstemp(".h5", "knncalc-", place)
            os.close(descriptor)
        except OSError as e:
            raise DataError(
                f"cannot make a scratch file in {place}: {e.strerror or e}; name another folder "
                "(scratch=…, --scratch)"
            ) from e
        scratch = cls(Path(name))
        scratch._owner = os.getpid()
        weakref.finalize(scratch, _remove, name, os.getpid())
        file = scratch._open("w")
        # Room is taken now: a full disk is an error here, not after hours.
        file.create_dataset("rows", shape=shape, dtype=dtype, chunks=None)
        return scratch

    def _open(self, mode: str) -> Any:
        import h5py

        self._handle = h5py.File(self.path, mode, locking=False)
        self._process = os.getpid()
        return self._handle

    @property
    def _rows(self) -> Any:
        # A handle that came through fork must not be used here.
        if self._handle is None or self._process != os.getpid():
            self._open("r+" if self._owner == os.getpid() else "r")
        return self._handle["rows"]

    def read(self, start: int, stop: int, width: int, dtype: np.dtype[Any]) -> FloatArray:
        out = np.empty((stop - start, width), dtype=dtype)
        if stop > start:
            self.read_into(out, 0, stop - start, start)
        return out

    def read_into(self, out: FloatArray, first: int, last: int, row: int) -> None:
        """Rows from ``row`` on to ``out[first:last]``."""
        try:
            self._rows.read_direct(out, np.s_[row : row + last - first], np.s_[first:last])
        except OSError as e:
            raise DataError(f"cannot read the scratch file {self.path}: {e}") from e

    def write(self, row: int, block: FloatArray) -> None:
        try:
            self._rows[row : row + len(block)] = block
        except OSError as e:
            raise DataError(f"cannot write the scratch file {self.path}: {e}") from e

    def flush(self) -> None:
        if self._handle is not None and self._process == os.getpid():
            self._handle.flush()

    def __getstate__(self) -> dict[str, Any]:
        # The process number of a maker elsewhere means nothing here.
        return {"path": self.path, "_owner": 0, "_handle": None, "_process": 0}


def _remove(name: str, process: int) -> None:
    if process == os.getpid():
        with contextlib.suppress(OSError):
            os.unlink(name)
