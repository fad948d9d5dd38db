"""Small models of every kind, trained on real labels, for tests that need many copies."""

from __future__ import annotations

import warnings
from pathlib import Path

from ase import Atoms

from ase_knncalc import KNNModel, read_dataset, train
from ase_knncalc.trend.sparse import SparseSettings

_OPTIONS = {
    "sparse": {"trend": "sparse", "sparse": SparseSettings(environments=20, rank=10)},
    "forces": {"trend": "sparse", "sparse": SparseSettings(environments=20, rank=10)},
    "linear": {"trend": "linear", "weights": "kriging"},
    "published": {"trend": "none"},
    "slatm": {"trend": "none", "descriptor_kind": "slatm"},
}


def fuzz_models(
    names: tuple[str, ...] = tuple(_OPTIONS),
) -> tuple[dict[str, KNNModel], list[Atoms]]:
    """Models by name, and structures to ask them of."""
    frames = read_dataset(Path(__file__).parents[1] / "data" / "clusters_wb97xd.extxyz").frames
    small = [a for a in frames if len(a) <= 12]
    models = {}
    for name in names:
        options = dict(_OPTIONS[name])
        few = {"fchl19": {"n_rs2": 4, "n_rs3": 3, "acut": 4.0, "rcut": 4.0}, "slatm": {"grid": 0.4}}
        options["descriptor_options"] = few[options.get("descriptor_kind", "fchl19")]
        kept = [a.copy() for a in small[::2]]
        if name != "forces":
            for a in kept:
                a.arrays.pop("reference_forces", None)
                a.arrays.pop("baseline_forces", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models[name] = train(
                kept,
                reference="ωB97X-D/6-31++G(d,p)",
                n_jobs=1,
                k=4,
                n_components=3,
                metric_iterations=5,
                check_labels=False,
                **options,
            )
    probes = []
    for atoms in (small[1], small[len(small) // 2], small[-1]):
        probe = Atoms(atoms.numbers, atoms.positions)
        probe.rattle(0.05, seed=1)
        probes.append(probe)
    return models, probes
