"""What a head is to learn, and from which entries of frames."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from ase_knncalc._lib.arguments import OneOf, Settings, instance
from ase_knncalc.errors import SettingsError
from ase_knncalc.heads.head import HEAD_KINDS


@dataclass(frozen=True)
class PropertyTarget(Settings):
    """A property to learn beside the energy.

    Parameters
    ----------
    name
        Of the head.
    key
        Of ``info``, or column of a table, that has the labels: numbers in the unit that predictions
        shall have; of thermochemistry harmonic frequencies (cm⁻¹), of a level energies (eV).
    kind
        ``"scalar"``; ``"thermochemistry"``, from which vibrational parts at any temperature follow;
        ``"level"``, a further level of theory whose difference to the reference is learned; or
        ``"dipole"``: magnitudes of dipole moments in Debye.
    unit
        Of a scalar, for people.
    sets
        Key of a word that says which source a label came from: offsets of each are fitted.
    """

    name: str
    key: str
    kind: Annotated[str, OneOf(HEAD_KINDS)] = "scalar"
    unit: str = ""
    sets: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[A-Za-z]\w*", self.name):
            raise SettingsError(
                f"a property is called {self.name!r}: expected letters, digits and underscores"
            )

    @property
    def columns(self) -> list[str]:
        """Entries of a frame that are looked at."""
        return [key for key in (self.key, self.sets) if key]


# As they stand in PropertyTarget. Not made yet: checking settings takes what no prediction needs.
KNOWN = {
    "thermochemistry": ("frequencies_cm1", "thermochemistry", "eV", ""),
    "polarizability": ("polarizability_angstrom3", "scalar", "Å³", ""),
    "dipole": ("dipole_debye", "dipole", "e Å", ""),
    "dlpno": ("dlpno_energy", "level", "eV", "dlpno_set"),
}
"""Key, kind, unit and sets of those that are understood by their name alone."""


def property_targets(given: Iterable[str | PropertyTarget]) -> list[PropertyTarget]:
    """Targets from texts such as ``"polarizability"`` or ``"gibbs_correction=G_eV"``.

    A name of :data:`KNOWN` has its kind; any other is a scalar. ``level:NAME=KEY`` is a level of
    theory, with ``@SETS`` at the end where sources need offsets.

    Raises
    ------
    SettingsError
        If a text is none of these, or two have one name.
    """
    found: dict[str, PropertyTarget] = {}
    for text in given:
        target = text if isinstance(text, PropertyTarget) else _parsed(text)
        if target.name in found:
            raise SettingsError(f"the property {target.name!r} is named twice")
        found[target.name] = target
    return list(found.values())


def _parsed(text: str) -> PropertyTarget:
    instance("property", text, str)
    match = re.fullmatch(r"(level:)?(\w+)(?:=([^@]+)(?:@(.+))?)?", text.strip())
    if match is None or (match[3] is None and (match[1] or match[2] not in KNOWN)):
        raise SettingsError(
            f"property {text!r}: expected one of {', '.join(KNOWN)}, or a name and where its "
            "labels are, as in gibbs_correction=G_eV or level:ccsdt=ccsdt_energy@source"
        )
    level, name, key, sets = match.groups()
    known = KNOWN.get(name)
    if known is not None:
        own_key, kind, unit, own_sets = known
        return PropertyTarget(name, key or own_key, kind, unit, sets or ("" if key else own_sets))
    return PropertyTarget(
        name, key, "level" if level else "scalar", "eV" if level else "", sets or ""
    )
