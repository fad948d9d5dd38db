"""The loop with real labels: water clusters, a start of a few, ωB97X-D from PySCF.

The labels are made here, so the functional has a small basis to keep the example within a minute
or two; leave ``options`` out for ωB97X-D/6-31++G(d,p). The loop's directory survives a kill: run
``knncalc active config.toml`` again and it goes on.
"""

import importlib.util
import tempfile
from pathlib import Path

from ase_knncalc.active import read_config, run_loop
from ase_knncalc.active.report import sentence
from ase_knncalc.data import write_frames
from ase_knncalc.labelers import PySCFLabeler, label_frames
from ase_knncalc.sampling import SamplingSettings, parse_ingredients, sample

OPTIONS = {"basis": "6-31G", "grid_level": 1, "forces": False, "threads": 1}

CONFIG = """
[loop]
iterations = 3
batch = 4
strategy = "combined"

[training]
data = ["known.extxyz"]
check_labels = false
settings = {trend = "linear", n_components = 5, k = 3, metric = "pca", folds = 2}

[pool]
sample = [["w:2"]]
n = 40
engine = "GFN1-xTB"
settings = {methods = ["monte-carlo"], temperatures = [300, 600]}

[labeler]
kind = "pyscf"
options = {basis = "6-31G", grid_level = 1, forces = false, threads = 1}

[test]
files = ["test.extxyz"]
"""


def labelled(seed: int, n: int) -> list:
    """Water dimers from a walk, with their labels."""
    walk = SamplingSettings(methods=("monte-carlo",), chain=5, seed=seed)
    frames = sample(parse_ingredients(["w:2"]), n, engine="GFN1-xTB", settings=walk, n_jobs=1)
    found, failures = label_frames(PySCFLabeler(**OPTIONS), frames)
    assert not failures, failures[0].reason
    return found


def main() -> None:
    """Make a start and a test set, then run the loop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder / "known.extxyz", labelled(1, 8))
        write_frames(folder / "test.extxyz", labelled(2, 8))
        (folder / "config.toml").write_text(CONFIG)
        config = read_config(folder / "config.toml")
        run_loop(config, on_iteration=lambda report: print(sentence(report)))
        print((config.loop.directory / "report.csv").read_text())


if __name__ == "__main__":
    if importlib.util.find_spec("pyscf") is None:
        print('this example needs PySCF: pip install "ase_knncalc[label]"')
    else:
        main()
