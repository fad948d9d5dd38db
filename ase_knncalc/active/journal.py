"""What a loop has done so far, in a SQLite file that survives a kill at any moment.

Every fact is one transaction, on disk before anything is built on it: a batch that was chosen, each
label as soon as its labeler returned it, an iteration that was learned from. The state of a loop is
derived from these facts alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc.labelers import LabelResult
from ase_knncalc.labels.cache import label_key
from ase_knncalc.labels.database import Database
from ase_knncalc.structure import resolve_charge

_TABLES = (
    "structures (key TEXT PRIMARY KEY, iteration INTEGER NOT NULL, place INTEGER NOT NULL, "
    "numbers BLOB NOT NULL, positions BLOB NOT NULL, info TEXT NOT NULL)",
    "labels (key TEXT PRIMARY KEY REFERENCES structures (key), energy REAL, forces BLOB, "
    "method TEXT NOT NULL, seconds REAL NOT NULL, reason TEXT NOT NULL, date TEXT NOT NULL)",
    "iterations (number INTEGER PRIMARY KEY, report TEXT NOT NULL)",
)


def structure_key(atoms: Atoms) -> str:
    """Digest of elements, positions, charge and multiplicity."""
    return label_key(atoms, *resolve_charge(atoms), {})


@dataclass(frozen=True)
class Asked:
    """A structure that was chosen, with its label if there is one.

    Attributes
    ----------
    key : str
    iteration : int
    atoms : Atoms
        With the label as :func:`ase_knncalc.labelers.label_frames` attaches it.
    labelled : bool
    reason : str
        Why labelling failed; empty if it did not, or has not been tried.
    """

    key: str
    iteration: int
    atoms: Atoms
    labelled: bool
    reason: str


class Journal(Database):
    """The file; one process at a time.

    Parameters
    ----------
    path
        Made if it is not there.
    read_only
        Whether to work on a copy in memory, so that nothing in the folder changes.

    Raises
    ------
    DataError
        If another process has it open.
    ModelFileError
        If it is no journal, damaged, newer than this version, or cannot be written.

    Warns
    -----
    UserWarning
        If its file system has no locks.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        super().__init__(
            path,
            "journal of a loop",
            *_TABLES,
            busy="give another loop.directory",
            read_only=read_only,
        )

    def begin(self, configuration: str) -> None:
        """Forget all that was chosen, tried and reported, and keep a configuration."""
        with self.transaction() as db:
            for table in ("labels", "structures", "iterations"):
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM facts WHERE name IN ('level', 'level failures')")
            db.execute("INSERT OR REPLACE INTO facts VALUES ('configuration', ?)", (configuration,))

    def forget_failures(self) -> None:
        """Forget labels that failed, so that their structures are asked for again.

        Those of finished iterations are as if they had never been chosen.
        """
        with self.transaction() as db:
            db.execute("DELETE FROM facts WHERE name = 'level failures'")
            db.execute("DELETE FROM labels WHERE energy IS NULL")
            db.execute(
                "DELETE FROM structures WHERE key NOT IN (SELECT key FROM labels) "
                "AND iteration IN (SELECT number FROM iterations)"
            )

    def add_batch(self, iteration: int, frames: list[Atoms]) -> None:
        """Keep the choice of an iteration, all of it or nothing.

        Structures that were chosen before are left out.
        """
        with self.transaction() as db:
            for place, atoms in enumerate(frames):
                info = {
                    k: v for k, v in atoms.info.items() if isinstance(v, str | int | float | bool)
                }
                info["charge"], info["multiplicity"] = resolve_charge(atoms)
                db.execute(
                    "INSERT OR IGNORE INTO structures VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        structure_key(atoms),
                        iteration,
                        place,
                        atoms.numbers.astype("<i8").tobytes(),
                        np.ascontiguousarray(atoms.positions, dtype="<f8").tobytes(),
                        json.dumps(info),
                    ),
                )

    def add_label(self, key: str, result: LabelResult) -> None:
        """Keep the outcome of a calculation; it is on disk when this returns.

        Raises
        ------
        ModelFileError
            If the structure was not chosen, or has a label already.
        """
        label, reason = result.label, result.reason
        if label is not None and not np.isfinite(label.energy):
            reason = f"the labeler returned an energy of {label.energy}"
            label = None
        forces = None if label is None or label.forces is None else label.forces
        with self.transaction() as db:
            db.execute(
                "INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    None if label is None else label.energy,
                    None if forces is None else np.asarray(forces, dtype="<f8").tobytes(),
                    "" if label is None else label.method,
                    0.0 if label is None else label.seconds,
                    reason or ("failed" if label is None else ""),
                    datetime.now(timezone.utc).isoformat(timespec="seconds"),
                ),
            )

    def finish(self, iteration: int, report: dict[str, Any]) -> None:
        """Keep that an iteration was learned from."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO iterations VALUES (?, ?)",
                (iteration, json.dumps(report, allow_nan=False)),
            )

    def reports(self) -> list[dict[str, Any]]:
        """Reports of all finished iterations, in order."""
        rows = self.query("SELECT report FROM iterations ORDER BY number")
        return [json.loads(row[0]) for row in rows]

    def asked(self, iteration: int | None = None) -> list[Asked]:
        """Structures chosen so far, or in one iteration, in the order of the choice."""
        query = (
            "SELECT s.key, s.iteration, s.numbers, s.positions, s.info, l.key, l.energy, l.forces,"
            " l.method, l.reason FROM structures s LEFT JOIN labels l ON s.key = l.key"
        )
        which, values = ("", []) if iteration is None else (" WHERE s.iteration = ?", [iteration])
        rows = self.query(f"{query}{which} ORDER BY s.iteration, s.place", *values)
        return [_asked(row) for row in rows]


def _asked(row: tuple[Any, ...]) -> Asked:
    key, iteration, numbers, positions, info, known, energy, forces, method, reason = row
    atoms = Atoms(
        np.frombuffer(numbers, dtype="<i8").astype(np.intp),
        np.frombuffer(positions, dtype="<f8").reshape(-1, 3).copy(),
    )
    atoms.info = json.loads(info)
    labelled = energy is not None
    if labelled:
        atoms.info["reference_energy"] = float(energy)
        atoms.info["reference_method"] = method
    if forces is not None:
        array = np.frombuffer(forces, dtype="<f8").reshape(-1, 3).copy()
        atoms.set_array("reference_forces", array)
    return Asked(key, int(iteration), atoms, labelled, reason if known is not None else "")
