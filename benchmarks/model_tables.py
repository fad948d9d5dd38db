"""Tables of the shipped models: off equilibrium, relaxed, in dynamics, and their properties."""

from __future__ import annotations

from typing import Any

from tabulation import HERE, results, table


def small_clusters() -> str:
    """Shipped models off the minima of their reference, kcal/mol."""
    return table(
        "model | geometries | structures | MAE | energy_std | inside 90 % | called novel",
        (
            f"`{r['model']}` | {r['geometries']} | {r['n']} | {r['mae']:.2f} | "
            f"{r['energy_std']:.2f} | {100 * r['inside_90']:.0f} % | {100 * r['novel']:.0f} %"
            for r in results("small_clusters")
        ),
    )


def general_model() -> str:
    """The general model's recipe on compositions left out, kcal/mol and eV/Å."""
    rows = [r for r in results("general_model") if "inside_90" in r]
    return table(
        "compositions left out | structures | energy, mean / median | inside 90 % | rank "
        "correlation with std | forces | called novel",
        (
            f"{r['stratum']} | {r['n']} | {r['energy_mae']:.2f} / {r['energy_median']:.2f} | "
            f"{100 * r['inside_90']:.0f} % | {r['spearman']:.2f} | {r['force_mae']:.3f} | "
            f"{100 * r['novel']:.0f} %"
            for r in rows
        ),
    )


def general_model_relaxed() -> str:
    """The same, relaxed from minima of the reference, and vibrations there."""
    (r,) = (r for r in results("general_model") if "zero_point_mae" in r)
    bands = ", ".join(
        f"{name.removeprefix('wavenumbers ')}: {value:.0f}"
        for name, value in r.items()
        if name.startswith("wavenumbers")
    )
    return table(
        "relaxed from minima of the reference | here",
        [
            f"structures | {r['n']}",
            "energy from that of the minimum, median / 90th percentile, kcal/mol | "
            f"{r['energy_median']:.2f} / {r['energy_90']:.2f}",
            f"RMSD, median / 90th percentile, Å | {r['rmsd_median']:.3f} / {r['rmsd_90']:.3f}",
            f"wavenumbers there, mean error by band, cm⁻¹ | {bands}",
            f"zero-point energy, mean error, kcal/mol | {r['zero_point_mae']:.2f}",
            f"modes beyond 20i cm⁻¹ | {r['imaginary_modes']}",
        ],
    )


def general_model_from_baseline() -> str:
    """The same, relaxed from minima of GFN1-xTB."""
    (r,) = (r for r in results("general_model") if "rmsd_median_gfn1" in r)
    return table(
        "relaxed from minima of GFN1-xTB | here | GFN1-xTB",
        [
            f"structures | {r['n']} | {r['n']}",
            "energy from that of the reference's minimum, median / 90th percentile, kcal/mol | "
            f"{r['energy_median']:.2f} / {r['energy_90']:.2f} | –",
            "RMSD from the reference's minimum, median, Å | "
            f"{r['rmsd_median']:.3f} | {r['rmsd_median_gfn1']:.3f}",
            "within 0.1 Å of it | "
            f"{100 * r['within_0.1']:.0f} % | {100 * r['within_0.1_gfn1']:.0f} %",
        ],
    )


def general_dynamics() -> str:
    """Ten picoseconds of the general model without a thermostat, beside GFN1-xTB."""
    return table(
        "cluster | ps | drift, eV per atom and ps | of GFN1-xTB | fluctuation, eV per atom | "
        "of GFN1-xTB | largest novelty",
        (
            f"{name} | {r['picoseconds']:.0f} | {r['model_drift']:.1e} | {r['gfn1_drift']:.1e} | "
            f"{r['model_fluctuation']:.1e} | {r['gfn1_fluctuation']:.1e} | "
            f"{r['largest_novelty']:.2f}"
            for name, r in results("general_dynamics").items()
        ),
    )


def off_equilibrium() -> str:
    """What weights, penalties and labels bring: energies and forces on compositions left out."""
    rows = results("off_equilibrium")
    strata = list(rows[0]["strata"])

    def cells(r: dict[str, Any]) -> str:
        value = r[r["what"].replace(" ", "_")]
        errors = (r["strata"][name] for name in strata)
        return f"{r['what']} {value:g} | " + " | ".join(
            f"{e['energy_mae']:.2f} / {e['force_mae']:.3f}" for e in errors
        )

    counts = (f"{name} ({rows[0]['strata'][name]['n']})" for name in strata)
    return table("varied | " + " | ".join(counts), map(cells, rows))


def property_heads() -> str:
    """Properties beside the energy; of thermochemistry, at 300 K."""
    if not (HERE / "property_heads.json").exists():
        return "Measured by `python benchmarks/property_heads.py train`, when the heads are made."
    rows = [
        f"{name.replace('/', ', ')} | {of['unit']} | {of['structures']:,} | {row['mae']:.3f} | "
        f"{_or_dash(row['group_mae'], '.3f')} | {row['inside_90']:.0%}, "
        f"{_or_dash(row['group_inside_90'], '.0%')}"
        for of in results("property_heads").values()
        for name, row in of["outputs"].items()
        if len(of["outputs"]) == 1 or name.endswith(("zero_point", "/300.0"))
    ]
    return table("property | unit | structures | left out | composition left out | inside", rows)


def _or_dash(value: float | None, digits: str) -> str:
    return "–" if value is None else format(value, digits)


def infrared() -> str:
    """Intensities of molecules, errors summed over modes against the reference's sum."""
    if not (HERE / "infrared.json").exists():
        return "Measured by `python benchmarks/infrared.py`."
    rows = [
        f"{name} | {sum(of['reference']):.0f} | {of['baseline_error']:.0%} | "
        f"{of['learned_error']:.0%}"
        for name, of in results("infrared").items()
    ]
    return table("molecule | all modes, km/mol | the baseline's dipole | learned dipole", rows)
