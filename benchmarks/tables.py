"""Tables and the figure of README and documentation, from the results in this folder.

    python benchmarks/tables.py            # after new results: writes them
    python benchmarks/tables.py --check    # fails where a page says something else

In ``README.md`` and ``docs/*.md`` the lines between ``<!-- NAME -->`` and ``<!-- end -->`` are made
here, by the function of that name.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import units

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FIGURE = ROOT / "docs" / "error-against-cost.png"
KCAL_PER_MOL = units.mol / units.kcal
DEFAULT, PAPER = "sparse trend + k-NN (default)", "k-NN, MLKR, 1/d (the paper's method)"


def results(name: str) -> Any:
    """What the benchmark of that name found."""
    return json.loads((HERE / f"{name}.json").read_text())


def table(header: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; columns of the header are separated by bars."""
    lines = [f"| {header} |", "| " + " | ".join("---" for _ in header.split("|")) + " |"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def _row(test: str, method: str = DEFAULT) -> dict[str, Any]:
    (row,) = (r for r in results("accuracy") if (r["test"], r["method"]) == (test, method))
    return dict(row)


def _digits(number: float, digits: int = 3) -> str:
    """So many digits, without a power of ten."""
    plain = f"{number:#.{digits}g}".rstrip(".")
    return f"{float(plain):,.0f}" if "e+" in plain else plain


def _speeds(ours: float, other: float, unit: str) -> tuple[str, str, str]:
    return f"{_digits(ours)} {unit}", f"{_digits(other)} {unit}", _digits(other / ours, 2)


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
    cells = []
    for r in sorted(rows, key=lambda r: order.index(r["test"])):
        # Methods without an uncertainty have no rank correlation, and the rest means nothing.
        known = not np.isnan(r["spearman"])
        cells.append(
            [r["test"], r["method"]]
            + [_digits(KCAL_PER_MOL * r[k]) for k in ("mae", "rmse", "p95")]
            + [f"{r[k]:.2f}" if known else "–" for k in ("coverage", "spearman", "novel")]
            + [f"{r['train_seconds']:.0f}", f"{r['predict_milliseconds']:.2f}"]
        )
    header = "test | method | MAE | RMSE | 95 % | coverage | Spearman | novel | train s | ms each"
    return table(header, cells)


def small_clusters() -> str:
    """Shipped models off the minima of their reference, kcal/mol."""
    return table(
        "model | geometries | structures | MAE | energy_std | inside 90 % | called novel",
        (
            [f"`{r['model']}`", r["geometries"], r["n"], f"{r['mae']:.2f}"]
            + [f"{r['energy_std']:.2f}", f"{100 * r['inside_90']:.0f} %"]
            + [f"{100 * r['novel']:.0f} %"]
            for r in results("small_clusters")
        ),
    )


def dynamics() -> str:
    """Forces, relaxations and dynamics."""
    found = results("dynamics")
    a, c, relax, kept, cost = (
        found[k] for k in ("accuracy", "consistency", "relaxations", "conservation", "cost")
    )
    return table(
        "what | here | GFN1-xTB",
        [
            ["mean absolute error of forces, eV/Å", f"{a['force_mae']:.3f}"]
            + [f"{a['force_mae_gfn1']:.2f}"],
            ["mean absolute error of energies, kcal/mol", f"{a['energy_mae_kcal_mol']:.2f}", "–"],
            ["force components within one and two `forces_std`"]
            + [" and ".join(f"{100 * a[f'forces_std_covers_{n}']:.0f} %" for n in (1, 2)), "–"],
            ["relaxations from GFN1-xTB minima to 0.01 eV/Å that converge"]
            + [f"{relax['converged']} of {relax['clusters']}", "–"],
            ["steps of these, median", f"{relax['median_steps']:.0f}", "–"],
            ["numerical against analytic forces, worst, eV/Å"]
            + [f"{c['worst_difference']:.0e}", "–"],
            [f"drift in {kept['picoseconds']:.0f} ps at 300 K, eV per atom and ps"]
            + [f"{kept['model_drift']:.1e}", f"{kept['gfn1_drift']:.1e}"],
            ["fluctuation there, eV per atom"]
            + [f"{kept['model_fluctuation']:.1e}", f"{kept['gfn1_fluctuation']:.1e}"],
            [f"time of an energy, {cost['atoms']} atoms", f"{cost['energy_ratio']:.2f}", "1"],
            ["time of energy and forces", f"{cost['forces_ratio']:.2f}", "1"],
        ],
    )


def distances() -> str:
    """Metrics of a plain k-NN, mean absolute errors in kcal/mol."""
    rows = results("distances")["ablation"]
    cutoffs = sorted({r["cutoff"] for r in rows})
    cells = []
    for test, title in (("fold_1", "SA–W fold 1"), ("4sa5w", "4sa5w")):
        for name in dict.fromkeys(r["distance"] for r in rows):
            # Of the widths of the kernel, the one in the middle.
            found = {
                r["cutoff"]: r[test]["mae"]
                for r in rows
                if r["distance"] == name and r["sigma"] in (None, 20.0)
            }
            cells.append([title, name] + [f"{found[c]:.3f}" for c in cutoffs])
    return table("test | distance | " + " | ".join(f"{c:.0f} Å" for c in cutoffs), cells)


def composition_prior() -> str:
    """Molecule counts in the distance, mean absolute errors in kcal/mol."""
    rows = results("composition_prior")
    return table(
        "split | strength | weights of the paper | fading term | no term",
        (
            [r["split"], r["strength"]]
            + [f"{r[k]:.4f}" for k in ("published", "kernel", "none")]
            for r in rows
        ),
    )


def speed() -> str:
    """Processor times against those of other ways."""
    found = results("speed")
    queries, mlkr, krr = found["queries"], found["mlkr"], found["krr"]["sizes"][-1]
    published = queries["published"]
    rows = [
        [f"10 neighbours among {published['n']:,}, from the descriptor on"]
        + ["ball tree with the Mahalanobis callable (published)"]
        + [*_speeds(published["ms"]["ours"], published["ms"]["published"], "ms")]
    ]
    for r in queries["faiss"][-4:]:
        for kind, text in (("single", "one query"), ("batch", "in batches of 100")):
            pair = r[f"{kind}_ms"]
            rows.append(
                [f"{r['n']:,} points, {text}", "faiss-cpu `IndexFlatL2`"]
                + [*_speeds(pair["ours"], pair["faiss"], "ms")]
            )
    trees = queries["scikit_learn"][-1]
    for name in ("brute", "ball_tree", "kd_tree"):
        rows.append(
            [f"{trees['n']:,} points, one query", f"scikit-learn, {name.replace('_', ' ')}"]
            + [*_speeds(trees["single_ms"]["ours"], trees["single_ms"][name], "ms")]
        )
    rows.append(
        [f"loss and gradient of MLKR, {mlkr['n']:,} samples", "whole matrices in float64"]
        + [*_speeds(mlkr["ms"]["ours"], mlkr["ms"]["direct"], "ms")]
    )
    for key, text, unit in (
        ("train_seconds", "training on {n} clusters, after descriptors", "s"),
        ("predict_ms", "a prediction with {n} training clusters", "ms"),
    ):
        rows.append(
            [text.format(n=krr["n"]), "KRR with the local kernel (qmllib)"]
            + [*_speeds(krr[key]["ours"], krr[key]["KRR"], unit)]
        )
    return table("what | the other way | here | there | ratio", rows)


def correction() -> str:
    """Time of the correction beside that of the baseline."""
    found = results("speed")["correction"]
    return table(
        f"atoms | GFN1-xTB, ms | correction with {found['n']:,} structures, ms | share",
        (
            [r["atoms"], f"{r['ms']['GFN1-xTB']:.1f}", f"{r['ms']['correction']:.1f}"]
            + [f"{100 * r['share']:.0f} %"]
            for r in found["sizes"]
        ),
    )


def large() -> str:
    """Training on many structures."""
    return table(
        "structures | training, min | memory, GiB | model file, MiB | one prediction, ms | MAE, "
        "kcal/mol | stated MAE | inside 90 %",
        (
            [f"{r['n']:,}", f"{r['train_seconds'] / 60:.1f}", f"{r['train_peak_mib'] / 1024:.1f}"]
            + [f"{r['file_mib']:.0f}", f"{r['single_ms']:.1f}", f"{r['fresh_mae_kcal']:.3f}"]
            + [f"{r['stated_mae_kcal']:.3f}", f"{100 * r['fresh_coverage_90']:.0f} %"]
            for r in results("large")
        ),
    )


def robustness() -> str:
    """Long runs and damaged files."""
    long, mutants = results("endurance"), results("fuzz_models")["models"]
    rows = [
        [f"{r['calculations']:,} energies in one process, {name}"]
        + [f"{r['memory_growth_mib']:.2f} MiB more, {r['open_files_growth']} more open files"]
        for name, r in long.items()
    ]
    total, broken = (sum(f(m) for m in mutants.values()) for f in (
        lambda m: m["mutants"], lambda m: len(m["broken"])))  # fmt: skip
    rows.append(
        [f"{total:,} damaged or forged model files"]
        + [f"{broken} crashes, hangs or wrong numbers"]
    )
    return table("what | found", rows)


def active_learning() -> str:
    """Errors (MAE, RMSE, kcal/mol) of two selections, and the labels that the better one needs."""
    from active_learning import BUDGETS, labels_needed, summary

    def share(curves: Any, kind: str, place: int) -> str:
        target = float(curves["random"][kind].mean(axis=0)[place])
        needed = labels_needed(curves["variance"][kind].mean(axis=0), target) / BUDGETS[place]
        return f"{100 * needed:.0f} %" if needed <= 1 else "–"

    rows = []
    for scenario in ("all", "neutral"):
        curves = summary(results("active_learning"), scenario)
        for budget in (40, 100, 200):
            i = BUDGETS.index(budget)
            means = [
                ", ".join(
                    f"{KCAL_PER_MOL * curves[name][kind].mean(axis=0)[i]:.2f}"
                    for kind in ("mae", "rmse")
                )
                for name in ("random", "variance")
            ]
            rows.append([scenario, budget, *means, share(curves, "mae", i), share(curves, "rmse", i)])
    return table("clusters | labels | random | `variance` | needs, by MAE | needs, by RMSE", rows)


BLOCKS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        numbers, accuracy, small_clusters, dynamics, distances, composition_prior, speed,
        correction, large, robustness, active_learning,
    )
}  # fmt: skip
# A blank line on both sides: Markdown would take a table and the comment for one paragraph.
_BLOCK = re.compile(r"(<!-- ([a-z_]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with the blocks that the results give."""
    return _BLOCK.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]]()}\n\n{m[3]}", text)


# ------------------------------------------------------------------------------------- the figure

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
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
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
    plt.close(figure)


def main() -> None:
    """Write what is not there yet, or name it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail on differences")
    check = parser.parse_args().check
    differences = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = path.read_text("utf-8")
        new = filled(old)
        if new != old:
            differences += difflib.unified_diff(
                old.splitlines(), new.splitlines(), str(path.relative_to(ROOT)), "results",
                lineterm="", n=0,
            )  # fmt: skip
            if not check:
                path.write_text(new, "utf-8")
    if not FIGURE.exists() or digest().encode() not in FIGURE.read_bytes():
        differences.append(f"{FIGURE.relative_to(ROOT)} shows other results")
        if not check:
            draw(FIGURE)
    print("\n".join(differences) or "README and documentation agree with the results")
    if check and differences:
        sys.exit("run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
