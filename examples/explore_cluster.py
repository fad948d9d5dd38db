"""From a composition to Gibbs energies: one conformer, one composition, a grid of them."""

from pathlib import Path
from tempfile import TemporaryDirectory

from ase.build import molecule

from ase_knncalc.exploration import (
    ExploreSettings,
    explore,
    explore_grid,
    gibbs_table,
    relax_frames,
)


def one_conformer() -> None:
    """Relax a structure and compute its Gibbs energy."""
    relaxed, _ = relax_frames([molecule("H2O")], fmax=0.02, n_jobs=1)
    (row,) = gibbs_table(relaxed, n_jobs=1).rows()
    print(f"water: G(298 K) = {row['gibbs_eV']:.3f} ± {row['gibbs_std_eV']:.3f} eV")


def one_composition(folder: Path) -> None:
    """Explore a composition in a folder; a run that is killed goes on there."""
    found = explore(small("2 w"), folder)
    best = found.rows[0]
    gibbs, std = best["binding_gibbs_kcal_mol"], best["binding_gibbs_std_kcal_mol"]
    bound = "no minimum" if gibbs is None else f"ΔG = {gibbs:.1f} ± {std:.1f} kcal/mol"
    print(f"2 w: {found.unique} structures, lowest {bound}; {found.report.name}")


def a_grid(folder: Path) -> None:
    """Explore the molecules and clusters of a grid, with one table for cluster dynamics."""
    found = explore_grid(small("0-1 am, 0-1 w"), folder)
    print(f"grid: {', '.join(found.found)}; not found: {', '.join(found.failed) or 'none'}")
    print((folder / "acdc.txt").read_text())


def small(composition: str) -> ExploreSettings:
    """Settings that take seconds; the defaults find more."""
    return ExploreSettings(composition, candidates=2, methods=("packing",), fmax=0.02, vibrations=2)


if __name__ == "__main__":
    one_conformer()
    with TemporaryDirectory() as name:
        one_composition(Path(name) / "2w")
        a_grid(Path(name) / "grid")
