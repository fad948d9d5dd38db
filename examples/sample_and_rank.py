"""From two molecules to a ranked list: configurational sampling of sulfuric acid with ammonia."""

from collections import Counter

from ase import units

from ase_knncalc import load_model, predict_frames
from ase_knncalc.sampling import SamplingSettings, parse_ingredients, sample

KCAL_PER_MOL = units.mol / units.kcal


def main() -> None:
    """Sample with GFN1-xTB, correct with the model, print the lowest."""
    pool = sample(
        parse_ingredients(["sa:1", "am:1", "w:1"]),
        8,
        engine="GFN1-xTB",
        settings=SamplingSettings(methods=("packing", "basin-hopping"), chain=4, seed=1),
    )
    ways = Counter(a.info["sampled_by"] for a in pool)
    print(f"{len(pool)} distinct minima of GFN1-xTB:", dict(ways))
    ranking = predict_frames(load_model("multibase-wb97xd"), pool)
    order = ranking.energy.argsort()
    lowest = ranking.energy[order[0]]
    by_xtb = sorted(range(len(pool)), key=lambda i: pool[i].info["energy"])
    print("conformer        ΔE kcal/mol    ±    novelty   rank of GFN1-xTB   nearest")
    for i in order[:8]:
        print(
            f"{pool[i].info['name']:15s} {KCAL_PER_MOL * (ranking.energy[i] - lowest):11.2f} "
            f"{KCAL_PER_MOL * ranking.energy_std[i]:7.2f} {ranking.novelty[i]:8.2f} "
            f"{by_xtb.index(i) + 1:12d}         {ranking.neighbors[i][0].name}"
        )


if __name__ == "__main__":
    main()
