"""Where ASE finds the calculator and the formats of this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.calculator import get_calculator_class
from ase.io import write
from helpers.jkqc import PICKLES

from ase_knncalc import KNNCalculator
from ase_knncalc.ase_formats import read_jkqc
from ase_knncalc.data import iter_frames


def test_found_by_name_in_a_fresh_interpreter() -> None:
    script = (
        "import ase_knncalc.calculator as c, importlib\n"
        "from ase.calculators.calculator import get_calculator_class, names\n"
        "assert get_calculator_class('knncalc') is c.KNNCalculator and 'knncalc' in names\n"
        "importlib.reload(c)\n"  # registered once: ASE asserts that
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert get_calculator_class("knncalc").__name__ == "KNNCalculator"


def test_plugin_lists_the_calculator_without_importing_it() -> None:
    plugin = pytest.importorskip("ase._4.plugins.plugin")
    script = (
        "import sys, ase_knncalc.ase_plugin as p\n"
        "assert 'ase_knncalc.calculator' not in sys.modules\n"
        "(found,) = p.__ase_plugins__\n"
        "print(found.name, found.implementation.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["knncalc", "KNNCalculator"], done.stderr
    from ase_knncalc.ase_plugin import __ase_plugins__

    assert all(isinstance(p, plugin.CalculatorPlugin) for p in __ase_plugins__)


def test_plugin_module_is_quiet_where_ase_has_no_plugins() -> None:
    script = (
        "import sys; sys.modules['ase._4.plugins.plugin'] = None\n"
        "import ase_knncalc.ase_plugin as p; assert p.__ase_plugins__ == set()\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_entry_point_is_declared() -> None:
    found = [e for e in entry_points(group="ase.plugins") if e.name == "knncalc"]
    if not found:
        pytest.skip("the installed copy of the package is older than its entry point")
    assert found[0].value == "ase_knncalc.ase_plugin"


@pytest.fixture
def declared(tmp_path) -> dict[str, str]:
    """An environment with the entry point of the formats, whatever is installed."""
    folder = tmp_path / "site"
    if not any(e.name == "jkqc" for e in entry_points(group="ase.ioformats")):
        about = folder / "declared-0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: declared\nVersion: 0\n")
        (about / "entry_points.txt").write_text(
            "[ase.ioformats]\njkqc = ase_knncalc.ase_formats:jkqc\n"
        )
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def test_ase_run(tmp_path, declared) -> None:
    """ASE's own command line knows the calculator by its name alone."""
    water = molecule("H2O")
    write(tmp_path / "water.xyz", water)
    done = subprocess.run(
        [sys.executable, "-m", "ase", "run", "knncalc", "water.xyz", "-p", "e", "-o", "out.json",
         "--parameters", "model=saw-wb97xd"],
        cwd=tmp_path, env=declared, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())["1"]
    assert found["calculator"] == "knncalc"
    assert np.isclose(found["energy"], KNNCalculator("saw-wb97xd").get_potential_energy(water))


def test_ase_reads_databases_of_jkqc(tmp_path, declared) -> None:
    path = tmp_path / "two.pkl"
    path.write_bytes(PICKLES["pandas 2, protocol 4"])
    script = (
        "import sys; from ase.io import read; frames = read('two.pkl', ':')\n"
        "assert 'ase_knncalc.calculator' not in sys.modules\n"
        "print(len(frames), read('two.pkl', 1).symbols)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=declared, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", str(read_jkqc(str(path), 1).symbols)], done.stderr
    assert [a.info for a in read_jkqc(str(path))] == [a.info for a in iter_frames(path)]
    with pytest.raises(AttributeError, match="has no attribute 'Other'"):
        sys.modules["ase.calculators.knncalc"].Other  # noqa: B018
