"""Which descriptors there are."""

from __future__ import annotations

from typing import Any

from ase_knncalc.descriptors.base import Descriptor
from ase_knncalc.descriptors.fchl19 import FCHL19
from ase_knncalc.descriptors.slatm import SLATM
from ase_knncalc.errors import SettingsError

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
