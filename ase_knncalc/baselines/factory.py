"""A baseline from whatever describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_knncalc.baselines.ase_calculator import ASEBaseline
from ase_knncalc.baselines.base import Baseline, GivenBaseline, NoBaseline
from ase_knncalc.baselines.named import NamedBaseline, registered
from ase_knncalc.baselines.parameters import PUBLISHED, SHIPPED, ParameterBaseline
from ase_knncalc.baselines.xtb import (
    LIBRARIES,
    METHODS,
    TBLiteBaseline,
    XTBBaseline,
    canonical_method,
    installed_libraries,
)
from ase_knncalc.errors import BaselineError, SettingsError


def make_baseline(spec: Any = "auto", method: str = "GFN1-xTB") -> Baseline:
    """Create a baseline from whatever describes it.

    Parameters
    ----------
    spec : str, dict, None, Baseline or ASE calculator, default "auto"
        - ``"auto"``: ``method`` of the first installed library, tblite before xtb. Both cost the
          same time and agree within 1e-7 eV per atom; tblite reports more errors.
        - ``"GFN1-xTB"``, ``"GFN2-xTB"`` (also ``"gfn1"``, ``"gfn2_xtb"``, …): that method, any
          library.
        - ``"tblite"``, ``"xtb"``: that library, with ``method``; ``"tblite:GFN2-xTB"``: both.
          ``"tblite:/path/param.toml"``: GFN-xTB with the parameters of that file, see
          :func:`~ase_knncalc.baselines.parameters.read_parameters`; ``"tblite:gfn1-multibase"``:
          GFN1-xTB fitted anew for clusters, see
          :meth:`~ase_knncalc.baselines.parameters.ParameterBaseline.shipped`.
          Settings may follow each of these: ``"GFN1-xTB,max_iterations=1000,accuracy=0.1"``.
        - ``"none"`` or None: :class:`NoBaseline`; ``"given"``: :class:`GivenBaseline`.
        - a dict as :meth:`Baseline.spec` returns it; its version is not compared.
        - a name that an installed package registers, with options as in ``"mace,model=small"``:
          :class:`NamedBaseline`.
        - an ASE calculator: :class:`ASEBaseline` of it; a baseline: returned as it is.
    method : str, default "GFN1-xTB"
        Used where ``spec`` names none; ``"none"`` with ``"auto"`` is :class:`NoBaseline`.

    Returns
    -------
    Baseline

    Raises
    ------
    SettingsError
        If ``spec`` or ``method`` is none of the above.
    BaselineError
        If the library is not installed.
    """
    if spec is None:
        return NoBaseline()
    if isinstance(spec, str):
        return _from_name(spec, method)
    if isinstance(spec, dict):
        return _from_dict(spec)
    if not isinstance(spec, type):
        if isinstance(spec, Baseline):
            return spec
        if hasattr(spec, "get_potential_energy") and not isinstance(spec, Atoms):
            return ASEBaseline(spec)
    raise _unknown(spec)


def _from_name(spec: str, method: str) -> Baseline:
    spec, *settings = (part.strip() for part in spec.split(","))
    if spec in registered():
        pairs = (text.partition("=") for text in settings)
        return NamedBaseline(spec, {k.strip(): _number(v.strip()) for k, _, v in pairs})
    baseline = _named(spec, method)
    if not settings:
        return baseline
    if baseline.library not in LIBRARIES or not all("=" in text for text in settings):
        raise SettingsError(
            f"baseline {spec!r} with {', '.join(settings)!r}: expected settings of xTB such as "
            "GFN1-xTB,max_iterations=1000"
        )
    changed = dict(text.replace(" ", "").split("=", 1) for text in settings)
    return _from_dict(baseline.spec() | changed)


def _named(spec: str, method: str) -> Baseline:
    library, _, named = (part.strip() for part in spec.partition(":"))
    library = library.lower()
    if library in _BARE and not named:
        return _BARE[library]()
    if canonical_method(spec) is not None:
        library, named = "auto", spec
    if library == "tblite" and canonical_method(named) is None and named:
        return _of_parameters(named)
    if library not in ("auto", *LIBRARIES) or (":" in spec and not named):
        raise _unknown(spec)
    if not named and library == "auto" and method == "none":
        return NoBaseline()
    chosen = canonical_method(named or method)
    if chosen is None:
        raise SettingsError(
            f"unknown baseline method {named or method!r}; expected one of "
            f"{', '.join(METHODS)}; a method of an ASE calculator needs the calculator object"
        )
    if library == "auto":
        installed = installed_libraries()
        if not installed:
            raise BaselineError(
                f"{chosen} needs tblite or xtb, and neither is installed; run `pip install tblite`"
            )
        library = installed[0]
    return _CLASSES[library](chosen)


def _of_parameters(named: str) -> Baseline:
    name, _, digest = named.partition("#")
    if name.lower() in SHIPPED:
        # The error of a failed SCF calls the method by its name and digest.
        return ParameterBaseline.shipped(name.lower(), method=named if digest else "")
    published = PUBLISHED.get(named.lower())
    if published:
        raise SettingsError(
            f"the parameters of {named} do not come with this package. {published}; download it "
            "and say where it is: baseline='tblite:/path/param_gfn1-xtb.txt' (--baseline)"
        )
    if Path(named).suffix.lower() not in (".toml", ".json", ".txt"):
        raise SettingsError(
            f"unknown method {named!r} of tblite; expected {', '.join((*METHODS, *SHIPPED))}, or a "
            "file of parameters (.toml, .json, .txt)"
        )
    return ParameterBaseline.of_file(named)


def _from_dict(spec: dict[str, Any]) -> Baseline:
    library = spec.get("library")
    if library in _BARE:
        return _BARE[library]()
    if library == NamedBaseline.library:
        return NamedBaseline(spec["method"], json.loads(spec.get("options", "{}")))
    if library == "ase":
        raise BaselineError(
            f"the baseline is the ASE calculator {spec.get('method', '?')}, which cannot be made "
            "from its description; pass the calculator object itself"
        )
    if library not in LIBRARIES or "method" not in spec:
        raise _unknown(spec)
    settings = {
        k: v if k == "parameters" else _number(v)
        for k, v in spec.items()
        if k not in ("library", "version")
    }
    kind = ParameterBaseline if "parameters" in settings else _CLASSES[library]
    return kind.from_dict(settings, f"baseline {library}")


def _number(value: Any) -> Any:
    """What a description has as text, as a number if it is one."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def baseline_of(spec: dict[str, Any]) -> Baseline:
    """The baseline that a description means: its own library, or the other one.

    Parameters
    ----------
    spec
        As :meth:`Baseline.spec` returned it, maybe on another machine. Empty: no baseline.

    Raises
    ------
    SettingsError
        If it describes no baseline.
    BaselineError
        If no library for it is installed, or it is an ASE calculator.
    """
    if not spec:
        return NoBaseline()
    library = spec.get("library")
    if library in LIBRARIES and "parameters" not in spec:
        installed = installed_libraries()
        if library not in installed and installed:
            spec = {**spec, "library": installed[0]}
    return _from_dict(spec)


# Settings that change energies by more than a calculation is converged to.
_DECISIVE = ("electronic_temperature", "charge_via", "parameters", "options")


def baseline_difference(expected: dict[str, Any], have: Baseline) -> str:
    """What makes a baseline another one than that of a description; empty if nothing does.

    Libraries, versions and thresholds are not compared: the energies agree within 1e-7 eV an atom,
    or what they are converged to.
    """
    if not expected:
        return ""
    if have.method != expected.get("method"):
        return f"{expected.get('method')}, not {have.method}"
    found = have.spec()
    for key in _DECISIVE:
        if key in expected and key in found and expected[key] != found[key]:
            return f"{have.method} with {key} = {expected[key]}, not {found[key]}"
    return ""


_BARE: dict[str | None, type[NoBaseline] | type[GivenBaseline]] = {
    "none": NoBaseline,
    "given": GivenBaseline,
}
_CLASSES: dict[str, type[TBLiteBaseline] | type[XTBBaseline]] = {
    "tblite": TBLiteBaseline,
    "xtb": XTBBaseline,
}


def _unknown(spec: Any) -> SettingsError:
    return SettingsError(
        f"unknown baseline {spec!r}; expected 'auto', 'none', 'given', a method "
        f"({', '.join(METHODS)}), a library ({', '.join(LIBRARIES)}), both as "
        f"'tblite:GFN2-xTB', parameters as 'tblite:/path/param.toml' or 'tblite:{SHIPPED[0]}', "
        "both with settings, 'GFN1-xTB,max_iterations=1000', "
        "a calculator that an installed package registers "
        f"({', '.join(sorted(registered())) or 'none is'}), "
        "an ASE calculator object, or a dict from Baseline.spec()"
    )
