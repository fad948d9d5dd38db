"""A model and its errors as one self-contained HTML page (``knncalc report``)."""

from __future__ import annotations

from ase_knncalc.evaluation.report.page import Report, read_curves, write_report

__all__ = ["Report", "read_curves", "write_report"]
