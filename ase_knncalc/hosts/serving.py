"""One process that keeps a model, for hosts that start a program at each step, or talk by a socket.

A server listens on a Unix socket, which only its owner may use, for requests of ORCA: a line with
the file's place, answered by a line of JSON. A driver of i-PI connects, computes, and connects
again when its host has gone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.socketio import SocketClient, SocketClosed

from ase_knncalc.calculator import KNNCalculator
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError
from ase_knncalc.hosts.extopt import answer


def serve(path: str | Path, calculator: KNNCalculator, *, requests: int | None = None) -> int:
    """Answer requests of ORCA that arrive at a Unix socket, until told to stop.

    Parameters
    ----------
    path
        Of the socket, which is made, and removed at the end.
    calculator
        Kept between requests: nothing is loaded twice.
    requests
        End after so many; None: at ``KeyboardInterrupt`` or a request ``stop``.

    Returns
    -------
    int
        How many were answered.

    Raises
    ------
    SettingsError
        If another server listens there, or a socket cannot be made.
    """
    done = 0
    with _listening(Path(path)) as listener:
        while requests is None or done < requests:
            connection, _ = listener.accept()
            # A client that has gone is no reason to end.
            with connection, suppress(OSError), connection.makefile("rw", encoding="utf-8") as file:
                asked = file.readline().strip()
                if asked == "stop":
                    break
                if not asked:  # who only looks whether a server is there
                    continue
                file.write(json.dumps(_outcome(asked, calculator)) + "\n")
            done += 1
    return done


def _outcome(asked: str, calculator: KNNCalculator) -> dict[str, Any]:
    try:
        return answer(asked, calculator)
    except (KNNCalcError, OSError) as e:
        return {"error": str(e)}


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(path))
            raise SettingsError(f"another server listens at {path}; stop it, or take another name")
        before = os.umask(0o177)
        try:
            if path.is_socket():  # of a server that was killed
                path.unlink()
            listener.bind(str(path))
        except OSError as e:
            raise SettingsError(f"no socket can be made at {path}: {e.strerror or e}") from e
        finally:
            os.umask(before)
        try:
            listener.listen()
            yield listener
        finally:
            path.unlink(missing_ok=True)


def ask(path: str | Path, request: str | Path) -> dict[str, Any]:
    """Have a server answer a request of ORCA; what it says is what :func:`answer` returns.

    Raises
    ------
    SettingsError
        If no server listens there.
    DataError
        If the server could not answer, with its reason.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError as e:
            raise SettingsError(
                f"no server listens at {path} ({e.strerror or e}); start one with `knncalc serve`"
            ) from e
        with connection.makefile("rw", encoding="utf-8") as file:
            file.write(f"{Path(request).absolute()}\n")
            file.flush()
            found: dict[str, Any] = json.loads(file.readline() or '{"error": "the server ended"}')
    if "error" in found:
        raise DataError(found["error"])
    return found


def drive(
    atoms: Atoms,
    calculator: KNNCalculator,
    *,
    unixsocket: str | None = None,
    host: str = "localhost",
    port: int = 31415,
    wait: float = 60.0,
    keep: bool = False,
) -> int:
    """Be the driver of an i-PI server, by ASE's ``SocketClient``; returns the number of hosts.

    Parameters
    ----------
    atoms
        The structure that the host moves: its elements in the host's order, and charge and
        multiplicity, of which the protocol says nothing.
    calculator
        Its thresholds, with ``on_novelty="raise"``, end the run.
    unixsocket
        Name of the host's socket, ``/tmp/ipi_<name>``; without it ``host`` and ``port``.
    wait
        How long to try to connect, s.
    keep
        Whether to wait for the next host when one has gone, until none comes.

    Raises
    ------
    SettingsError
        If no host listens.
    """
    atoms.calc = calculator
    served = 0
    while True:
        client = _connected(unixsocket, host, port, wait)
        if client is None:
            if served:
                return served
            place = f"/tmp/ipi_{unixsocket}" if unixsocket else f"{host}:{port}"
            raise SettingsError(f"no host listens at {place} after {wait:g} s; start it first")
        asked = False
        try:
            with suppress(SocketClosed, ConnectionError):
                for _ in client.irun(atoms, use_stress=False):
                    asked = True
        finally:
            client.close()  # a host must not wait for one that has failed
        # A host that is leaving may still have taken the connection.
        served += asked
        if served and not keep:
            return served


def _connected(unixsocket: str | None, host: str, port: int, wait: float) -> SocketClient | None:
    last = time.monotonic() + wait
    while True:
        try:
            return SocketClient(unixsocket=unixsocket, host=host, port=port)
        except OSError:
            if time.monotonic() > last:
                return None
            time.sleep(0.1)
