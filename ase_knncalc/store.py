"""Files: the only module that imports h5py.

A file of this package is an HDF5 file behind a user block of 512 bytes::

    ase_knncalc <kind> <format version>\\n
    sha256 <hex digest of everything after the user block>\\n
    written by ase_knncalc <package version>\\n
    (padded with zero bytes)

Any HDF5 tool reads it (``h5dump``, ``h5ls``); this package verifies the digest before HDF5 sees a
byte, so that a damaged file is one :class:`ModelFileError` and never a wrong number. The HDF5
part holds contiguous datasets only (no filters, links or pickles) and one JSON text, ``metadata``.

Model files (kind ``model``, format version 1) hold

==============================  =========================  =======================================
dataset                         type and shape             what
==============================  =========================  =======================================
``metadata``                    UTF-8 JSON                 descriptor settings, trend kind and
                                                           settings, k-NN settings, model info
                                                           (baseline, reference, charges, errors,
                                                           provenance, monomers), versions
``trend/*``                     float                      arrays of the trend (``trend.arrays()``)
``metric/components``           float32 (c, f)             learned linear map
``metric/mean``                 float64 (f,)               its origin
``index/points``                float32 (n, c)             projected training structures
``index/residuals``             float64 (n,)               what the trend left over there, eV
``index/names``                 bytes (n,)                 names of the training structures, UTF-8
``index/compositions``          bytes (n,)                 their compositions, UTF-8
``calibration/*``               float64                    fields of :class:`Calibration`
``held_out/*``                  float, int16 (n, …)        fields of :class:`HeldOutErrors`; only
                                                           for reports, may be missing
``kernel_map/*``                float, int                 fields of :class:`KernelMap`; only of
                                                           models with the kernel-induced distance
``force_calibration/*``         float64, int               fields of :class:`ForceCalibration`; only
                                                           of models that were trained on forces
==============================  =========================  =======================================

Files are written beside their place, flushed to disk and renamed over it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ase_knncalc.baselines import baseline_of, make_baseline
from ase_knncalc.descriptors import Descriptor, descriptor_from_dict
from ase_knncalc.errors import (
    KNNCalcError,
    ModelFileError,
    ModelFileVersionError,
    SettingsError,
)
from ase_knncalc.files import atomic_write, only_writer
from ase_knncalc.kernel_map import KernelMap
from ase_knncalc.model import HeldOutErrors, KNNModel, ModelInfo
from ase_knncalc.modelcheck import check_magnitude, check_model, check_sizes
from ase_knncalc.neighbors import KNNSettings, KNNTerm, NeighborIndex
from ase_knncalc.trendfit import trend_class
from ase_knncalc.uncertainty import Calibration, ForceCalibration

FORMAT_VERSION = 1
USER_BLOCK = 512
_BLOCK = 1 << 20
_MOST_ITEMS = 1000

_HEADER = re.compile(rb"ase_knncalc ([a-z]+) (\d+)\nsha256 ([0-9a-f]{64})\n")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_PACKAGE_DIR = Path(__file__).resolve().parent
# In a wheel the models lie inside the package, in a source checkout beside it.
_MODEL_DIRS = (_PACKAGE_DIR / "trained_models", _PACKAGE_DIR.parent / "trained_models")


def package_versions() -> dict[str, str]:
    """Versions of this package and of those a model depends on."""
    found = {}
    for name in ("ase_knncalc", "ase", "numpy", "scipy", "scikit-learn", "qmllib", "h5py"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_container(
    path: str | os.PathLike[str],
    kind: str,
    metadata: dict[str, Any],
    arrays: dict[str, np.ndarray],
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
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
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


def _strict_json(array: np.ndarray) -> Any:
    """The document in an array of bytes; NaN, infinity and numbers that overflow are refused."""
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError(f"item 'metadata' has type {array.dtype} and shape {array.shape}")

    def finite(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"item 'metadata' holds the number {text[:40]}")
        return number

    return json.loads(array.tobytes().decode("utf-8"), parse_constant=finite, parse_float=finite)


def _read_datasets(file: Any, path: Path, size: int) -> dict[str, np.ndarray]:
    """All datasets, once it is sure that they are plain and lie within the file."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
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


def find_model(name: str | os.PathLike[str]) -> Path:
    """File of a model given by path, or by name among the shipped ones.

    Raises
    ------
    ModelFileError
        If there is none; lists the shipped models.
    """
    given = Path(name).expanduser()
    if given.is_file():
        return given
    if given.suffix == "" and given.name == str(name):
        for folder in _MODEL_DIRS:
            candidate = folder / f"{given.name}.h5"
            if candidate.is_file():
                return candidate
    if given.is_dir():
        raise ModelFileError(f"{given} is a folder, expected a model file (*.h5)")
    shipped = ", ".join(list_models()) or "none"
    raise ModelFileError(
        f"no model {str(name)!r}: neither a file nor one of the shipped models ({shipped})"
    )


def list_models() -> list[str]:
    """Names of the shipped models."""
    return sorted(
        {p.stem for folder in _MODEL_DIRS if folder.is_dir() for p in folder.glob("*.h5")}
    )


_HELD_OUT = {
    "errors": np.float32,
    "stds": np.float32,
    "deltas": np.float64,
    "counts": np.int16,
}


def save_model(model: KNNModel, path: str | os.PathLike[str]) -> None:
    """Write a model file, atomically; waits while another process appends to the file there.

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
    with only_writer(path):
        write_model(model, path)


def write_model(model: KNNModel, path: str | os.PathLike[str]) -> None:
    """:func:`save_model` for who holds :func:`ase_knncalc.files.only_writer` already."""
    metadata = {
        "descriptor": model.descriptor.to_dict(),
        "trend": {"kind": model.trend.kind, "elements": list(model.trend.elements)},
        "knn": model.knn.settings.to_dict(),
        "info": model.info.to_dict(),
        "versions": package_versions(),
    }
    arrays = {
        "metric/components": model.components.astype(np.float32),
        "metric/mean": model.mean,
        "index/points": model.knn.index.points,
        "index/residuals": model.knn.residuals,
        "index/names": model.names,
        "index/compositions": model.compositions,
    }
    arrays |= {f"trend/{name}": value for name, value in model.trend.arrays().items()}
    arrays |= {
        f"calibration/{f.name}": np.asarray(getattr(model.calibration, f.name))
        for f in fields(model.calibration)
    }
    if model.force_calibration is not None:
        arrays |= {
            f"force_calibration/{f.name}": np.asarray(getattr(model.force_calibration, f.name))
            for f in fields(model.force_calibration)
        }
    if model.kernel_map is not None:
        arrays |= {
            f"kernel_map/{name}": getattr(model.kernel_map, name)
            for name in ("sigma", "normalized", "landmarks", "counts")
        }
    if model.held_out is not None:
        arrays |= {
            f"held_out/{name}": getattr(model.held_out, name).astype(kind)
            for name, kind in _HELD_OUT.items()
        }
    write_container(path, "model", metadata, arrays)


def load_model(
    name: str | os.PathLike[str], *, baseline: Any = "auto", allow_other_baseline: bool = False
) -> KNNModel:
    """Read a model by name (``"saw-wb97xd"``) or path.

    Parameters
    ----------
    name
        A shipped model's name, or a file.
    baseline
        ``"auto"``: the method and settings the model was trained on, from whichever library is
        installed. None: no baseline, only the correction. Else as for
        :func:`ase_knncalc.baselines.make_baseline`.
    allow_other_baseline
        Accept a baseline that is not the one the model corrects.

    Raises
    ------
    ModelFileError, ModelFileVersionError
        If the file is missing, damaged, incomplete or too new.
    BaselineError
        If the baseline's library is not installed, or it is not the baseline that the model
        corrects.
    """
    path = find_model(name)
    metadata, arrays = read_container(path, "model")
    try:
        model = _build_model(metadata, _Items(arrays))
        check_model(model)
    except KNNCalcError as e:
        raise ModelFileError(f"{path}: {e}{_upgrade_hint(metadata)}") from e
    except KeyError as e:
        raise ModelFileError(f"{path}: metadata: {e} is missing{_upgrade_hint(metadata)}") from e
    except MemoryError as e:
        raise ModelFileError(f"{path} asks for more memory than there is") from e
    except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as e:
        raise ModelFileError(
            f"{path}: its items do not fit together: {e}{_upgrade_hint(metadata)}"
        ) from e
    if baseline is None:
        return model
    if isinstance(baseline, str) and baseline == "auto":
        try:
            chosen = baseline_of(model.info.baseline)
        except SettingsError as e:
            raise ModelFileError(f"{path}: {e}") from e
    else:
        chosen = make_baseline(baseline)
    return model.with_baseline(chosen, allow_other=allow_other_baseline)


def _upgrade_hint(metadata: dict[str, Any]) -> str:
    """Which package to upgrade, if a newer one than this wrote the file."""
    try:
        wrote, have = metadata["versions"]["ase_knncalc"], package_versions()["ase_knncalc"]
        wrote_parts, have_parts = (re.findall(r"\d+", v)[:3] for v in (wrote, have))
        newer = list(map(int, wrote_parts)) > list(map(int, have_parts))
    except (KeyError, TypeError):
        return ""
    upgrade = f"upgrade with `pip install --upgrade 'ase_knncalc>={wrote}'`"
    return f"; ase_knncalc {wrote} wrote it, and this is {have}: {upgrade}" if newer else ""


class _Items:
    """Arrays of a file, each checked when taken."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays

    def take(self, name: str, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """The array of that name if its type and shape (None: any length) are right."""
        if name not in self._arrays:
            raise SettingsError(f"item {name!r} is missing")
        array = self._arrays[name]
        fits = array.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype.kind not in kind or not fits:
            raise SettingsError(
                f"item {name!r} has type {array.dtype} and shape {array.shape}, "
                f"expected shape {tuple('any' if s is None else s for s in shape)}"
            )
        check_magnitude(name, array)
        return array

    def group(self, prefix: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The arrays of these names under a group."""
        return {
            name: self.take(f"{prefix}/{name}", "fi", self._shape(f"{prefix}/{name}"))
            for name in names
        }

    def has(self, prefix: str) -> bool:
        """Whether there is a dataset of that name, or anything in a group of that name."""
        return any(f"{name}/".startswith(f"{prefix}/") for name in self._arrays)

    def _shape(self, name: str) -> tuple[None, ...]:
        return (None,) * self._arrays[name].ndim if name in self._arrays else ()


def _build_model(metadata: dict[str, Any], items: _Items) -> KNNModel:
    descriptor = descriptor_from_dict(metadata["descriptor"])
    # Before anything of that size is made.
    mean = items.take("metric/mean", "f", (None,))
    kernel_map = _kernel_map(items, descriptor)
    if kernel_map is None:
        check_sizes(descriptor, len(mean))
    components = items.take("metric/components", "f", (None, len(mean))).astype(np.float64)
    points = items.take("index/points", "f", (None, len(components)))
    n = len(points)
    kind = trend_class(metadata["trend"]["kind"])
    names = [
        f.name
        for f in fields(kind)
        if f.init and f.name != "elements" and (_required(f) or items.has(f"trend/{f.name}"))
    ]
    trend = kind(elements=tuple(metadata["trend"]["elements"]), **items.group("trend", names))
    forces = items.has("force_calibration")
    return KNNModel(
        descriptor=descriptor,
        trend=trend,
        components=components,
        mean=mean,
        knn=KNNTerm(
            NeighborIndex(points),
            items.take("index/residuals", "f", (n,)),
            KNNSettings(**metadata["knn"]),
        ),
        names=items.take("index/names", "S", (n,)),
        compositions=items.take("index/compositions", "S", (n,)),
        calibration=_from_arrays(Calibration, items, "calibration"),
        info=ModelInfo(**metadata["info"]),
        force_calibration=(
            _from_arrays(ForceCalibration, items, "force_calibration") if forces else None
        ),
        held_out=_held_out(items, n, len(descriptor.elements)),
        kernel_map=kernel_map,
    )


def _kernel_map(items: _Items, descriptor: Descriptor) -> KernelMap | None:
    if not items.has("kernel_map"):
        return None
    landmarks = items.take("kernel_map/landmarks", "f", (None, None))
    check_sizes(descriptor, landmarks.shape[1], "kernel_map/landmarks")
    return KernelMap(
        elements=descriptor.elements,
        sigma=items.take("kernel_map/sigma", "f", ()),
        normalized=items.take("kernel_map/normalized", "i", ()),
        landmarks=landmarks,
        counts=items.take("kernel_map/counts", "i", (len(descriptor.elements),)),
    )


def _held_out(items: _Items, n: int, n_elements: int) -> HeldOutErrors | None:
    if not items.has("held_out"):
        return None
    return HeldOutErrors(
        **{
            name: items.take(f"held_out/{name}", "f", (n,)) for name in ("errors", "stds", "deltas")
        },
        counts=items.take("held_out/counts", "i", (n, n_elements + 2)),
    )


def _required(f: Field[Any]) -> bool:
    """Whether a dataclass has no default for a field: files of old may lack those with one."""
    return f.default is MISSING and f.default_factory is MISSING


_Calibration = TypeVar("_Calibration", Calibration, ForceCalibration)


def _from_arrays(kind: type[_Calibration], items: _Items, prefix: str) -> _Calibration:
    """A dataclass of numbers and arrays from the arrays of its fields."""
    built: dict[str, Any] = {}
    for f in fields(kind):
        if not _required(f) and not items.has(f"{prefix}/{f.name}"):
            continue
        number = f.type == "float"
        shape = () if number else (None,)
        array = items.take(f"{prefix}/{f.name}", "fi", shape)
        built[f.name] = float(array) if number else array
    return kind(**built)
