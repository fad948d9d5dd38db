"""Model files under attack: what becomes of thousands of mutants of small models.

    python benchmarks/fuzz_models.py --mutants 50000 --output fuzz_models.json

Each mutant is loaded and asked in a process with limits of memory and time
(`tests/helpers/mutants.py` says what is made of a file, `forging.py` what counts as right).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.fuzzmodels import fuzz_models
from helpers.judging import MEMORY_LIMIT, TIME_LIMIT, run_mutants, summarise

from ase_knncalc.store.container import package_versions


def main() -> None:
    """Attack each small model with its share of the mutants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("fuzz_models.json"))
    arguments = parser.parse_args()
    models, probes = fuzz_models()
    share = arguments.mutants // len(models)
    report = {
        "memory_limit_bytes": MEMORY_LIMIT,
        "time_limit_s": TIME_LIMIT,
        "versions": package_versions(),
        "models": {},
    }
    for i, (name, model) in enumerate(models.items()):
        start = time.perf_counter()
        first = arguments.first + i * share
        verdicts = run_mutants(
            model, probes, range(first, first + share), workers=arguments.workers
        )
        found = summarise(verdicts)
        found["wall_s"] = round(time.perf_counter() - start, 1)
        report["models"][name] = found
        print(name, {k: v for k, v in found.items() if k != "broken"})
        for verdict in found["broken"]:
            print("  BROKEN", verdict)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if any(found["broken"] for found in report["models"].values()):
        raise SystemExit("some mutants broke the guarantee")


if __name__ == "__main__":
    main()
