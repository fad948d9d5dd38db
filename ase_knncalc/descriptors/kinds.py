"""Which descriptors there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ase_knncalc._lib.arrays import AnyArray
from ase_knncalc.descriptors.base import Descriptor
from ase_knncalc.descriptors.compressed import Compressed
from ase_knncalc.descriptors.fchl19 import FCHL19
from ase_knncalc.descriptors.power_spectrum import PowerSpectrum
from ase_knncalc.descriptors.slatm import SLATM
from ase_knncalc.errors import SettingsError

DESCRIPTORS: dict[str, type[FCHL19] | type[PowerSpectrum] | type[SLATM]] = {
    kind.kind: kind for kind in (FCHL19, PowerSpectrum, SLATM)
}


def descriptor_from_dict(
    settings: dict[str, Any], arrays: Mapping[str, AnyArray] | None = None
) -> Descriptor:
    """Rebuild a descriptor from its ``to_dict`` and its ``arrays``.

    Raises
    ------
    SettingsError
        If the kind or an option is unknown, or the arrays do not fit.
    """
    options = dict(settings)
    kind = options.pop("kind", None)
    if kind == Compressed.kind:
        base = descriptor_from_dict(options.get("base", {}))
        if not isinstance(base, PowerSpectrum) or arrays is None:
            raise SettingsError(
                f"descriptor {kind!r}: expected axes and a base of kind {PowerSpectrum.kind!r}, "
                f"got {base.kind!r}"
            )
        return Compressed.from_arrays(base, arrays)
    if kind not in DESCRIPTORS:
        raise SettingsError(f"unknown descriptor {kind!r}; known are {sorted(DESCRIPTORS)}")
    try:
        return DESCRIPTORS[kind].from_dict(options)
    except SettingsError as e:
        raise SettingsError(f"descriptor {kind!r}: {e}") from None
