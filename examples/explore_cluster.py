"""From a composition to Gibbs energies: one conformer, one composition, several compositions."""

from pathlib import Path
from tempfile import TemporaryDirectory

from ase.build import molecule

from ase_knncalc.exploration import ExploreSettings, explore, gibbs_table, relax_frames


def one_conformer() -> None:
    """Relax a structure and compute its Gibbs energy."""
    relaxed, _ = relax_frames([molecule("H2O")], fmax=0.02, n_jobs=1)
    (row,) = gibbs_table(relaxed, n_jobs=1).rows()
    print(f"water: G(298 K) = {row['gibbs_eV']:.3f} ± {row['gibbs_std_eV']:.3f} eV")


def compositions(folder: Path) -> None:
    """Explore each composition in a folder of its own; a run that is killed goes on there."""
    for composition in ("1 w, 1 am", "2 w"):
        settings = ExploreSettings(
            composition, candidates=2, methods=("packing",), fmax=0.02, vibrations=2
        )
        found = explore(settings, folder / composition.replace(" ", "").replace(",", ""))
        best = found.rows[0]
        gibbs, std = best["binding_gibbs_kcal_mol"], best["binding_gibbs_std_kcal_mol"]
        bound = "no minimum" if gibbs is None else f"ΔG = {gibbs:.1f} ± {std:.1f} kcal/mol"
        print(f"{composition}: {found.unique} structures, lowest {bound}; {found.report.name}")


if __name__ == "__main__":
    one_conformer()
    with TemporaryDirectory() as name:
        compositions(Path(name))
