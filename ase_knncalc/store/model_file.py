"""Model files: a model as a container (:mod:`ase_knncalc.store.container`) and back.

Model files (kind ``model``, format version 1) hold

==============================  =========================  =======================================
dataset                         type and shape             what
==============================  =========================  =======================================
``metadata``                    UTF-8 JSON                 descriptor settings, trend kind and
                                                           settings, k-NN settings, model info
                                                           (baseline, reference, charges, states,
                                                           errors, provenance, monomers), versions
``descriptor/*``                float                      arrays of the descriptor, if it has any
``trend/*``                     float                      arrays of the trend (``trend.arrays()``)
``metric/components``           float32 (c, f)             learned linear map
``metric/mean``                 float64 (f,)               its origin
``index/points``                float32 (n, c)             projected training structures
``index/residuals``             float64 (n,)               what the trend left over there, eV
``index/names``                 bytes (n,)                 names of the training structures, UTF-8
``index/compositions``          bytes (n,)                 their compositions, UTF-8
``calibration/*``               float64                    fields of :class:`Calibration`
``held_out/*``                  float, int16, int8 (n, …)  fields of :class:`HeldOutErrors`; only
                                                           for reports, may be missing; ``fair``
                                                           only where not all are
``kernel_map/*``                float, int                 fields of :class:`KernelMap`; only of
                                                           models with the kernel-induced distance
``force_calibration/*``         float64, int               fields of :class:`ForceCalibration`; only
                                                           of models that were trained on forces
``head_NAME/*``                 float64, int               properties beside the energy: arrays of
                                                           :class:`~ase_knncalc.heads.Head`, its
                                                           posterior and, stacked, calibrations;
                                                           ``metadata`` has names, kinds, units and
                                                           outputs
==============================  =========================  =======================================
"""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ase_knncalc._lib.arguments import file_name, instance
from ase_knncalc._lib.arrays import AnyArray
from ase_knncalc._lib.files import only_writer
from ase_knncalc.baselines import baseline_of, make_baseline
from ase_knncalc.descriptors import Descriptor, descriptor_from_dict
from ase_knncalc.errors import KNNCalcError, ModelFileError, SettingsError
from ase_knncalc.info import HeldOutErrors, ModelInfo
from ase_knncalc.knn.index import NeighborIndex
from ase_knncalc.knn.kernel_map import KernelMap
from ase_knncalc.knn.metrics import KernelMetric, LinearMetric, Metric
from ase_knncalc.knn.term import KNNTerm
from ase_knncalc.knn.weights import KNNSettings
from ase_knncalc.model import KNNModel
from ase_knncalc.store.container import package_versions, read_container, write_container
from ase_knncalc.store.head_arrays import head_arrays, head_metadata, read_heads
from ase_knncalc.store.integrity import check_magnitude, check_model
from ase_knncalc.store.loaded import loaded
from ase_knncalc.trend.kinds import trend_class
from ase_knncalc.uncertainty import Calibration, ForceCalibration

_PACKAGE_DIR = Path(__file__).resolve().parents[1]
# In a wheel the models lie inside the package, in a source checkout beside it.
_MODEL_DIRS = (_PACKAGE_DIR / "trained_models", _PACKAGE_DIR.parent / "trained_models")


def find_model(name: str | os.PathLike[str]) -> Path:
    """File of a model given by path, or by name among the shipped ones.

    Raises
    ------
    ModelFileError
        If there is none; lists the shipped models.
    """
    try:
        given = Path(name).expanduser()
        if given.is_file():
            return given
        is_folder = given.is_dir()
    except RuntimeError as e:  # the home of a user that is not there
        raise ModelFileError(f"no model {str(name)!r}: {e}") from e
    except OSError as e:
        raise ModelFileError(f"cannot read model {str(name)!r}: {e.strerror}") from e
    if given.suffix == "" and given.name == str(name):
        for folder in _MODEL_DIRS:
            candidate = folder / f"{given.name}.h5"
            if candidate.is_file():
                return candidate
    if is_folder:
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
    SettingsError
        If ``model`` is no model, or ``path`` no name of a file.
    """
    instance("model", model, KNNModel)
    with only_writer(file_name("path", path)):
        write_model(model, path)


def write_model(model: KNNModel, path: str | os.PathLike[str]) -> None:
    """:func:`save_model` for who holds :func:`ase_knncalc._lib.files.only_writer` already."""
    metadata: dict[str, Any] = {
        "descriptor": model.descriptor.to_dict(),
        "trend": {"kind": model.trend.kind, "elements": list(model.trend.elements)},
        "knn": model.knn.settings.to_dict(),
        "info": model.info.to_dict(),
        "versions": package_versions(),
    }
    arrays: dict[str, AnyArray] = {
        "index/points": model.knn.index.points,
        "index/residuals": model.knn.residuals,
        "index/names": model.names,
        "index/compositions": model.compositions,
    }
    arrays |= {f"descriptor/{name}": value for name, value in model.descriptor.arrays().items()}
    arrays |= model.metric.arrays()
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
        if not model.held_out.fair.all():
            arrays["held_out/fair"] = model.held_out.fair.astype(np.int8)
    if model.heads is not None:
        metadata["heads"] = [head_metadata(head) for head in model.heads]
        for head in model.heads:
            arrays |= head_arrays(head)
    write_container(path, "model", metadata, arrays)


def load_model(
    name: str | os.PathLike[str], *, baseline: Any = "auto", allow_other_baseline: bool = False
) -> KNNModel:
    """Read a model by name (``"saw-wb97xd"``) or path.

    A file that was read before is not read again while it is as it was: models are immutable, and
    all who ask for one share it (:func:`ase_knncalc.clear_cache` forgets them).

    Parameters
    ----------
    name
        A shipped model's name, or a file.
    baseline
        ``"auto"``: the method and settings the model was trained on, from whichever library is
        installed; ``"tblite"`` means the same where the model's baseline has parameters of its
        own. None: no baseline, only the correction. Else as for
        :func:`ase_knncalc.baselines.make_baseline`.
    allow_other_baseline
        Accept a baseline that is not the one the model corrects.

    Raises
    ------
    ModelFileError, ModelFileVersionError
        If the file is missing, damaged, incomplete or too new.
    SettingsError
        If ``name`` is no name of a file, or ``baseline`` describes no baseline.
    BaselineError
        If the baseline's library is not installed, or it is not the baseline that the model
        corrects.
    """
    path = find_model(file_name("name", name))
    model = loaded(path, lambda: _read_model(path))
    if baseline is None:
        return model
    if _is_own(baseline, model):
        try:
            chosen = baseline_of(model.info.baseline)
        except SettingsError as e:
            raise ModelFileError(f"{path}: {e}") from e
    else:
        chosen = make_baseline(baseline)
    return model.with_baseline(chosen, allow_other=allow_other_baseline)


def model_with_baseline(
    given: str | os.PathLike[str] | KNNModel, baseline: Any = "auto", allow_other: bool = False
) -> KNNModel:
    """A model that is there, or that of a file, with a baseline; arguments as for load_model.

    With ``"auto"`` the baseline that it has stays.
    """
    if not isinstance(given, KNNModel):
        return load_model(given, baseline=baseline, allow_other_baseline=allow_other)
    if not _is_own(baseline, given):
        return given.with_baseline(make_baseline(baseline), allow_other=allow_other)
    if baseline == "auto" and given.baseline is not None:
        return given
    return given.with_baseline(baseline_of(given.info.baseline))


def _is_own(baseline: Any, model: KNNModel) -> bool:
    """Whether a model's own baseline is meant, by ``"auto"`` or the library of its parameters."""
    own = model.info.baseline
    return isinstance(baseline, str) and (
        baseline == "auto"
        or ("parameters" in own and baseline.strip().lower() == own.get("library"))
    )


def _read_model(path: Path) -> KNNModel:
    metadata, arrays = read_container(path, "model")
    for array in arrays.values():
        if array.ndim:
            array.flags.writeable = False
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
    return model


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

    def __init__(self, arrays: dict[str, AnyArray]) -> None:
        self._arrays = arrays

    def take(self, name: str, kind: str, shape: tuple[int | None, ...]) -> AnyArray:
        """The array of that name if its type and shape (None: any length) are right."""
        if name not in self._arrays:
            raise SettingsError(f"item {name!r} is missing")
        array = self._arrays[name]
        fits = array.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, array.shape, strict=True)
        )
        # Half precision overflows in products of what it holds.
        precise = array.dtype.kind != "f" or array.dtype.itemsize in (4, 8)
        if array.dtype.kind not in kind or not precise or not fits:
            raise SettingsError(
                f"item {name!r} has type {array.dtype} and shape {array.shape}, "
                f"expected shape {tuple('any' if s is None else s for s in shape)}"
            )
        check_magnitude(name, array)
        return array.astype(np.int64) if array.dtype.kind == "i" else array

    def group(self, prefix: str) -> dict[str, AnyArray]:
        """The arrays of numbers under a name."""
        return _Group(
            (name.removeprefix(f"{prefix}/"), self.take(name, "fi", (None,) * array.ndim))
            for name, array in self._arrays.items()
            if name.startswith(f"{prefix}/")
        )

    def has(self, prefix: str) -> bool:
        """Whether there is a dataset of that name, or anything in a group of that name."""
        return any(f"{name}/".startswith(f"{prefix}/") for name in self._arrays)


class _Group(dict[str, AnyArray]):
    def __missing__(self, name: str) -> AnyArray:
        raise SettingsError(f"item {name!r} is missing")


def _build_model(metadata: dict[str, Any], items: _Items) -> KNNModel:
    descriptor = descriptor_from_dict(metadata["descriptor"], items.group("descriptor"))
    metric = _metric(items, descriptor)
    # Before anything of that size is made.
    metric.validate(descriptor)
    points = items.take("index/points", "f", (None, metric.n_components))
    n = len(points)
    kind = trend_class(metadata["trend"]["kind"])
    trend = kind.from_arrays(tuple(metadata["trend"]["elements"]), items.group("trend"))
    forces = items.has("force_calibration")
    return KNNModel(
        descriptor=descriptor,
        trend=trend,
        metric=metric,
        knn=KNNTerm(
            NeighborIndex(points),
            items.take("index/residuals", "f", (n,)),
            KNNSettings(**metadata["knn"]),
        ),
        names=items.take("index/names", "S", (n,)),
        compositions=items.take("index/compositions", "S", (n,)),
        calibration=_from_arrays(Calibration, items, "calibration"),
        info=ModelInfo.from_dict(metadata["info"]),
        force_calibration=(
            _from_arrays(ForceCalibration, items, "force_calibration") if forces else None
        ),
        held_out=_held_out(items, n, len(descriptor.elements)),
        heads=read_heads(metadata.get("heads", ()), items.group, trend),
    )


def _metric(items: _Items, descriptor: Descriptor) -> Metric:
    components = items.take("metric/components", "f", (None, None))
    mean = items.take("metric/mean", "f", components.shape[1:])
    apart = descriptor.elements if descriptor.by_element else ()
    linear = LinearMetric(components.astype(np.float64), mean, apart)
    if not items.has("kernel_map"):
        return linear
    landmarks = items.take("kernel_map/landmarks", "f", (None, descriptor.n_features))
    kernel_map = KernelMap(
        elements=descriptor.elements,
        sigma=items.take("kernel_map/sigma", "f", ()),
        normalized=items.take("kernel_map/normalized", "i", ()),
        landmarks=landmarks,
        counts=items.take("kernel_map/counts", "i", (len(descriptor.elements),)),
    )
    return KernelMetric(kernel_map, linear)


def _held_out(items: _Items, n: int, n_elements: int) -> HeldOutErrors | None:
    if not items.has("held_out"):
        return None
    return HeldOutErrors(
        **{
            name: items.take(f"held_out/{name}", "f", (n,)) for name in ("errors", "stds", "deltas")
        },
        counts=items.take("held_out/counts", "i", (n, n_elements + 2)),
        fair=items.take("held_out/fair", "i", (n,)).astype(bool)
        if items.has("held_out/fair")
        else np.ones(n, dtype=bool),
    )


_Calibration = TypeVar("_Calibration", Calibration, ForceCalibration)


def _from_arrays(kind: type[_Calibration], items: _Items, prefix: str) -> _Calibration:
    """A dataclass of numbers and arrays from the arrays of its fields."""
    built: dict[str, Any] = {}
    for f in fields(kind):
        number = f.type == "float"
        shape = () if number else (None,)
        array = items.take(f"{prefix}/{f.name}", "fi", shape)
        built[f.name] = float(array) if number else array
    return kind(**built)
