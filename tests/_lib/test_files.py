"""Writing whole files or none, and one writer at a time."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
import warnings

import pytest

from ase_knncalc._lib.files import atomic_write, has_locks, only_writer, replacing
from ase_knncalc.errors import DataError


def test_replaced_only_when_all_went_well(tmp_path) -> None:
    path = tmp_path / "file.extxyz.gz"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            assert temporary.name.endswith(".extxyz.gz")
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    with atomic_write(path) as handle:
        handle.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == [path.name]


def test_error_is_the_one_asked_for(tmp_path) -> None:
    with (
        pytest.raises(DataError, match=r"cannot write .*No such file"),
        atomic_write(tmp_path / "no" / "file", DataError),
    ):
        pass


def test_mode_is_that_of_any_new_file(tmp_path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "ours"):
        pass
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_permissions_of_the_old_file_stay(tmp_path, mode: int) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with atomic_write(path) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files")
def test_owner_and_group_of_the_old_file_stay(tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 12345, 54321)
    with atomic_write(path):
        pass
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_link_stays_and_the_file_behind_it_is_new(tmp_path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "model-1.h5", tmp_path / "data.extxyz.gz"
    real.write_bytes(b"old")
    link.symlink_to(real)
    with replacing(link) as temporary:
        assert temporary.name.endswith(".extxyz.gz")  # the format goes by the name that was given
        temporary.write_bytes(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert os.listdir(tmp_path / "store") == ["model-1.h5"]
    # A link that leads nowhere yet.
    real.unlink()
    with atomic_write(link) as handle:
        handle.write(b"first")
    assert link.is_symlink()
    assert real.read_bytes() == b"first"


def test_a_write_protected_file_stays(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o400)
    real = os.access
    # The system lets root write anything.
    monkeypatch.setattr(
        os,
        "access",
        lambda p, how: bool(os.stat(p).st_mode & 0o200) if how == os.W_OK else real(p, how),
    )
    with pytest.raises(DataError, match=r"file: the file is write-protected"):
        atomic_write(path, DataError).__enter__()
    assert path.read_bytes() == b"old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(DataError, match="no regular file"):
            atomic_write(tmp_path / name, DataError).__enter__()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_leftovers_of_a_kill_are_swept_but_not_those_in_work(tmp_path) -> None:
    old, fresh, other = (
        tmp_path / name for name in (".m.h5.part-a.h5", ".m.h5.part-b.h5", ".n.h5.part-c.h5")
    )
    for path in (old, fresh, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    with atomic_write(tmp_path / "m.h5"):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([fresh.name, other.name, "m.h5"])


def test_a_folder_that_cannot_be_flushed_is_told_before_the_file_is_in_place(
    tmp_path, monkeypatch
) -> None:
    """As network and FUSE file systems are."""
    path, real = tmp_path / "m.h5", os.fsync
    path.write_bytes(b"old")

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.warns(UserWarning, match="cannot flush folders"), atomic_write(path) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"new"

    def write() -> None:
        with warnings.catch_warnings(), atomic_write(path) as handle:
            warnings.simplefilter("error")
            handle.write(b"newer")

    with pytest.raises(UserWarning, match="cannot flush folders"):
        write()
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["m.h5"]


def test_a_folder_that_cannot_be_opened_is_no_failure(tmp_path, monkeypatch) -> None:
    """As on Windows."""
    path, real = tmp_path / "m.h5", os.open

    def open_(name, *arguments, **options):
        if os.path.isdir(name):
            raise PermissionError(13, "Permission denied", str(name))
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", open_)
    with atomic_write(path) as handle:
        handle.write(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_the_writer_is_told(tmp_path, monkeypatch, code: int) -> None:
    """As on Lustre without "flock", or NFS without a lock service."""
    fcntl = pytest.importorskip("fcntl")
    assert has_locks(tmp_path)

    def no_lock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    monkeypatch.setattr(fcntl, "lockf", no_lock)
    assert not has_locks(tmp_path)
    path = tmp_path / "m.h5"
    path.touch()
    with pytest.warns(UserWarning, match="no locks.*let one run at a time"), only_writer(path):
        path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_writers_of_a_file_wait_for_each_other(tmp_path) -> None:
    path = tmp_path / "count"
    path.write_text("0")

    def work() -> None:
        for _ in range(25):
            with only_writer(path):
                number = int(path.read_text())
                with atomic_write(path) as handle:
                    handle.write(str(number + 1).encode())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "100"
