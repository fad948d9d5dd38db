"""Programs that take an ASE calculator, or speak to one: the real ones, where they are installed.

``pip install "ase_knncalc[hosts]"`` installs those that install together; docs/hosts.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.socketio import SocketClosed, SocketIOCalculator
from ase.io import read, write
from ase.optimize import BFGS
from ase.units import Bohr, Hartree, kJ, mol, nm

from ase_knncalc import KNNCalculator, load_model
from ase_knncalc.errors import NoveltyError, SettingsError
from ase_knncalc.hosts import drive, openmm_force

QUIET = {"on_novelty": "ignore"}


@pytest.fixture(scope="module")
def model():
    return load_model("multibase-wb97xd")


@pytest.fixture
def water(model) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=1)
    atoms.calc = KNNCalculator(model, **QUIET)
    return atoms


@pytest.fixture
def ammonium(model) -> Atoms:
    corners = [[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    atoms = Atoms("NH4", 0.6 * np.array(corners))
    atoms.rattle(0.02, seed=3)
    atoms.info["charge"] = 1
    atoms.calc = KNNCalculator(model, **QUIET)
    return atoms


@pytest.fixture
def minimum(ammonium) -> float:
    """Energy of ammonium relaxed by ASE, eV."""
    atoms = ammonium.copy()
    atoms.calc = ammonium.calc
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=60)
    return float(atoms.get_potential_energy())


# --------------------------------------------------------------------------- i-PI's protocol


def _name() -> str:
    return f"knncalc-{os.getpid()}-{threading.get_ident()}"


def test_driver_serves_one_host_after_the_other(ammonium, model) -> None:
    """ASE's server of i-PI's protocol; the charge, of which it says nothing, is the driver's."""
    expected = ammonium.get_potential_energy()
    forces = ammonium.get_forces()
    name, served = _name(), []
    copy = ammonium.copy()
    calculator = KNNCalculator(model, **QUIET)
    driver = threading.Thread(
        target=lambda: served.append(drive(copy, calculator, unixsocket=name, wait=5.0, keep=True))
    )
    driver.start()
    for _ in range(2):
        bare = Atoms(ammonium.numbers, ammonium.positions)
        with SocketIOCalculator(unixsocket=name, timeout=60) as host:
            bare.calc = host
            assert bare.get_potential_energy() == pytest.approx(expected, abs=1e-6)
            np.testing.assert_allclose(bare.get_forces(), forces, atol=1e-6)
    driver.join(90)
    assert not driver.is_alive()
    assert served == [2]
    with pytest.raises(SettingsError, match="no host listens"):
        drive(copy, calculator, unixsocket=name, wait=0.0)


def test_driver_ends_at_a_threshold(water, model) -> None:
    name, ended = _name(), []
    strict = KNNCalculator(model, on_novelty="raise", std_threshold=1e-6)

    def run() -> None:
        try:
            drive(water.copy(), strict, unixsocket=name, wait=20.0)
        except NoveltyError as e:
            ended.append(str(e))

    with SocketIOCalculator(unixsocket=name, timeout=60) as host:
        driver = threading.Thread(target=run, daemon=True)
        driver.start()
        twin = water.copy()
        twin.calc = host
        with pytest.raises((SocketClosed, OSError)):  # the host sees its driver gone
            twin.get_potential_energy()
        driver.join(60)
    assert "std_threshold" in ended[0]


IPI = """
<simulation verbosity='low'>
  <output prefix='run'><properties stride='1' filename='out'>
    [ step, potential{electronvolt}, kinetic_md{electronvolt} ] </properties></output>
  <total_steps>3</total_steps>
  <prng><seed>1</seed></prng>
  <ffsocket name='knncalc' mode='unix' pbc='False'><address>ADDRESS</address></ffsocket>
  <system>
    <initialize nbeads='1'><file mode='xyz' units='angstrom'>start.xyz</file>
      <velocities mode='thermal' units='kelvin'> 50 </velocities></initialize>
    <forces><force forcefield='knncalc'></force></forces>
    <motion mode='dynamics'><dynamics mode='nve'>
      <timestep units='femtosecond'> 0.5 </timestep></dynamics></motion>
  </system>
</simulation>
"""


def test_ipi_itself(ammonium, tmp_path) -> None:
    pytest.importorskip("ipi", reason="i-PI is not installed (pip install ipi)")
    program = shutil.which(
        "i-pi", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    )
    if program is None:
        pytest.skip("the program i-pi is not on the PATH")
    name = _name()
    (tmp_path / "input.xml").write_text(IPI.replace("ADDRESS", name))
    start = Atoms(ammonium.numbers, ammonium.positions, cell=[30, 30, 30])
    lines = [
        str(len(start)),
        "# CELL(abcABC): 30 30 30 90 90 90 positions{angstrom} cell{angstrom}",
    ]
    lines += [
        f"{s} {x:.9f} {y:.9f} {z:.9f}"
        for s, (x, y, z) in zip(start.symbols, start.positions, strict=True)
    ]
    (tmp_path / "start.xyz").write_text("\n".join(lines) + "\n")
    with open(tmp_path / "log", "w") as log:
        host = subprocess.Popen(
            [sys.executable, program, "input.xml"], cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        drive(ammonium.copy(), ammonium.calc, unixsocket=name, wait=120.0)
        assert host.wait(120) == 0, (tmp_path / "log").read_text()
    finally:
        host.kill()
    rows = np.loadtxt(tmp_path / "run.out")
    assert len(rows) == 4
    # i-PI's Hartree is another one in the eighth digit.
    assert rows[0, 1] == pytest.approx(ammonium.get_potential_energy(), abs=1e-3)
    total = rows[:, 1] + rows[:, 2]
    assert np.ptp(total) < 0.02  # eV: NVE


# ------------------------------------------------------------------------------------- OpenMM


def test_openmm(ammonium) -> None:
    openmm = pytest.importorskip("openmm", reason="OpenMM is not installed (pip install openmm)")
    system = openmm.System()
    system.addParticle(0.0)  # a particle that the model knows nothing of
    for mass in ammonium.get_masses():
        system.addParticle(mass)
    system.addForce(openmm_force(ammonium, subset=[1, 2, 3, 4, 5]))
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(np.vstack([[5.0, 5.0, 5.0], ammonium.positions / 10]))
    state = context.getState(getEnergy=True, getForces=True)
    energy = state.getPotentialEnergy()._value * kJ / mol
    assert energy == pytest.approx(ammonium.get_potential_energy(), abs=1e-6)
    forces = state.getForces(asNumpy=True)._value[1:] * kJ / mol / nm
    np.testing.assert_allclose(forces, ammonium.get_forces(), atol=1e-6)
    assert not state.getForces(asNumpy=True)._value[0].any()
    integrator.step(2)
    assert ammonium.calc.results["energy_std"] > 0
    with pytest.raises(SettingsError, match="no calculator"):
        openmm_force(ammonium.copy())
    with pytest.raises(SettingsError, match="subset has 2 particles for 5 atoms"):
        openmm_force(ammonium, subset=[0, 1])


# --------------------------------------------------------------- programs with an ASE engine


def test_geometric(ammonium, minimum, tmp_path, monkeypatch) -> None:
    pytest.importorskip("geometric", reason="geomeTRIC is not installed (pip install geometric)")
    from geometric.ase_engine import EngineASE
    from geometric.molecule import Molecule
    from geometric.optimize import run_optimizer

    monkeypatch.chdir(tmp_path)
    write("start.xyz", ammonium, format="xyz", comment="")
    engine = EngineASE(Molecule("start.xyz"), ammonium.calc)
    engine.ase_atoms.info["charge"] = 1
    found = run_optimizer(customengine=engine, input="start.xyz", qccnv=True)
    energy = found.qm_energies[-1] * Hartree
    assert energy == pytest.approx(minimum, abs=1e-3)


def test_sella(ammonium, minimum) -> None:
    pytest.importorskip("sella", reason="sella is not installed (pip install sella)")
    from sella import Sella

    Sella(ammonium, order=0, internal=True, logfile=None).run(fmax=0.01, steps=30)
    assert ammonium.get_potential_energy() == pytest.approx(minimum, abs=2e-3)


def test_pysisyphus(ammonium, minimum, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # it writes logs from its import on
    pytest.importorskip("pysisyphus", reason="pysisyphus is not installed (pip install pysisyphus)")
    from pysisyphus.calculators.Calculator import Calculator
    from pysisyphus.Geometry import Geometry
    from pysisyphus.optimizers.RFOptimizer import RFOptimizer

    class Corrected(Calculator):
        def get_forces(self, atoms, coords, **kwargs):
            here = Atoms(
                [a.title() for a in atoms], np.reshape(coords, (-1, 3)) * Bohr, info={"charge": 1}
            )
            forces = ammonium.calc.get_property("forces", here) * Bohr / Hartree
            energy = ammonium.calc.get_property("energy", here) / Hartree
            return {"energy": energy, "forces": forces.ravel()}

        get_energy = get_forces

    places = ammonium.positions.ravel() / Bohr
    geometry = Geometry(list(ammonium.symbols), places, coord_type="redund")
    geometry.set_calculator(Corrected())
    RFOptimizer(geometry, thresh="gau", max_cycles=30).run()
    assert geometry.energy * Hartree == pytest.approx(minimum, abs=1e-3)


def test_quacc(ammonium, minimum, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("QUACC_RESULTS_DIR", str(tmp_path))
    monkeypatch.setenv("QUACC_SCRATCH_DIR", str(tmp_path))
    pytest.importorskip("quacc", reason="quacc is not installed (pip install quacc)")
    from quacc.runners.ase import Runner

    dynamics = Runner(ammonium, ammonium.calc).run_opt(relax_cell=False, fmax=0.01)
    atoms = dynamics.atoms if hasattr(dynamics, "atoms") else read(dynamics.trajectory.filename)
    assert atoms.get_potential_energy() == pytest.approx(minimum, abs=2e-3)
    assert atoms.info["charge"] == 1


def test_charges_through_pymatgen(ammonium) -> None:
    pytest.importorskip("pymatgen", reason="pymatgen is not installed (pip install pymatgen)")
    from pymatgen.core import Molecule
    from pymatgen.io.ase import AseAtomsAdaptor

    cation = Molecule([str(s) for s in ammonium.symbols], ammonium.positions, charge=1)
    atoms = AseAtomsAdaptor.get_atoms(cation)
    assert ammonium.calc.get_property("energy", atoms) == pytest.approx(
        ammonium.get_potential_energy(), abs=1e-9
    )
    back = AseAtomsAdaptor.get_molecule(atoms)
    assert back.charge == 1
