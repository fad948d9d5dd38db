"""Reading and writing files of labelled structures.

:func:`iter_frames` gives the frames of any supported file one at a time, as they are in the file;
:class:`KeyMap` says under which names, and in which units, the labels are found there.
:func:`write_frames` writes a file whole or not at all.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import operator
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.io.formats import UnknownFileTypeError, string2index

from ase_knncalc._lib.arguments import file_name, instance, several
from ase_knncalc._lib.files import replacing
from ase_knncalc.data.extxyz import TEXT_KEYS, count_extxyz, iter_extxyz, parse_comment
from ase_knncalc.data.info import (
    Fits,
    extxyz_value,
    fits_csv,
    fits_database,
    fits_extxyz,
    fits_trajectory,
    is_empty,
    plain_info,
)
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError

ErrorHandler = Callable[[Path, DataError], None]

_XYZ_SUFFIXES = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")
_PICKLE_SUFFIXES = (".pkl", ".pickle")
_OUTPUT_SUFFIXES = (".out", ".log")

# ORCA prints "Total Charge  Charge .... -1" and "Multiplicity  Mult .... 1", Gaussian
# "Charge = -1 Multiplicity = 1". ASE reads neither, and an anion read as neutral would be a
# wrong label without a sign of it.
_ORCA_CHARGE = re.compile(r"^\s*Total Charge\s+Charge\s+\.{3,}\s+(-?\d+)", re.MULTILINE)
_ORCA_MULTIPLICITY = re.compile(r"^\s*Multiplicity\s+Mult\s+\.{3,}\s+(\d+)", re.MULTILINE)
_GAUSSIAN_CHARGE = re.compile(r"^\s*Charge\s*=\s*(-?\d+)\s+Multiplicity\s*=\s*(\d+)", re.MULTILINE)

_KNOWN_FORMATS = (
    "known are .xyz and .extxyz (plain or .gz), .traj, .db, JKQC .pkl, folders of ORCA or Gaussian "
    "outputs, and what else ase.io.read knows by name or content"
)


def has_suffix(path: Path, suffixes: Sequence[str]) -> bool:
    """Whether the file's name ends in one of ``suffixes``, in any case."""
    return path.name.lower().endswith(tuple(suffixes))


def file_stem(path: Path) -> str:
    """The file's name without its (double) suffix: ``clusters`` of ``clusters.extxyz.gz``."""
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem or path.name


def printable(name: str) -> str:
    """A file's name as text that every file can hold: bytes that are no UTF-8 become "�"."""
    return os.fsencode(name).decode("utf-8", errors="replace")


def is_jkqc(path: str | os.PathLike[str]) -> bool:
    """Whether a path is read as a JKQC database, whose labels come in eV whatever the key map."""
    return has_suffix(Path(path), _PICKLE_SUFFIXES)


# ---------------------------------------------------------------------------------------- reading


def iter_frames(
    path: str | os.PathLike[str],
    index: str | int | slice = ":",
    *,
    text_keys: Collection[str] = TEXT_KEYS,
    on_error: ErrorHandler | None = None,
) -> Iterator[Atoms]:
    """Frames of a file, one at a time.

    Parameters
    ----------
    path
        ``.xyz`` and ``.extxyz`` (plain or ``.gz``; streamed: a long file needs the memory of one
        frame), ``.traj``, ``.db`` (ASE database; key-value pairs and data go to ``info``),
        ``.pkl`` (JKQC, see :func:`~ase_knncalc.data.jkqc.read_jkqc`; its energies arrive in eV), a
        folder of ORCA or Gaussian outputs (``*.out``, ``*.log``, in its subfolders too; the last
        structure of each, in the order of their names), and what else ``ase.io.iread`` reads.
    index
        Frame number, slice, or text of either such as ``"-1"`` or ``"100:200:2"``.
    text_keys
        Keys of extended XYZ comment lines that stay text: ASE reads ``name=0001`` as the number 1.
    on_error
        Called with the path and the error for each unreadable output in a folder, which is then
        left out; without it the error is raised.

    Yields
    ------
    ase.Atoms
        As in the file. Energies and forces under ASE's own names (``energy``, ``forces``) are in
        a ``SinglePointCalculator``, where :class:`KeyMap` finds them.

    Raises
    ------
    DataError
        The file is missing, empty, of no known format or damaged (with the frame's number), or
        there is no frame ``index``.
    """
    for _, atoms in enumerate_frames(path, index, text_keys=text_keys, on_error=on_error):
        yield atoms


def enumerate_frames(
    path: str | os.PathLike[str],
    index: str | int | slice = ":",
    *,
    text_keys: Collection[str] = TEXT_KEYS,
    on_error: ErrorHandler | None = None,
) -> Iterator[tuple[int, Atoms]]:
    """As :func:`iter_frames`, with the number that each frame has in its file."""
    path = Path(file_name("path", path))
    frames = _as_slice(index)
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty")
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e
    given = 0
    try:
        for number, atoms in _open_frames(path, frames, text_keys, on_error):
            given += 1
            yield number, atoms
    except (DataError, SettingsError, GeneratorExit):
        raise
    except UnknownFileTypeError as e:
        raise DataError(f"{path}: its format is not known; {_KNOWN_FORMATS}") from e
    except OSError as e:
        detail = e.strerror or str(e)
        raise DataError(f"{path}: cannot be read after {given} frames: {detail}") from e
    except Exception as e:  # ASE's readers raise anything from KeyError to AssertionError
        detail = str(e) or type(e).__name__
        raise DataError(f"{path}: cannot be read after {given} frames: {detail}") from e
    if not given and frames != slice(None):
        raise DataError(f"{path}: there is no frame {index!r} in the file")
    if not given and on_error is None:
        raise DataError(f"{path}: there are no frames in it")


def _as_slice(index: str | int | slice) -> slice:
    try:
        found = string2index(index) if isinstance(index, str) else index
        if isinstance(found, slice):
            range(10)[found]  # refuses a step of 0 and anything but integers
            return found
        number = operator.index(int(found) if isinstance(found, str) else found)
    except (TypeError, ValueError):
        raise SettingsError(
            f"index={index!r} is neither a frame number nor a slice such as '10:20'"
        ) from None
    return slice(number, number + 1 if number != -1 else None)


def _open_frames(
    path: Path, frames: slice, text_keys: Collection[str], on_error: ErrorHandler | None
) -> Iterator[tuple[int, Atoms]]:
    if path.is_dir():
        return _iter_outputs(path, frames, on_error)
    if has_suffix(path, _XYZ_SUFFIXES):
        forward = _forward(frames, lambda: count_extxyz(path))
        return _ordered(frames, iter_extxyz(path, forward, text_keys))
    if has_suffix(path, (".traj",)):
        return _iter_trajectory(path, frames)
    if has_suffix(path, (".db",)):
        return _iter_database(path, frames)
    if has_suffix(path, _PICKLE_SUFFIXES):
        from ase_knncalc.data.jkqc import read_jkqc

        return iter(list(enumerate(read_jkqc(path)))[frames])
    if path.is_fifo():
        raise DataError(f"{path}: a pipe does not tell its format; write a file, and name that")
    return _iter_other(path, frames)


def _forward(frames: slice, count: Callable[[], int]) -> slice:
    """The same frames as a slice without negative numbers; ``count`` is called if it has any."""
    if all(part is None or part >= 0 for part in (frames.start, frames.stop, frames.step)):
        return frames
    numbers = range(*frames.indices(count()))
    if not numbers:
        return slice(0, 0)
    if numbers.step < 0:
        numbers = numbers[::-1]
    return slice(numbers[0], numbers[-1] + 1, numbers.step)


def _ordered(frames: slice, forward: Iterator[tuple[int, Atoms]]) -> Iterator[tuple[int, Atoms]]:
    """Turn round what was read forwards if the slice runs backwards."""
    if frames.step is not None and frames.step < 0:
        return reversed(list(forward))
    return forward


def _iter_trajectory(path: Path, frames: slice) -> Iterator[tuple[int, Atoms]]:
    from ase.io.trajectory import TrajectoryReader

    with TrajectoryReader(str(path)) as trajectory:
        for number in range(*frames.indices(len(trajectory))):
            try:
                atoms = trajectory[number]
            except Exception as e:
                raise DataError(f"{path}: frame {number} cannot be read: {e}") from e
            _move_arrays(atoms)
            yield number, atoms


_PER_ATOM = ("_forces", "forces_std")
# Trajectories and databases keep no arrays but ASE's own, so that these travel in ``info``.


def _per_atom(atoms: Atoms) -> dict[str, Any]:
    return {key: value for key, value in atoms.arrays.items() if key.endswith(_PER_ATOM)}


def _move_arrays(atoms: Atoms) -> None:
    # ASE makes the number 3 of the key "3".
    atoms.info = {str(key): value for key, value in atoms.info.items()}
    for key, value in list(atoms.info.items()):
        shape = (len(atoms),) if key.endswith("_std") else (len(atoms), 3)
        if key.endswith(_PER_ATOM) and np.shape(value) == shape and key not in atoms.arrays:
            atoms.new_array(key, np.array(atoms.info.pop(key), dtype=float))


def _iter_database(path: Path, frames: slice) -> Iterator[tuple[int, Atoms]]:
    from ase.db import connect

    with connect(str(path)) as database:
        forward = _forward(frames, database.count)
        rows = islice(
            enumerate(database.select(sort="id")), forward.start, forward.stop, forward.step
        )
        yield from _ordered(frames, ((i, _from_row(row, path)) for i, row in rows))


def _from_row(row: Any, path: Path) -> Atoms:
    try:
        atoms = row.toatoms()
        atoms.info.update(row.key_value_pairs)
        atoms.info.update(row.data)
        _move_arrays(atoms)
    except Exception as e:
        raise DataError(f"{path}: row {row.get('id')} cannot be read: {e}") from e
    return atoms


def output_files(folder: Path) -> list[Path]:
    """Outputs of ORCA or Gaussian in a folder and its subfolders, in the order of their names."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and has_suffix(p, _OUTPUT_SUFFIXES))


def _iter_outputs(
    path: Path, frames: slice, on_error: ErrorHandler | None
) -> Iterator[tuple[int, Atoms]]:
    files = output_files(path)
    if not files:
        raise DataError(f"{path}: the folder holds no output files (*.out, *.log)")
    times = Counter(file_stem(file) for file in files)
    for number, file in list(enumerate(files))[frames]:
        try:
            atoms = _read_output(file)
            # One folder for each structure, with files that all have the same name.
            inside = file.relative_to(path)
            stem = file_stem(file)
            name = stem if times[stem] == 1 else str(inside.parent / stem)
            atoms.info.setdefault("name", printable(name))
            atoms.info.setdefault("source", printable(str(inside)))
        except DataError as e:
            if on_error is None:
                raise
            on_error(file, e)
            continue
        yield number, atoms


def _read_output(file: Path) -> Atoms:
    from ase.io import read

    try:
        atoms = read(str(file), index=-1, do_not_split_by_at_sign=True)
    except Exception as e:  # see iter_frames
        detail = str(e) or type(e).__name__
        raise DataError(f"{file}: cannot be read as an ORCA or Gaussian output: {detail}") from e
    _add_charge(atoms, file)
    return atoms


def _add_charge(atoms: Atoms, file: Path) -> None:
    """Take charge and multiplicity, which ASE leaves in the text of an output."""
    text = file.read_text(encoding="utf-8", errors="replace")
    charges = _ORCA_CHARGE.findall(text)
    multiplicities = _ORCA_MULTIPLICITY.findall(text)
    if not charges:
        found = _GAUSSIAN_CHARGE.findall(text)
        charges = [charge for charge, _ in found]
        multiplicities = [multiplicity for _, multiplicity in found]
    if charges:
        atoms.info.setdefault("charge", int(charges[-1]))
    if multiplicities:
        atoms.info.setdefault("multiplicity", int(multiplicities[-1]))


def _iter_other(path: Path, frames: slice) -> Iterator[tuple[int, Atoms]]:
    from ase.io import iread

    def read() -> Iterator[Atoms]:
        return iread(str(path), index=":", do_not_split_by_at_sign=True)

    forward = _forward(frames, lambda: sum(1 for _ in read()))
    numbered = islice(enumerate(read()), forward.start, forward.stop, forward.step)
    for number, atoms in _ordered(frames, numbered):
        if has_suffix(path, _OUTPUT_SUFFIXES):
            _add_charge(atoms, path)
        yield number, atoms


# ---------------------------------------------------------------------------------------- writing


def write_frames(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> None:
    """Write frames to a file that is complete or is not there.

    The frames go to a file beside ``path`` that takes its place at the end, so that an interrupted
    run leaves an old file as it was.

    Parameters
    ----------
    path
        ``.extxyz``, ``.xyz`` (plain or ``.gz``), ``.traj``, ``.db`` (ASE database; numbers are
        key-value pairs, all of ``info`` is in ``data``), or ``.csv`` (a table of the scalars).
        Extended XYZ holds positions and forces to 1e-8 and energies in full, and no empty values.
    frames
        Structures with labels in ``info`` and ``arrays``. Keys of ``info`` become text without
        white space, NumPy scalars plain ones, arrays of text lists.

    Warns
    -----
    UserWarning
        If keys of ``info`` are renamed, or left out because the format cannot hold them.

    Raises
    ------
    DataError
        Unknown suffix, no frames, or the file cannot be written.
    """
    path = Path(file_name("path", path))
    frames = list(instance(Iterable)("frames", frames))
    if not frames:
        raise DataError(f"{path}: there are no frames to write")
    several(instance(Atoms))("frames", frames)
    write, fits = frame_writer(path)
    told: dict[str, str] = {}
    number = 0

    def plain() -> Iterator[Atoms]:
        nonlocal number
        for number, atoms in enumerate(frames):  # noqa: B007 - named in errors
            copy = atoms.copy()
            copy.calc = atoms.calc
            copy.info = plain_info(atoms.info, fits, told)
            yield copy

    with replacing(path, DataError) as temporary:
        try:
            write(temporary, plain())
        except (KNNCalcError, OSError):
            raise
        except Exception as e:  # ASE's writers raise anything for arrays and results of odd kinds
            detail = str(e) or type(e).__name__
            raise DataError(f"{path}: frame {number} cannot be written: {detail}") from e
    if told:
        entries = "; ".join(f"{key} is {what}" for key, what in told.items())
        warnings.warn(f"{path}: of the frames' info, {entries}", UserWarning, stacklevel=2)


class FrameWriter(NamedTuple):
    """A format to write: what does it, and which entries of ``info`` it can hold."""

    write: Callable[[Path, Iterable[Atoms]], None]
    fits: Fits


def frame_writer(path: Path) -> FrameWriter:
    """What writes frames in the format that the file's name asks for.

    Raises
    ------
    DataError
        Unknown suffix.
    """
    if has_suffix(path, _XYZ_SUFFIXES):
        return FrameWriter(_write_extxyz, fits_extxyz)
    if has_suffix(path, (".traj",)):
        return FrameWriter(_write_trajectory, fits_trajectory)
    if has_suffix(path, (".db",)):
        return FrameWriter(_write_database, fits_database)
    if has_suffix(path, (".csv",)):
        return FrameWriter(_write_csv, fits_csv)
    raise DataError(
        f"{path}: frames are written as .extxyz, .xyz (plain or .gz), .traj, .db or .csv"
    )


def _write_extxyz(path: Path, frames: Iterable[Atoms]) -> None:
    from ase.io.extxyz import write_xyz

    known = {"Properties", "Lattice", "pbc", *all_properties}
    with open(path, "wb") as raw, contextlib.ExitStack() as stack:
        binary: Any = raw
        if path.suffix == ".gz":
            # Neither time nor name in the header: the same frames give the same bytes.
            binary = stack.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0))
        text = stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8", newline="\n"))
        for atoms in frames:
            values = {k: extxyz_value(k, v) for k, v in atoms.info.items() if not is_empty(v)}
            # Of an empty list an array may have been made.
            atoms.info = {k: v for k, v in values.items() if not is_empty(v)}
            frame = io.StringIO()
            write_xyz(frame, [atoms])
            comment = frame.getvalue().split("\n", 2)[1]
            found = parse_comment(comment).keys()
            if not atoms.info.keys() <= found <= known | atoms.info.keys():
                raise ValueError(f"its labels would not be read again from {comment!r}")
            text.write(frame.getvalue())


def _write_trajectory(path: Path, frames: Iterable[Atoms]) -> None:
    from ase.io.trajectory import TrajectoryWriter

    with TrajectoryWriter(str(path), mode="w") as trajectory:
        for atoms in frames:
            atoms.info |= _per_atom(atoms)
            trajectory.write(atoms)


def _write_database(path: Path, frames: Iterable[Atoms]) -> None:
    from ase.db import connect
    from ase.db.core import reserved_keys

    # Names of a row's own attributes, beside those that ASE refuses.
    reserved = {*reserved_keys, "tags", "masses", "external_tables"}

    def searchable(key: str, value: Any) -> bool:
        # SQLite has no integers beyond these.
        number = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        return number and key.isascii() and key.isidentifier() and key not in reserved

    path.unlink()  # it was made empty, which SQLite takes for a database without tables
    with connect(str(path), type="db", use_lock_file=False) as database:
        for atoms in frames:
            data = atoms.info | _per_atom(atoms)
            pairs = {key: value for key, value in data.items() if searchable(key, value)}
            database.write(atoms, pairs, data=data)


def _write_csv(path: Path, frames: Iterable[Atoms]) -> None:
    scalars = (str, int, float, bool)
    first = ["formula", "n_atoms", "name", "composition", "charge", "multiplicity"]
    rows = [
        {"formula": atoms.get_chemical_formula(), "n_atoms": len(atoms)}
        | {key: value for key, value in atoms.info.items() if isinstance(value, scalars)}
        for atoms in frames
    ]
    found = {key for row in rows for key in row}
    columns = [*(key for key in first if key in found), *sorted(found - set(first))]
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as handle:
        writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
