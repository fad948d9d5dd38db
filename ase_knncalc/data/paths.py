"""Names of data files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ase_knncalc.errors import DataError

ErrorHandler = Callable[[Path, DataError], None]


def has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether the file's name ends in one of ``suffixes``, in any case."""
    return path.name.lower().endswith(tuple(suffixes))


def file_stem(path: Path) -> str:
    """The file's name without its (double) suffix: ``clusters`` of ``clusters.extxyz.gz``."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem or path.name


def printable(name: str) -> str:
    """A file's name as text that every file can hold: bytes that are no UTF-8 become "�"."""
    return os.fsencode(name).decode("utf-8", errors="replace")
