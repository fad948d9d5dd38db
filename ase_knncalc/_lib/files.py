"""Files that are whole or not there, and files that one process writes at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
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
        if not _flushed(target.parent):
            warnings.warn(
                f"{path}: its file system cannot flush folders, so that a power failure soon "
                "after this may bring back what was there before",
                UserWarning,
                stacklevel=4,
            )
        os.replace(temporary, target)
        temporary = None
        # The rename itself is safe only once the folder is on disk too. Nothing is said from here
        # on: the new file is in place.
        _flushed(target.parent)
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


def _flushed(folder: Path) -> bool:
    """Bring a folder to disk; False where its file system cannot, as some network ones."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return True  # Windows opens no folders, and keeps a journal of its own
    try:
        os.fsync(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _sweep(path: Path) -> None:
    """Remove what a killed process left of an earlier attempt to write ``path``."""
    prefix = f".{path.name}.part-"
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                with contextlib.suppress(OSError):
                    if time.time() - entry.stat().st_mtime > _STALE:
                        os.unlink(entry.path)


# Errors of a file system that has no locks: Lustre without "flock", NFS without a lock service.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def has_locks(folder: Path) -> bool:
    """Whether files in a folder can be locked against other processes, as far as can be told.

    A file of its own is tried: closing any file takes all locks of this process off it.
    """
    try:
        import fcntl
    except ImportError:
        return True  # another system, other locks
    try:
        with tempfile.TemporaryFile(dir=folder) as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return e.errno not in _NO_LOCKS
    return True


@contextlib.contextmanager
def only_writer(path: str | os.PathLike[str]) -> Iterator[None]:
    """Wait until no other process changes a file, and keep others waiting.

    For files that writers replace, readers need no lock. Where there is no file yet, or there are
    no POSIX locks, nothing is locked.

    Warns
    -----
    UserWarning
        If its file system has no locks.
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
            try:
                fcntl.flock(handle.fileno(), fcntl.LOCK_EX)
            except OSError as e:
                if e.errno not in _NO_LOCKS:
                    raise
                warnings.warn(
                    f"{path}: its file system has no locks, and of two processes that change this "
                    "file at once one would undo the other's work: let one run at a time",
                    UserWarning,
                    stacklevel=4,
                )
                yield
                return
            try:
                # After waiting, it may be another file by that name.
                same = os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
            except OSError:
                same = False
            if same:
                yield
                return
