"""Settings of a campaign, and the file that they are kept in."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ase_knncalc._lib.arguments import (
    Count,
    NotNegative,
    OneOf,
    Positive,
    Seed,
    Settings,
    Several,
    Whole,
)
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.errors import SettingsError
from ase_knncalc.exploration.chosen import Inputs
from ase_knncalc.exploration.thermo import Conditions
from ase_knncalc.heads.vibrations import TREATMENTS
from ase_knncalc.sampling.settings import METHODS
from ase_knncalc.settings import DEFAULT_MODEL

CONFIG = "explore.toml"


@dataclass(frozen=True)
class ExploreSettings(Settings):
    """A campaign.

    Parameters
    ----------
    composition
        Such as ``"2 sa, 2 am"``: molecules as for ``knncalc sample``, by name, file or SMILES. With
        ranges, as in ``"0-4 sa, 0-4 am"``, it is a grid
        (:func:`~ase_knncalc.exploration.explore_grid`).
    exclude
        Compositions that are left out of a grid, with or without ranges: ``"4 sa"``, ``"2-4 am"``.
    model
        Name or file.
    candidates
        Structures to sample of each way to place the protons; 0 samples none.
    patience
        Runs of the sampling in a row that find nothing new, after which there are no more: small
        clusters have few minima.
    files
        More candidates, of any format that ``knncalc relax`` reads.
    protonation
        Whether ions are tried, too: acids that have given a proton to a base.
    crest
        Whether to look for more with CREST, where it is installed
        (:func:`~ase_knncalc.sampling.crest.crest_conformers`).
    methods, engine, seed
        Of the sampling, see :class:`~ase_knncalc.sampling.SamplingSettings` and
        :func:`~ase_knncalc.sampling.engines.make_engine`.
    optimizer, fmax, steps
        Of the relaxation, see :func:`~ase_knncalc.exploration.relax_frames`.
    energy_tolerance, rmsd_tolerance
        eV and Å, see :func:`~ase_knncalc.exploration.unique_frames`.
    vibrations
        Gibbs energies are computed of so many of the lowest.
    temperatures, pressures, treatment, lowest
        See :class:`~ase_knncalc.exploration.Conditions`.
    level
        Level of theory that the model knows beside its reference, such as ``"dlpno"``: its energies
        rank what was relaxed at the reference
        (:func:`~ase_knncalc.exploration.learned.at_level`). By default the reference's do.
    window, top
        What is chosen, by Gibbs energy: kcal/mol, and at most so many.
    orca, gaussian, cores, memory
        See :class:`~ase_knncalc.exploration.Inputs`.
    """

    composition: str
    exclude: tuple[str, ...] = ()
    model: str = DEFAULT_MODEL
    candidates: Whole = 100
    patience: Count = 10
    files: tuple[str, ...] = ()
    protonation: bool = True
    crest: bool = True
    methods: Several[Annotated[str, OneOf(METHODS)]] = ("packing", "basin-hopping")
    engine: str = "auto"
    seed: Seed = 0
    optimizer: str = "BFGS"
    fmax: Positive = 0.01
    steps: Count = 500
    energy_tolerance: Positive = 0.005
    rmsd_tolerance: Positive = 0.3
    vibrations: Count = 20
    temperatures: Several[Positive] = (298.15,)
    pressures: Several[Positive] = (101325.0,)
    treatment: Annotated[str, OneOf(TREATMENTS)] = "truhlar"
    lowest: Positive = 100.0
    level: str = ""
    window: NotNegative = 3.0
    top: Count = 10
    orca: str = Inputs.orca
    gaussian: str = Inputs.gaussian
    cores: Count = Inputs.cores
    memory: Count = Inputs.memory

    def conditions(self) -> Conditions:
        """Of the Gibbs energies."""
        return Conditions(self.temperatures, self.pressures, self.treatment, self.lowest)

    def toml(self) -> str:
        """The settings as a file that :func:`read_settings` reads."""
        # Texts, numbers and lists of JSON are those of TOML.
        values = asdict(self).items()
        return "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values)


def read_settings(path: str | os.PathLike[str]) -> ExploreSettings:
    """Settings of a file such as a campaign's ``explore.toml``.

    Raises
    ------
    SettingsError
        If it cannot be read, or a setting is unknown or makes no sense.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise SettingsError(f"{path}: cannot be read: {e}") from e
    try:
        return ExploreSettings.from_dict(values)
    except SettingsError as e:
        raise SettingsError(f"{path}: {e}") from None


def given_settings(path: Path | None, **given: Any) -> ExploreSettings:
    """Settings of a file, if there is one, with those in place that are given and not None.

    Raises
    ------
    SettingsError
        If there is no composition, or a setting makes no sense.
    """
    told = {name: value for name, value in given.items() if value is not None}
    if path is not None:
        return replace(read_settings(path), **told)
    if "composition" not in told:
        raise SettingsError(
            "what is to be explored? Give a composition, such as '2 sa, 2 am', or settings"
        )
    return ExploreSettings(**told)


def take_folder(folder: Path, settings: ExploreSettings) -> None:
    """Begin in a folder, or go on in it, if it is of the same campaign."""
    path = folder / CONFIG
    if path.exists():
        there = read_settings(path)
        if there != settings:
            names = [k for k, v in asdict(settings).items() if getattr(there, k) != v]
            raise SettingsError(
                f"{folder} is of a campaign with other settings ({', '.join(names)}): restore "
                "them, or name another folder"
            )
        return
    try:
        folder.mkdir(exist_ok=True)
        if any(p for p in folder.iterdir() if not p.name.startswith(".")):
            raise SettingsError(f"{folder} has files in it but no {CONFIG}: name a new folder")
    except OSError as e:
        raise SettingsError(f"{folder} cannot be made: {e.strerror}") from e
    with atomic_write(path, SettingsError) as handle:
        handle.write(settings.toml().encode("utf-8"))
