"""The lowest structures of each composition, and what other programs need to compute them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import Count, NotNegative, Settings, checked, instance, instances
from ase_knncalc._lib.constants import KCAL_PER_MOL
from ase_knncalc.data import write_frames
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.exploration.relaxation import energy_of
from ase_knncalc.sameness import Species, species
from ase_knncalc.structure import check_structure, resolve_charge, structure_label

COLUMNS = ("name", "relative_kcal_mol", "by", "energy_std_eV", "novelty")
"""Of :func:`chosen_rows`."""


@dataclass(frozen=True)
class Inputs(Settings):
    """What is asked of the programs; the defaults optimise at the level of the shipped models.

    Parameters
    ----------
    orca, gaussian
        Line of keywords without ``!``, and route without ``#``. ORCA has ωB97X-D3 where Gaussian
        has ωB97X-D: their energies do not mix.
    cores, memory
        Processes of a job, and MB of each.
    """

    orca: str = "wB97X-D3 6-31++G(d,p) Opt Freq TightSCF"
    gaussian: str = "wB97XD/6-31++G(d,p) Opt Freq"
    cores: Count = 4
    memory: Count = 2000


def lowest_frames(
    frames: Iterable[Atoms], *, top: int | None = None, window: float | None = None
) -> tuple[list[int], str]:
    """The lowest structures of each composition and charge.

    Those that fell apart, reacted, or have imaginary modes (marks of ``relax_frames`` and
    ``gibbs_table``) are none of them.

    Parameters
    ----------
    frames
        With Gibbs energies (``info["gibbs_eV"]``), or else energies.
    top
        At most so many of each composition.
    window
        Only those up to so far above its lowest, kcal/mol.

    Returns
    -------
    places : list of int
        In ``frames``, the lowest first, composition by composition.
    by : str
        ``"gibbs"`` or ``"energy"``: what they were compared by.

    Raises
    ------
    DataError
        If a structure has neither, or none is left.
    """
    checked("top", top, Count | None)
    checked("window", window, NotNegative | None)
    frames = list(instance("frames", frames, Iterable))
    instances("frames", frames, Atoms)
    sound = [i for i, atoms in enumerate(frames) if not _is_unsound(atoms)]
    if not sound:
        raise DataError(
            f"all {len(frames)} structures fell apart, reacted, or are no minima: nothing to choose"
        )
    by = "gibbs" if all("gibbs_eV" in frames[i].info for i in sound) else "energy"
    values = {i: value_of(frames[i], by) for i in sound}
    groups: dict[Species, list[int]] = {}
    for i in sound:
        check_structure(frames[i])
        groups.setdefault(species(frames[i], *resolve_charge(frames[i])), []).append(i)
    chosen = []
    for members in groups.values():
        members.sort(key=lambda i: values[i])
        limit = np.inf if window is None else values[members[0]] + window / KCAL_PER_MOL + 1e-9
        chosen += [i for i in members if values[i] <= limit][:top]
    return chosen, by


def _is_unsound(atoms: Atoms) -> bool:
    return any(bool(atoms.info.get(k)) for k in ("fell_apart", "reacted", "imaginary_modes"))


def value_of(atoms: Atoms, by: str) -> float:
    """Gibbs energy or energy, eV.

    Raises
    ------
    DataError
        If the structure brings none.
    """
    value = atoms.info["gibbs_eV"] if by == "gibbs" else energy_of(atoms)
    if value is None:
        raise DataError(
            f"{structure_label(atoms)} has no energy to choose it by: let knncalc relax, rank, "
            "predict or thermo write it (-o)"
        )
    return float(value)


def write_inputs(
    folder: str | os.PathLike[str], frames: Sequence[Atoms], inputs: Inputs | None = None
) -> list[str]:
    """Inputs of ORCA and Gaussian and an xyz file of each structure; all in ``chosen.extxyz``.

    Parameters
    ----------
    folder
        Made whole or not at all.
    frames
        Charge and multiplicity as :func:`~ase_knncalc.structure.resolve_charge` has them.
    inputs
        Keywords and sizes of jobs.

    Returns
    -------
    list of str
        Names of the files, without their suffixes ``.inp``, ``.gjf`` and ``.xyz``.

    Raises
    ------
    SettingsError
        If there is something in the folder already.
    DataError
        If it cannot be written.
    """
    inputs = inputs or Inputs()
    instances("frames", frames, Atoms)
    folder = Path(folder)
    check_new_folder(folder)
    names = _file_names(frames)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.part-") as part:
            made = Path(part) / "inputs"
            made.mkdir()
            for atoms, name in zip(frames, names, strict=True):
                _write_one(made / name, atoms, inputs)
            write_frames(made / "chosen.extxyz", frames)
            if folder.exists():
                folder.rmdir()
            shutil.move(made, folder)
    except OSError as e:
        raise DataError(f"cannot write {folder}: {e.strerror or e}") from e
    return names


def check_new_folder(folder: Path) -> None:
    """Refuse a folder that has something in it, or cannot be made.

    Raises
    ------
    SettingsError
        If so.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise SettingsError(f"{folder} is there already: name a new folder for the inputs")
    if not folder.parent.is_dir():
        raise SettingsError(f"{folder}: there is no folder {folder.parent}")


def _file_names(frames: Sequence[Atoms]) -> list[str]:
    """Names of structures as names of files, each once."""
    names: list[str] = []
    for atoms in frames:
        plain = re.sub(r"[^\w.+-]+", "_", structure_label(atoms)).strip("._") or "structure"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names


def _write_one(path: Path, atoms: Atoms, inputs: Inputs) -> None:
    from ase.io import write
    from ase.io.orca import write_orca

    charge, multiplicity = resolve_charge(atoms)
    bare = Atoms(atoms.numbers, atoms.positions)
    params = {
        "orcasimpleinput": inputs.orca,
        "orcablocks": f"%pal nprocs {inputs.cores} end\n%maxcore {inputs.memory}",
        "charge": charge,
        "mult": multiplicity,
    }
    write_orca(f"{path}.inp", bare, params)
    write(
        f"{path}.gjf", bare, format="gaussian-in", charge=charge, mult=multiplicity,
        extra=inputs.gaussian, chk=f"{path.name}.chk", nprocshared=inputs.cores,
        mem=f"{inputs.cores * inputs.memory}MB",
    )  # fmt: skip
    comment = f"{path.name} charge={charge} multiplicity={multiplicity}"
    write(f"{path}.xyz", bare, format="xyz", comment=comment)


def chosen_rows(frames: Sequence[Atoms], places: Sequence[int], by: str) -> list[dict[str, Any]]:
    """What :func:`lowest_frames` chose, by :data:`COLUMNS`."""
    lowest: dict[Species, float] = {}
    rows = []
    for i in places:
        atoms = frames[i]
        value = value_of(atoms, by)
        first = lowest.setdefault(species(atoms, *resolve_charge(atoms)), value)
        known = (
            structure_label(atoms),
            KCAL_PER_MOL * (value - first),
            by,
            atoms.info.get("energy_std", atoms.info.get("gibbs_std_eV")),
            atoms.info.get("novelty"),
        )
        rows.append(dict(zip(COLUMNS, known, strict=True)))
    return rows
