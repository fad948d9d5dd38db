"""Frames of several files and structures, each with a name and where it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms

from ase_knncalc.charges import stated_copy
from ase_knncalc.data.choosing import choose_key
from ase_knncalc.data.frames import enumerate_frames, is_jkqc
from ase_knncalc.data.keys import AUTO, KeyMap, key_map
from ase_knncalc.data.paths import ErrorHandler, file_stem, printable
from ase_knncalc.errors import DataError
from ase_knncalc.structure import plain_text

PathLike: TypeAlias = "str | os.PathLike[str]"
Source: TypeAlias = "PathLike | Atoms | Iterable[PathLike | Atoms]"


def read_structures(
    data: Source,
    index: str | int | slice = ":",
    *,
    keys: KeyMap | None = None,
    on_error: ErrorHandler | None = None,
) -> list[Atoms]:
    """Structures of one or several files as they are, with a name and a source each.

    For what needs no labels, such as prediction: nothing is checked.

    Parameters
    ----------
    data, index, keys
        As for :func:`~ase_knncalc.data.dataset.read_dataset`.
    on_error
        Called with the path and the error for each frame, output in a folder, or file among
        several that cannot be read, which is then left out; without it the error is raised.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    frames = []
    used = key_map(keys)
    for atoms, _, name, source in iter_sources(data, index, used, on_error):
        if used.ignore_cell:
            without_cell(atoms)
        atoms.info["name"] = name
        atoms.info.setdefault("source", source)
        frames.append(atoms)
    return frames


def iter_sources(
    data: Source, index: str | int | slice, keys: KeyMap, on_error: ErrorHandler | None
) -> Iterator[tuple[Atoms, KeyMap, str, str]]:
    """Yield (frame, its key map, name, source) of files and structures."""
    parts = [data] if isinstance(data, (str, os.PathLike, Atoms)) else data
    if not isinstance(parts, Iterable):
        raise DataError(f"data should be files or ase.Atoms, got {type(data).__name__}")
    parts = list(parts)
    n_loose = 0
    for part in parts:
        if isinstance(part, Atoms):
            default = f"frame-{n_loose}"
            n_loose += 1
            # A new object: names are written into it.
            copy = stated_copy(part)
            copy.calc = part.calc
            used = choose_key([copy], keys)
            yield copy, used, text_or(part.info.get(keys.name), default), f"memory#{n_loose - 1}"
            continue
        if not isinstance(part, (str, os.PathLike)):
            raise DataError(
                f"data should be files or ase.Atoms, but there is {type(part).__name__} among them"
            )
        try:
            yield from _of_file(Path(part), index, keys, on_error)
        except DataError as e:
            if on_error is None or len(parts) == 1:
                raise
            on_error(Path(part), e)


def _of_file(
    path: Path, index: str | int | slice, keys: KeyMap, on_error: ErrorHandler | None
) -> Iterator[tuple[Atoms, KeyMap, str, str]]:
    file = printable(path.name)
    stem = file_stem(Path(file))
    frames = enumerate_frames(path, index, text_keys=keys.text_keys, on_error=on_error)
    if keys.reference_energy == AUTO:
        frames = iter(read := list(frames))
        try:
            keys = choose_key([atoms for _, atoms in read], keys)
        except DataError as e:
            raise DataError(f"{path}: {e}") from None
    # The reader of JKQC databases has converted them to eV already.
    used = replace(keys, energy_unit="eV", force_unit=None) if is_jkqc(path) else keys
    for number, atoms in frames:
        name = text_or(atoms.info.get(keys.name), f"{stem}-{number}")
        yield atoms, used, name, f"{file}#{number}"


def without_cell(atoms: Atoms) -> None:
    """Take a periodic structure for a molecule in an empty box, if it is one; else it stays."""
    if not atoms.pbc.any():
        return
    # Without a cell there is nothing to be cut.
    if atoms.cell.rank == 3 and len(atoms):
        from ase.neighborlist import natural_cutoffs, neighbor_list

        shifts = neighbor_list("S", atoms, natural_cutoffs(atoms, mult=1.2))
        if np.any(shifts):
            return
    atoms.pbc = False


def text_or(value: Any, default: str) -> str:
    """A name as text. Empty and missing ones are replaced."""
    return plain_text(value) if value is not None and str(value) else default
