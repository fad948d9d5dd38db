"""Energies that were paid for once are kept: a cache that survives a kill at any moment.

What failed is not kept: a program, a licence or a disk may be mended.

Every label is appended to a journal (one JSON line, flushed to disk) as soon as it is known.
Closing the cache, or opening it again, folds the journal into the HDF5 file; a line that a kill
tore in two is dropped, everything before it is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import file_name
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc._lib.files import append_durably, open_locked
from ase_knncalc.errors import DataError, ModelFileError
from ase_knncalc.store.container import read_container, write_container


@dataclass(frozen=True)
class CachedLabel:
    """Result of one calculation: an energy (eV), and maybe forces (eV/Å)."""

    energy: float
    forces: FloatArray | None = None


def label_key(atoms: Atoms, charge: int, multiplicity: int, method: dict[str, Any]) -> str:
    """Digest of everything a single-point result depends on."""
    digest = hashlib.sha256()
    digest.update(json.dumps(method, sort_keys=True).encode("utf-8"))
    digest.update(np.array([charge, multiplicity], dtype="<i8").tobytes())
    digest.update(np.asarray(atoms.numbers, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(atoms.positions, dtype="<f8").tobytes())
    return digest.hexdigest()


class LabelCache:
    """Map from :func:`label_key` to :class:`CachedLabel`, kept in a file.

    Parameters
    ----------
    path
        HDF5 file, or a link to it; its journal lies beside the file itself as ``<path>.journal``.
        None keeps labels in memory.

    Raises
    ------
    ModelFileError
        If the file is damaged or not a cache.
    DataError
        If another process has the cache open.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(file_name("cache", path))
        if self.path is not None and not self.path.name:
            raise ModelFileError(f"cache {str(path)!r} is a folder, expected the name of a file")
        if self.path is not None:
            # By whatever name it is opened, there is one journal, which one process has.
            self.path = Path(os.path.realpath(self.path))
        self._labels: dict[str, CachedLabel] = {}
        self._journal: FileIO | None = None
        if self.path is None:
            return
        self._journal = open_locked(self._journal_path, DataError)
        try:
            if self.path.exists():
                self._read_file()
            self._read_journal()
            # On a full disk the journal stays as it is, and what is known can be used.
            with contextlib.suppress(ModelFileError):
                self._fold()
        except BaseException:
            self._journal.close()
            raise

    @property
    def _journal_path(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + ".journal")

    def __len__(self) -> int:
        return len(self._labels)

    def get(self, key: str) -> CachedLabel | None:
        """The label of that key, or None."""
        return self._labels.get(key)

    def put(self, key: str, label: CachedLabel) -> None:
        """Keep a label; it is on disk when this returns."""
        self._labels[key] = label
        if self._journal is None:
            return
        record: dict[str, Any] = {"key": key, "energy": label.energy}
        if label.forces is not None:
            record["forces"] = np.asarray(label.forces).tolist()
        try:
            append_durably(self._journal, json.dumps(record).encode("utf-8") + b"\n")
        except OSError as e:
            raise ModelFileError(
                f"cannot write {self._journal_path}: {e.strerror}; the labels before it are kept"
            ) from e

    def close(self) -> None:
        """Fold the journal into the file and release it.

        Raises
        ------
        ModelFileError
            If the file cannot be written: the journal stays, and nothing is lost.
        """
        if self._journal is None:
            return
        try:
            self._fold()
            with contextlib.suppress(OSError):
                self._journal_path.unlink()  # while it is still ours
        finally:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> LabelCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ModelFileError:
            # What went wrong first is the news; the journal has all labels.
            if error is None:
                raise

    def _read_journal(self) -> None:
        assert self._journal is not None
        self._journal.seek(0)
        for line in self._journal.read().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                energy, forces = float(record["energy"]), record.get("forces")
                if forces is not None:
                    forces = np.array(forces, dtype=np.float64).reshape(-1, 3)
                if np.isfinite(energy) and (forces is None or np.isfinite(forces).all()):
                    self._labels[str(record["key"])] = CachedLabel(energy, forces)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def _fold(self) -> None:
        """Write everything to the file, then empty the journal (in this order)."""
        assert self._journal is not None
        assert self.path is not None
        if os.fstat(self._journal.fileno()).st_size == 0:
            return
        keys = sorted(self._labels)
        labels = [self._labels[k] for k in keys]
        forces = [np.zeros((0, 3)) if x.forces is None else x.forces for x in labels]
        write_container(
            self.path,
            "labels",
            {"count": len(keys)},
            {
                "labels/keys": np.array(keys, dtype="S64"),
                "labels/energies": np.array([x.energy for x in labels], dtype=np.float64),
                "labels/forces": np.concatenate([np.zeros((0, 3)), *forces]),
                "labels/starts": np.cumsum([0, *map(len, forces)], dtype=np.int64),
            },
        )
        self._journal.truncate(0)

    def _read_file(self) -> None:
        assert self.path is not None
        _, arrays = read_container(self.path, "labels")
        try:
            starts, energies = arrays["labels/starts"], arrays["labels/energies"]
            if not np.isfinite(energies).all() or not np.isfinite(arrays["labels/forces"]).all():
                raise ValueError("energies and forces must be finite")
            keys = arrays["labels/keys"].tolist()
            for i, (key, energy) in enumerate(zip(keys, energies.tolist(), strict=True)):
                forces = arrays["labels/forces"][starts[i] : starts[i + 1]]
                self._labels[key.decode("ascii")] = CachedLabel(
                    energy, forces if len(forces) else None
                )
        except (KeyError, ValueError, IndexError, TypeError, AttributeError) as e:
            raise ModelFileError(f"{self.path}: items of the label cache do not fit: {e}") from e
