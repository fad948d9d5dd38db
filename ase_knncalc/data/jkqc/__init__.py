"""JKQC and JKML databases: pickled tables, read and written without pandas and without trust."""

from __future__ import annotations

from ase_knncalc.data.jkqc.columns import fits_jkqc, write_jkqc
from ase_knncalc.data.jkqc.frames import read_jkqc

__all__ = ["fits_jkqc", "read_jkqc", "write_jkqc"]
