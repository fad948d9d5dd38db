"""GFN-xTB with parameters of one's own: tblite's TOML, and the text that the program xtb reads."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from ase_knncalc.baselines.xtb import FollowingTBLite, TBLiteBaseline
from ase_knncalc.errors import BaselineError, SettingsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Table = dict[str, Any]

# Parameters that come with this package, by the name that they have after "tblite:".
SHIPPED = ("gfn1-multibase",)
# Where others that are known by a name are published.
PUBLISHED = {
    "amc-xtb": (
        "AMC-xTB (GFN1-xTB refitted for atmospheric molecular clusters, doi 10.1039/d4ra03021d) is "
        "published as param_gfn1-xtb.txt in Articles/knattrup24_am-clusters_amc-xtb/"
        "Additional_files of the repository elmjonas/ACDB on GitHub"
    ),
}


@dataclass(frozen=True)
class ParameterBaseline(TBLiteBaseline):
    """GFN-xTB of the ``tblite`` library with parameters of one's own.

    Its ``method`` is the name in the parameters with the first digits of their SHA-256, and
    :meth:`spec` holds all of them: a model file remakes its baseline without the file that they
    came from, and is never used on other parameters.

    Parameters
    ----------
    parameters : str
        As :func:`as_text` writes them; of a file: ``ParameterBaseline.of_file(path)``. The other
        settings are those of :class:`TBLiteBaseline`.

    Raises
    ------
    SettingsError
        If they are no parameters, or ``method`` names others.
    BaselineError
        If tblite is not installed, or takes none.
    """

    method: str = ""
    parameters: str = ""

    @classmethod
    def of_file(cls, path: str) -> ParameterBaseline:
        """With the parameters of a file, see :func:`read_parameters`."""
        return cls(parameters=as_text(read_parameters(path)))

    @classmethod
    def shipped(cls, name: str, method: str = "") -> ParameterBaseline:
        """With parameters that come with this package, one of :data:`SHIPPED`.

        ``gfn1-multibase`` is GFN1-xTB with 87 parameters of H, C, N, O and S fitted anew, together
        with the kernels of a trend, to ωB97X-D/6-31++G(d,p) energies and forces of clusters and
        molecules off equilibrium (``benchmarks/refit_baseline.py``).
        """
        text = resources.files(__package__).joinpath(f"{name}.json").read_text("utf-8")
        # As it stands: what tblite makes of it, and so its digest, depends on tblite's version.
        return cls(method=method, parameters=as_text(json.loads(text)))

    def _canonical(self) -> str:
        try:
            name = str(_table(self.parameters)["meta"]["name"])
        except (ValueError, KeyError, TypeError) as e:
            raise SettingsError(f"parameters of tblite cannot be read ({e})") from e
        name += "#" + hashlib.sha256(self.parameters.encode()).hexdigest()[:8]
        if self.method not in ("", name):
            raise SettingsError(f"the parameters are those of {name}, not of {self.method}")
        return name

    def spec(self) -> dict[str, str]:
        """As of :class:`TBLiteBaseline`, and the parameters."""
        return {**super().spec(), "parameters": self.parameters}

    def _parameters(self, numbers: np.ndarray) -> str | dict[str, Any]:
        return _of_elements(self.parameters, frozenset(numbers.tolist()))

    def _shells(self, numbers: np.ndarray, label: object) -> tuple[int, int]:
        known = _table(self.parameters)["element"]
        symbols = [chemical_symbols[z] for z in numbers]
        beyond = sorted(set(symbols) - set(known))
        if beyond:
            raise BaselineError(f"{label}: {self.method} has no parameters for {', '.join(beyond)}")
        valence = sum(sum(known[s]["refocc"]) for s in symbols)
        shells = [shell for s in symbols for shell in known[s]["shells"]]
        orbitals = sum(2 * "spdf".index(shell[1]) + 1 for shell in shells)
        return round(valence), orbitals

    def following(self) -> FollowingTBLite:
        """The same method for who follows a trajectory."""
        return _Following(**{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(frozen=True)
class _Following(FollowingTBLite, ParameterBaseline):
    """A :class:`ParameterBaseline` that starts each SCF from the density of the step before."""


@lru_cache(maxsize=8)
def _table(text: str) -> Table:
    found: Table = json.loads(text)
    return found


@lru_cache(maxsize=256)
def _of_elements(text: str, numbers: frozenset[int]) -> Table:
    """What these elements need of parameters: handing all to the library takes longer than xTB."""
    return of_elements(_table(text), {chemical_symbols[z] for z in numbers})


def of_elements(table: Table, symbols: Collection[str]) -> Table:
    """Parameters of some elements and of the pairs of them."""
    xtb = table["hamiltonian"]["xtb"]
    pairs = {p: v for p, v in xtb.get("kpair", {}).items() if set(p.split("-")) <= set(symbols)}
    return {
        **table,
        "element": {s: v for s, v in table["element"].items() if s in symbols},
        "hamiltonian": {**table["hamiltonian"], "xtb": {**xtb, "kpair": pairs}},
    }


def read_parameters(path: str) -> Table:
    """Parameters of a file, as the table that tblite takes.

    Parameters
    ----------
    path
        TOML as ``tblite param`` writes it, the same as JSON, or the text of the program xtb
        (``param_gfn1-xtb.txt``): what such a text leaves open is as in GFN1-xTB.

    Raises
    ------
    SettingsError
        If there is no such file, or it holds no such parameters.
    BaselineError
        If the installed tblite takes none.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"parameters of tblite: {path} cannot be read ({e})") from e
    try:
        if text.lstrip().startswith("$"):
            return _completed(_from_xtb(text))
        table = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
        if not {"hamiltonian", "element"} <= set(table):
            raise ValueError("no tables 'hamiltonian' and 'element'")
        return _completed(table)
    except (ValueError, KeyError, IndexError) as e:
        raise SettingsError(
            f"{path} holds no parameters of GFN-xTB ({e}); expected TOML as `tblite param` writes "
            "it, or the text that the program xtb reads, param_gfn1-xtb.txt"
        ) from e


def as_text(table: Table) -> str:
    """Parameters as JSON, in one order."""
    return json.dumps(table, sort_keys=True, separators=(",", ":"))


def exported(method: str) -> Table:
    """Parameters of a method that tblite has built in.

    Raises
    ------
    BaselineError
        If the installed tblite cannot tell.
    """
    from tblite import library

    if not hasattr(library, "dict_to_table"):
        raise BaselineError(
            "the installed tblite takes no parameters from files; run `pip install -U tblite`"
        )
    parameters, table = library.new_param(), library.new_table()
    export = {"GFN1-xTB": library.export_gfn1_param, "GFN2-xTB": library.export_gfn2_param}
    export[method](parameters)
    library.dump_param(parameters, table)
    found: Table = library.table_to_dict(table)
    return found


def _completed(table: Table) -> Table:
    """The table as tblite itself would write it, so that one set of parameters has one digest."""
    from tblite import library

    exported("GFN1-xTB")
    # The order of elements decides what pairs of them are called.
    order = sorted(table["element"], key=chemical_symbols.index)
    table = {**table, "element": {symbol: table["element"][symbol] for symbol in order}}
    parameters, complete = library.new_param(), library.new_table()
    try:
        library.load_param(parameters, library.dict_to_table(table))
    except Exception as e:
        raise ValueError(f"tblite says: {e}") from e
    library.dump_param(parameters, complete)
    found: Table = library.table_to_dict(complete)
    return found


def _from_xtb(text: str) -> Table:
    """GFN1-xTB with what a text of the program xtb changes of it."""
    table = exported("GFN1-xTB")
    blocks = re.findall(r"^\$([^\n]*)\n(.*?)(?=^\$)", text + "\n$end\n", re.M | re.S)
    level = next((b for head, b in blocks if head.strip() == "info"), "")
    if re.search(r"^level\s+1\b", level, re.M) is None:
        raise ValueError("its $info does not say 'level 1': only GFN1-xTB is read from texts")
    known = {**_GLOBAL}
    for head, body in blocks:
        lines = [line.split() for line in body.splitlines() if line.strip()]
        if head.strip() == "globpar":
            for name, value in lines:
                if name in _SETTERS:
                    _SETTERS[name](table, float(value))
                known[name] = float(value)
        elif head.strip() == "pairpar":
            # Those of two metals follow from a rule; of the others, what is not there is 1.
            pairs = table["hamiltonian"]["xtb"]["kpair"]
            for pair in [p for p in pairs if not _METALS.issuperset(p.split("-"))]:
                del pairs[pair]
            for i, j, value in lines:
                high, low = sorted((int(i), int(j)), reverse=True)
                pairs[f"{chemical_symbols[high]}-{chemical_symbols[low]}"] = float(value)
    found = ((re.match(r"Z=\s*(\d+)", head), body) for head, body in blocks)
    bodies = {chemical_symbols[int(number[1])]: body for number, body in found if number}
    for symbol, element in table["element"].items():
        _set_element(element, bodies.pop(symbol, ""), known)
    if bodies:
        raise ValueError(f"GFN1-xTB has no element {next(iter(bodies))}")
    return table


# Shifts of levels by coordination numbers of GFN1-xTB: s, p, and d of main groups and of metals.
_GLOBAL = {"cns": 0.6, "cnp": -0.3, "cnd1": -0.5, "cnd2": 0.5}


_METALS = {*chemical_symbols[21:30], *chemical_symbols[39:48], *chemical_symbols[57:80]}


def _set_element(element: Table, body: str, known: dict[str, float]) -> None:
    values = {
        key.strip().lower(): text.split()
        for key, text in (line.split("=", 1) for line in body.splitlines() if "=" in line)
    }
    shells = element["shells"]
    if "ao" in values and shells != re.findall(r"\d[spdf]", "".join(values["ao"])):
        raise ValueError(f"shells {''.join(values['ao'])} where GFN1-xTB has {''.join(shells)}")
    before = deepcopy(element)
    for key, name in (("lev", "levels"), ("exp", "slater")):
        if key in values:
            element[name] = [float(v) for v in values[key]]
    for key, (name, factor) in _SCALARS.items():
        if key in values:
            element[name] = factor * float(values[key][0])
    for i, shell in enumerate(shells):
        kind = shell[1]
        if f"poly{kind}" in values:
            element["shpoly"][i] = 0.01 * float(values[f"poly{kind}"][0])
        if f"lpar{kind}" in values:
            element["lgam"][i] = 1.0 + 0.1 * float(values[f"lpar{kind}"][0])
        shift = -0.01 * before["levels"][i]
        metal = kind == "d" and before["kcn"][i] / shift > 0.0
        name = f"cn{kind}" if kind != "d" else f"cnd{1 + metal}"
        element["kcn"][i] = -0.01 * known[name] * element["levels"][i]


_SCALARS = {
    "gam": ("gam", 1.0),
    "gam3": ("gam3", 0.1),
    "cxb": ("xbond", 0.1),
    "repa": ("arep", 1.0),
    "repb": ("zeff", 1.0),
}


def _at(*place: str, factor: float = 1.0) -> Callable[[Table, float], None]:
    def put(table: Table, value: float) -> None:
        for key in place[:-1]:
            table = table[key]
        table[place[-1]] = factor * value

    return put


_HAMILTONIAN = ("hamiltonian", "xtb")
_SETTERS: dict[str, Callable[[Table, float], None]] = {
    "ks": _at(*_HAMILTONIAN, "shell", "ss"),
    "kp": _at(*_HAMILTONIAN, "shell", "pp"),
    "kd": _at(*_HAMILTONIAN, "shell", "dd"),
    "ksp": _at(*_HAMILTONIAN, "shell", "sp"),
    "kdiff": _at(*_HAMILTONIAN, "kpol"),
    "enscale": _at(*_HAMILTONIAN, "enscale", factor=0.01),
    "alphaj": _at("charge", "effective", "gexp"),
    "a1": _at("dispersion", "d3", "a1"),
    "a2": _at("dispersion", "d3", "a2"),
    "s8": _at("dispersion", "d3", "s8"),
    "s9": _at("dispersion", "d3", "s9"),
    "kexp": _at("repulsion", "effective", "kexp"),
    "kexplight": _at("repulsion", "effective", "klight"),
    "xbdamp": _at("halogen", "classical", "damping"),
    "xbrad": _at("halogen", "classical", "rscale"),
}
