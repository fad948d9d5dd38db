"""Reference labels: energies and forces of the high level, one structure at a time.

A labeler is anything with ``method``, ``provides_forces`` and ``label(atoms)``:

>>> from ase.build import molecule
>>> from ase_knncalc.labelers import PySCFLabeler
>>> labeler = PySCFLabeler(basis="sto-3g", grid_level=1)
>>> label = labeler.label(molecule("H2O"))        # doctest: +SKIP
>>> label.energy, label.forces.shape              # doctest: +SKIP
(-2049.26..., (3, 3))

:class:`PySCFLabeler` computes ωB97X-D/6-31++G(d,p) here, :class:`ASELabeler` asks any ASE
calculator (ORCA, Gaussian, Psi4, NWChem), :class:`LookupLabeler` reads labels that are known.
:func:`label_frames` runs a labeler over many structures in processes of its own, so that a crash
or a hang costs one structure and not the run.
"""

from __future__ import annotations

from ase_knncalc.labelers.base import Label, Labeler
from ase_knncalc.labelers.calculators import ASELabeler
from ase_knncalc.labelers.dft import PySCFLabeler
from ase_knncalc.labelers.dispersion import chai_head_gordon_dispersion
from ase_knncalc.labelers.lookup import LookupLabeler
from ase_knncalc.labelers.running import LabelResult, label_frames

__all__ = [
    "ASELabeler",
    "Label",
    "LabelResult",
    "Labeler",
    "LookupLabeler",
    "PySCFLabeler",
    "chai_head_gordon_dispersion",
    "label_frames",
]
