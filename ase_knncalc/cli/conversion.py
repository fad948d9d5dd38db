"""``knncalc convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_knncalc.cli.options import (
    BaselineKey,
    ForceUnit,
    JsonOption,
    LowOption,
    ReferenceKey,
    unit_or_factor,
)
from ase_knncalc.cli.outputs import check_outputs
from ase_knncalc.cli.printing import print_json


def convert(
    data: Annotated[
        list[Path],
        typer.Argument(help="extxyz(.gz), JKQC .pkl, ase.db, traj, folders of outputs …"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="extxyz, xyz(.gz), traj, db or csv to write.")
    ],
    low: LowOption = None,
    reference_key: ReferenceKey = "reference_energy",
    baseline_key: BaselineKey = "baseline_energy",
    force_unit: ForceUnit = "eV/Å",
    as_json: JsonOption = False,
) -> None:
    """Turn labelled structures into one file with the names that training reads.

    Example: knncalc convert sa-w_DFT.pkl --low sa-w_XTB.pkl -o sa-w.extxyz
    """
    from ase_knncalc.data import KeyMap, read_dataset, read_pair, write_frames
    from ase_knncalc.data.frames import frame_writer

    check_outputs([*data, *(low or [])], ("--output", output, frame_writer))
    keys = KeyMap(
        reference_energy=reference_key,
        baseline_energy=baseline_key,
        force_unit=unit_or_factor(force_unit),
    )
    pairs = None
    if low:
        pairs = read_pair(data, low, keys=keys)
        dataset = read_dataset(pairs.frames, require_reference=False)
    else:
        dataset = read_dataset(data, keys=keys, require_reference=False)
    write_frames(output, dataset.frames)
    if as_json:
        print_json(
            {
                "output": str(output),
                **dataset.summary(),
                "omissions": [vars(omission) for omission in dataset.omitted],
                "pairs": None if pairs is None else pairs.to_dict(),
            }
        )
        return
    print(f"{len(dataset)} structures written to {output}")
    if pairs is not None:
        print(pairs.report())
    if dataset.omitted:
        print(dataset.report_omissions())
