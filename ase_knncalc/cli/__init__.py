"""Command line: ``knncalc …``. It translates arguments and prints; the work is done elsewhere."""

from __future__ import annotations

from ase_knncalc.cli.app import main

__all__ = ["main"]
