"""Energies that were paid for once are kept: a cache that survives a kill at any moment.

What failed is not kept: a program, a licence or a disk may be mended. Caches of earlier versions,
which were HDF5 files with lines of JSON beside them, become such databases when they are opened.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import file_name
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.files import only_writer, replacing
from ase_knncalc.errors import ModelFileError
from ase_knncalc.labels.database import Closing, Database
from ase_knncalc.sameness import exact_bytes
from ase_knncalc.store.container import is_container, read_container

_TABLE = "energies (key TEXT PRIMARY KEY, energy REAL, forces BLOB, checksum INTEGER NOT NULL)"


@dataclass(frozen=True)
class CachedLabel:
    """Result of one calculation: an energy (eV), and maybe forces (eV/Å) and a dipole (e Å).

    Files do not keep dipoles.
    """

    energy: float
    forces: FloatArray | None = None
    dipole: FloatArray | None = None


def label_key(atoms: Atoms, charge: int, multiplicity: int, method: dict[str, Any]) -> str:
    """Digest of everything a single-point result depends on."""
    digest = hashlib.sha256()
    digest.update(json.dumps(method, sort_keys=True).encode("utf-8"))
    digest.update(exact_bytes(atoms, charge, multiplicity))
    return digest.hexdigest()


class LabelCache(Closing):
    """Map from :func:`label_key` to :class:`CachedLabel`, kept in a file.

    Parameters
    ----------
    path
        SQLite file, or a link to it. None keeps labels in memory.

    Raises
    ------
    ModelFileError
        If the file is damaged or not a cache.
    DataError
        If another process has the cache open.

    Warns
    -----
    UserWarning
        If its file system has no locks.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._labels: dict[str, CachedLabel] = {}
        self._database: Database | None = None
        if path is None:
            return
        if not Path(file_name("cache", path)).name:
            raise ModelFileError(f"cache {str(path)!r} is a folder, expected the name of a file")
        # By whatever name it is opened, it is one file, which one process has.
        real = Path(os.path.realpath(path))
        try:
            self._database = _opened(real)
        except ModelFileError:
            if not is_container(real, "labels"):
                raise
            _convert(real)
            self._database = _opened(real)
        try:
            self._read(self._database)
            self._take_lines(real.with_name(f"{real.name}.journal"))
        except BaseException:
            self._database.close()
            raise

    def __len__(self) -> int:
        return len(self._labels)

    def get(self, key: str) -> CachedLabel | None:
        """The label of that key, or None."""
        return self._labels.get(key)

    def put(self, key: str, label: CachedLabel) -> None:
        """Keep a label; it is on disk when this returns."""
        self._labels[key] = label
        if self._database is not None:
            _insert(self._database, {key: label})

    def close(self) -> None:
        """Release the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _read(self, database: Database) -> None:
        for key, energy, forces, checksum in database.query("SELECT * FROM energies"):
            if checksum != _checksum(key, energy, forces):
                continue  # a disk lost it: it is computed again
            array = None if forces is None else np.frombuffer(forces, "<f8").reshape(-1, 3).copy()
            self._labels[key] = CachedLabel(energy, array)

    def _take_lines(self, path: Path) -> None:
        """Take over what a killed process of an earlier version left, one label on a line."""
        assert self._database is not None
        if path.exists():
            found = dict(_lines(path))
            _insert(self._database, found)
            self._labels.update(found)
            with suppress(OSError):
                path.unlink()


def _opened(path: Path) -> Database:
    return Database(path, "label cache", _TABLE, busy="name another label cache", often=True)


def _insert(database: Database, labels: dict[str, CachedLabel]) -> None:
    rows = []
    for key, label in labels.items():
        forces = None if label.forces is None else np.asarray(label.forces, "<f8").tobytes()
        rows.append((key, label.energy, forces, _checksum(key, label.energy, forces)))
    with database.transaction() as db:
        db.executemany("INSERT OR REPLACE INTO energies VALUES (?, ?, ?, ?)", rows)


def _checksum(key: str, energy: float, forces: bytes | None) -> int:
    return zlib.crc32(f"{key} {energy!r} ".encode() + (forces or b""))


def _convert(path: Path) -> None:
    """Put a database in the place of an HDF5 file."""
    with only_writer(path):
        if not is_container(path, "labels"):
            return  # another process was first
        labels = dict(_contained(path))
        with replacing(path) as new, _opened(new) as database:
            _insert(database, labels)


def _contained(path: Path) -> Iterator[tuple[str, CachedLabel]]:
    _, arrays = read_container(path, "labels")
    try:
        starts, energies = arrays["labels/starts"], arrays["labels/energies"]
        if not np.isfinite(energies).all() or not np.isfinite(arrays["labels/forces"]).all():
            raise ValueError("energies and forces must be finite")
        keys = arrays["labels/keys"].tolist()
        for i, (key, energy) in enumerate(zip(keys, energies.tolist(), strict=True)):
            forces = arrays["labels/forces"][starts[i] : starts[i + 1]]
            yield key.decode("ascii"), CachedLabel(energy, forces if len(forces) else None)
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as e:
        raise ModelFileError(f"{path}: items of the label cache do not fit: {e}") from e


def _lines(path: Path) -> Iterator[tuple[str, CachedLabel]]:
    """Labels of a journal of JSON lines; the last may be torn."""
    for line in path.read_bytes().splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            record = json.loads(line)
            energy, forces = float(record["energy"]), record.get("forces")
            if forces is not None:
                forces = np.array(forces, dtype=np.float64).reshape(-1, 3)
            whole = line.endswith(b"\n") and np.isfinite(energy)
            if whole and (forces is None or np.isfinite(forces).all()):
                yield str(record["key"]), CachedLabel(energy, forces)
