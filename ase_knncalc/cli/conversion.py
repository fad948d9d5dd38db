"""``knncalc convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ase_knncalc.cli.options import (
    BaselineKey,
    EnergyUnit,
    ForceUnit,
    IgnoreCell,
    JsonOption,
    LowOption,
    OwnPredictions,
    StrictOption,
    unit_or_factor,
)
from ase_knncalc.cli.outputs import check_outputs, refuse_omissions
from ase_knncalc.cli.printing import print_json

if TYPE_CHECKING:
    from ase_knncalc.data import LabelledDataset


def convert(
    data: Annotated[
        list[Path],
        typer.Argument(help="extxyz(.gz), JKQC .pkl, ase.db, traj, folders of outputs …"),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="extxyz, xyz(.gz), traj, db, pkl (JKQC) or csv.")
    ],
    low: LowOption = None,
    reference_key: Annotated[
        str,
        typer.Option(
            "--reference-key",
            "-r",
            help="info key of the reference energy (auto: the one energy of each file).",
        ),
    ] = "auto",
    baseline_key: BaselineKey = "baseline_energy",
    energy_unit: EnergyUnit = "eV",
    force_unit: ForceUnit = None,
    own_predictions: OwnPredictions = False,
    structures_only: Annotated[
        bool, typer.Option("--structures-only", help="Structures without energies are no error.")
    ] = False,
    ignore_cell: IgnoreCell = False,
    strict: StrictOption = False,
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
        energy_unit=energy_unit,
        force_unit=unit_or_factor(force_unit),
        own_predictions=own_predictions,
        ignore_cell=ignore_cell,
    )
    pairs = None
    if low:
        pairs = read_pair(data, low, keys=keys)
        canonical = KeyMap(own_predictions=own_predictions)
        dataset = read_dataset(pairs.frames, keys=canonical, require_reference=False)
    else:
        dataset = read_dataset(data, keys=keys, require_reference=False)
    bare = [a.info["name"] for a in dataset.frames if "reference_energy" not in a.info]
    if strict:
        refuse_omissions(dataset.omitted, len(dataset) + len(dataset.omitted))
    if not structures_only:
        _require_energies(dataset, len(bare), reference_key, data, strict=strict)
    write_frames(output, dataset.frames)
    if as_json:
        print_json(
            {
                "output": str(output),
                **dataset.summary(),
                "energies_from": dataset.taken,
                "omissions": [vars(omission) for omission in dataset.omitted],
                "pairs": None if pairs is None else pairs.to_dict(),
            }
        )
        return
    print(f"{len(dataset)} structures written to {output}")
    if pairs is None:
        for line in _sources(dataset.taken):
            print(line)
    else:
        print(pairs.report())
    if bare:
        more = f" and {len(bare) - 5} more" if len(bare) > 5 else ""
        print(f"{len(bare)} of them have no reference energy: {', '.join(bare[:5])}{more}")
    if dataset.omitted:
        print(dataset.report_omissions())


def _require_energies(
    dataset: LabelledDataset, n_bare: int, key: str, data: list[Path], *, strict: bool
) -> None:
    """Refuse structures of which none (``strict``: not each) has a reference energy."""
    from ase_knncalc.data import read_structures
    from ase_knncalc.data.keys import label_keys
    from ase_knncalc.errors import DataError

    if n_bare == 0 or (n_bare < len(dataset) and not strict):
        return
    there = label_keys(read_structures(data, on_error=lambda path, error: None))
    name = "that could be found" if key == "auto" else f"{key!r}"
    raise DataError(
        f"{n_bare} of {len(dataset)} structures have no reference energy {name}, and nothing is "
        f"written; the numbers they have are: {', '.join(there) or 'none'}. Name the right one "
        "with --reference-key, or say --structures-only"
    )


def _sources(taken: dict[str, str], most: int = 5) -> list[str]:
    """Lines on the keys that energies were read from, and the files that have them there."""
    files: dict[str, list[str]] = {}
    for file, key in taken.items():
        files.setdefault(key, []).append(file)
    return [
        f"energies from {key}: {', '.join(of[:most])}"
        + (f" and {len(of) - most} more files" if len(of) > most else "")
        for key, of in files.items()
    ]
