"""Descriptors: from numbers and positions to arrays.

A descriptor gives one row of features per atom; their sum over atoms is the *global* descriptor of
the structure. The default is FCHL19 [1]_ as qmllib computes it.

References
----------
.. [1] A. S. Christensen, L. A. Bratholm, F. A. Faber, O. A. von Lilienfeld,
   *FCHL revisited: Faster and more accurate quantum machine learning*,
   J. Chem. Phys. 152, 044107 (2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from ase_knncalc.errors import SettingsError, StructureError, UnknownElementError
from ase_knncalc.rowstore import DiskRows, Rows
from ase_knncalc.settingcheck import is_integer, is_real

FloatArray = np.ndarray
IntArray = np.ndarray


class Descriptor(Protocol):
    """What the model needs of a descriptor: settings that can be stored, rows, and derivatives."""

    kind: ClassVar[str]
    differentiable: ClassVar[bool]

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the descriptor distinguishes, ascending."""

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows, shape (n_atoms, n_features)."""

    def local_with_gradient(
        self, numbers: IntArray, positions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Rows and their derivatives, shape (n_atoms, n_features, n_atoms, 3), 1/Å."""

    def blocks(self) -> dict[str, slice]:
        """Parts of a row by what they describe, in order; together they are the whole row."""

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings."""


@dataclass(frozen=True)
class FCHL19:
    """FCHL19 atomic descriptor (two- and three-body histograms, by element pairs).

    Parameters
    ----------
    elements
        Atomic numbers the descriptor distinguishes, in ascending order.
    rcut, acut
        Cutoff of the two- and three-body terms (Å).
    n_rs2, n_rs3
        Number of radial basis functions of the two- and three-body terms.
    eta2, eta3
        Widths of the radial Gaussians (1/Å²).
    zeta
        Width of the angular Gaussian.
    two_body_decay, three_body_decay, three_body_weight
        Exponents of the power-law damping and weight of the three-body part.
    """

    kind: ClassVar[str] = "fchl19"
    differentiable: ClassVar[bool] = True

    elements: tuple[int, ...]
    rcut: float = 8.0
    acut: float = 8.0
    n_rs2: int = 24
    n_rs3: int = 20
    eta2: float = 0.32
    eta3: float = 2.7
    zeta: float = float(np.pi)
    two_body_decay: float = 1.8
    three_body_decay: float = 0.57
    three_body_weight: float = 13.4

    def __post_init__(self) -> None:
        _check_settings(self)

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        n = len(self.elements)
        return n * self.n_rs2 + n * (n + 1) * self.n_rs3

    def blocks(self) -> dict[str, slice]:
        """Radial histograms by the other atom's element, angular ones by both others'."""
        names = [chemical_symbols[z] for z in self.elements]
        lengths = {f"pairs with {a}": self.n_rs2 for a in names}
        lengths |= {
            f"triples with {a}, {b}": 2 * self.n_rs3 for i, a in enumerate(names) for b in names[i:]
        }
        stops = np.cumsum(list(lengths.values())).tolist()
        return {
            name: slice(stop - length, stop)
            for (name, length), stop in zip(lengths.items(), stops, strict=True)
        }

    def _options(self) -> dict[str, Any]:
        return {
            "elements": list(self.elements),
            "nRs2": self.n_rs2,
            "nRs3": self.n_rs3,
            "nFourier": 1,
            "eta2": self.eta2,
            "eta3": self.eta3,
            "zeta": self.zeta,
            "rcut": self.rcut,
            "acut": self.acut,
            "two_body_decay": self.two_body_decay,
            "three_body_decay": self.three_body_decay,
            "three_body_weight": self.three_body_weight,
        }

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms.

        Parameters
        ----------
        numbers
            Atomic numbers, shape (n_atoms,).
        positions
            Cartesian coordinates in Å, shape (n_atoms, 3).

        Returns
        -------
        ndarray of float64, shape (n_atoms, n_features)

        Raises
        ------
        StructureError, UnknownElementError
            See :func:`require_atoms`.
        """
        from qmllib.representations import generate_fchl19

        atoms = require_atoms(numbers, positions, self.elements)
        return np.asarray(generate_fchl19(*atoms, **self._options()))

    def local_with_gradient(
        self, numbers: IntArray, positions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Rows as from :meth:`local`, and their derivatives.

        Returns
        -------
        rows : ndarray, shape (n_atoms, n_features)
        gradient : ndarray, shape (n_atoms, n_features, n_atoms, 3)
            ``gradient[i, p, a, c]`` is d row[i, p] / d position[a, c] in 1/Å.
        """
        from qmllib.representations import generate_fchl19

        atoms = require_atoms(numbers, positions, self.elements)
        rows, gradient = generate_fchl19(*atoms, gradients=True, **self._options())
        return np.asarray(rows), np.asarray(gradient)

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings, with the kind of descriptor."""
        return {"kind": self.kind, **asdict(self), "elements": list(self.elements)}


@dataclass(frozen=True)
class SLATM:
    """Atomic SLATM: spectra of two- and three-body potentials [1]_, from qmllib; no derivatives.

    Parameters
    ----------
    elements
        Atomic numbers, ascending.
    rcut
        Cutoff, Å.
    sigma
        Width of the smearing of distances (Å) and angles (rad).
    grid
        Step of distances (Å) and angles (rad).

    References
    ----------
    .. [1] B. Huang, O. A. von Lilienfeld, Nat. Chem. 12, 945 (2020).
    """

    kind: ClassVar[str] = "slatm"
    differentiable: ClassVar[bool] = False

    elements: tuple[int, ...]
    rcut: float = 4.8
    sigma: float = 0.05
    grid: float = 0.1

    def __post_init__(self) -> None:
        _check_settings(self)

    def _types(self) -> list[list[int]]:
        from qmllib.representations import get_slatm_mbtypes

        # Three atoms of each element hold every pair and triple that there can be.
        types = get_slatm_mbtypes([np.repeat(self.elements, 3)])
        return sorted(([int(z) for z in t] for t in types), key=lambda t: (len(t), t))

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        # Counted, not computed: what a file asks for may be too long to compute.
        n = len(self.elements)
        distances = int((self.rcut - 0.1) / self.grid) + 1
        angles = int((np.pi + 2 * np.deg2rad(20.0)) / self.grid) + 1
        return n + n * (n + 1) // 2 * distances + n * n * (n + 1) // 2 * angles

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms, shape (n_atoms, n_features); see :meth:`FCHL19.local`."""
        from qmllib.representations import generate_slatm

        rows = generate_slatm(
            *require_atoms(numbers, positions, self.elements),
            self._types(),
            local=True,
            rcut=self.rcut,
            sigmas=[self.sigma, self.sigma],
            dgrids=[self.grid, self.grid],
        )
        return np.array(rows, dtype=np.float64)

    def local_with_gradient(
        self, numbers: IntArray, positions: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Raise :class:`SettingsError`: there are no derivatives."""
        raise SettingsError("SLATM has no derivatives, so no forces: use the descriptor fchl19")

    def blocks(self) -> dict[str, slice]:
        """The whole row: its parts are not told apart."""
        return {"SLATM": slice(0, self.n_features)}

    def to_dict(self) -> dict[str, Any]:
        """Settings as plain numbers and strings, with the kind of descriptor."""
        return {"kind": self.kind, **asdict(self), "elements": list(self.elements)}


# Lengths in Å, widths, exponents and weights beyond these have no meaning, and overflow.
_SMALLEST, _LARGEST = 1e-6, 1e4
_MOST_RADIAL = 1000


def _check_settings(settings: FCHL19 | SLATM) -> None:
    numbers = list(settings.elements)
    if not numbers or any(not is_integer(z) or not 1 <= z < len(chemical_symbols) for z in numbers):
        raise SettingsError(
            f"elements must be atomic numbers from 1 to {len(chemical_symbols) - 1}, got {numbers}"
        )
    object.__setattr__(settings, "elements", tuple(sorted({int(z) for z in numbers})))
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name == "elements":
            continue
        if not is_real(value) or not value > 0:
            raise SettingsError(f"{settings.kind}: {f.name} must be positive, got {value!r}")
        if f.type == "int" and not (is_integer(value) and value <= _MOST_RADIAL):
            raise SettingsError(
                f"{settings.kind}: {f.name} must be a whole number of at most {_MOST_RADIAL}, "
                f"got {value!r}"
            )
        if not _SMALLEST <= value <= _LARGEST:
            raise SettingsError(
                f"{settings.kind}: {f.name} must lie between {_SMALLEST:g} and {_LARGEST:g}, "
                f"got {value!r}"
            )
        # NumPy's numbers have no place in a file's JSON.
        object.__setattr__(settings, f.name, int(value) if f.type == "int" else float(value))


DESCRIPTORS: dict[str, type[FCHL19] | type[SLATM]] = {FCHL19.kind: FCHL19, SLATM.kind: SLATM}


def descriptor_from_dict(settings: dict[str, Any]) -> Descriptor:
    """Rebuild a descriptor from :meth:`FCHL19.to_dict`.

    Raises
    ------
    SettingsError
        If the kind or an option is unknown.
    """
    options = dict(settings)
    kind = options.pop("kind", None)
    if kind not in DESCRIPTORS:
        raise SettingsError(f"unknown descriptor {kind!r}; known are {sorted(DESCRIPTORS)}")
    try:
        return DESCRIPTORS[kind](**{**options, "elements": tuple(options["elements"])})
    except (TypeError, KeyError) as e:
        raise SettingsError(f"descriptor {kind!r}: {e}") from e


def require_atoms(
    numbers: IntArray, positions: FloatArray, elements: Sequence[int]
) -> tuple[IntArray, FloatArray]:
    """Numbers and positions as arrays that qmllib can read without leaving them.

    Raises
    ------
    StructureError
        If they are no atoms: of other shapes than (n_atoms,) and (n_atoms, 3), or no numbers.
    UnknownElementError
        If an element is not among ``elements``.
    """
    try:
        numbers, positions = np.asarray(numbers), np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError):
        numbers, positions = np.zeros(0), np.zeros(0)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or positions.shape != (len(numbers), 3):
        raise StructureError(
            "atoms are whole numbers of shape (n_atoms,) with positions of shape (n_atoms, 3), "
            f"got {numbers.dtype} {numbers.shape} and {positions.shape}"
        )
    require_elements(numbers, elements)
    return numbers.astype(np.int32), np.ascontiguousarray(positions)


def require_elements(numbers: IntArray, elements: Sequence[int]) -> None:
    """Raise :class:`UnknownElementError` unless all numbers are among ``elements``."""
    unknown = sorted(set(np.asarray(numbers).tolist()) - set(elements))
    if unknown:
        raise UnknownElementError(
            f"element(s) {', '.join(chemical_symbols[z] for z in unknown)} not covered: "
            f"the model knows {', '.join(chemical_symbols[z] for z in elements)}"
        )


def parse_elements(symbols: Sequence[str | int]) -> tuple[int, ...]:
    """Atomic numbers of symbols or numbers, ascending and without repeats."""
    try:
        return tuple(sorted({s if isinstance(s, int) else atomic_numbers[s] for s in symbols}))
    except KeyError as e:
        raise SettingsError(f"{e.args[0]!r} is not an element symbol") from e


@dataclass(frozen=True)
class FeatureBatch:
    """Descriptors of several structures, all atoms stacked.

    Attributes
    ----------
    numbers : ndarray of int, shape (n_atoms_total,)
    local : ndarray or DiskRows, shape (n_atoms_total, n_features)
        In memory, or on disk where they are too many for that.
    starts : ndarray of int, shape (n_structures + 1,)
        Structure ``s`` owns the atoms ``starts[s]:starts[s + 1]``.
    charges : ndarray of int, shape (n_structures,)
    """

    numbers: IntArray
    local: Rows
    starts: IntArray
    charges: IntArray
    _summed: list[FloatArray] = field(default_factory=list, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.charges)

    @property
    def sizes(self) -> IntArray:
        """Number of atoms of each structure, shape (n_structures,)."""
        return np.diff(self.starts)

    def summed(self) -> FloatArray:
        """Global descriptors: rows summed over atoms in float64, (n_structures, n_features)."""
        if not self._summed:
            summed = np.empty((len(self), self.local.shape[1]))
            for rows, part in self.batches():
                summed[rows] = part.sum_atoms(part.local)
            self._summed.append(summed)
        return self._summed[0]

    def atoms_of(self, structures: slice) -> slice:
        """Where the atoms of consecutive structures are among all."""
        return slice(int(self.starts[structures.start]), int(self.starts[structures.stop]))

    def sum_atoms(self, values: Rows) -> FloatArray:
        """Sum per-atom values (n_atoms_total, …) over each structure, in float64."""
        return np.add.reduceat(values[:], self.starts[:-1], axis=0, dtype=np.float64)

    def counts(self, elements: Sequence[int]) -> FloatArray:
        """Atoms of each element, shape (n_structures, n_elements)."""
        return self.sum_atoms(
            (self.numbers[:, None] == np.asarray(elements)[None, :]).astype(np.float64)
        )

    @staticmethod
    def concatenate(parts: Sequence[FeatureBatch]) -> FeatureBatch:
        """Several batches as one in memory, in their order."""
        sizes = np.concatenate([p.sizes for p in parts])
        return FeatureBatch(
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.local[:] for p in parts]),
            np.concatenate([[0], np.cumsum(sizes)]),
            np.concatenate([p.charges for p in parts]),
        )

    def select(self, indices: Sequence[int] | IntArray) -> FeatureBatch:
        """The structures of the given indices, in that order."""
        indices = np.asarray(indices, dtype=np.intp)
        sizes = self.sizes[indices]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        atoms = np.repeat(self.starts[indices] - starts[:-1], sizes) + np.arange(starts[-1])
        local = self.local.take(atoms) if isinstance(self.local, DiskRows) else self.local[atoms]
        selected = FeatureBatch(self.numbers[atoms], local, starts, self.charges[indices])
        selected._summed.extend(summed[indices] for summed in self._summed)
        return selected

    def batches(self, max_atoms: int = 20_000) -> Iterator[tuple[slice, FeatureBatch]]:
        """Cut into consecutive parts of at most ``max_atoms`` atoms (at least one structure)."""
        first = 0
        while first < len(self):
            limit = self.starts[first] + max_atoms
            last = max(first + 1, int(np.searchsorted(self.starts, limit, side="right")) - 1)
            a, b = self.starts[first], self.starts[last]
            yield (
                slice(first, last),
                FeatureBatch(
                    self.numbers[a:b],
                    self.local[a:b],
                    self.starts[first : last + 1] - a,
                    self.charges[first:last],
                ),
            )
            first = last


def featurize(
    descriptor: Descriptor,
    structures: Sequence[tuple[IntArray, FloatArray, int]],
    dtype: str = "float64",
) -> FeatureBatch:
    """Descriptors of structures given as (numbers, positions, charge).

    Parameters
    ----------
    descriptor
        Computes the rows.
    structures
        ``numbers`` (n_atoms,), ``positions`` (n_atoms, 3) in Å and total charge of each.
    dtype
        Of the stored rows; float32 halves the memory of a training set.
    """
    sizes = [len(numbers) for numbers, _, _ in structures]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.intp)])
    local = np.empty((starts[-1], descriptor.n_features), dtype=dtype)
    for s, (numbers, positions, _) in enumerate(structures):
        local[starts[s] : starts[s + 1]] = descriptor.local(numbers, positions)
    return FeatureBatch(
        np.concatenate([np.asarray(n, dtype=np.intp) for n, _, _ in structures]),
        local,
        starts,
        np.asarray([charge for _, _, charge in structures], dtype=np.intp),
    )
