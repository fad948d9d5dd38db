"""Processes that label: a crash or a hang ends one of them, and only that."""

from __future__ import annotations

import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import cast

from ase import Atoms

from ase_knncalc.charges import stated_copy
from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.labelers.base import Label, Labeler


def attempt(labeler: Labeler, atoms: Atoms) -> Label | str:
    """The label, or why there is none."""
    try:
        return labeler.label(atoms)
    except KNNCalcError as e:
        return str(e)
    except Exception as e:
        return f"{type(e).__name__}: {e}"


def in_workers(
    labeler: Labeler,
    frames: Sequence[Atoms],
    workers: int,
    threads: int,
    time_limit: float | None,
) -> Iterator[tuple[int, Label | str]]:
    """Outcomes as they come; each of ``workers`` threads owns one process."""
    import cloudpickle  # type: ignore[import-untyped]

    try:
        payload = cloudpickle.dumps(labeler)
    except Exception as e:
        raise SettingsError(
            f"{type(labeler).__name__} cannot be sent to a worker process "
            f"({type(e).__name__}: {e}): give ASELabeler a factory (charge, multiplicity) -> "
            "calculator"
        ) from e
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(len(frames)):
        todo.put(i)
    done: queue.SimpleQueue[tuple[int, Label | str] | BaseException] = queue.SimpleQueue()
    pool = [_Worker(payload, threads) for _ in range(workers)]

    def serve(worker: _Worker) -> None:
        try:
            while not worker.closed:
                index = todo.get_nowait()
                done.put((index, worker.run(stated_copy(frames[index]), time_limit)))
        except queue.Empty:
            pass
        except BaseException as e:
            done.put(e)

    servers = [threading.Thread(target=serve, args=(w,), daemon=True) for w in pool]
    try:
        for server in servers:
            server.start()
        for _ in range(len(frames)):
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        for worker in pool:
            worker.close()


_WORKER = "from ase_knncalc.labelers.workers import serve_labels; serve_labels()"


class _Worker:
    """A process that labels one structure after another, started anew when it has died.

    Not multiprocessing: its children import the user's script again, which a script without
    ``if __name__ == "__main__"`` does not survive; and a broken executor gives up all its work.
    """

    def __init__(self, payload: bytes, threads: int) -> None:
        self.payload = payload
        self.threads = threads
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def run(self, atoms: Atoms, time_limit: float | None) -> Label | str:
        timer: threading.Timer | None = None
        expired = threading.Event()
        try:
            process = self._ready()
            assert process.stdin is not None
            assert process.stdout is not None
            if time_limit is not None:

                def expire() -> None:
                    expired.set()
                    self._kill()

                timer = threading.Timer(time_limit, expire)
                timer.daemon = True
                timer.start()
            pickle.dump(atoms, process.stdin)
            process.stdin.flush()
            return cast("Label | str", pickle.load(process.stdout))
        except (EOFError, OSError, pickle.UnpicklingError):
            if expired.is_set():
                return f"time limit of {time_limit:g} s passed; its process was ended"
            return self._post_mortem()
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()
                if expired.is_set() and self._process is not None:
                    # A killed process closes its pipes before it is gone; the next structure must
                    # not be given to it.
                    self._process.wait()

    def _ready(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        environment = dict(os.environ)
        environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        environment["PYTHONPATH"] = os.pathsep.join(p or os.getcwd() for p in sys.path)
        with self._lock:
            if self.closed:
                raise EOFError
            self._log.seek(0)
            self._log.truncate()
            # Its temporary files are here: one that was killed cannot remove them itself.
            self._clear()
            self._scratch = tempfile.TemporaryDirectory(
                prefix="knncalc-", ignore_cleanup_errors=True
            )
            environment["TMPDIR"] = self._scratch.name
            self._process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(os.getpid()), self._scratch.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # its own group: programs that it started die with it
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        pickle.dump(self.payload, process.stdin)
        process.stdin.flush()
        error = pickle.load(process.stdout)
        if error:
            raise SettingsError(f"the labeler could not be loaded in a worker process: {error}")
        return process

    def _post_mortem(self) -> str:
        process = self._process
        code: int | None = None
        if process is not None:
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._kill()
                code = process.wait()
        self._log.seek(0)
        tail = self._log.read()[-400:].decode(errors="replace").strip()
        return f"the worker process ended with code {code}" + (f": {tail}" if tail else "")

    def _kill(self) -> None:
        with self._lock:
            process = self._process
        if process is None or process.poll() is not None:
            return
        if os.name == "posix":
            # Not waited for yet, so the group's number is still its own.
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    def close(self) -> None:
        with self._lock:
            self.closed = True
        self._kill()
        if self._process is not None:
            self._process.wait()
        self._clear()

    def _clear(self) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()


def serve_labels() -> None:
    """Main loop of a worker process: a labeler, then structures, until the input ends."""
    threading.Thread(target=_leave_with, args=(int(sys.argv[1]), sys.argv[2]), daemon=True).start()
    results = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Programs print to the standard output; only results may go to the pipe.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        labeler = pickle.loads(pickle.load(sys.stdin.buffer))
        error = ""
    except Exception as e:
        error = f"{type(e).__name__}: {e}"
    pickle.dump(error, results)
    results.flush()
    while not error:
        try:
            atoms = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(attempt(labeler, atoms), results)
        results.flush()


# Ends a group of processes, and removes what they can no longer write to.
_SWEEP = """
import os, shutil, signal, sys, time
group, folder = int(sys.argv[1]), sys.argv[2]
os.killpg(group, signal.SIGKILL)
for _ in range(20):
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.exists(folder):
        break
    time.sleep(0.1)
"""


def _leave_with(parent: int, folder: str) -> None:
    """End this process, and programs it started, soon after its parent was killed.

    The folder of their temporary files goes, too. A process of its own removes it: programs
    write until they are killed, and this process is killed with them.
    """
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.name != "posix":
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)
    group = os.getpgrp()
    try:
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SWEEP, str(group), folder],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ).wait(timeout=30)
    except (OSError, subprocess.SubprocessError):  # no memory for one more
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(group, signal.SIGKILL)
