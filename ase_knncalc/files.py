"""Files that are whole or not there, and files that one process writes at a time."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from ase_knncalc.errors import KNNCalcError, ModelFileError

# What a kill left behind is swept away by a later write once it is this old, in seconds: no write
# takes that long.
_STALE = 3600.0


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], error: type[KNNCalcError] = ModelFileError
) -> Iterator[Path]:
    """The name of a new file that takes the place of ``path`` when everything is on disk.

    Parameters
    ----------
    path
        What the file is to be in the end. The new file lies beside it, has the same suffixes, and
        is gone if the block ends with an exception.
    error
        Raised in place of an ``OSError``.

    Raises
    ------
    KNNCalcError
        ``error``, if the folder is missing or cannot be written, or the disk is full; ``path`` is
        as it was before.
    """
    path = Path(path)
    temporary = None
    try:
        _sweep(path)
        # The suffix stays: for some formats it decides on compression.
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.part-", suffix="".join(path.suffixes[-2:])
        )
        temporary = Path(name)
        os.close(descriptor)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.chmod(temporary, _file_mode())  # mkstemp makes files for the owner only
        os.replace(temporary, path)
        temporary = None
        # The rename itself is safe only once the folder is on disk too.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except KNNCalcError:
        raise
    except OSError as e:
        raise error(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike[str], error: type[KNNCalcError] = ModelFileError
) -> Iterator[BinaryIO]:
    """As :func:`replacing`, with the new file opened for writing bytes."""
    with replacing(path, error) as temporary, open(temporary, "wb") as handle:
        yield handle


def _file_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _sweep(path: Path) -> None:
    """Remove what a killed process left of an earlier attempt to write ``path``."""
    prefix = f".{path.name}.part-"
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _STALE:
                        os.unlink(entry.path)


@contextlib.contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Wait until no other process changes a file, and keep others waiting.

    For files that writers replace, readers need no lock. Where there is no file yet, or there are
    no POSIX locks, nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    while True:
        try:
            handle = open(path, "rb")  # noqa: SIM115 - closed below
        except OSError:
            yield  # there is nothing to lose
            return
        with handle:
            fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
            try:
                # After waiting, it may be another file by that name.
                same = os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
            except OSError:
                same = False
            if same:
                yield
                return


def open_locked(path: str | os.PathLike[str], error: type[KNNCalcError]) -> FileIO:
    """A file opened for reading and appending, locked against other processes until it is closed.

    It has no buffer: what was written has left the process.

    On systems without POSIX locks it is only opened.

    Raises
    ------
    KNNCalcError
        ``error``, if another process has it open; :class:`ModelFileError` if it cannot be opened.
    """
    while True:
        try:
            handle = open(path, "ab+", buffering=0)  # noqa: SIM115 - the caller closes it
        except OSError as e:
            raise ModelFileError(f"cannot open {path}: {e.strerror or e}") from e
        try:
            import fcntl
        except ImportError:
            return handle
        try:
            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed it between our opening and our locking it.
            if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        except OSError as e:
            handle.close()
            raise error(f"{path} is in use by another process; wait for it") from e
        handle.close()


def append_durably(handle: FileIO, data: bytes) -> None:
    """Append to a file and wait until it is on disk; a failure leaves nothing of ``data`` behind.

    Raises
    ------
    OSError
        If the disk is full, for example.
    """
    size = os.fstat(handle.fileno()).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[handle.write(rest) :]
        os.fsync(handle.fileno())
    except OSError:
        # Half a record would swallow the next one.
        with contextlib.suppress(OSError):
            handle.truncate(size)
        raise
