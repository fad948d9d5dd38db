"""Names of data files."""

from __future__ import annotations

import codecs
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


def encoding_of(start: bytes) -> str:
    """Encoding of a text by its first four bytes: what a byte-order mark says, or UTF-8."""
    marks = {
        codecs.BOM_UTF32_LE: "utf-32",
        codecs.BOM_UTF32_BE: "utf-32",
        codecs.BOM_UTF16_LE: "utf-16",  # also the beginning of UTF-32, which is looked for first
        codecs.BOM_UTF16_BE: "utf-16",
    }
    return next((name for mark, name in marks.items() if start.startswith(mark)), "utf-8-sig")
