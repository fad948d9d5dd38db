"""Whether the parts of a model fit together and mean something.

A file's checksum says that it is as it was written, not that its writer made no mistake or meant
well. What is checked here is what prediction relies on: after it, a structure that the model covers
gives finite numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from typing_extensions import TypedDict

from ase_knncalc._lib.arguments import Several, checked, instance
from ase_knncalc._lib.arrays import AnyArray
from ase_knncalc.errors import SettingsError
from ase_knncalc.info import ModelInfo
from ase_knncalc.model import KNNModel


def check_model(model: KNNModel) -> None:
    """Raise :class:`SettingsError` if the parts of a model contradict each other.

    Shapes of the metric, the index and its residuals are taken as checked.
    """
    model.metric.validate(model.descriptor)
    elements = model.descriptor.elements
    if tuple(model.trend.elements) != elements:
        raise SettingsError(
            f"the trend is for the elements {list(model.trend.elements)}, the descriptor for "
            f"{list(elements)}"
        )
    model.trend.validate(model.descriptor)
    n = len(model)
    if not n or not model.metric.n_components:
        raise SettingsError(f"the index has {n} points in {model.metric.n_components} dimensions")
    if model.knn.settings.k > n:
        raise SettingsError(f"k = {model.knn.settings.k} neighbours, but {n} structures")
    if model.info.n_structures != n:
        raise SettingsError(f"n_structures is {model.info.n_structures!r}, but the index has {n}")
    for what in ("names", "compositions"):
        try:
            for text in getattr(model, what).tolist():
                text.decode("utf-8")
        except UnicodeDecodeError as e:
            raise SettingsError(f"index/{what}: {text!r} is not UTF-8") from e
    model.calibration.validate()
    if model.force_calibration is not None:
        model.force_calibration.validate(elements)
    held = model.held_out
    if held is not None and (np.any(held.counts[:, :-2] < 0) or np.any(held.stds < 0)):
        raise SettingsError("held_out: counts of atoms, or standard deviations, are negative")
    if held is not None and not held.fair.any():
        raise SettingsError("held_out: of no structure anything fair is known")
    check_info(model.info)


_Whole = Annotated[int, Gt(-(2**31)), Lt(2**31)]
_Charge = Annotated[int, Ge(-1000), Le(1000)]
_Atoms = Annotated[int, Ge(1), Lt(2**31)]


class _Monomer(TypedDict):
    numbers: list[_Whole]
    charge: _Whole
    reference_energy: float
    baseline_energy: float


class _Addition(TypedDict):
    name: str
    composition: str
    normalised: float
    inside_90: Any


_INFO: dict[str, Any] = {
    "baseline": dict[str, str],
    "reference": str,
    "charges": Several[_Charge],
    "n_structures": _Whole,
    "size_range": tuple[_Atoms, _Atoms],
    "errors": dict[str, float],
    "monomers": dict[str, _Monomer],
    "states": tuple[tuple[_Whole, _Atoms], ...],
}
# Entries of the provenance that more than a reader's eye rests on; others may be anything.
_PROVENANCE: dict[str, Any] = {
    "trend": dict[str, Any],
    "omitted": tuple[dict[str, Any], ...],
    "sources": tuple[str, ...],
    "source_of": tuple[_Whole, ...],
    "citations": tuple[str, ...],
    "additions": tuple[_Addition, ...],
    "trained_scale": float | None,
    "trained_structures": _Whole | None,
}


def check_monomers(value: Mapping[str, Any]) -> None:
    """Raise :class:`SettingsError` unless these are monomers by name.

    Other than a model's, they may lack baseline energies.
    """
    plain = {}
    for name, record in value.items():
        instance(f"monomers.{name}", record, Mapping)
        numbers = np.asarray(record.get("numbers")).tolist()
        values = {k: v.item() if isinstance(v, np.generic) else v for k, v in record.items()}
        plain[name] = {"baseline_energy": 0.0, **values, "numbers": numbers}
    checked("monomers", plain, dict[str, _Monomer])


def check_info(info: ModelInfo) -> None:
    """Raise :class:`SettingsError` if what a model says of itself has the wrong types."""
    for name, kind in _INFO.items():
        checked(f"metadata: info.{name}", getattr(info, name), kind)
    for name, kind in _PROVENANCE.items():
        checked(f"metadata: info.provenance.{name}", getattr(info.provenance, name), kind)
    low, high = info.size_range
    if low > high:
        raise SettingsError(f"metadata: info.size_range is {[low, high]}, expected it to ascend")
    if info.states and {q for q, _ in info.states} != set(info.charges):
        raise SettingsError(
            f"metadata: info.states are of other charges than info.charges, {info.charges}"
        )


def check_magnitude(name: str, array: AnyArray, largest: float = 1e18) -> None:
    """Raise :class:`SettingsError` for NaN, infinity, and what overflows when it is squared."""
    # Comparison with NaN is false.
    if array.dtype.kind == "f" and not np.all(np.abs(array) <= largest):
        raise SettingsError(f"item {name!r} holds NaN, infinite or absurdly large numbers")
