"""Density functional theory with PySCF.

How near to Gaussian
--------------------
Against published Gaussian energies at this level (eV from hartree with CODATA 2014, as ASE has it):
one to three waters within 5e-6 Ha each, sulfuric acid 5.8e-5 Ha lower here, and about 4e-5 Ha an
acid lower in its clusters. What remains is of the size that another
integration grid makes (not proven). Tried and ruled out: the
ten digits of Gaussian's 6-31G for S (1e-7 Ha), dispersion parameters (radii 1 % larger mend the
monomer but spoil binding energies of water by 4e-5 Ha), and the grid here (converged to 4e-6 Ha at
level 3). A grid like Gaussian's FineGrid, 75 Euler–Maclaurin shells with 302 angular points, is
itself off by −64 to +54 µHa for each S, depending on its unpublished radius, and scatters by
±20 µHa in the binding energy of an acid with a water. It is not worth imitating:
``element_shifts={"S": 0.0012}`` brings labels to within 2e-5 Ha an acid of Gaussian's, for training
sets that mix both.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any, cast

import numpy as np
from annotated_types import Ge, Le
from ase import Atoms, units

from ase_knncalc._lib.arguments import Count, Positive, checked
from ase_knncalc._lib.arrays import FloatArray
from ase_knncalc.errors import KNNCalcError, LabelerError, SettingsError
from ase_knncalc.labelers.base import Label, finite_label
from ase_knncalc.labelers.dispersion import chai_head_gordon_dispersion
from ase_knncalc.structure import check_structure, resolve_charge, structure_label

_LIBXC_WB97XD = "HYB_GGA_XC_WB97X_D"
AUXBASIS = "def2-universal-jkfit"
# Options that decide on time and on success, not on what a label is.
RESOURCES = ("max_cycle", "time_limit", "threads", "max_memory")


class PySCFLabeler:
    """Density functional theory with PySCF; by default ωB97X-D/6-31++G(d,p).

    The SCF starts on a coarse grid and ends on the asked-for one. Where DIIS does not converge, it
    is repeated from the last density with a level shift of 0.3 Ha, then with the second-order
    (Newton) solver, and only then given up. A multiplicity above one is computed unrestricted.
    Forces hold the response of the grid: they are the exact gradient of the energy.

    Parameters
    ----------
    xc : str
        Functional. PySCF knows ωB97X-D by name but refuses it for want of its dispersion; here it
        is libxc's functional plus :func:`chai_head_gordon_dispersion`. Others as PySCF has them.
    basis : str
        Basis set. The 6-31G, 3-21G, 4-31G and 6-21G families have Cartesian d functions, as in
        Gaussian, all others spherical ones.
    conv_tol : float
        Energy change in Ha at which the SCF stops (orbital gradient: 1e-5).
    grid_level : int
        PySCF's grid, 0 to 9. Level 3 is (50, 302) for H, (75, 302) for O and (80, 434) for S.
    max_cycle : int
        SCF cycles in each attempt.
    density_fit : bool
        Density fitting of Coulomb and exchange: faster, no longer the energies of Gaussian.
    auxbasis : str
        Auxiliary basis set of density fitting, as PySCF names it. The default is off by 0.00013
        eV/Å in the mean (0.0004 at most) for methylamine at 1000 K, and by 0.7 meV; PySCF's own
        choice for 6-31G, ``"aug-cc-pvdz-jkfit"``, by twice as much in forces.
    time_limit : float or None
        Seconds, looked at after each SCF cycle and before the gradient. A hard limit, one that also
        ends a hanging calculation, is ``label_frames(time_limit=…)``.
    forces : bool
        Whether to compute forces too (they double the time).
    threads : int or None
        OpenMP threads; None leaves it to the environment.
    max_memory : float
        MB that PySCF may use. The long-range integrals are kept where they fit beside the others.
    element_shifts : mapping of str to float, or None
        eV to add for each atom of an element: the scale of other labels (see the module).

    Raises
    ------
    SettingsError
        For options out of range.
    LabelerError
        From ``label``: PySCF missing, no convergence, time limit, anything PySCF raises.
    """

    def __init__(
        self,
        xc: str = "wB97X-D",
        basis: str = "6-31++G(d,p)",
        *,
        conv_tol: float = 1e-9,
        grid_level: int = 3,
        max_cycle: int = 100,
        density_fit: bool = False,
        auxbasis: str = AUXBASIS,
        time_limit: float | None = None,
        forces: bool = True,
        threads: int | None = None,
        max_memory: float = 4000.0,
        element_shifts: Mapping[str, float] | None = None,
    ) -> None:
        self.xc = checked("xc", xc, str)
        self.basis = checked("basis", basis, str)
        self.conv_tol = checked("conv_tol", conv_tol, Positive)
        self.grid_level = checked("grid_level", grid_level, Annotated[int, Ge(0), Le(9)])
        self.max_cycle = checked("max_cycle", max_cycle, Count)
        self.density_fit = checked("density_fit", density_fit, bool)
        self.auxbasis = checked("auxbasis", auxbasis, str)
        self.time_limit = checked("time_limit", time_limit, Positive | None)
        self.threads = checked("threads", threads, Count | None)
        self.max_memory = checked("max_memory", max_memory, Positive)
        shifts = dict(element_shifts or {})
        self.element_shifts = checked("element_shifts", shifts, dict[str, float])
        self.provides_forces = checked("forces", forces, bool)
        self.method = f"{xc}/{basis}"
        if density_fit:
            self.method += f" (density fitting: {auxbasis})"
        elif auxbasis != AUXBASIS:
            raise SettingsError(
                f"auxbasis={auxbasis!r} without density fitting, which alone uses it: pass "
                "density_fit=True, too, or leave it out"
            )
        if self.element_shifts:
            shown = ", ".join(f"{k} {v:+g} eV" for k, v in sorted(self.element_shifts.items()))
            self.method += f" (shifted: {shown})"

    def check(self) -> None:
        """Make sure, without a calculation, that PySCF is there and knows functional and basis.

        Raises
        ------
        LabelerError
            If PySCF is not installed.
        SettingsError
            If it knows no such functional or basis set.
        """
        try:
            from pyscf import dft, gto
        except ImportError as e:
            raise _missing() from e
        try:
            dft.libxc.parse_xc(_LIBXC_WB97XD if _is_wb97xd(self.xc) else self.xc)
        except Exception as e:
            raise SettingsError(f"xc={self.xc!r}: PySCF knows no such functional ({e})") from e
        for option in ("basis", "auxbasis"):
            name = getattr(self, option)
            try:
                gto.basis.load(name, "H")
            except Exception as e:
                raise SettingsError(
                    f"{option}={name!r}: PySCF knows no such basis set ({e})"
                ) from e

    def label(self, atoms: Atoms) -> Label:
        """Energy and forces of a molecule or cluster; charge and multiplicity from its frame."""
        start = time.perf_counter()
        check_structure(atoms)
        charge, multiplicity = resolve_charge(atoms)
        try:
            from pyscf import lib
        except ImportError as e:
            raise _missing() from e
        deadline = None if self.time_limit is None else start + self.time_limit
        try:
            with lib.with_omp_threads(self.threads):
                energy, forces = self._compute(atoms, charge, multiplicity, deadline)
        except KNNCalcError:
            raise
        # PySCF raises whatever its layers raise (KeyError for a basis, LinAlgError, …).
        except Exception as e:
            raise LabelerError(
                f"PySCF failed for {structure_label(atoms)} (charge {charge}, multiplicity "
                f"{multiplicity}) with {self.method}: {type(e).__name__}: {e}"
            ) from e
        return finite_label(atoms, energy, forces, start, self.method)

    def _compute(
        self, atoms: Atoms, charge: int, multiplicity: int, deadline: float | None
    ) -> tuple[float, FloatArray | None]:
        from pyscf import gto

        # Dispersion first: an element that it does not know should not cost an SCF.
        functional, dispersion = self.xc, 0.0
        gradient: FloatArray = np.zeros((len(atoms), 3))
        if _is_wb97xd(self.xc):
            functional = _LIBXC_WB97XD
            dispersion, gradient = chai_head_gordon_dispersion(atoms.numbers, atoms.positions)
        mol = gto.M(
            atom=list(zip(atoms.symbols, atoms.positions.tolist(), strict=True)),
            unit="Angstrom",
            basis=self.basis,
            cart=re.match(r"(3-21|4-31|6-21|6-31)\+*g", self.basis.lower()) is not None,
            charge=charge,
            spin=multiplicity - 1,
            verbose=0,
            max_memory=self.max_memory,
        )
        mf = self._converge(mol, functional, deadline, structure_label(atoms))
        shift = sum(self.element_shifts.get(symbol, 0.0) for symbol in atoms.symbols)
        energy = float(mf.e_tot) * units.Hartree + dispersion + shift
        if not self.provides_forces:
            return energy, None
        _check_deadline(deadline, "after the SCF, before the gradient")
        calculation = mf.nuc_grad_method()
        calculation.grid_response = True
        scf_gradient = np.asarray(calculation.kernel()) * (units.Hartree / units.Bohr)
        return energy, -(scf_gradient + gradient)

    def _converge(self, mol: Any, functional: str, deadline: float | None, name: str) -> Any:
        from pyscf import dft

        mf = (dft.RKS if mol.spin == 0 else dft.UKS)(mol, xc=functional)
        if self.density_fit:
            mf = mf.density_fit(auxbasis=self.auxbasis)
        else:
            _keep_long_range_integrals(mf)
        mf.max_cycle = self.max_cycle
        mf.callback = lambda _: _check_deadline(deadline, "during the SCF")
        density = None
        if self.grid_level > 1:
            # Half of the SCF's time is the grid, and the first cycles do not need a good one.
            mf.grids.level, mf.conv_tol = 1, 1e-6
            mf.kernel()
            density = mf.make_rdm1()
            mf.grids = dft.gen_grid.Grids(mol)
        mf.grids.level, mf.conv_tol, mf.conv_tol_grad = self.grid_level, self.conv_tol, 1e-5
        mf.kernel(dm0=density)
        if not mf.converged:
            mf.level_shift = 0.3
            mf.kernel(dm0=mf.make_rdm1())
            mf.level_shift = 0.0
        if not mf.converged:
            coefficients, occupations = mf.mo_coeff, mf.mo_occ
            mf = mf.newton()
            mf.kernel(coefficients, occupations)
        if not mf.converged:
            raise LabelerError(
                f"the SCF of {name} (charge {mol.charge}, multiplicity {mol.spin + 1}) did not "
                f"converge in {self.max_cycle} cycles of DIIS, of DIIS with a level shift, and of "
                "the second-order solver: check geometry and charge, or raise max_cycle"
            )
        # Converged Newton objects have gradients only through the mean-field class below them.
        return mf.undo_soscf() if hasattr(mf, "undo_soscf") else mf


def _is_wb97xd(name: str) -> bool:
    return re.sub(r"[-_\s]", "", name.lower()).replace("ω", "w") == "wb97xd"


def _missing() -> LabelerError:
    return LabelerError(
        'PySCF is not installed: pip install "ase_knncalc[label]", or use another labeler'
    )


def _check_deadline(deadline: float | None, where: str) -> None:
    if deadline is not None and time.perf_counter() > deadline:
        raise LabelerError(f"time limit reached {where}: raise time_limit or drop the structure")


def _keep_long_range_integrals(mf: Any) -> None:
    """Let a range-separated functional keep its erf(ωr)/r integrals in memory.

    PySCF keeps the full Coulomb integrals but computes these anew in each cycle, which is most of
    the SCF's time for small clusters.
    """
    from pyscf import lib, scf

    omega = mf._numint.rsh_and_hybrid_coeff(mf.xc, spin=mf.mol.spin)[0]
    megabytes = mf.mol.nao_nr() ** 4 / 1e6
    if not omega or 2 * megabytes + lib.current_memory()[0] > 0.9 * mf.max_memory:
        return
    compute, kept = mf.get_k, {}

    def get_k(
        mol: Any = None, dm: Any = None, hermi: int = 1, omega: float | None = None
    ) -> FloatArray:
        if not omega or (mol is not None and mol is not mf.mol):
            return cast(FloatArray, compute(mol, dm, hermi, omega))
        if omega not in kept:
            with mf.mol.with_range_coulomb(omega):
                kept[omega] = mf.mol.intor("int2e", aosym="s8")
        density = mf.make_rdm1() if dm is None else dm
        return cast(FloatArray, scf.hf.dot_eri_dm(kept[omega], density, hermi, with_j=False)[1])

    mf.get_k = get_k
