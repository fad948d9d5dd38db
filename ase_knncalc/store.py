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
import os
import re
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ase_knncalc.baselines import make_baseline
from ase_knncalc.descriptors import descriptor_from_dict
from ase_knncalc.errors import KNNCalcError, ModelFileError, ModelFileVersionError
from ase_knncalc.files import atomic_write
from ase_knncalc.model import HeldOutErrors, KNNModel, ModelInfo
from ase_knncalc.neighbors import KNNSettings, KNNTerm, NeighborIndex
from ase_knncalc.trendfit import trend_class
from ase_knncalc.uncertainty import Calibration, ForceCalibration

FORMAT_VERSION = 1
USER_BLOCK = 512

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
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise ModelFileError(f"cannot read {path}: {e.strerror or e}") from e
    match = _HEADER.match(raw[:USER_BLOCK])
    if match is None:
        raise ModelFileError(
            f"{path} is not a file of ase_knncalc (or its first bytes are damaged): expected a "
            f"{kind} file; get a fresh copy or train it again"
        )
    found_kind, found_version, digest = match[1].decode(), int(match[2]), match[3].decode()
    if found_kind != kind:
        raise ModelFileError(f"{path} is a {found_kind} file, expected a {kind} file")
    if found_version > FORMAT_VERSION:
        raise ModelFileVersionError(
            f"{path} has format version {found_version}, this ase_knncalc reads up to version "
            f"{FORMAT_VERSION}: upgrade with `pip install --upgrade ase_knncalc`"
        )
    body = memoryview(raw)[USER_BLOCK:]
    if hashlib.sha256(body).hexdigest() != digest:
        raise ModelFileError(
            f"{path} is damaged: its checksum does not match its content; get a fresh copy or "
            "train it again"
        )
    try:
        with h5py.File(io.BytesIO(raw), "r") as file:
            arrays = _read_datasets(file, path, len(raw))
        metadata = json.loads(arrays.pop("metadata").tobytes().decode("utf-8"))
    except KNNCalcError:
        raise
    except Exception as e:  # whatever h5py or json find in a file made to deceive
        raise ModelFileError(f"{path} cannot be read: {e}") from e
    if not isinstance(metadata, dict):
        raise ModelFileError(f"{path}: item 'metadata' is not a JSON object")
    return metadata, arrays


def _read_datasets(file: Any, path: Path, size: int) -> dict[str, np.ndarray]:
    """All datasets, once it is sure that they are plain and lie within the file."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
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
            plain = (
                isinstance(item, h5py.Dataset)
                and item.chunks is None
                and not item.is_virtual
                and not item.external
                and item.dtype.kind in "fiuS"
            )
            if not plain or item.nbytes > size:
                raise ModelFileError(
                    f"{path}: item {name!r} is not a plain array that lies within the file"
                )
            arrays[name] = item[()]
    if "metadata" not in arrays:
        raise ModelFileError(f"{path}: item 'metadata' is missing")
    return arrays


def find_model(name: str | os.PathLike[str]) -> Path:
    """File of a model given by path, or by name among the shipped ones.

    Raises
    ------
    ModelFileError
        If there is none; lists the shipped models.
    """
    given = Path(name)
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
    """Write a model file, atomically.

    Raises
    ------
    ModelFileError
        If it cannot be written.
    """
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
    if model.held_out is not None:
        arrays |= {
            f"held_out/{name}": getattr(model.held_out, name).astype(kind)
            for name, kind in _HELD_OUT.items()
        }
    write_container(path, "model", metadata, arrays)


def load_model(name: str | os.PathLike[str], *, baseline: Any = "auto") -> KNNModel:
    """Read a model by name (``"saw-wb97xd"``) or path.

    Parameters
    ----------
    name
        A shipped model's name, or a file.
    baseline
        ``"auto"``: the method the model was trained on, from whichever library is installed.
        None: no baseline, only the correction. Else as for
        :func:`ase_knncalc.baselines.make_baseline`.

    Raises
    ------
    ModelFileError, ModelFileVersionError
        If the file is missing, damaged, incomplete or too new.
    BaselineError
        If the baseline's library is not installed.
    """
    path = find_model(name)
    metadata, arrays = read_container(path, "model")
    try:
        model = _build_model(metadata, _Items(path, arrays))
    except ModelFileError:
        raise
    except (KNNCalcError, KeyError, TypeError, ValueError, IndexError, AttributeError) as e:
        raise ModelFileError(f"{path}: its items do not fit together: {e!r}") from e
    if baseline is None:
        return model
    if baseline == "auto":
        baseline = make_baseline("auto", method=model.info.baseline.get("method", "none"))
    return model.with_baseline(make_baseline(baseline))


class _Items:
    """Arrays of a file, each checked when taken."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        self._path = path
        self._arrays = arrays

    def take(self, name: str, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """The array of that name if its type and shape (None: any length) are right."""
        if name not in self._arrays:
            raise ModelFileError(f"{self._path}: item {name!r} is missing")
        array = self._arrays[name]
        fits = array.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        if array.dtype.kind not in kind or not fits:
            raise ModelFileError(
                f"{self._path}: item {name!r} has type {array.dtype} and shape {array.shape}, "
                f"expected shape {tuple('any' if s is None else s for s in shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFileError(f"{self._path}: item {name!r} holds NaN or infinite numbers")
        return array

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays under a group, by their name within it."""
        names = [n for n in self._arrays if n.startswith(f"{prefix}/")]
        return {
            n.removeprefix(f"{prefix}/"): self.take(n, "fi", (None,) * self._arrays[n].ndim)
            for n in names
        }


def _build_model(metadata: dict[str, Any], items: _Items) -> KNNModel:
    descriptor = descriptor_from_dict(metadata["descriptor"])
    n_features = descriptor.n_features
    components = items.take("metric/components", "f", (None, n_features)).astype(np.float64)
    points = items.take("index/points", "f", (None, len(components)))
    n = len(points)
    trend_meta = metadata["trend"]
    trend = trend_class(trend_meta["kind"])(
        elements=tuple(trend_meta["elements"]), **items.group("trend")
    )
    trend.validate(n_features)
    forces = items.group("force_calibration")
    return KNNModel(
        descriptor=descriptor,
        trend=trend,
        components=components,
        mean=items.take("metric/mean", "f", (n_features,)),
        knn=KNNTerm(
            NeighborIndex(points),
            items.take("index/residuals", "f", (n,)),
            KNNSettings(**metadata["knn"]),
        ),
        names=items.take("index/names", "S", (n,)),
        compositions=items.take("index/compositions", "S", (n,)),
        calibration=_from_arrays(Calibration, items.group("calibration")),
        info=ModelInfo(**metadata["info"]),
        force_calibration=_from_arrays(ForceCalibration, forces) if forces else None,
        held_out=_held_out(items, n, len(descriptor.elements)),
    )


def _held_out(items: _Items, n: int, n_elements: int) -> HeldOutErrors | None:
    if not items.group("held_out"):
        return None
    return HeldOutErrors(
        **{
            name: items.take(f"held_out/{name}", "f", (n,)) for name in ("errors", "stds", "deltas")
        },
        counts=items.take("held_out/counts", "i", (n, n_elements + 2)),
    )


_Calibration = TypeVar("_Calibration", Calibration, ForceCalibration)


def _from_arrays(kind: type[_Calibration], arrays: dict[str, np.ndarray]) -> _Calibration:
    """A dataclass of numbers and arrays from the arrays of its fields."""
    builders: dict[str, Callable[[np.ndarray], Any]] = {
        f.name: float if f.type == "float" else np.asarray for f in fields(kind)
    }
    return kind(**{name: build(arrays[name]) for name, build in builders.items()})
