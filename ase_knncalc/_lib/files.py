"""Files that are whole or not there, and files that one process writes at a time."""

from __future__ import annotations

import contextlib
import os
import stat
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
        What the file is to be in the end; of a link, what it points to. The new file lies beside
        it, has the suffixes of ``path``, and is gone if the block ends with an exception. It takes
        the permissions of the old file, and its owner and group where the system allows that.
    error
        Raised in place of an ``OSError``.

    Raises
    ------
    KNNCalcError
        ``error``, if ``path`` is write-protected or no regular file, the folder is missing or
        cannot be written, or the disk is full; ``path`` is as it was before.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    temporary = None
    try:
        check_writable(target)
        _sweep(target)
        # The suffix stays: for some formats it decides on compression.
        descriptor, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.name}.part-", suffix="".join(path.suffixes[-2:])
        )
        temporary = Path(name)
        os.close(descriptor)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        _take_permissions(temporary, target)
        os.replace(temporary, target)
        temporary = None
        # The rename itself is safe only once the folder is on disk too.
        folder = os.open(target.parent, os.O_RDONLY)
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


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a file that must not be replaced, though its folder would allow it.

    Raises
    ------
    OSError
        If it is write-protected, or there is something that is no regular file.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError("that is no regular file")
    if not os.access(path, os.W_OK):
        raise OSError("the file is write-protected")


def _take_permissions(new: Path, old: Path) -> None:
    """Make a file of ``mkstemp``, which is for its owner alone, as accessible as the old one."""
    try:
        was = os.stat(old)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(new, 0o666 & ~mask)
        return
    if hasattr(os, "chown"):
        for owner, group in ((-1, was.st_gid), (was.st_uid, -1)):
            with contextlib.suppress(OSError):  # only root gives files away
                os.chown(new, owner, group)
    os.chmod(new, stat.S_IMODE(was.st_mode))


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
