"""``knncalc convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ase_knncalc.cli.common import BaselineKey, ForceUnit, ReferenceKey, unit_or_factor


def convert(
    data: Annotated[
        list[Path],
        typer.Argument(help="extxyz(.gz), JKQC .pkl, ase.db, traj, folders of outputs …"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="extxyz, xyz(.gz), traj or csv to write.")
    ],
    low: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="JKQC database of the low level, joined by file_basename."),
    ] = None,
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    force_unit: ForceUnit = "eV/Å",
) -> None:
    """Turn labelled structures into one file with the names that training reads.

    Example: knncalc convert sa-w_DFT.pkl --low sa-w_XTB.pkl -o sa-w.extxyz
    """
    from ase_knncalc.data import KeyMap, read_dataset, read_jkqc_pair, write_frames
    from ase_knncalc.errors import SettingsError

    if low is not None and len(data) != 1:
        raise SettingsError(f"--low joins one high-level file, got {len(data)}")
    source = data if low is None else read_jkqc_pair(data[0], low)
    dataset = read_dataset(
        source,
        keys=KeyMap(
            reference_energy=reference_key,
            baseline_energy=baseline_key,
            force_unit=unit_or_factor(force_unit),
        ),
        require_reference=False,
    )
    write_frames(output, dataset.frames)
    print(f"{len(dataset)} structures written to {output}")
    if dataset.omitted:
        print(dataset.report_omissions())
