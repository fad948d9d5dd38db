"""Runs of a sampling that are done, kept beside what is being made of them.

A sampling of hours may be interrupted. Each of its runs depends on its settings and number alone,
so that what is done can be read again and the rest goes on to the same structures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.jsonio import decode, encode

from ase_knncalc.errors import DataError
from ase_knncalc.sampling.walks import Outcome


class Journal:
    """Outcomes of the first runs of a sampling, one a line of a file.

    Parameters
    ----------
    path
        Of the file; of another sampling, or none, it begins anew.
    about
        What the outcomes depend on, as plain values.

    Attributes
    ----------
    outcomes : list of Outcome
        Those that were there, whole, in the order of the runs.

    Raises
    ------
    DataError
        If the file cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], about: dict[str, Any]) -> None:
        self.path = Path(path)
        self.outcomes: list[Outcome] = []
        header = (json.dumps(about, sort_keys=True) + "\n").encode()
        try:
            lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
            if not lines or lines[0] != header:
                lines = [header]
            whole = len(header)
            for line in lines[1:]:
                outcome = _outcome(line)
                if outcome is None:  # cut off when the program was killed
                    break
                self.outcomes.append(outcome)
                whole += len(line)
            with open(self.path, "ab") as file:
                file.truncate(whole if lines[1:] else 0)
            if not lines[1:]:
                self._write(header)
        except OSError as e:
            raise DataError(f"{self.path}: cannot keep runs there: {e.strerror or e}") from e

    def add(self, outcome: Outcome) -> None:
        """Keep the outcome of the next run.

        Raises
        ------
        DataError
            If it cannot be written.
        """
        frames = [atoms.todict() for atoms in outcome.frames]
        text = encode([frames, outcome.failures, outcome.fell_apart])
        try:
            self._write(text.encode() + b"\n")
        except OSError as e:
            raise DataError(f"{self.path}: cannot keep runs there: {e.strerror or e}") from e

    def remove(self) -> None:
        """Nothing is left to be gone on with."""
        self.path.unlink(missing_ok=True)

    def _write(self, line: bytes) -> None:
        with open(self.path, "ab") as file:
            file.write(line)


def _outcome(line: bytes) -> Outcome | None:
    try:
        if not line.endswith(b"\n"):
            return None
        frames, failures, fell_apart = decode(line.decode(), always_array=False)
        return Outcome([Atoms.fromdict(frame) for frame in frames], failures, fell_apart)
    except (ValueError, KeyError, TypeError):
        return None
