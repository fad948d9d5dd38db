"""What a model says of itself: what it was made from, what it covers, and how well it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.formula import Formula

from ase_knncalc._lib.arrays import BoolArray, FloatArray, IntArray
from ase_knncalc.errors import ChargeError, FormulaError, SettingsError
from ase_knncalc.structure import structure_label


@dataclass(frozen=True)
class Provenance:
    """How a model came about. Where a file of old does not say, it is empty or None.

    Attributes
    ----------
    settings : dict
        Of the training (:class:`~ase_knncalc.settings.TrainingSettings`).
    trend, knn, metric : dict
        What their fits chose, and how well that did in cross-validation.
    created : str
        Date and time of the training.
    sources : list of str
        Files of the training structures.
    source_of : list of int
        Which of them each structure came from, in the order of the index; −1 for none of them.
    citations : list of str
        Of the labels.
    compositions : int or None
        How many different ones there are.
    omitted : list of dict
        Frames that were left out in training, and why
        (:class:`~ase_knncalc.data.dataset.Omission`).
    additions : list of dict
        Account of each structure that was added after training, in order.
    trained_scale : float or None
        Scale of the calibration before the additions.
    trained_structures : int or None
        How many there were before the additions.
    other : dict
        Entries that this version does not know.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    trend: dict[str, Any] = field(default_factory=dict)
    knn: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    sources: list[str] = field(default_factory=list)
    source_of: list[int] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    compositions: int | None = None
    omitted: list[dict[str, Any]] = field(default_factory=list)
    additions: list[dict[str, Any]] = field(default_factory=list)
    trained_scale: float | None = None
    trained_structures: int | None = None
    other: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        values = _values(self)
        other: dict[str, Any] = values.pop("other")
        if not self.additions:
            del values["additions"]
        return {name: value for name, value in values.items() if value is not None} | other

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """From what :meth:`to_dict` gives.

        Raises
        ------
        SettingsError
            If it is no mapping.
        """
        if not isinstance(values, Mapping):
            raise SettingsError(f"metadata: info.provenance is {values!r}, expected a mapping")
        known = {f.name for f in fields(cls)} - {"other"}
        other = {name: value for name, value in values.items() if name not in known}
        return cls(**{name: values[name] for name in known & set(values)}, other=other)

    def with_sources(self, added: Sequence[str]) -> Provenance:
        """After structures from the given sources were added, as :func:`source_table` takes them.

        The same where it was not known which file each structure came from.
        """
        if not self.source_of:
            return self
        more, places = source_table(added)
        known = [*self.sources, *(file for file in more if file not in self.sources)]
        place = [known.index(more[i]) if i >= 0 else -1 for i in places]
        return replace(self, sources=known, source_of=[*self.source_of, *place])

    def source(self, structure: int) -> str:
        """File that a structure of the index came from; empty where nobody said."""
        known = 0 <= structure < len(self.source_of)
        place = self.source_of[structure] if known else -1
        return self.sources[place] if 0 <= place < len(self.sources) else ""


def source_table(sources: Sequence[str]) -> tuple[list[str], list[int]]:
    """The files that structures came from, and which of them each did.

    Parameters
    ----------
    sources
        Of each structure in the order of the index, such as ``"clusters.extxyz.gz#17"``; empty
        where it is not known, which is -1 in the table.
    """
    files = [source.rpartition("#")[0] or source for source in sources]
    known = sorted(set(files) - {""})
    place = {file: i for i, file in enumerate(known)} | {"": -1}
    return known, [place[file] for file in files]


# What the keys of ``ModelInfo.errors`` mean, in the order in which people read them.
ERROR_NAMES = {
    "mae": "MAE, structure left out",
    "rmse": "RMSE, structure left out",
    "trend_mae": "MAE, structure left out, without k-NN term",
    "group_mae": "MAE, composition left out",
    "group_trend_mae": "MAE, composition left out, without k-NN term",
}


@dataclass(frozen=True)
class ModelInfo:
    """What a model was made from and covers; kept in the file as it is.

    Attributes
    ----------
    baseline : dict
        Method, library and settings of the baseline (:meth:`Baseline.spec`).
    reference : str
        Name of the high level.
    charges : list of int
        Total charges of the training structures.
    n_structures : int
    size_range : list of int
        Fewest and most atoms of a training structure.
    errors : dict
        Cross-validated errors in eV, by name.
    provenance : Provenance
    monomers : dict
        For each monomer ``{"numbers", "charge", "reference_energy", "baseline_energy"}``.
    states : list of [int, int]
        Total charge and multiplicity of the training structures, each pair once. Empty if nobody
        said, as in files of old: the lowest multiplicity alone is covered.
    """

    baseline: dict[str, Any]
    reference: str
    charges: list[int]
    n_structures: int
    size_range: list[int]
    errors: dict[str, float] = field(default_factory=dict)
    provenance: Provenance = field(default_factory=Provenance)
    monomers: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[list[int]] = field(default_factory=list)

    def named_errors(self) -> list[tuple[str, float]]:
        """Errors (eV) under names that people read, the plainest first."""
        order = list(ERROR_NAMES)
        return [
            (ERROR_NAMES.get(key, key), self.errors[key])
            for key in sorted(self.errors, key=lambda k: order.index(k) if k in order else 99)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return {**_values(self), "provenance": self.provenance.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """From what :meth:`to_dict` gives."""
        provenance = Provenance.from_dict(values.get("provenance", {}))
        return cls(**{**values, "provenance": provenance})

    def multiplicities(self, charge: int) -> list[int]:
        """Multiplicities of the training structures of a charge; empty if nobody said."""
        return sorted(m for q, m in self.states if q == charge)

    def require_state(self, charge: int, multiplicity: int, lowest: int) -> None:
        """Raise :class:`ChargeError` unless structures of that state were in the training.

        ``lowest`` is the lowest multiplicity at that charge, which is covered if nobody said.
        """
        if charge not in self.charges:
            raise ChargeError(
                f"total charge {charge:+d} is not covered: the model was trained on structures of "
                f"charge {', '.join(map(_signed, self.charges))}"
            )
        seen = self.multiplicities(charge)
        if multiplicity not in (seen or [lowest]):
            # The correction does not depend on it: what it gives belongs to another state.
            known = (
                f"was trained on structures of this charge with multiplicity "
                f"{', '.join(map(str, seen))}"
                if seen
                else f"covers the lowest multiplicity alone, here {lowest}"
            )
            raise ChargeError(
                f"multiplicity {multiplicity} at charge {_signed(charge)} is not covered: the "
                f"model {known}"
            )


@dataclass(frozen=True)
class HeldOutErrors:
    """How well each training structure was predicted by a model that had not seen it.

    For reports, not for predictions.

    Attributes
    ----------
    errors : ndarray, shape (n,)
        Predicted minus reference energy, eV.
    stds : ndarray, shape (n,)
        Calibrated standard deviation that went with the prediction, eV.
    deltas : ndarray, shape (n,)
        Reference minus baseline energy, eV.
    counts : ndarray of int, shape (n, n_elements + 2)
        Atoms of each element of the model, total charge and its magnitude.
    fair : ndarray of bool, shape (n,)
        Structures that nothing in that model had seen. The others' groups were known to the metric
        of environments: their errors flatter, and no statistics should take them.
    """

    errors: FloatArray
    stds: FloatArray
    deltas: FloatArray
    counts: IntArray
    fair: BoolArray

    def __len__(self) -> int:
        return len(self.errors)

    @property
    def sizes(self) -> IntArray:
        """Numbers of atoms, shape (n,)."""
        return np.asarray(self.counts[:, :-2].sum(axis=1))

    def largest_of(self, fraction: float) -> float:
        """What the absolute errors of that fraction of the fair structures stay below, eV."""
        return float(np.quantile(np.abs(self.errors[self.fair]), fraction))

    def span(self, n: int | None) -> FloatArray:
        """Orthonormal rows that span the ``counts`` of the first ``n`` structures (None: of all).

        What is not among their combinations is not determined by the training: neither are the
        offsets of elements and charges in it.
        """
        rows = np.unique(self.counts[:n], axis=0).astype(np.float64)
        if not len(rows):
            return rows
        _, sizes, directions = np.linalg.svd(rows, full_matrices=False)
        return np.asarray(directions[sizes > 1e-9 * max(float(sizes[0]), 1.0)])

    def require_formula(
        self, atoms: Atoms, charge: int, elements: Sequence[int], span: FloatArray
    ) -> None:
        """Refuse formulas for which the trend's offsets of elements and charges say nothing.

        Parameters
        ----------
        atoms, charge
            The structure, and its total charge.
        elements, span
            Those of the model, and its :meth:`span`.

        Raises
        ------
        FormulaError
            If the formula is no combination of those of the training.
        """
        counts = [np.count_nonzero(atoms.numbers == z) for z in elements]
        column = np.array([*counts, charge, abs(charge)], dtype=np.float64)
        rest = column - (column @ span.T) @ span
        if np.abs(rest).max() <= 1e-6 * np.abs(column).max():
            return
        small = self.counts[np.argmin(self.sizes), :-2]
        example = Formula.from_dict(
            {chemical_symbols[z]: int(n) for z, n in zip(elements, small, strict=True) if n}
        ).format("hill")
        raise FormulaError(
            f"{structure_label(atoms)}: {atoms.get_chemical_formula()} (charge {charge:+d}) is no "
            f"combination of the formulas that the model was trained on (the smallest: {example}), "
            "so that nothing determines what its elements and charge add to the energy; train "
            "with structures that hold them in other ratios"
        )

    def join(self, other: HeldOutErrors) -> HeldOutErrors:
        """These structures and then the others."""
        return HeldOutErrors(
            *(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self))
        )


def _values(of: Any) -> dict[str, Any]:
    return {f.name: getattr(of, f.name) for f in fields(of)}


def _signed(charge: int) -> str:
    return f"{charge:+d}" if charge else "0"
