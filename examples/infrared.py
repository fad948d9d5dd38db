"""Infrared spectrum of the water dimer: corrected wavenumbers, intensities by GFN1-xTB's dipole."""

from tempfile import TemporaryDirectory

from ase.build import molecule
from ase.optimize import BFGS
from ase.vibrations import Infrared

from ase_knncalc import KNNCalculator

dimer = molecule("H2O")
dimer += molecule("H2O")
dimer.positions[3:] += [0.0, 0.3, 2.9]
# Intensities are slopes of the dipole; the shipped model has learned dipoles at minima alone.
dimer.calc = KNNCalculator(dipole="baseline")
BFGS(dimer, logfile=None).run(fmax=0.01, steps=200)

with TemporaryDirectory() as folder:
    infrared = Infrared(dimer, name=f"{folder}/ir")
    infrared.run()
    infrared.read()
    infrared.summary()
