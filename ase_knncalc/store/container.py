r"""Containers: checked HDF5 files of a kind, with one JSON text and named arrays.

A file of this package is an HDF5 file behind a user block of 512 bytes::

    ase_knncalc <kind> <format version>\n
    sha256 <hex digest of everything after the user block>\n
    written by ase_knncalc <package version>\n
    (padded with zero bytes)

Any HDF5 tool reads it (``h5dump``, ``h5ls``); this package verifies the digest before HDF5 sees a
byte, so that a damaged file is one :class:`ModelFileError` and never a wrong number. The HDF5
part holds contiguous datasets only (no filters, links or pickles) and one JSON text, ``metadata``.
Files are written beside their place, flushed to disk and renamed over it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ase_knncalc._lib.arrays import AnyArray
from ase_knncalc._lib.files import atomic_write
from ase_knncalc.errors import KNNCalcError, ModelFileError, ModelFileVersionError

FORMAT_VERSION = 1
USER_BLOCK = 512
_BLOCK = 1 << 20
_MOST_ITEMS = 1000

_HEADER = re.compile(rb"ase_knncalc ([a-z]+) (\d+)\nsha256 ([0-9a-f]{64})\n")


def package_versions() -> dict[str, str]:
    """Versions of this package and of those a model depends on."""
    names = ("ase_knncalc", "ase", "numpy", "scipy", "scikit-learn", "qmllib", "h5py")
    return {name: found for name in names if (found := _version(name)) is not None}


@functools.cache
def _version(name: str) -> str | None:
    with contextlib.suppress(PackageNotFoundError):
        return version(name)
    return None


_KINDS = {"model": "model file", "labels": "label cache"}
# Label caches are databases; those of earlier versions were containers.
_STARTS = {
    "model": (b"ase_knncalc model ",),
    "labels": (b"SQLite format 3\0", b"ase_knncalc labels "),
}


def check_replaceable(path: str | os.PathLike[str], kind: str) -> None:
    """Refuse to write a container in the place of a file of another kind.

    ``train -o *.extxyz`` names a file of structures as the output, before any word of it.

    Raises
    ------
    ModelFileError
        If there is a file that is neither empty nor of that kind.
    """
    try:
        with open(path, "rb") as handle:
            found = handle.read(32)
    except FileNotFoundError:
        return
    except OSError as e:
        raise ModelFileError(f"cannot read {path}, which is there already: {e.strerror}") from e
    if found and not found.startswith(_STARTS[kind]):
        raise ModelFileError(
            f"{path} is there already, and is no {_KINDS[kind]}; name another, or remove it first"
        )


def is_container(path: str | os.PathLike[str], kind: str) -> bool:
    """Whether a file begins as one of that kind."""
    try:
        with open(path, "rb") as handle:
            return handle.read(32).startswith(f"ase_knncalc {kind} ".encode("ascii"))
    except OSError:
        return False


def write_container(
    path: str | os.PathLike[str],
    kind: str,
    metadata: dict[str, Any],
    arrays: dict[str, AnyArray],
) -> None:
    """Write metadata and named arrays (``"group/name"``) as one file, atomically.

    Raises
    ------
    ModelFileError
        If the file cannot be written; what was there before is untouched.
    """
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK) as file:
        text = json.dumps(metadata, sort_keys=True, allow_nan=False)
        file.create_dataset("metadata", data=np.frombuffer(text.encode("utf-8"), dtype=np.uint8))
        for name in sorted(arrays):
            file.create_dataset(name, data=np.asarray(arrays[name], order="C"), track_times=False)
    body = memoryview(buffer.getbuffer())[USER_BLOCK:]
    header = (
        f"ase_knncalc {kind} {FORMAT_VERSION}\n"
        f"sha256 {hashlib.sha256(body).hexdigest()}\n"
        f"written by ase_knncalc {package_versions().get('ase_knncalc', 'unknown')}\n"
    ).encode("ascii")
    with atomic_write(path) as handle:
        handle.write(header.ljust(USER_BLOCK, b"\0"))
        handle.write(body)


def read_container(
    path: str | os.PathLike[str], kind: str
) -> tuple[dict[str, Any], dict[str, AnyArray]]:
    """Metadata and arrays of a file that :func:`write_container` wrote.

    Raises
    ------
    ModelFileError
        If the file is missing, of another kind, or damaged.
    ModelFileVersionError
        If it has a newer format than this version reads.
    """
    import h5py

    path = Path(path)
    raw = _verified_bytes(path, kind)
    try:
        with h5py.File(io.BytesIO(raw), "r") as file:
            arrays = _read_datasets(file, path, len(raw))
        metadata = _strict_json(arrays.pop("metadata"))
    except KNNCalcError:
        raise
    except Exception as e:  # whatever h5py or json find in a file made to deceive
        raise ModelFileError(f"{path} cannot be read: {str(e) or type(e).__name__}") from e
    if not isinstance(metadata, dict):
        raise ModelFileError(f"{path}: item 'metadata' is not a JSON object")
    return metadata, arrays


def _verified_bytes(path: Path, kind: str) -> bytes:
    """The whole file, once header and checksum are right; nothing large is read before."""
    try:
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path} is not a regular file, expected a {kind} file")
        with open(path, "rb") as handle:
            digest = _read_header(handle.read(USER_BLOCK), path, kind)
            found = hashlib.sha256()
            while block := handle.read(_BLOCK):
                found.update(block)
            if found.hexdigest() != digest:
                raise ModelFileError(
                    f"{path} is damaged: its checksum does not match its content; get a fresh "
                    "copy or train it again"
                )
            handle.seek(0)
            return handle.read()
    except KNNCalcError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise ModelFileError(f"cannot read {path}: {getattr(e, 'strerror', None) or e}") from e
    except MemoryError as e:
        raise ModelFileError(f"cannot read {path}: it is larger than the memory") from e


def stated_checksum(path: str | os.PathLike[str], kind: str) -> str:
    """SHA-256 that the header of a file states, in hexadecimal digits.

    Raises
    ------
    ModelFileError
        If the file cannot be read, or is of another kind.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            return _read_header(handle.read(USER_BLOCK), path, kind)
    except OSError as e:
        raise ModelFileError(f"cannot read {path}: {e.strerror}") from e


def _read_header(header: bytes, path: Path, kind: str) -> str:
    """Checksum that the header states, if kind and version are right."""
    match = _HEADER.match(header)
    if match is None:
        raise ModelFileError(
            f"{path} is not a file of ase_knncalc (or its first bytes are damaged): expected a "
            f"{kind} file; get a fresh copy or train it again"
        )
    found_kind, found_version = match[1].decode(), int(match[2])
    if found_kind != kind:
        raise ModelFileError(f"{path} is a {found_kind} file, expected a {kind} file")
    if found_version > FORMAT_VERSION:
        raise ModelFileVersionError(
            f"{path} has format version {found_version}, this ase_knncalc reads up to version "
            f"{FORMAT_VERSION}: upgrade with `pip install --upgrade ase_knncalc`"
        )
    if found_version < 1:
        raise ModelFileError(f"{path} has format version {found_version}, which never existed")
    return match[3].decode()


def _strict_json(array: AnyArray) -> Any:
    """The document in an array of bytes; NaN, infinity and numbers that overflow are refused."""
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"item 'metadata' has type {array.dtype} and shape {array.shape}")

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"item 'metadata' holds the number {text[:40]}")
        return number

    return json.loads(array.tobytes().decode("utf-8"), parse_constant=finite, parse_float=finite)


def _read_datasets(file: Any, path: Path, size: int) -> dict[str, AnyArray]:
    """All datasets, once it is sure that they are plain and lie within the file."""
    import h5py

    arrays: dict[str, AnyArray] = {}
    total = 0
    pending = [("", file)]
    while pending:
        prefix, group = pending.pop()
        for key in group:
            name = f"{prefix}{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ModelFileError(f"{path}: item {name!r} is a link, which is not allowed")
            item = group[key]
            if isinstance(item, h5py.Group):
                if prefix:
                    raise ModelFileError(f"{path}: item {name!r} is nested too deep")
                pending.append((f"{name}/", item))
                continue
            plain = isinstance(item, h5py.Dataset) and _is_plain(item)
            # Their sum: a thousand names of one dataset would fill the memory, too.
            total += item.nbytes if plain else 0
            if not plain or total > size:
                raise ModelFileError(
                    f"{path}: item {name!r} is not a plain array that lies within the file"
                )
            if len(arrays) == _MOST_ITEMS:
                raise ModelFileError(f"{path}: there are more than {_MOST_ITEMS} items in the file")
            arrays[name] = item[()]
    if "metadata" not in arrays:
        raise ModelFileError(f"{path}: item 'metadata' is missing")
    return arrays


def _is_plain(item: Any) -> bool:
    """Whether a dataset is an array of numbers or bytes that lies in the file as it is."""
    kind = item.dtype.kind
    return (
        item.shape is not None
        and item.chunks is None
        and not item.is_virtual
        and not item.external
        # No long doubles: their bytes depend on the machine.
        and (kind == "S" or (kind in "fiu" and item.dtype.itemsize <= 8))
    )
