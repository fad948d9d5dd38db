"""The rivals of ``rivals.py``: what makes their calculators, what they cover, what they weigh.

None is a dependency of this package: each is here where its package is, and has a word where not.
``pip install torch==2.13.0`` first, and then one of:

======= ==========================================================================================
AIMNet2 ``pip install --no-deps auto3d==2.3.1`` (an ensemble of four, ωB97M-D3)
ANI-2xt ``pip install auto3d==3.2.3 torchani==2.9.0`` (one network, trained on ωB97X/6-31G(d))
SO3LR   ``pip install so3krates-torch==0.2.1`` (PBE0+MBD, with electrostatics and dispersion)
======= ==========================================================================================

The first two are of one package, so that they need two environments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import chemical_symbols

from ase_knncalc import KNNCalculator, load_model
from ase_knncalc.baselines import TBLiteBaseline, make_baseline
from ase_knncalc.model import KNNModel
from ase_knncalc.sampling.engines import BaselineCalculator
from ase_knncalc.store import find_model

MODEL = "multibase-wb97xd"
# What cannot be had offline, with what was looked at.
NOT_OFFLINE = {
    "MACE-OFF": "fetched at the first call: mace-torch 0.3.10 and 0.3.16 ship no weights",
    "ANI-2x": "torchani 2.2.4 has ANI-1x and ANI-1ccx alone, which know no sulfur",
    "g-xTB": "tblite 0.8.0 does not have it, and no package is of that name",
}


@dataclass(frozen=True)
class Rival:
    """A method: what makes its calculator, and what there is to say of it."""

    name: str
    make: Callable[[], Calculator]
    megabytes: float | None
    licence: str
    elements: str = ""
    charged: bool = True
    own: KNNModel | None = None

    def covers(self, atoms: Atoms) -> bool:
        """Whether it was made for such structures: their elements, and their charge."""
        known = self.elements.split()
        return (self.charged or not atoms.info.get("charge", 0)) and (
            not known or set(atoms.symbols) <= set(known)
        )

    @property
    def coverage(self) -> str:
        """What it covers, in words."""
        return (self.elements or "H to Rn") + ("" if self.charged else ", neutral")


# ------------------------------------------------------------------------------- learned methods


def _files(package: str, version: str, ending: str) -> list[Path]:
    """Files of a distribution whose names end so; of another version there are none."""
    found = distribution(package)
    if found.version != version:
        raise PackageNotFoundError(f"{package}=={version}, not {found.version}")
    of = [Path(str(f.locate())) for f in found.files or () if str(f).endswith(ending)]
    if not of:
        raise FileNotFoundError(f"{package} {version} has no {ending}")
    return of


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _megabytes(files: list[Path]) -> float:
    return sum(f.stat().st_size for f in files) / 1e6


class AIMNet2(Calculator):  # type: ignore[misc]
    """The ensemble of AIMNet2 that auto3d 2.3.1 ships, as it is called there."""

    implemented_properties = ("energy", "forces")

    def __init__(self, path: Path) -> None:
        import torch

        super().__init__()
        _one_thread()
        self.torch = torch
        self.net = torch.jit.load(str(path), map_location="cpu")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        torch = self.torch
        places = torch.tensor(self.atoms.positions, dtype=torch.float32).unsqueeze(0)
        charge = float(self.atoms.info.get("charge", 0))
        found = self.net(
            {
                "coord": places,
                "numbers": torch.tensor(self.atoms.numbers).unsqueeze(0),
                "charge": torch.tensor([charge]),
            }
        )
        self.results = {
            "energy": float(found["energy"]),
            "forces": found["forces"].detach()[0].numpy().astype(float),
        }


def aimnet2() -> Rival:
    """AIMNet2, four networks."""
    files = _files("auto3d", "2.3.1", "models/aimnet2_wb97m_ens_f.jpt")
    calculator = AIMNet2(files[0])
    return Rival("AIMNet2 (auto3d 2.3.1)", lambda: calculator, _megabytes(files), "MIT",
                 "H B C N O F Si P S Cl As Se Br I")  # fmt: skip


def ani_2xt() -> Rival:
    """ANI-2xt, one network, by auto3d's own calculator."""
    files = _files("auto3d", "3.2.3", "models/ani2xt_no_repulsion.pt")
    from Auto3D.engines.model_factory import create_model
    from Auto3D.entry.ASE.thermo.calculator import Calculator as Auto3D

    _one_thread()
    calculator = Auto3D(create_model("ANI2xt"))
    return Rival("ANI-2xt (auto3d 3.2.3)", lambda: calculator, _megabytes(files), "MIT",
                 "H C N O F S Cl", charged=False)  # fmt: skip


def so3lr() -> Rival:
    """SO3LR, with electrostatics and dispersion, by its own calculator, which reads the charge."""
    files = _files("so3krates-torch", "0.2.1", "pretrained/so3lr/so3lr.model")
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    _one_thread()
    calculator = SO3LRCalculator()
    return Rival("SO3LR (so3krates-torch 0.2.1)", lambda: calculator, _megabytes(files), "MIT",
                 "H C N O F P S Cl")  # fmt: skip


LEARNED = {"AIMNet2": aimnet2, "ANI-2xt": ani_2xt, "SO3LR": so3lr}


# -------------------------------------------------------------------------------------- all


def xtb(name: str, spec: str) -> Rival:
    """A method of tblite, each SCF started from the one before, as by tblite's own calculator."""
    baseline = make_baseline(spec)
    assert isinstance(baseline, TBLiteBaseline)
    return Rival(name, lambda: BaselineCalculator(baseline.following()), None, "LGPL-3.0")


def own() -> Rival:
    """The general model of this package."""
    model = load_model(MODEL)
    return Rival(
        MODEL,
        lambda: KNNCalculator(model, on_novelty="ignore", warm_start=True),
        find_model(MODEL).stat().st_size / 1e6,
        "MIT",
        " ".join(chemical_symbols[z] for z in model.elements),
        own=model,
    )


def rivals(amc: Path | None, only: str = "") -> tuple[list[Rival], dict[str, str]]:
    """Those that are installed, of those with ``only`` in their names; why the others are not."""
    makers: dict[str, Callable[[], Rival]] = {
        MODEL: own,
        "GFN1-xTB": lambda: xtb("GFN1-xTB", "tblite:GFN1-xTB"),
        "GFN2-xTB": lambda: xtb("GFN2-xTB", "tblite:GFN2-xTB"),
        "AMC-xTB": lambda: xtb("AMC-xTB", f"tblite:{amc}"),
        **LEARNED,
    }
    absent = dict(NOT_OFFLINE)
    if amc is None:
        del makers["AMC-xTB"]
        absent["AMC-xTB"] = "no --amc: the parameters are published, not shipped"
    found = []
    for name, make in makers.items():
        if only not in name:
            continue
        try:
            found.append(make())
        except (ImportError, OSError, RuntimeError) as e:
            absent[name] = f"not installed ({type(e).__name__}: {e})"
    return found, absent
