"""Tests of what stands beside the benchmarks import it as the benchmarks do."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
