"""Many calculations in one process: memory and open files stay as they are.

`benchmarks/endurance.py` does fifty thousand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    "OMP_NUM_THREADS": "1",
}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RUN = """
import json, sys
from helpers.endurance import run
print(json.dumps(run(sys.argv[1], int(sys.argv[2]), forces=True)))
"""


WATCH = """
import json, os
from helpers.endurance import open_files, resident_mib
memory, files = resident_mib(), open_files()
kept = bytearray(os.urandom(1 << 20)) * 64
with open(os.devnull):
    print(json.dumps([resident_mib() - memory, open_files() - files]))
"""


def test_the_watch_sees_what_it_should() -> None:
    """Memory that is kept, and a file that is left open.

    In a fresh process: this one may still hold freed memory, and take the block from there.
    """
    done = subprocess.run(
        [sys.executable, "-c", WATCH],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    memory, files = json.loads(done.stdout)
    assert 50 < memory < 80
    assert files == 1


@pytest.mark.endurance
@pytest.mark.parametrize("library", ["tblite", "xtb"])
def test_memory_and_open_files_stay(library: str, share) -> None:
    """In a process of its own, which does nothing else."""
    pytest.importorskip(f"{library}.interface")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, library, str(share(10_000))],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    # Two KiB a calculation would be 1.6 MiB in the 800 that count of a thousand.
    assert found["memory_growth_mib"] < 1.5
    assert found["open_files_growth"] == 0
