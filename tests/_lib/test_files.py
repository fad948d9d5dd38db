"""Writing whole files or none, and one writer at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from ase_knncalc._lib.files import append_durably, atomic_write, open_locked, replacing
from ase_knncalc.errors import DataError, ModelFileError


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


def test_second_process_is_told_and_the_lock_dies_with_its_owner(tmp_path) -> None:
    path = tmp_path / "journal"
    code = (
        "import sys, time; from ase_knncalc._lib.files import open_locked; "
        "from ase_knncalc.errors import DataError; h = open_locked(sys.argv[1], DataError); "
        "print('locked', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "locked\n"
    with pytest.raises(DataError, match="in use by another process"):
        open_locked(path, DataError)
    owner.kill()
    owner.wait()
    open_locked(path, DataError).close()


def test_lock_is_on_the_file_of_that_name_and_not_on_a_removed_one(tmp_path) -> None:
    """Owners remove the file while they hold it: nobody may go on with a file without a name."""
    path = tmp_path / "journal"
    holders, most, wrong = 0, 0, []
    guard = threading.Lock()

    def work() -> None:
        nonlocal holders, most
        done = 0
        while done < 50:
            try:
                handle = open_locked(path, DataError)
            except DataError:
                continue
            with guard:
                holders += 1
                most = max(most, holders)
            if not path.exists():
                wrong.append(done)
            with guard:
                holders -= 1
            path.unlink()
            handle.close()
            done += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not wrong


def test_failed_append_leaves_whole_records_only(tmp_path, monkeypatch) -> None:
    handle = open_locked(tmp_path / "journal", DataError)
    append_durably(handle, b"one\n")
    real = os.fsync

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_durably(handle, b"two\n")
    monkeypatch.setattr(os, "fsync", real)
    append_durably(handle, b"three\n")
    handle.close()
    assert (tmp_path / "journal").read_bytes() == b"one\nthree\n"


def test_unopenable_is_told(tmp_path) -> None:
    with pytest.raises(ModelFileError, match="cannot open"):
        open_locked(tmp_path / "no" / "journal", DataError)
