"""``knncalc info`` and ``knncalc models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from ase.data import chemical_symbols

from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.cli.options import JsonOption
from ase_knncalc.cli.printing import print_json, print_table
from ase_knncalc.cli.properties import show_heads
from ase_knncalc.settings import DEFAULT_MODEL

if TYPE_CHECKING:
    from ase_knncalc.model import KNNModel


def info(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model file.")],
    as_json: JsonOption = False,
) -> None:
    """Show what a model was trained on, covers, and how accurate it is.

    Example: knncalc info saw-wb97xd
    """
    from ase_knncalc.store import load_model

    loaded = load_model(model, baseline=None)
    about = loaded.info
    if as_json:
        print_json(
            {
                **about.to_dict(),
                "elements": [chemical_symbols[z] for z in loaded.elements],
                "descriptor": loaded.descriptor.to_dict(),
                "trend": loaded.trend.kind,
                "knn": {**loaded.knn.settings.to_dict(), "off": loaded.knn.settings.off},
                "heads": {head.name: head.details for head in loaded.heads or ()},
            }
        )
        return
    settings = loaded.knn.settings
    trend = about.provenance.trend
    forces = "learned from energies alone: for minima of the reference only"
    if loaded.trained_on_forces:
        excluded = len(trend.get("not_minima", ()))
        forces = f"learned from {trend['force_frames']} structures"
        forces += f"; {excluded} records that are no minima left out" if excluded else ""
    rows = [
        ["reference", about.reference],
        ["baseline", about.baseline.get("method", "none")],
        ["elements", " ".join(chemical_symbols[z] for z in loaded.elements)],
        ["charges", " ".join(str(q) for q in about.charges)],
        ["multiplicities", " ".join(map(str, sorted({m for _, m in about.states}))) or "lowest"],
        ["monomers", " ".join(about.monomers) or "none"],
        ["structures", about.n_structures],
        ["compositions", about.provenance.compositions or "?"],
        ["left out in training", len(about.provenance.omitted)],
        ["atoms", f"{about.size_range[0]} to {about.size_range[1]}"],
        ["descriptor", f"{loaded.descriptor.kind}, {loaded.descriptor.n_features} features"],
        ["trend", loaded.trend.kind],
        ["k-NN", f"k = {settings.k}, weights {settings.weights}, {loaded.metric.kind} "
                 f"metric of {loaded.metric.n_components} dimensions"],
        ["k-NN term", "off: neighbours are for comparison only" if settings.off else "on"],
        ["forces", forces],
        ["properties", " ".join(h.name for h in loaded.heads or ()) or "none beside the energy"],
        ["created", about.provenance.created or "?"],
    ]  # fmt: skip
    rows += [[name, f"{KCAL_PER_MOL * value:.3f} kcal/mol"] for name, value in about.named_errors()]
    if loaded.held_out is not None:
        # A few structures that nothing resembles can make all of the RMSE.
        most = KCAL_PER_MOL * loaded.held_out.largest_of(0.95)
        rows.append(["95 % of errors, structure left out, below", f"{most:.3f} kcal/mol"])
    rows += [["cite", text] for text in about.provenance.citations[:5]]
    print_table(str(model), ["", ""], rows)
    show_heads(loaded)


def models(as_json: JsonOption = False) -> None:
    """List the shipped models, and what each is for.

    Example: knncalc models
    """
    from ase_knncalc.store import list_models, load_model

    found = {name: _purpose(load_model(name, baseline=None)) for name in list_models()}
    if as_json:
        print_json([{"name": name, **purpose} for name, purpose in found.items()])
    elif not found:
        print("no models are shipped with this installation")
    else:
        print_table(
            f"Shipped models; {DEFAULT_MODEL} is taken where none is named",
            ["name", *next(iter(found.values()))],
            [[name, *map(str, purpose.values())] for name, purpose in found.items()],
        )


def _purpose(model: KNNModel) -> dict[str, Any]:
    """What a model is for, as its file tells."""
    smallest, largest = model.info.size_range
    return {
        "for": "energies and forces: relaxations, vibrations, dynamics"
        if model.trained_on_forces
        else f"energies at minima of {model.info.reference}",
        "elements": " ".join(chemical_symbols[z] for z in model.elements),
        "charges": " ".join(map(str, model.info.charges)),
        "atoms": f"{smallest} to {largest}",
        "reference": model.info.reference,
        "baseline": model.info.baseline.get("method", "none"),
    }
