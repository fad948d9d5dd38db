"""Linear algebra on one thread, and afterwards on as many as before."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# In a process of its own: how many threads BLAS may have is decided when it is loaded, and other
# tests load libraries that bring their own.
PROGRAM = """
import sys
import numpy
import scipy.linalg
from threadpoolctl import ThreadpoolController
from ase_knncalc._lib.threads import alone_on_one_thread, one_blas_thread

def threads():
    pools = ThreadpoolController().select(user_api="blas").lib_controllers
    return [pool.num_threads for pool in pools]

before = threads()
with one_blas_thread():
    with alone_on_one_thread("numpy") if sys.argv[1] == "alone" else one_blas_thread():
        print(threads())
    print(threads())
print(before, threads())
"""


@pytest.mark.parametrize("inner", ["alone", "shared"])
def test_limits_are_taken_back(inner) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    run = [sys.executable, "-c", PROGRAM, inner]
    found = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    within, outer, around = found.stdout.splitlines()
    before, after = around[1:-1].split("] [")
    assert before == after
    if "2" not in before:
        pytest.skip("this BLAS has one thread")
    assert set(within[1:-1].split(", ")) == {"1"}
    assert outer == within, "the outer one still holds"
