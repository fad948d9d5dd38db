"""Tables and figures of README and documentation, from the results in this folder.

    python benchmarks/tables.py            # after new results: writes them
    python benchmarks/tables.py --check    # fails where a page says something else

In ``README.md``, ``docs/*.md`` and the card of the shipped labels the lines between
``<!-- NAME -->`` and ``<!-- end -->`` are made here, by the function of that name.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from model_tables import (
    general_dynamics,
    general_model,
    general_model_from_baseline,
    general_model_relaxed,
    infrared,
    off_equilibrium,
    property_heads,
    small_clusters,
)
from rival_tables import RIVALS_FIGURE, draw_rivals, rivals, rivals_cost, rivals_digest
from tabulation import HERE, results, table

from ase_knncalc.data.frames import iter_frames

ROOT = HERE.parent
LABELS_FOLDER = ROOT / "trained_models" / "labels"
FIGURE = ROOT / "docs" / "error-against-cost.png"
KCAL_PER_MOL = units.mol / units.kcal
DEFAULT, PAPER = "sparse trend + k-NN (default)", "k-NN, MLKR, 1/d (the paper's method)"


def _row(test: str, method: str = DEFAULT) -> dict[str, Any]:
    (row,) = (r for r in results("accuracy") if (r["test"], r["method"]) == (test, method))
    return dict(row)


def _digits(number: float, digits: int = 3) -> str:
    """So many digits, without a power of ten."""
    plain = f"{number:#.{digits}g}".rstrip(".")
    return f"{float(plain):,.0f}" if "e+" in plain else plain


def _speeds(ours: float, other: float, unit: str) -> str:
    return f"{_digits(ours)} {unit} | {_digits(other)} {unit} | {_digits(other / ours, 2)}"


def numbers() -> str:
    """The three numbers of the README."""
    ours, paper = _row("multibase new compositions"), _row("multibase new compositions", PAPER)
    cost = results("dynamics")["cost"]
    return "\n".join(
        [
            f"- **{KCAL_PER_MOL * ours['mae']:.2f} kcal/mol** is the mean absolute error on "
            f"{ours['n']:,} minima of compositions that training never saw (the published k-NN "
            f"method: {KCAL_PER_MOL * paper['mae']:.2f});",
            f"- **{100 * ours['coverage']:.0f} %** of them lie inside their 90 % intervals;",
            f"- **{100 * (cost['energy_ratio'] - 1):.0f} %** is what the correction adds to the "
            f"time of GFN1-xTB for an energy of {cost['atoms']} atoms.",
        ]
    )


def accuracy() -> str:
    """Errors in kcal/mol of all methods on all splits."""
    rows = results("accuracy")
    order = list(dict.fromkeys(r["test"] for r in rows))

    def cells(r: dict[str, Any]) -> str:
        errors = " | ".join(_digits(KCAL_PER_MOL * r[k]) for k in ("mae", "rmse", "p95"))
        # Methods without an uncertainty have no rank correlation, and the rest means nothing.
        known = not np.isnan(r["spearman"])
        doubts = " | ".join(
            f"{r[k]:.2f}" if known else "–" for k in ("coverage", "spearman", "novel")
        )
        cost = f"{r['train_seconds']:.0f} | {r['predict_milliseconds']:.2f}"
        return f"{r['test']} | {r['method']} | {errors} | {doubts} | {cost}"

    return table(
        "test | method | MAE | RMSE | 95 % | coverage | Spearman | novel | train s | ms each",
        map(cells, sorted(rows, key=lambda r: order.index(r["test"]))),
    )


def steps() -> str:
    """Processor time of a step of dynamics, as multiples of tblite's own calculator's."""
    return table(
        'atoms | tblite, ms | `uncertainty="asked"` | `warm_start` | '
        "with `forces_std` each step | cold SCF",
        (
            f"{r['atoms']} | {r['milliseconds']['tblite']:.0f} | {r['ratios']['alone']:.2f} | "
            f"{r['ratios']['warm']:.2f} | "
            f"{r['ratios']['warm_with_std']:.2f} | {r['ratios']['cold']:.2f}"
            for r in results("steps")
        ),
    )


def batches() -> str:
    """Processor time of many predictions, beside GFN1-xTB's alone."""
    return table(
        "structures | GFN1-xTB alone, ms each | `predict_frames`, ms each | ratio",
        (
            f"{r['structures']:,} | {r['gfn1_ms']:.1f} | {r['predict_ms']:.1f} | {r['ratio']:.2f}"
            for r in results("batches")
        ),
    )


def dynamics() -> str:
    """Forces, relaxations and dynamics."""
    found = results("dynamics")
    a, c, relax, kept, cost = (
        found[k] for k in ("accuracy", "consistency", "relaxations", "conservation", "cost")
    )
    covered = " and ".join(f"{100 * a[f'forces_std_covers_{n}']:.0f} %" for n in (1, 2))
    fluctuation = f"{kept['model_fluctuation']:.1e} | {kept['gfn1_fluctuation']:.1e}"
    return table(
        "what | here | GFN1-xTB",
        [
            f"MAE of forces, eV/Å | {a['force_mae']:.3f} | {a['force_mae_gfn1']:.2f}",
            f"MAE of energies, kcal/mol | {a['energy_mae_kcal_mol']:.2f} | –",
            f"force components within one and two `forces_std` | {covered} | –",
            "relaxations from GFN1-xTB minima to 0.01 eV/Å that converge | "
            f"{relax['converged']} of {relax['clusters']} | –",
            f"steps of these, median | {relax['median_steps']:.0f} | –",
            f"numerical less analytic forces, worst, eV/Å | {c['worst_difference']:.0e} | –",
            f"drift in {kept['picoseconds']:.0f} ps at 300 K, eV per atom and ps | "
            f"{kept['model_drift']:.1e} | {kept['gfn1_drift']:.1e}",
            f"fluctuation there, eV per atom | {fluctuation}",
            f"time of an energy, {cost['atoms']} atoms | {cost['energy_ratio']:.2f} | 1",
            f"time of energy and forces | {cost['forces_ratio']:.2f} | 1",
        ],
    )


def distances() -> str:
    """Metrics of a plain k-NN, mean absolute errors in kcal/mol."""
    # Of the widths of the kernel, the one in the middle.
    rows = [r for r in results("distances")["ablation"] if r["sigma"] in (None, 20.0)]
    cutoffs = sorted({r["cutoff"] for r in rows})
    cells = []
    for test, title in (("fold_1", "SA–W fold 1"), ("4sa5w", "4sa5w")):
        for name in dict.fromkeys(r["distance"] for r in rows):
            found = {r["cutoff"]: r[test]["mae"] for r in rows if r["distance"] == name}
            cells.append(f"{title} | {name} | " + " | ".join(f"{found[c]:.3f}" for c in cutoffs))
    return table("test | distance | " + " | ".join(f"{c:.0f} Å" for c in cutoffs), cells)


def composition_prior() -> str:
    """Molecule counts in the distance, mean absolute errors in kcal/mol."""
    return table(
        "split | strength | weights of the paper | fading term | no term",
        (
            f"{r['split']} | {r['strength']} | {r['published']:.4f} | {r['kernel']:.4f} | "
            f"{r['none']:.4f}"
            for r in results("composition_prior")
        ),
    )


def speed() -> str:
    """Processor times against those of other ways."""
    found = results("speed")
    queries, mlkr, krr = found["queries"], found["mlkr"], found["krr"]["sizes"][-1]
    first, trees = queries["published"], queries["scikit_learn"][-1]
    one = trees["single_ms"]
    rows = [
        f"10 neighbours among {first['n']:,}, from the descriptor on | ball tree with the "
        f"Mahalanobis callable (published) | "
        + _speeds(first["ms"]["ours"], first["ms"]["published"], "ms")
    ]
    rows += [
        f"{r['n']:,} points, {text} | faiss-cpu `IndexFlatL2` | "
        + _speeds(r[kind]["ours"], r[kind]["faiss"], "ms")
        for r in queries["faiss"][-4:]
        for kind, text in (("single_ms", "one query"), ("batch_ms", "in batches of 100"))
    ]
    rows += [
        f"{trees['n']:,} points, one query | scikit-learn, {text} | "
        + _speeds(one["ours"], one[name], "ms")
        for name, text in (
            ("brute", "brute force"),
            ("ball_tree", "ball tree"),
            ("kd_tree", "k-d tree"),
        )
    ]
    rows += [
        f"loss and gradient of MLKR, {mlkr['n']:,} samples | whole matrices in float64 | "
        + _speeds(mlkr["ms"]["ours"], mlkr["ms"]["direct"], "ms"),
        f"training on {krr['n']} clusters, after descriptors | KRR, local kernel (qmllib) | "
        + _speeds(krr["train_seconds"]["ours"], krr["train_seconds"]["KRR"], "s"),
        f"a prediction with {krr['n']} training clusters | the same | "
        + _speeds(krr["predict_ms"]["ours"], krr["predict_ms"]["KRR"], "ms"),
    ]
    return table("what | the other way | here | there | ratio", rows)


def correction() -> str:
    """Time of the correction beside that of the baseline."""
    found = results("speed")["correction"]
    return table(
        f"atoms | GFN1-xTB, ms | correction with {found['n']:,} structures, ms | share",
        (
            f"{r['atoms']} | {r['ms']['GFN1-xTB']:.1f} | {r['ms']['correction']:.1f} | "
            f"{100 * r['share']:.0f} %"
            for r in found["sizes"]
        ),
    )


def large() -> str:
    """Training on many structures."""
    return table(
        "structures | training, min | memory, GiB | model file, MiB | one prediction, ms | "
        "MAE, kcal/mol | stated MAE | inside 90 %",
        (
            f"{r['n']:,} | {r['train_seconds'] / 60:.1f} | {r['train_peak_mib'] / 1024:.1f} | "
            f"{r['file_mib']:.0f} | {r['single_ms']:.1f} | {r['fresh_mae_kcal']:.3f} | "
            f"{r['stated_mae_kcal']:.3f} | {100 * r['fresh_coverage_90']:.0f} %"
            for r in results("large")
        ),
    )


def robustness() -> str:
    """Long runs and damaged files."""
    models = results("fuzz_models")["models"].values()
    mutants, broken = sum(m["mutants"] for m in models), sum(len(m["broken"]) for m in models)
    rows = [
        f"{r['calculations']:,} energies in one process, {name} | "
        f"{r['memory_growth_mib']:.2f} MiB and {r['open_files_growth']} open files more"
        for name, r in results("endurance").items()
    ]
    rows.append(
        f"{mutants:,} damaged or forged model files | {broken} crashes, hangs, wrong numbers"
    )
    return table("what | found", rows)


def active_learning() -> str:
    """Errors (MAE, RMSE, kcal/mol) of two selections, and the labels that the better one needs."""
    from active_learning import BUDGETS, labels_needed, summary

    rows = []
    for scenario in ("all", "neutral"):
        curves = summary(results("active_learning"), scenario)
        mean = {
            (name, kind): curves[name][kind].mean(axis=0)
            for name in ("random", "variance")
            for kind in ("mae", "rmse")
        }
        for budget in (40, 100, 200):
            i = BUDGETS.index(budget)
            errors = (
                ", ".join(f"{KCAL_PER_MOL * mean[name, kind][i]:.2f}" for kind in ("mae", "rmse"))
                for name in ("random", "variance")
            )
            needed = (
                labels_needed(mean["variance", kind], mean["random", kind][i]) / budget
                for kind in ("mae", "rmse")
            )
            shares = (f"{100 * share:.0f} %" if share <= 1 else "–" for share in needed)
            rows.append(" | ".join([scenario, str(budget), *errors, *shares]))
    return table("clusters | labels | random | `variance` | needs, by MAE | needs, by RMSE", rows)


def labels() -> str:
    """Shipped labels by file, kind, charge and composition."""
    rows, lists = [], []
    for path in sorted(LABELS_FOLDER.glob("*.extxyz")):
        frames = list(iter_frames(path))
        groups: dict[tuple[str, int], list[Atoms]] = {}
        for atoms in frames:
            groups.setdefault((atoms.info["kind"], atoms.info["charge"]), []).append(atoms)
        for (kind, charge), group in sorted(groups.items()):
            sizes = [len(atoms) for atoms in group]
            rows.append(
                f"`{path.name}` | {kind} | {charge:+d} | {len(group)} | {min(sizes)}–{max(sizes)}"
            )
        counts = Counter(atoms.info["composition"] for atoms in frames)
        ions = sum(atoms.info["charge"] != 0 for atoms in frames)
        listed = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
        lists.append(
            f"`{path.name}`: {len(frames):,} frames ({ions:,} charged), frames of each of "
            f"{len(counts)} compositions: {listed}."
        )
    found = table("file | kind | charge | frames | atoms", rows)
    return "\n\n".join([found, *lists])


def density_fitting() -> str:
    """Labels with density fitting less those without, before and after an offset per element."""
    rows = results("density_fitting")
    elements = sorted({e for r in rows for e in r["elements"]})
    counts = np.array([[r["elements"].get(e, 0) for e in elements] for r in rows], dtype=float)
    energies = 1000 * np.array([r["energy"] for r in rows])
    offsets = np.linalg.lstsq(counts, energies, rcond=None)[0]
    left = energies - counts @ offsets
    fitted = ", ".join(f"{e} {o:+.2f}" for e, o in zip(elements, offsets, strict=True))
    forces = [r["forces_mean"] for r in rows]
    return table(
        f"of {len(rows)} frames of {counts.sum(1).min():.0f} to {counts.sum(1).max():.0f} atoms | ",
        [
            f"energies, mean and mean absolute, meV | {energies.mean():+.2f}, "
            f"{np.abs(energies).mean():.2f}",
            f"offset of each element (least squares), meV | {fitted}",
            f"energies after that, mean absolute and greatest, meV | {np.abs(left).mean():.2f}, "
            f"{np.abs(left).max():.2f}",
            f"forces, mean absolute and greatest, eV/Å | {np.mean(forces):.5f}, "
            f"{max(r['forces_max'] for r in rows):.5f}",
        ],
    )


def exploration() -> str:
    """Clusters explored from nothing, kcal/mol."""
    return table(
        "composition | candidates | distinct | left for DFT | lowest minimum above the "
        "literature's | ΔG of the literature's lowest, model less ωB97X-D",
        (
            f"{r['composition']} | {r['candidates']} | {r['distinct']} | {r['chosen']} | "
            f"{r['lowest_above_literature_kcal_mol']:.2f} | "
            + ", ".join(f"{d:.2f}" for d in r["gibbs_differences_kcal_mol"])
            for r in results("exploration")["found"]
        ),
    )


BLOCKS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        numbers, accuracy, general_model, general_model_relaxed,
        general_model_from_baseline, general_dynamics, off_equilibrium, small_clusters,
        dynamics, steps, batches, exploration, distances, composition_prior, speed, correction,
        large, robustness, active_learning, labels, density_fitting, property_heads, infrared,
        rivals, rivals_cost,
    )
}  # fmt: skip
# A blank line on both sides: Markdown would take a table and the comment for one paragraph.
_BLOCK = re.compile(r"(<!-- ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with the blocks that the results give."""
    return _BLOCK.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]]()}\n\n{m[3]}", text)


TEST = "4sa5w equilibrium"
LABELS = {
    DEFAULT: "this package",
    "linear trend + k-NN": "this package, linear trend",
    PAPER: "k-NN, MLKR (as published)",
    "k-NN, Euclidean, 1/d": "k-NN, Euclidean",
    "k-NN, kernel-induced, 1/d": "k-NN, kernel-induced",
    "MLKR's own regressor": "MLKR's regressor",
    "KRR, full local kernel": "KRR, full local kernel",
}
# Whose label would meet another's above its point.
BELOW = ("this package", LABELS[PAPER], "k-NN, kernel-induced")


def points() -> list[tuple[str, float, float, float]]:
    """Label, processor seconds of training, milliseconds a prediction, error in kcal/mol."""
    return [
        (
            label,
            *(_row(TEST, method)[k] for k in ("train_seconds", "predict_milliseconds")),
            KCAL_PER_MOL * _row(TEST, method)["mae"],
        )
        for method, label in LABELS.items()
    ]


def digest() -> str:
    """Of what is drawn; the figure carries it, as its bytes depend on the version of matplotlib."""
    return hashlib.sha256(json.dumps(points()).encode()).hexdigest()


def draw(path: Path) -> None:
    """Error against cost of training and of a prediction."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("training, processor seconds", "a prediction, milliseconds")
    for place, (axis, title) in enumerate(zip(axes, titles, strict=True), start=1):
        for point in points():
            ours = point[0].startswith("this package")
            axis.plot(point[place], point[3], "o", color="#d1495b" if ours else "#30638e")
            right, low = point[place] > 8, point[0] in BELOW
            axis.annotate(
                point[0], (point[place], point[3]), xytext=(-4 if right else 4, -13 if low else 6),
                textcoords="offset points", ha="right" if right else "left", fontsize=8,
                color="#d1495b" if ours else "#333333",
            )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel=title, ylim=(0.15, 2.5))
        axis.margins(x=0.1)
        axis.grid(alpha=0.3, which="both", linewidth=0.4)
        axis.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
        axis.minorticks_off()
    axes[0].set_ylabel("mean absolute error, kcal/mol")
    figure.savefig(path, dpi=130, metadata={"Description": digest()})


def main() -> None:
    """Write what is not there yet, or name it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on differences")
    check = parser.parse_args().check
    differences = []
    pages = ROOT / "README.md", LABELS_FOLDER / "README.md", *sorted((ROOT / "docs").glob("*.md"))
    for path in pages:
        old = path.read_text("utf-8")
        new = filled(old)
        if new != old:
            differences += difflib.unified_diff(
                old.splitlines(), new.splitlines(), str(path.relative_to(ROOT)), "results",
                lineterm="", n=0,
            )  # fmt: skip
            if not check:
                path.write_text(new, "utf-8")
    for path, drawn, make in ((FIGURE, digest, draw), (RIVALS_FIGURE, rivals_digest, draw_rivals)):
        if not path.exists() or drawn().encode() not in path.read_bytes():
            differences.append(f"{path.relative_to(ROOT)} shows other results")
            if not check:
                make(path)
    print("\n".join(differences) or "README and documentation agree with the results")
    if check and differences:
        sys.exit("run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
