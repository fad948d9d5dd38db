"""Reading and writing files of labelled structures.

:func:`iter_frames` gives the frames of any supported file one at a time, as they are in the file;
:class:`KeyMap` says under which names, and in which units, the labels are found there.
:func:`write_frames` writes a file whole or not at all.
"""

from __future__ import annotations

import operator
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ase import Atoms
from ase.io.formats import UnknownFileTypeError, string2index

from ase_knncalc._lib.arguments import file_name, instance, instances
from ase_knncalc._lib.files import replacing
from ase_knncalc.charges import info_with_state
from ase_knncalc.data.databases import fits_database, iter_database, write_database
from ase_knncalc.data.extxyz import TEXT_KEYS, count_extxyz, fits_extxyz, iter_extxyz, write_extxyz
from ase_knncalc.data.info import Fits, plain_info
from ase_knncalc.data.outputs import SUFFIXES, iter_outputs, read_output
from ase_knncalc.data.paths import ErrorHandler, has_suffix
from ase_knncalc.data.slices import forwards, ordered
from ase_knncalc.data.tables import fits_csv, write_csv
from ase_knncalc.data.trajectories import fits_trajectory, iter_trajectory, write_trajectory
from ase_knncalc.errors import DataError, KNNCalcError, SettingsError

_XYZ_SUFFIXES = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")
_READ_AS_XYZ = (*_XYZ_SUFFIXES, ".allxyz")
_PICKLE_SUFFIXES = (".pkl", ".pickle")

_KNOWN_FORMATS = (
    "known are .xyz, .extxyz (plain or .gz), .allxyz, .traj, .db and .json of ASE, JKQC .pkl, "
    "folders of ORCA or Gaussian outputs or of structures, and what else ase.io.read knows by name "
    "or content"
)


def is_jkqc(path: str | os.PathLike[str]) -> bool:
    """Whether a path is read as a JKQC database, whose labels come in eV whatever the key map."""
    return has_suffix(Path(path), _PICKLE_SUFFIXES)


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
        frame), ``.traj``, ``.db`` and ``.json`` (ASE; key-value pairs and data go to ``info``),
        ``.pkl`` (JKQC, see :func:`~ase_knncalc.data.jkqc.read_jkqc`; its energies arrive in eV), a
        folder of ORCA or Gaussian outputs (``*.out``, ``*.log``, in its subfolders too, in the
        order of their names) or one of them (its last converged energy with its structure), a
        folder of structures that CREST, ABCluster, xtb or JKCS left, and what else
        ``ase.io.iread`` reads.
    index
        Frame number, slice, or text of either such as ``"-1"`` or ``"100:200:2"``.
    text_keys
        Keys of extended XYZ comment lines that stay text: ASE reads ``name=0001`` as the number 1.
    on_error
        Called with the path and the error for each unreadable output in a folder, or frame of an
        extended XYZ file, trajectory or database, which is then left out; without it the error
        is raised.

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
        return iter_outputs(path, frames, on_error)
    if has_suffix(path, _READ_AS_XYZ):
        forward = forwards(frames, lambda: count_extxyz(path))
        return ordered(frames, iter_extxyz(path, forward, text_keys, on_error))
    if has_suffix(path, (".traj",)):
        return iter_trajectory(path, frames, on_error)
    if has_suffix(path, (".db", ".json")):
        return iter_database(path, frames, on_error)
    if has_suffix(path, _PICKLE_SUFFIXES):
        from ase_knncalc.data.jkqc import read_jkqc

        return iter(list(enumerate(read_jkqc(path)))[frames])
    if path.is_fifo():
        raise DataError(f"{path}: a pipe does not tell its format; write a file, and name that")
    if has_suffix(path, SUFFIXES):
        return iter(list(enumerate([read_output(path)]))[frames])
    return _iter_other(path, frames)


def _iter_other(path: Path, frames: slice) -> Iterator[tuple[int, Atoms]]:
    from ase.io import iread

    def read() -> Iterator[Atoms]:
        yield from iread(str(path), index=":", do_not_split_by_at_sign=True)

    forward = forwards(frames, lambda: sum(1 for _ in read()))
    numbered = islice(enumerate(read()), forward.start, forward.stop, forward.step)
    yield from ordered(frames, numbered)


def write_frames(path: str | os.PathLike[str], frames: Iterable[Atoms]) -> None:
    """Write frames to a file that is complete or is not there.

    The frames go to a file beside ``path`` that takes its place at the end, so that an interrupted
    run leaves an old file as it was.

    Parameters
    ----------
    path
        ``.extxyz``, ``.xyz`` (plain or ``.gz``), ``.traj``, ``.db`` (ASE database; numbers are
        key-value pairs, all of ``info`` is in ``data``), ``.pkl`` (a table for JKQC, see
        :mod:`ase_knncalc.data.jkqc.columns`), or ``.csv`` (a table of the scalars).
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
    frames = list(instance("frames", frames, Iterable))
    if not frames:
        raise DataError(f"{path}: there are no frames to write")
    instances("frames", frames, Atoms)
    write, fits = frame_writer(path)
    told: dict[str, str] = {}
    number = 0

    def plain() -> Iterator[Atoms]:
        nonlocal number
        for number, atoms in enumerate(frames):  # noqa: B007 - named in errors
            copy = atoms.copy()
            copy.calc = atoms.calc
            copy.info = plain_info(info_with_state(atoms), fits, told)
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
        return FrameWriter(write_extxyz, fits_extxyz)
    if has_suffix(path, (".traj",)):
        return FrameWriter(write_trajectory, fits_trajectory)
    if has_suffix(path, (".db",)):
        return FrameWriter(write_database, fits_database)
    if has_suffix(path, (".csv",)):
        return FrameWriter(write_csv, fits_csv)
    if has_suffix(path, _PICKLE_SUFFIXES):
        from ase_knncalc.data.jkqc import fits_jkqc, write_jkqc

        return FrameWriter(write_jkqc, fits_jkqc)
    raise DataError(
        f"{path}: frames are written as .extxyz, .xyz (plain or .gz), .traj, .db, .pkl or .csv"
    )
