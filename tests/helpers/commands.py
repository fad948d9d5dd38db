"""The command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def knncalc(*arguments: object, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    """Run the program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from ase_knncalc.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done
