"""Memory and open files over many calculations in one process.

    python benchmarks/endurance.py --library tblite --calculations 50000 --output endurance.json

Adds its result to what the output file holds already.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.endurance import run

from ase_knncalc._lib.files import atomic_write


def main() -> None:
    """Run one library and keep what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", choices=("tblite", "xtb"), default="tblite")
    parser.add_argument("--calculations", type=int, default=50_000)
    parser.add_argument("--model", default="saw-wb97xd")
    parser.add_argument("--forces", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("endurance.json"))
    arguments = parser.parse_args()
    found = run(
        arguments.library,
        arguments.calculations,
        model=arguments.model,
        forces=arguments.forces,
    )
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    results[arguments.library] = found
    with atomic_write(arguments.output) as handle:
        handle.write((json.dumps(results, indent=1) + "\n").encode())
    print({key: value for key, value in found.items() if key != "seen"})


if __name__ == "__main__":
    main()
