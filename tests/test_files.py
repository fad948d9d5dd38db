"""Writing whole files or none, and one writer at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from ase_knncalc.errors import DataError, ModelFileError
from ase_knncalc.files import append_durably, atomic_write, open_locked, replacing


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
        "import sys, time; from ase_knncalc.files import open_locked; "
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
