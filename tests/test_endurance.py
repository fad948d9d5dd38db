"""Many calculations in one process: memory and open files stay as they are.

`benchmarks/endurance.py` does fifty thousand.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from endurance import open_files, resident_mib

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RUN = """
import json, sys
from endurance import run
print(json.dumps(run(sys.argv[1], int(sys.argv[2]), forces=True)))
"""


def test_the_watch_sees_what_it_should() -> None:
    """Memory that is kept, and a file that is left open."""
    memory, files = resident_mib(), open_files()
    kept = bytearray(os.urandom(1 << 20)) * 64
    assert resident_mib() - memory > 50
    with open(os.devnull):
        assert open_files() == files + 1
    assert open_files() == files
    assert kept


@pytest.mark.slow
@pytest.mark.parametrize("library", ["tblite", "xtb"])
def test_memory_and_open_files_stay(library: str) -> None:
    """In a process of its own, which does nothing else."""
    pytest.importorskip(f"{library}.interface")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, library, "1000"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    # Two KiB a calculation would be 1.6 MiB.
    assert found["memory_growth_mib"] < 1.5
    assert found["open_files_growth"] == 0
