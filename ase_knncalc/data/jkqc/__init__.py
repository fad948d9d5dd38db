"""JKQC and JKML databases: pickled tables, read without pandas and without trust."""

from __future__ import annotations

from ase_knncalc.data.jkqc.frames import read_jkqc

__all__ = ["read_jkqc"]
