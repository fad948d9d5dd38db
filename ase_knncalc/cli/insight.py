"""``knncalc explain`` and ``knncalc binding``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import (
    BaselineKey,
    BaselineOption,
    ChargeOption,
    JsonOption,
    ModelOption,
    ReferenceKey,
    Structures,
)
from ase_knncalc.cli.printing import print_json, print_table
from ase_knncalc.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from ase import Atoms

    from ase_knncalc.analysis.binding import Binding
    from ase_knncalc.analysis.explanation import Explanation


def explain(
    structures: Structures,
    model: ModelOption = DEFAULT_MODEL,
    charge: ChargeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a correction apart: neighbours, atoms, elements, and what sets the distances.

    Example: knncalc explain cluster.xyz -m multibase-wb97xd
    """
    from ase_knncalc.data import read_structures
    from ase_knncalc.store import load_model

    loaded = load_model(model, baseline=None)
    frames = read_structures(structures)
    found = [loaded.explain(atoms, charge=charge) for atoms in frames]
    if as_json:
        print_json(
            [
                {"name": a.info["name"], **explanation.to_dict()}
                for a, explanation in zip(frames, found, strict=True)
            ]
        )
        return
    for atoms, explanation in zip(frames, found, strict=True):
        _show_explanation(atoms, explanation)


def _show_explanation(atoms: Atoms, found: Explanation) -> None:
    def kcal(x: float) -> str:
        return f"{KCAL_PER_MOL * x:.3f}"

    parts = [
        ["trend", kcal(found.trend)],
        *[[f"  atoms of {element}", kcal(x)] for element, x in found.elements.items()],
        ["  charge", kcal(found.charge)],
        ["neighbours", kcal(found.knn)],
        ["correction", kcal(found.delta)],
        ["standard deviation", kcal(found.energy_std)],
        [f"novelty (set by {found.novelty_from})", f"{found.novelty:.3f}"],
    ]
    print_table(f"{atoms.info['name']}: parts of the correction", ["part", "kcal/mol"], parts)
    remoteness = found.remoteness
    symbols = atoms.get_chemical_symbols()
    rows = [
        [
            f"{i} {symbol}",
            kcal(found.atoms[i]),
            kcal(found.atoms[i] - found.elements[symbol] / symbols.count(symbol)),
            "–" if remoteness is None else f"{remoteness[i]:.2f}",
        ]
        for i, symbol in enumerate(symbols)
    ]
    print_table(
        "Atoms; remoteness 1 is usual, 0 is an environment the trend was built from",
        ["atom", "kcal/mol", "against the element's mean", "remoteness"],
        rows,
    )
    rows = []
    for neighbor, source, shares in zip(
        found.neighbors, found.neighbor_sources, found.features, strict=True
    ):
        name, share = max(shares.items(), key=lambda item: item[1], default=("–", 0.0))
        rows.append(
            [
                neighbor.name,
                neighbor.composition,
                source or "–",
                f"{neighbor.distance:.4f}",
                f"{neighbor.weight:.4f}",
                kcal(neighbor.residual),
                f"{name} ({100 * share:.0f} %)",
            ]
        )
    print_table(
        "Nearest training structures",
        [
            "name",
            "composition",
            "file",
            "distance",
            "weight",
            "residual kcal/mol",
            "distance mostly from",
        ],
        rows,
    )


def binding(
    structures: Structures,
    model: ModelOption = DEFAULT_MODEL,
    molecules: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--as", help="What the clusters are made of, e.g. 2sa1am (default: found)."),
    ] = None,
    monomers: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            help="Relaxed monomers beside those of the model; energies they lack are predicted."
        ),
    ] = None,
    reference_key: ReferenceKey = "reference_energy",
    baseline: BaselineOption = "auto",
    baseline_key: BaselineKey = "baseline_energy",
    charge: ChargeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Binding energies with their uncertainty; molecules are recognised, protons may have moved.

    Example: knncalc binding cluster.xyz -m multibase-wb97xd
    """
    from ase_knncalc.analysis.binding import binding_energy, read_monomers
    from ase_knncalc.data import KeyMap, read_structures
    from ase_knncalc.labels.baseline import brought_energy
    from ase_knncalc.store import load_model

    loaded = load_model(model, baseline=baseline)
    more = read_monomers(monomers, reference_key, loaded, baseline_key) if monomers else {}
    frames = read_structures(structures)
    keys = KeyMap(baseline_energy=baseline_key)
    found = [
        binding_energy(
            loaded,
            atoms,
            monomers=more,
            molecules=molecules,
            charge=charge,
            baseline_energy=brought_energy(loaded.baseline, atoms, keys),
        )
        for atoms in frames
    ]
    if as_json:
        print_json([_row(a, b) for a, b in zip(frames, found, strict=True)])
        return
    rows = [
        [
            atoms.info["name"],
            " ".join(f"{n}{name.removeprefix('1')}" for name, n in b.molecules.items()),
            f"{KCAL_PER_MOL * b.binding_energy:.2f}",
            f"{KCAL_PER_MOL * b.energy_std:.2f}",
            f"{b.binding_energy:.4f}",
            f"{b.energy_std:.4f}",
            f"{b.prediction.novelty:.2f}",
        ]
        for atoms, b in zip(frames, found, strict=True)
    ]
    print_table(
        "Binding energies",
        ["name", "molecules", "kcal/mol", "std kcal/mol", "eV", "std eV", "novelty"],
        rows,
    )
    told: dict[str, list[str]] = {}
    for atoms, b in zip(frames, found, strict=True):
        told.setdefault(b.geometries, []).append(str(atoms.info["name"]))
    for text, those in told.items():
        if text:
            others = f" and {len(those) - 3} more" if len(those) > 3 else ""
            print(f"{', '.join(those[:3])}{others}: {text}")


def _row(atoms: Atoms, found: Binding) -> dict[str, object]:
    return {
        "name": atoms.info["name"],
        "molecules": found.molecules,
        "charge": found.charge,
        "binding_energy_eV": found.binding_energy,
        "binding_energy_kcal_mol": KCAL_PER_MOL * found.binding_energy,
        "energy_std_eV": found.energy_std,
        "energy_std_kcal_mol": KCAL_PER_MOL * found.energy_std,
        "novelty": float(found.prediction.novelty),
        "geometries": found.geometries,
    }
