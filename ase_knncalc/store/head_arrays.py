"""Heads as arrays of a model file, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from ase_knncalc._lib.arguments import Several, checked
from ase_knncalc._lib.arrays import AnyArray
from ase_knncalc.errors import SettingsError
from ase_knncalc.heads.head import Head, HeadKind, Heads, Posterior
from ase_knncalc.trend.base import Trend
from ase_knncalc.trend.sparse import SparseTrend
from ase_knncalc.uncertainty import Calibration

_ARRAYS = ("counts", "offsets", "coefficients")


class _Errors(TypedDict):
    mae: float
    group_mae: float
    inside_90: float
    group_inside_90: float


class _Details(TypedDict):
    target: dict[str, Any]
    structures: int
    compositions: int
    penalty: float
    left_out: list[str]
    sets: list[str]
    errors: dict[str, _Errors]


class _HeadMetadata(TypedDict):
    name: str
    kind: HeadKind
    unit: str
    outputs: list[str]
    details: _Details


def head_metadata(head: Head) -> dict[str, Any]:
    """What is kept of a head as text."""
    return {
        "name": head.name,
        "kind": head.kind,
        "unit": head.unit,
        "outputs": list(head.outputs),
        "details": head.details,
    }


def head_arrays(head: Head) -> dict[str, AnyArray]:
    """Arrays of a head by their names in a file."""
    found = {name: getattr(head, name) for name in _ARRAYS}
    found |= {f"posterior_{f.name}": getattr(head.posterior, f.name) for f in fields(Posterior)}
    for f in fields(Calibration):
        found[f"calibration_{f.name}"] = np.array([getattr(c, f.name) for c in head.calibrations])
    return {f"head_{head.name}/{name}": value for name, value in found.items()}


def read_heads(
    described: Any, group: Callable[[str], Mapping[str, AnyArray]], trend: Trend
) -> Heads | None:
    """Heads of a file.

    Parameters
    ----------
    described
        Of the metadata, see :func:`head_metadata`.
    group
        Gives the arrays under a name, each checked when taken.
    trend
        Whose environments the heads use.

    Raises
    ------
    SettingsError
        If something is missing, or does not fit together.
    """
    if not described:
        return None
    entries: Sequence[_HeadMetadata] = checked("metadata: heads", described, Several[_HeadMetadata])
    if not isinstance(trend, SparseTrend):
        raise SettingsError("metadata: heads: the trend is not sparse, and has no environments")
    heads = [_head(entry, group(f"head_{entry['name']}")) for entry in entries]
    if len({head.name for head in heads}) < len(heads):
        raise SettingsError("metadata: heads: two of them have one name")
    for head in heads:
        head.validate(trend.environments)
    return Heads.on(trend.environments, heads)


def _head(entry: _HeadMetadata, arrays: Mapping[str, AnyArray]) -> Head:
    posterior = Posterior(**{f.name: arrays[f"posterior_{f.name}"] for f in fields(Posterior)})
    stacked = {f.name: arrays[f"calibration_{f.name}"] for f in fields(Calibration)}
    n = len(entry["outputs"])
    if set(entry["details"]["errors"]) != set(entry["outputs"]):
        raise SettingsError(f"head {entry['name']!r}: errors and outputs are of different names")
    for name, array in stacked.items():
        if array.ndim == 0 or len(array) != n:
            raise SettingsError(
                f"head {entry['name']!r}: calibration_{name} has shape {array.shape} for {n} "
                "outputs"
            )
    calibrations = tuple(_calibration(stacked, k) for k in range(n))
    return Head(
        name=entry["name"],
        kind=entry["kind"],
        unit=entry["unit"],
        outputs=tuple(entry["outputs"]),
        posterior=posterior,
        calibrations=calibrations,
        details=dict(entry["details"]),
        **{name: arrays[name] for name in _ARRAYS},
    )


def _calibration(stacked: Mapping[str, AnyArray], place: int) -> Calibration:
    own: dict[str, Any] = {name: array[place] for name, array in stacked.items()}
    for f in fields(Calibration):
        own[f.name] = float(own[f.name]) if f.type == "float" else own[f.name]
    return Calibration(**own)
