"""The database under the label cache and the journal of a loop."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from ase_knncalc.errors import DataError, ModelFileError
from ase_knncalc.labels.database import Database

TABLE = "numbers (name TEXT PRIMARY KEY, value INTEGER)"


def opened(path, **options) -> Database:
    return Database(path, "list of numbers", TABLE, busy="name another list", **options)


def put(database: Database, name: str, value: int) -> None:
    with database.transaction() as db:
        db.execute("INSERT INTO numbers VALUES (?, ?)", (name, value))


def numbers(database: Database) -> list[tuple[str, int]]:
    return database.query("SELECT * FROM numbers ORDER BY name")


@pytest.mark.parametrize("often", [False, True])
def test_a_second_process_is_told_and_the_lock_dies_with_its_owner(tmp_path, often) -> None:
    path = tmp_path / "n.db"
    code = (
        "import sys, time; from ase_knncalc.labels.database import Database; "
        f"d = Database(sys.argv[1], 'list', {TABLE!r}, busy='', often={often}); "
        "t = d.transaction(); t.__enter__().execute('INSERT INTO numbers VALUES (\\'a\\', 1)'); "
        "t.__exit__(None, None, None); print('kept', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "kept\n"
    for read_only in (False, True):
        with pytest.raises(DataError, match=r"in use by another process.*name another list"):
            opened(path, read_only=read_only)
    owner.kill()
    owner.wait()
    with opened(path) as database:
        assert numbers(database) == [("a", 1)]
        put(database, "b", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["n.db"]


def test_a_transaction_is_kept_whole_or_not_at_all(tmp_path) -> None:
    with opened(tmp_path / "n.db", often=True) as database:
        put(database, "a", 1)
        with pytest.raises(ModelFileError, match="UNIQUE"):
            put(database, "a", 2)

        def fail() -> None:
            with database.transaction() as db:
                db.execute("DELETE FROM numbers")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        put(database, "b", 3)
    with opened(tmp_path / "n.db") as database:
        assert numbers(database) == [("a", 1), ("b", 3)]


def test_other_files_are_told_and_stay(tmp_path) -> None:
    path = tmp_path / "n.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE systems (id INTEGER)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="is no list of numbers"):
        opened(path)
    assert path.read_bytes() == before
    with pytest.raises(ModelFileError, match="cannot write"):
        opened(tmp_path / "no folder" / "n.db")
    with opened(tmp_path / "newer.db") as database:
        database.set_fact("version", "7")
    with pytest.raises(ModelFileError, match=r"version 7.*upgrade"):
        opened(tmp_path / "newer.db")


# -------------------------------------------------------------------------- odd file systems

NO_LOCKS = """
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <dlfcn.h>
#include <stddef.h>
int flock(int file, int operation) { errno = ERROR; return -1; }
int lockf(int file, int command, off_t length) { errno = ERROR; return -1; }
static int other(const char *name, int file, int command, void *value) {
    if (command == F_SETLK || command == F_SETLKW) { errno = ERROR; return -1; }
    return ((int (*)(int, int, ...)) dlsym(RTLD_NEXT, name))(file, command, value);
}
int fcntl(int file, int command, ...) {
    va_list rest; va_start(rest, command); void *value = va_arg(rest, void *); va_end(rest);
    return other("fcntl", file, command, value);
}
int fcntl64(int file, int command, ...) {
    va_list rest; va_start(rest, command); void *value = va_arg(rest, void *); va_end(rest);
    return other("fcntl64", file, command, value);
}
"""

NO_FOLDER_FLUSH = """
#include <errno.h>
#include <sys/stat.h>
#include <dlfcn.h>
static int folder(int file) { struct stat s; return !fstat(file, &s) && S_ISDIR(s.st_mode); }
int fsync(int file) {
    if (folder(file)) { errno = ERROR; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(file);
}
int fdatasync(int file) {
    if (folder(file)) { errno = ERROR; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(file);
}
"""

WORK = """
import os, sys, warnings
from ase.build import molecule
from ase_knncalc.active import Journal
from ase_knncalc.data import write_frames
from ase_knncalc.labels.cache import CachedLabel, LabelCache
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for i in range(3):
        with LabelCache("labels.db") as cache, Journal("journal.db") as journal:
            assert len(cache) == i
            cache.put(str(i), CachedLabel(float(i)))
            assert journal.fact("n") == (str(i - 1) if i else None)
            journal.set_fact("n", str(i))
    assert Journal("journal.db", read_only=True).fact("n") == "2"
    write_frames("f.extxyz", [molecule("H2O")])
print(sorted({str(w.message) for w in caught}))
if os.fork() == 0:
    cache, journal = LabelCache("labels.db"), Journal("journal.db")
    cache.put("3", CachedLabel(3.0))
    journal.set_fact("n", "3")
    os._exit(1)
os.wait()
with LabelCache("labels.db") as cache, Journal("journal.db") as journal:
    assert len(cache) == 4
    assert journal.fact("n") == "3"
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
@pytest.mark.skipif(sys.platform != "linux", reason="replaces functions of the C library")
@pytest.mark.parametrize(
    ("source", "error", "warning"),
    [
        (NO_LOCKS, "ENOLCK", "no locks"),
        (NO_LOCKS, "ENOSYS", "no locks"),
        (NO_LOCKS, "EOPNOTSUPP", "no locks"),
        (NO_FOLDER_FLUSH, "EINVAL", "cannot flush folders"),
        (NO_FOLDER_FLUSH, "EIO", "cannot flush folders"),
    ],
)
def test_odd_file_systems_are_worked_on_with_a_warning(tmp_path, source, error, warning) -> None:
    """Lustre without "flock", NFS without a lock service; FUSE without fsync of folders."""
    (tmp_path / "odd.c").write_text("#define _GNU_SOURCE\n" + source)
    library = tmp_path / "odd.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-DERROR={error}", "-o", library, tmp_path / "odd.c", "-ldl"],
        check=True,
    )
    done = subprocess.run(
        [sys.executable, "-c", WORK],
        cwd=tmp_path,
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert warning in done.stdout
