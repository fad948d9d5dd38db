"""SQLite files that survive a kill at any moment, and that one process has at a time.

Every transaction is on disk before anything is built on it. Where a file system has no locks
(Lustre without ``flock``, NFS without a lock service), a warning says what that means.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_knncalc._lib.files import has_locks
from ase_knncalc.errors import DataError, ModelFileError

if TYPE_CHECKING:
    from typing_extensions import Self

_VERSION = 1
_FACTS = "facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)"


class Closing:
    """What is closed at the end of a ``with`` block."""

    def close(self) -> None:
        """Release what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Database(Closing):
    """A file of tables, and of facts: texts that are kept under names.

    Parameters
    ----------
    path
        Made if it is not there.
    kind
        What it is, for messages.
    tables
        Name and columns of each table, in SQL.
    busy
        What to do where another process has it open, for messages.
    often
        Whether it has many small transactions: each then costs one flush instead of three.
    read_only
        Whether to work on a copy in memory, so that nothing in the folder changes.

    Raises
    ------
    DataError
        If another process has it open.
    ModelFileError
        If it is no such file, damaged, newer than this version, or cannot be written.

    Warns
    -----
    UserWarning
        If its file system has no locks.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        kind: str,
        *tables: str,
        busy: str,
        often: bool = False,
        read_only: bool = False,
    ) -> None:
        self.path, self.kind, self._busy = Path(path), kind, busy
        self._often = often and not read_only
        with self._translated():
            self._db = _in_memory(self.path) if read_only else self._opened()
        try:
            with self._translated():
                self._set_up((_FACTS, *tables))
        except BaseException:
            self.close()
            raise

    def _opened(self) -> sqlite3.Connection:
        if has_locks(self.path.parent):
            return _connected(self.path)
        warnings.warn(
            f"{self.path}: its file system has no locks, and two processes that write this "
            f"{self.kind} at once would damage it: let one run at a time",
            UserWarning,
            stacklevel=4,
        )
        return _connected(self.path, "?nolock=1")

    def _set_up(self, tables: tuple[str, ...]) -> None:
        if os.path.exists(f"{self.path}-wal"):  # which a killed process left
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        # Every commit is flushed to the disk before it returns.
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("BEGIN EXCLUSIVE")
        # Not before: two that start at once would both keep a shared lock, and neither get more.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        names = {table.split()[0] for table in tables}
        found = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        if not {name for (name,) in found} <= names:
            raise sqlite3.DatabaseError("it has other tables")
        for table in tables:
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('version', ?)", (str(_VERSION),))
        self._db.execute("COMMIT")
        version = int(self.fact("version") or 0)
        if version > _VERSION:
            raise ModelFileError(
                f"{self.path} has version {version}, this ase_knncalc reads up to {_VERSION}: "
                "upgrade with `pip install --upgrade ase_knncalc`"
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as e:
            if "locked" in str(e):
                raise DataError(
                    f"{self.path} is in use by another process: wait for it, or {self._busy}"
                ) from e
            raise ModelFileError(f"cannot write {self.path}: {_reason(e)}") from e
        except sqlite3.DatabaseError as e:
            raise ModelFileError(f"{self.path} is no {self.kind}, or is damaged: {e}") from e

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows that a statement finds."""
        with self._translated():
            return self._db.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Statements that are kept together or not at all; on disk at the end of the block."""
        with self._translated():
            if self._often:
                self._often = False
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk ends some by itself
                    self._db.execute("ROLLBACK")
                raise

    def fact(self, name: str) -> str | None:
        """A text kept under a name, or None."""
        rows = self.query("SELECT value FROM facts WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def set_fact(self, name: str, value: str) -> None:
        """Keep a text under a name."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def forget_fact(self, name: str) -> None:
        """Forget a text, if it is there."""
        with self.transaction() as db:
            db.execute("DELETE FROM facts WHERE name = ?", (name,))

    def close(self) -> None:
        """Release the file, which is then one file again."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.close()


def _reason(error: sqlite3.OperationalError) -> str:
    """What SQLite says, in the words that all files of this package have for a full disk."""
    if "disk is full" in str(error):
        return os.strerror(errno.ENOSPC)
    if "disk I/O error" in str(error):  # all that SQLite says of a quota or of a limit on sizes
        return f"{error} (disk full, a quota or a limit on file sizes reached, or a failing disk)"
    return str(error)


def _connected(path: str | Path, options: str = "") -> sqlite3.Connection:
    name = path if path == ":memory:" else f"{Path(path).absolute().as_uri()}{options}"
    return sqlite3.connect(name, timeout=0.2, isolation_level=None, uri=True)


def _in_memory(path: Path) -> sqlite3.Connection:
    """A copy of a database, whose folder may be one that cannot be written."""
    locks = "" if has_locks(path.parent) else "&nolock=1"
    try:
        return _copied(_connected(path, f"?mode=ro{locks}"))
    except sqlite3.OperationalError as e:
        beside = path.with_name(f"{path.name}-journal")
        if "locked" in str(e) or not beside.exists():
            raise
        # What a kill left would be rolled back when it is opened: so it is, elsewhere.
        with tempfile.TemporaryDirectory() as folder:
            for file in (path, beside):
                shutil.copyfile(file, Path(folder, file.name))
            return _copied(_connected(Path(folder, path.name)))


def _copied(source: sqlite3.Connection) -> sqlite3.Connection:
    copy = _connected(":memory:")
    with closing(source):
        # The lock comes first: a backup would wait for it without end.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(copy)
    return copy
