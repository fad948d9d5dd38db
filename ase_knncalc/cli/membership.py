"""``knncalc known``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from ase_knncalc.cli.options import JsonOption, ModelOption
from ase_knncalc.cli.printing import print_json, print_table
from ase_knncalc.settings import DEFAULT_MODEL


def known(
    structures: Annotated[list[Path], typer.Argument(help="Structures in any format ASE reads.")],
    model: ModelOption = DEFAULT_MODEL,
    charge: Annotated[
        Optional[int],  # noqa: UP045 - typer reads it at run time
        typer.Option(help="Total charge of every structure (default: each structure's own)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether structures, or their compositions, were in a model's training data.

    Example: knncalc known cluster.xyz -m multibase-wb97xd
    """
    from ase_knncalc.analysis.membership import find_in_training
    from ase_knncalc.data import read_structures
    from ase_knncalc.store import load_model

    loaded = load_model(model, baseline=None)
    frames = read_structures(structures)
    found = [find_in_training(loaded, atoms, charge=charge) for atoms in frames]
    if as_json:
        print_json(
            [
                {"name": atoms.info["name"], **answer.to_dict()}
                for atoms, answer in zip(frames, found, strict=True)
            ]
        )
        return
    rows = [
        [
            atoms.info["name"],
            answer.answer,
            "–" if answer.displacement is None else f"{answer.displacement:.2g}",
            "–" if answer.novelty is None else f"{answer.novelty:.2f}",
        ]
        for atoms, answer in zip(frames, found, strict=True)
    ]
    print_table(
        f"In the training data of {model}?",
        ["name", "answer", "shift to nearest, Å", "novelty"],
        rows,
    )
