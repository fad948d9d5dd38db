"""Infrared spectrum of the water dimer: corrected wavenumbers, intensities by learned dipoles."""

from tempfile import TemporaryDirectory

from ase.build import molecule
from ase.optimize import BFGS
from ase.vibrations import Infrared

from ase_knncalc import KNNCalculator

dimer = molecule("H2O")
dimer += molecule("H2O")
dimer.positions[3:] += [0.0, 0.3, 2.9]
# Intensities are slopes of the dipole; dipole="baseline" would take GFN1-xTB's.
dimer.calc = KNNCalculator()
BFGS(dimer, logfile=None).run(fmax=0.01, steps=200)

with TemporaryDirectory() as folder:
    infrared = Infrared(dimer, name=f"{folder}/ir")
    infrared.run()
    infrared.read()
    infrared.summary()
