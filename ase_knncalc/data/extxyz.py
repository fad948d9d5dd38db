"""Streamed reading of (extended) XYZ, plain or gzip.

``ase.io.read`` first maps the whole file and then seeks back to every frame; on a gzip stream each
step back decompresses from the start. Here the text is cut into frames as it comes, so a file of
any length needs the memory of one frame. Frames of the usual kind (symbol, positions and real
columns) are parsed directly; all others go to ASE's parser, one at a time. Both give what ASE
gives, except for the identifiers in ``text_keys``, which stay text (ASE makes the number 1 of
``name=0001``).
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io.extxyz import (
    SPECIAL_3_3_KEYS,
    key_val_dict_to_str,
    key_val_str_to_dict,
    per_config_properties,
    read_xyz,
)

from ase_knncalc.data.comments import free_comment
from ase_knncalc.data.info import is_empty
from ase_knncalc.data.keys import is_unit
from ase_knncalc.data.paths import ErrorHandler, encoding_of
from ase_knncalc.errors import DataError

# Values that ASE writes as identifiers or free text and that must not turn into numbers.
TEXT_KEYS = ("name", "composition", "source", "citation")

_TOKEN = re.compile(
    r"""([^\s="'{}\[\]]+)\s*=\s*("(?:[^"\\]|\\.)*"|'[^'\\]*'|\{[^}\\]*\}|\[[^\]\\]*\]|[^\s"'{}\[\]\\=]+)(?=\s|$)"""
)
# "comment= " before another entry, as writers leave it of an empty value.
_EMPTY = re.compile(r"""\s*(?:[^\s="'{}\[\]\\]+\s*=\s+)+""")
_INTEGER = re.compile(r"[+-]?\d{1,18}\Z")
_REAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z")
_ESCAPED = re.compile(r"\\(.)")

_PER_ATOM_RESULTS = ("forces",)
_PER_FRAME_RESULTS = ("energy", "free_energy")
# Columns that ASE treats in a way of its own (constraints, charges of the Atoms constructor, …).
_SPECIAL_COLUMNS = {
    *(set(all_properties) - set(_PER_ATOM_RESULTS)),
    *("Z", "charge", "move_mask", "initial_charges", "numbers", "positions", "symbols"),
}
_SPECIAL_KEYS = {*(set(all_properties) - set(_PER_FRAME_RESULTS)), "Lattice"}


def open_text(path: Path) -> TextIO:
    """Open a text file for reading, decompressing it if its name ends in ``.gz``.

    It is UTF-8, with or without a byte-order mark, or what another mark says.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as raw:
        encoding = encoding_of(raw.read(4))
    return cast(TextIO, opened(path, "rt", encoding=encoding))


def iter_extxyz(
    path: Path,
    frames: slice = slice(None),
    text_keys: Collection[str] = TEXT_KEYS,
    on_error: ErrorHandler | None = None,
) -> Iterator[tuple[int, Atoms]]:
    """Frames of an XYZ file with their numbers, one at a time.

    Parameters
    ----------
    path
        ``.xyz`` or ``.extxyz``, plain or ``.gz``.
    frames
        Which frames, without negative numbers. Frames left out are skipped unparsed.
    text_keys
        Keys of the comment line whose values stay text.
    on_error
        Called with the path and the error of each frame that cannot be parsed.

    Raises
    ------
    DataError
        With the number of the frame and of its first line, if the file cannot be decompressed or
        a frame cannot be parsed. Frames before it have been given out by then.
    """
    wanted = islice(_cut(path), frames.start, frames.stop, frames.step)
    for number, line, header, comment, rows in wanted:
        try:
            atoms = _parse_frame(header, comment, rows, text_keys)
        except Exception as e:  # whatever ASE and numpy raise on damaged text
            error = DataError(
                f"{path}: frame {number} (line {line}) cannot be read as extended XYZ: {e}"
            )
            if on_error is None:
                raise error from e
            on_error(path, error)
            continue
        yield number, atoms


def count_extxyz(path: Path) -> int:
    """Number of frames in an XYZ file, without parsing them."""
    return sum(1 for _ in _cut(path))


def _cut(path: Path) -> Iterator[tuple[int, int, str, str, list[str]]]:
    """Yield (frame number, line number, first line, comment, atom lines) of each frame."""
    number = 0
    line_number = 0
    try:
        with open_text(path) as stream:
            line = stream.readline()
            while line:
                line_number += 1
                if not line.strip() or line.strip() == ">":
                    # ORCA's .allxyz has a ">" between frames. At an empty line ASE stops, and with
                    # it drops the rest of the file.
                    line = stream.readline()
                    continue
                first = line_number
                try:
                    n_atoms = int(line)
                except ValueError:
                    n_atoms = -1
                if n_atoms < 0:
                    raise DataError(
                        f"{path}: frame {number} (line {first}) should begin with a number of "
                        f"atoms, but there is {_shorten(line)}"
                    )
                header, comment = line, stream.readline()
                rows = list(islice(stream, n_atoms))
                if not comment or len(rows) < n_atoms:
                    raise DataError(
                        f"{path}: frame {number} (line {first}) is cut off: it should have "
                        f"{n_atoms} atoms, and the file ends after {len(rows)}"
                    )
                line_number += 1 + n_atoms
                line = stream.readline()
                while line.lstrip().startswith("VEC"):  # cell vectors as ADF writes them
                    rows.append(line)
                    line_number += 1
                    line = stream.readline()
                yield number, first, header, comment, rows
                number += 1
    except UnicodeError as e:
        raise DataError(
            f"{path}: frame {number} or one soon after it is no UTF-8 text ({e}); save the file as "
            "UTF-8, such as with iconv -f latin1 -t utf-8"
        ) from e
    except (OSError, EOFError, zlib.error) as e:
        raise DataError(
            f"{path}: cannot be read beyond frame {number} (line {line_number}): "
            f"{getattr(e, 'strerror', None) or e}"
        ) from e


def _shorten(line: str, length: int = 40) -> str:
    line = line.strip()
    return repr(line if len(line) <= length else line[:length] + "…")


def _parse_frame(header: str, comment: str, rows: list[str], text_keys: Collection[str]) -> Atoms:
    info = parse_comment(comment, text_keys)
    said = {} if "=" in comment else free_comment(comment, _numbers(rows))
    # ASE makes "true" of each word.
    words = {key for key, value in info.items() if value is True and (said or is_unit(key))}
    if words and not said:
        said = {"energy_unit": min(words)}
    info = {key: value for key, value in info.items() if key not in words}
    # A copy: the frame may take entries out.
    atoms = _parse_plain(int(header), dict(info), rows)
    if atoms is None:
        text = header + comment + "".join(rows)
        if not text.endswith("\n"):
            text += "\n"
        atoms = next(read_xyz(io.StringIO(text), 0, properties_parser=lambda _: info))
    atoms.info |= said  # such an energy has a unit of its own, and is no result of ASE's
    return atoms


def _numbers(rows: list[str]) -> list[int]:
    """Atomic numbers in the first column, 0 for what is no symbol."""
    symbols = (row.split(maxsplit=1)[0] if row.strip() else "" for row in rows)
    return [int(s) if s.isdecimal() else atomic_numbers.get(s.capitalize(), 0) for s in symbols]


def _parse_plain(n_atoms: int, info: dict[str, Any], rows: list[str]) -> Atoms | None:
    """A molecule with real columns only, or None for ASE's parser to do."""
    columns = _plain_columns(info.pop("Properties", "species:S:1:pos:R:3"))
    if columns is None or len(rows) != n_atoms or not _SPECIAL_KEYS.isdisjoint(info):
        return None
    pbc = info.pop("pbc", False)
    width = 1 + sum(columns.values())
    fields = [row.split() for row in rows]
    if any(len(row) < width for row in fields):
        raise ValueError(f"an atom line has less than {width} columns")
    try:
        numbers = [atomic_numbers[row[0].capitalize()] for row in fields]
    except KeyError as e:
        raise ValueError(f"{e.args[0]!r} is not a chemical symbol") from None
    values = np.array([[float(x) for x in row[1:width]] for row in fields], dtype=float)
    values = values.reshape(n_atoms, width - 1)

    positions = None
    arrays = {}
    start = 0
    for name, count in columns.items():
        block = values[:, start : start + count]
        start += count
        if name == "pos":
            positions = block
        else:
            arrays[name] = (block if count > 1 else block[:, 0]).copy()
    results = {key: info.pop(key) for key in _PER_FRAME_RESULTS if key in info}
    results |= {key: arrays.pop(key) for key in _PER_ATOM_RESULTS if key in arrays}

    atoms = Atoms(numbers, positions, pbc=pbc, info=info)
    for name, array in arrays.items():
        atoms.new_array(name, array)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@lru_cache(maxsize=64)
def _plain_columns(properties: str) -> dict[str, int] | None:
    """Names and widths of the real columns behind the symbol, or None if there are others."""
    words = properties.split(":") if isinstance(properties, str) else []
    if len(words) % 3 or words[:3] != ["species", "S", "1"]:
        return None
    columns: dict[str, int] = {}
    for name, kind, count in zip(words[3::3], words[4::3], words[5::3], strict=True):
        if kind != "R" or not count.isdigit() or name in _SPECIAL_COLUMNS or name in columns:
            return None
        columns[name] = int(count)
    # A column called "energy" would be per atom, which ASE rejects or not by its version.
    if columns.get("pos") != 3 or not set(_PER_FRAME_RESULTS).isdisjoint(columns):
        return None
    return columns


def parse_comment(comment: str, text_keys: Collection[str] = TEXT_KEYS) -> dict[str, Any]:
    """Key-value pairs of a comment line, as ASE reads them but for ``text_keys``.

    Of ``comment= energy=-1.5`` ASE makes the comment "energy=-1.5"; here the energy is read, too.
    """
    info: dict[str, Any] = {}
    end = 0
    comment = comment.strip()
    for match in _TOKEN.finditer(comment):
        gap = comment[end : match.start()]
        if _EMPTY.fullmatch(gap):
            info.update(key_val_str_to_dict(gap + match.group()))
        elif gap.strip():
            return _parse_unusual(comment, text_keys)
        end = match.end()
        key, value = match.groups()
        if key in text_keys or key == "Properties":
            info[key] = _text(value)
        elif _INTEGER.match(value):
            info[key] = int(value)
        elif _REAL.match(value):
            info[key] = float(value)
        elif key == "pbc" and value == '"F F F"':
            info[key] = [False, False, False]
        else:
            info.update(key_val_str_to_dict(match.group()))
    if comment[end:].strip():
        return _parse_unusual(comment, text_keys)
    return info


def _parse_unusual(comment: str, text_keys: Collection[str]) -> dict[str, Any]:
    info: dict[str, Any] = key_val_str_to_dict(comment)
    for match in _TOKEN.finditer(comment):
        key, value = match.groups()
        if key in text_keys and key in info:
            info[key] = _text(value)
    return info


def _text(value: str) -> str:
    if value[0] in "\"'{[":
        value = value[1:-1]
    return _ESCAPED.sub(r"\1", value)


def write_extxyz(path: Path, frames: Iterable[Atoms]) -> None:
    """Frames whose labels are read again as they are; ValueError where they would not be."""
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


# Stands for the label that follows a value in a comment line.
_BEHIND = "_behind_it"
_QUOTED_BY_ASE = re.compile(r"""[ "'{}\[\]]""")
_LINE_BREAK = re.compile(r"\r\n|\s")
# The frame itself, which extended XYZ keeps between the keys of ``info``.
_FRAME_KEYS = {"Properties", "Lattice", "pbc"}
# Of the results that ASE makes of keys by these names, it takes any value for these three.
_RESULTS = {*per_config_properties, *SPECIAL_3_3_KEYS} - {"energy", "free_energy", "magmom"}


def extxyz_value(key: str, value: Any) -> Any:
    """A plain value as ASE's comment line can hold it: on one line, and escaped where ASE does not.

    Raises
    ------
    ValueError, TypeError
        For text under a key that ASE wants numbers for.
    """
    if key in _RESULTS:
        return np.asarray(value, dtype=float)
    if isinstance(value, list | dict):
        # ASE would write the same, but with bare backslashes.
        return f"_JSON {json.dumps(value)}".replace("\\", "\\\\")
    if not isinstance(value, str):
        return value
    text = _LINE_BREAK.sub(" ", value).replace("\\", "\\\\")
    if text.startswith("_JSON "):
        text = f" {text}"  # ASE would look for JSON behind it
    # Within quotes "=" means nothing; without, ASE swallows it at either end of a value.
    return text if _QUOTED_BY_ASE.search(text) else text.replace("=", "\\=")


def fits_extxyz(key: str, value: Any) -> bool:
    """Whether the key is not one of the frame, and ASE reads the value as one value of that key."""
    if key in _FRAME_KEYS:
        return False
    if is_empty(value) or (isinstance(value, str | bool | int | float) and key not in _RESULTS):
        return True
    try:
        written = extxyz_value(key, value)
        if key in SPECIAL_3_3_KEYS:
            return written.shape in ((3, 3), (9,), *([(6,)] if key == "stress" else []))
        text = key_val_dict_to_str({key: written, _BEHIND: 1})
        return list(parse_comment(text, ())) == [key, _BEHIND]
    except Exception:  # anything, by the kind of the value
        return False
