"""Whether the parts of a model fit together and mean something.

A file's checksum says that it is as it was written, not that its writer made no mistake or meant
well. What is checked here is what prediction relies on: after it, a structure that the model covers
gives finite numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import AnyArray
from ase_knncalc.errors import SettingsError
from ase_knncalc.info import ModelInfo
from ase_knncalc.model import KNNModel

_HIGHEST_CHARGE = 1000


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
    check_info(model.info)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _real(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(good, value))


def _mapping(good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(good, value.values()))


def _record(required: dict[str, Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """A mapping that has these keys with good values (and maybe others)."""
    return lambda value: (
        isinstance(value, dict)
        and all(key in value and good(value[key]) for key, good in required.items())
    )


def _anything(_: Any) -> bool:
    return True


def _charges(value: Any) -> bool:
    whole = _list_of(_whole)(value)
    return whole and bool(value) and all(abs(q) <= _HIGHEST_CHARGE for q in value)


def _states(value: Any) -> bool:
    return _list_of(_list_of(_whole))(value) and all(len(s) == 2 and s[1] >= 1 for s in value)


def _sizes(value: Any) -> bool:
    return _list_of(_whole)(value) and len(value) == 2 and 1 <= value[0] <= value[1]


_MONOMER = _record(
    {
        "numbers": _list_of(_whole),
        "charge": _whole,
        "reference_energy": _real,
        "baseline_energy": _real,
    }
)
_ADDITION = _record(
    {"name": _text, "composition": _text, "normalised": _real, "inside_90": _anything}
)
_INFO: dict[str, tuple[Callable[[Any], bool], str]] = {
    "baseline": (_mapping(_text), "texts by name"),
    "reference": (_text, "a text"),
    "charges": (_charges, "a list of whole numbers"),
    "n_structures": (_whole, "a whole number"),
    "size_range": (_sizes, "the fewest and the most atoms"),
    "errors": (_mapping(_real), "numbers by name"),
    "monomers": (_mapping(_MONOMER), "monomers by name"),
    "states": (_states, "a list of pairs of charge and multiplicity"),
}
# Entries of the provenance that more than a reader's eye rests on; others may be anything.
_PROVENANCE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "trend": (_mapping(_anything), "a mapping"),
    "omitted": (_list_of(_mapping(_anything)), "a list of mappings"),
    "sources": (_list_of(_text), "a list of texts"),
    "source_of": (_list_of(_whole), "a list of whole numbers"),
    "citations": (_list_of(_text), "a list of texts"),
    "additions": (_list_of(_ADDITION), "a list of additions"),
    "trained_scale": (_real, "a number"),
    "trained_structures": (_whole, "a whole number"),
}


def is_monomers(value: Mapping[str, Any]) -> bool:
    """Whether these are monomers by name; other than a model's, they may lack baseline energies."""
    return all(
        isinstance(m, Mapping)
        and _MONOMER(
            {"baseline_energy": 0.0, **m, "numbers": np.asarray(m.get("numbers")).tolist()}
        )
        for m in value.values()
    )


def check_info(info: ModelInfo) -> None:
    """Raise :class:`SettingsError` if what a model says of itself has the wrong types."""
    for name, (good, expected) in _INFO.items():
        _check(f"info.{name}", getattr(info, name), good, expected)
    for name, (good, expected) in _PROVENANCE.items():
        value = getattr(info.provenance, name)
        if value is not None:
            _check(f"info.provenance.{name}", value, good, expected)
    if info.states and {q for q, _ in info.states} != set(info.charges):
        raise SettingsError(
            f"metadata: info.states are of other charges than info.charges, {info.charges}"
        )


def _check(name: str, value: Any, good: Callable[[Any], bool], expected: str) -> None:
    if not good(value):
        text = repr(value)
        raise SettingsError(
            f"metadata: {name} is {text if len(text) < 60 else text[:57] + '…'}, expected "
            f"{expected}"
        )


def check_magnitude(name: str, array: AnyArray, largest: float = 1e18) -> None:
    """Raise :class:`SettingsError` for NaN, infinity, and what overflows when it is squared."""
    # Comparison with NaN is false.
    if array.dtype.kind == "f" and not np.all(np.abs(array) <= largest):
        raise SettingsError(f"item {name!r} holds NaN, infinite or absurdly large numbers")
