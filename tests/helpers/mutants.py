"""Mutants of a model file, made from a number each, and what becomes of them when they are loaded.

A blind mutant is damaged as a disk or a network damages a file. A forged one has a checksum that
fits its content: nothing but the checks of structure and values stands between it and the user.
Each mutant says what is right: ``REFUSED``, ``REFUSED_OR_SAME`` (as the original to the bit), or
``ANY`` where a value was changed to another one that makes sense: then the mutant is a different
model, whose numbers have to be finite.

Run as a program, it judges the mutants whose numbers it reads, within limits of memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms

from ase_knncalc import KNNModel, load_model, save_model
from ase_knncalc.errors import KNNCalcError, ModelFileError, ModelFileVersionError
from ase_knncalc.store.container import USER_BLOCK

REFUSED, REFUSED_OR_SAME, ANY = "refused", "refused or same", "any"

MEMORY_LIMIT = 1 << 30
"""Address space that loading and predicting may take beyond what the imports took, bytes."""
TIME_LIMIT = 20.0
"""Seconds after which a mutant counts as hanging."""


@dataclass(frozen=True)
class Mutant:
    """A file made from another one."""

    kind: str
    content: bytes
    right: str
    forged: bool


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant.

    ``outcome`` is ``refused``, ``newer version``, ``same``, ``different model``, or what must not
    be: ``other error``, ``not finite``, ``crash``, ``hang``, ``silently different``, ``accepted``.
    """

    seed: int
    kind: str
    forged: bool
    outcome: str
    detail: str
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether the guarantee was kept."""
        return self.outcome in ("refused", "newer version", "same", "different model")


def reseal(content: bytes) -> bytes:
    """The file with a checksum that fits, as a forger would give it."""
    digest = hashlib.sha256(content[USER_BLOCK:]).hexdigest().encode()
    header = re.sub(rb"sha256 [0-9a-f]{64}", b"sha256 " + digest, content[:USER_BLOCK])
    return header + content[USER_BLOCK:]


def edited(content: bytes, change: Callable[[h5py.File], Any]) -> bytes:
    """The file after a change of its HDF5 part, with a checksum that fits."""
    raw = io.BytesIO(content)
    with h5py.File(raw, "r+") as file:
        change(file)
    return reseal(raw.getvalue())


# --------------------------------------------------------------------------------------- damage

Generator = np.random.Generator


def blind(content: bytes, rng: Generator) -> Mutant:
    """Damage without intent."""
    data = bytearray(content)
    kind = str(
        rng.choice(["flip", "flips", "truncate", "extend", "zeros", "move", "header", "empty"])
    )
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else int(rng.integers(2, 64))):
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
    elif kind == "truncate":
        del data[int(rng.integers(len(data))) :]
    elif kind == "extend":
        data += rng.bytes(int(rng.integers(1, 4096)))
    elif kind == "zeros":
        start = int(rng.integers(len(data)))
        stop = min(len(data), start + int(rng.integers(1, 8192)))
        data[start:stop] = bytes(stop - start)
    elif kind == "move":
        a, b = sorted(int(x) for x in rng.integers(0, len(data), 2))
        data = data[:a] + data[b:] + data[a:b]
    elif kind == "header":
        data[int(rng.integers(90))] ^= int(rng.integers(1, 256))
    else:
        data = bytearray(data[: int(rng.integers(0, 8))])
    return Mutant(f"blind {kind}", bytes(data), REFUSED_OR_SAME, False)


_NUMBERS = (0, 1, 2, 7, 0x7F, 0xFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**62, 512)


def raw_forgery(content: bytes, rng: Generator) -> Mutant:
    """Bytes of the HDF5 part changed, mostly where its structure lies and not its numbers."""
    data = bytearray(content)
    places = _structure_bytes(content)
    kind = str(rng.choice(["bit", "byte", "bytes", "word", "anywhere", "truncate", "copy"]))
    if kind == "truncate":
        del data[int(rng.integers(USER_BLOCK, len(data))) :]
    elif kind == "copy":
        a, b = (int(rng.choice(places)) for _ in range(2))
        n = int(rng.integers(1, 128))
        data[a : a + n] = data[b : b + n]
    elif kind == "word":
        place = int(rng.choice(places)) // 8 * 8
        number = int(rng.choice(np.array([*_NUMBERS, len(data), place], dtype=np.uint64)))
        data[place : place + 8] = number.to_bytes(8, "little")
    else:
        for _ in range(1 if kind != "bytes" else int(rng.integers(2, 10))):
            anywhere = int(rng.integers(USER_BLOCK, len(data)))
            place = anywhere if kind == "anywhere" else int(rng.choice(places))
            data[place] ^= 1 << int(rng.integers(8)) if kind == "bit" else int(rng.integers(1, 256))
    return Mutant(f"forged raw {kind}", reseal(bytes(data)), ANY, True)


_structures: dict[bytes, np.ndarray] = {}


def _structure_bytes(content: bytes) -> np.ndarray:
    """Places that hold the structure of the HDF5 part, not the values of a dataset."""
    digest = hashlib.sha256(content).digest()
    if digest not in _structures:
        mask = np.zeros(len(content), dtype=bool)
        mask[USER_BLOCK:] = True
        with h5py.File(io.BytesIO(content), "r") as file:

            def visit(_: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None:
                    start = item.id.get_offset()
                    mask[start : start + item.nbytes] = False

            file.visititems(visit)
        _structures[digest] = np.flatnonzero(mask)
    return _structures[digest]


# ------------------------------------------------------------------------------------- datasets


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return sorted(n for n in names if n != "metadata")


def _pick(file: h5py.File, rng: Generator) -> str:
    return str(rng.choice(_datasets(file)))


def _replace(file: h5py.File, name: str, value: Any, **options: Any) -> None:
    del file[name]
    file.create_dataset(name, data=value, **options)


def _delete(file: h5py.File, rng: Generator) -> str:
    name = _pick(file, rng)
    del file[name]
    return _optional(name)


def _rename(file: h5py.File, rng: Generator) -> str:
    name = _pick(file, rng)
    new = str(
        rng.choice([f"{name}s", name.upper(), name + " ", "x/" + name.split("/")[-1], "ü/é", "."])
    )
    with contextlib.suppress(ValueError, OSError):
        file.move(name, new)
    if name in file:
        return REFUSED_OR_SAME
    return _optional(name)


def _optional(name: str) -> str:
    """What is right when an item is gone: without these a model still predicts energies."""
    if name.startswith(("force_calibration/", "held_out/", "kernel_map/")):
        return ANY
    return REFUSED


def _swap(file: h5py.File, rng: Generator) -> str:
    a, b = (_pick(file, rng) for _ in range(2))
    if a == b:
        return REFUSED_OR_SAME
    file.move(a, "swap")
    file.move(b, a)
    file.move("swap", b)
    return ANY


def _reshape(file: h5py.File, rng: Generator) -> str:
    name = _pick(file, rng)
    value = file[name][()]
    choice = int(rng.integers(8))
    if choice == 0 or value.ndim == 0:
        new = np.asarray(value)[None]
    elif choice == 1:
        new = value.ravel()
    elif choice == 2:
        new = value.T
    elif choice == 3:
        new = value[:-1]
    elif choice == 4:
        new = np.concatenate([value, value[-1:]])
    elif choice == 5:
        new = value[:0]
    elif choice == 6:
        new = value[..., :1]
    else:
        new = value.reshape(-1)[0] if value.size else np.zeros(())
    _replace(file, name, new)
    return REFUSED_OR_SAME if new.shape != value.shape else ANY


_TYPES = ["f2", "f4", "f8", "g", ">f8", ">f4", "i1", "i4", "i8", "u1", "u8", ">i8", "?"]


def _retype(file: h5py.File, rng: Generator) -> str:
    name = _pick(file, rng)
    value = file[name][()]
    choice = int(rng.integers(6))
    if choice < 3 and value.dtype.kind in "fi":
        with np.errstate(all="ignore"):
            _replace(file, name, value.astype(np.dtype(str(rng.choice(_TYPES)))))
        return ANY
    if choice == 3:
        _replace(file, name, np.full(value.shape, b"1.0", dtype="S8"))
    elif choice == 4 and value.dtype.kind in "fi":
        _replace(file, name, value.astype(np.complex128))
    elif choice == 5:
        record = np.zeros(value.shape, dtype=[("a", "f8"), ("b", "i4")])
        _replace(file, name, record)
    else:
        kind: Any = rng.choice(["text", "reference", "enum", "opaque"])
        dtype = {
            "text": h5py.string_dtype(),
            "reference": h5py.ref_dtype,
            "enum": h5py.enum_dtype({"A": 0, "B": 1}, basetype="i4"),
            "opaque": h5py.opaque_dtype(np.dtype("V8")),
        }[str(kind)]
        del file[name]
        file.create_dataset(name, value.shape, dtype=dtype)
    return ANY if name.startswith("index/") and choice == 3 else REFUSED


def _values(file: h5py.File, rng: Generator) -> str:
    """Values that make no sense, or another sense."""
    name = _pick(file, rng)
    value = np.array(file[name][()])
    if value.dtype.kind == "S":
        junk = [b"\xff\xfe", b"a\x00b", b"\n\r\t", b"\xed\xa0\x80", b"", b"x" * 5000]
        new: Any = np.array([junk[int(rng.integers(len(junk)))]] * len(value))
        _replace(file, name, new)
        return ANY
    if value.dtype.kind in "iu":
        new = value.astype(np.int64).reshape(-1)
        new[int(rng.integers(new.size))] = int(rng.choice([-1, -5, 0, 1, 10**6, 2**62, -(2**62)]))
        if rng.random() < 0.3 and new.size > 1:
            # The sum stays right.
            new[:2] += np.array([-(10**6), 10**6])
        _replace(file, name, new.reshape(value.shape))
        return ANY
    bad = [np.nan, np.inf, -np.inf]
    choice = int(rng.integers(9))
    flat = value.copy().reshape(-1)
    place = int(rng.integers(flat.size)) if flat.size else 0
    right = ANY
    if choice < 3 and flat.size:
        flat[place] = bad[choice]
        right = REFUSED
    elif choice == 3:
        flat[:] = bad[int(rng.integers(3))]
        right = REFUSED if flat.size else ANY
    elif choice == 4 and flat.size:
        flat[place] = float(rng.choice([1e30, -1e30, 1e38, 1e200, -1e300, 1.7e308, 5e-324]))
    elif choice == 5:
        with np.errstate(all="ignore"):
            flat *= float(rng.choice([0.0, -1.0, 1e10, 1e-10, 1e150, -1e30]))
        right = ANY
    elif choice == 6:
        rng.shuffle(flat)
    elif choice == 7:
        flat[:] = 0.0
    else:
        flat = flat[::-1].copy()
    _replace(file, name, flat.reshape(value.shape))
    return REFUSED if not np.isfinite(flat).all() else right


def _links(file: h5py.File, rng: Generator) -> str:
    name = _pick(file, rng)
    target = f"{name}_more" if rng.random() < 0.4 else name
    choice = int(rng.integers(6))
    if choice < 4 and target == name:
        file.move(name, "kept")
    if choice == 0:
        file[target] = h5py.ExternalLink("/etc/passwd", "/")
    elif choice == 1:
        file[target] = h5py.ExternalLink("copy.h5", name)
    elif choice == 2:
        file[target] = h5py.SoftLink("/kept" if target == name else f"/{name}")
    elif choice == 3:
        file[target] = h5py.SoftLink(f"/{target}")
    elif choice == 4:
        file["loop"] = file["/"]
    else:
        largest = max(_datasets(file), key=lambda n: file[n].nbytes)
        for i in range(int(rng.integers(2, 3000))):
            file[f"many/{i}"] = file[largest]
        return REFUSED_OR_SAME
    return REFUSED


def _storage(file: h5py.File, rng: Generator) -> str:
    """Data that are stored in a way, or in a place, that they should not be."""
    name = _pick(file, rng)
    value = file[name][()]
    target = f"{name}_more" if rng.random() < 0.3 else name
    choice = int(rng.integers(10))
    if target == name:
        del file[name]
    shape = value.shape or (1,)
    if choice == 0:
        layout = h5py.VirtualLayout(shape, value.dtype)
        layout[...] = h5py.VirtualSource("/etc/other.h5", "data", shape)
        file.create_virtual_dataset(target, layout)
    elif choice == 1:
        file.create_dataset(
            target, shape, value.dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
        )
    elif choice in (2, 3, 4, 5):
        options: dict[str, Any] = [
            {"compression": "gzip"},
            {"compression": "lzf"},
            {"shuffle": True, "fletcher32": True},
            {"chunks": True},
        ][choice - 2]
        file.create_dataset(target, data=value.reshape(shape), **options)
    elif choice == 6:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk(tuple(max(1, s) for s in shape))
        properties.set_filter(32013, h5py.h5z.FLAG_OPTIONAL)  # a filter that a plugin would bring
        space = h5py.h5s.create_simple(shape)
        kind = h5py.h5t.py_create(value.dtype)
        h5py.h5d.create(file.id, target.encode(), kind, space, properties)
    elif choice == 7:
        huge = int(rng.choice([10**9, 10**13, 2**62]))
        with contextlib.suppress(ValueError, OSError, OverflowError):
            file.create_dataset(target, (huge,), "f4", chunks=(1024,))
    elif choice == 8:
        huge = int(rng.choice([10**10, 10**13, 2**59]))
        with contextlib.suppress(ValueError, OSError, OverflowError):
            file.create_dataset(target, (huge,), "f8")
    else:
        file.create_dataset(target, data=h5py.Empty("f8"))
        return REFUSED
    return REFUSED if target in file else ANY


def _clutter(file: h5py.File, rng: Generator) -> str:
    """Things that are not asked for."""
    choice = int(rng.integers(9))
    name = _pick(file, rng)
    if choice == 0:
        file[name].attrs["x"] = np.zeros(int(rng.integers(1, 8000)))
    elif choice == 1:
        file.attrs["file"] = h5py.ExternalLink("/etc/passwd", "/").filename
    elif choice == 2:
        for i in range(3000):
            file.create_dataset(f"junk/{i}", data=i)
    elif choice == 3:
        file.create_group("/".join(["a"] * int(rng.integers(2, 500))))
        return REFUSED
    elif choice == 4:
        file.create_dataset("junk", data=np.zeros(int(rng.integers(1, 100_000))))
    elif choice == 5:
        file.create_dataset("x" * int(rng.integers(1, 60_000)), data=1.0)
    elif choice == 6:
        file["type"] = np.dtype("f8")
        return REFUSED
    elif choice == 7:
        file[name].attrs["reference"] = file.ref
    else:
        file.create_dataset(f"trend/{'y' * int(rng.integers(1, 40))}", data=np.zeros(3))
    return ANY


# ------------------------------------------------------------------------------------- metadata

_JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10, 10**6, 10**9, 2**63, 10**30, -(10**30), 0.5, -0.5, 1e-300,
    1e300, 1e-9, 3.0000001, "", "x", "1", "\u0000", "é" * 1000, "/etc/passwd", "../../x", [], {},
    [[]], [1, 2, 3], {"a": 1}, [1e308], "NaN", "none", "sparse", "linear", "slatm", "fchl19",
    "distance", "kernel", "kriging", "GFN2-xTB", "xtb", "ase", [1], [1, 6, 8], [200], [0], [-8],
    list(range(1, 119)), ["H", "O"], [8, 1], [1, 1, 8], "<inf>", "<nan>", "<1e999>",
)  # fmt: skip


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value[:3])
    for key, part in items:
        yield (*prefix, key)
        yield from _paths(part, (*prefix, key))


def _metadata(file: h5py.File, rng: Generator) -> str:
    document = json.loads(file["metadata"][()].tobytes())
    text = ""
    choice = int(rng.integers(12))
    right = ANY
    if choice < 8:
        # What decides most is asked most.
        top = str(rng.choice(["descriptor", "trend", "knn", "info", "info", "versions"]))
        paths = [p for p in _paths(document) if p[0] == top]
        path = paths[int(rng.integers(len(paths)))]
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        if choice == 0:
            del parent[path[-1]]
        elif choice == 1 and isinstance(parent, dict):
            parent[str(path[-1]) + "_"] = parent.pop(path[-1])
        elif choice == 2 and isinstance(parent[path[-1]], int | float):
            factor = float(rng.choice([-1.0, 0.0, 1e-12, 1e12, 1.5, 1e300]))
            parent[path[-1]] = parent[path[-1]] * factor
        else:
            parent[path[-1]] = _JUNK[int(rng.integers(len(_JUNK)))]
        text = json.dumps(document)
        for word, number in (("inf", "Infinity"), ("nan", "NaN"), ("1e999", "1e999")):
            if f'"<{word}>"' in text:
                text, right = text.replace(f'"<{word}>"', number), REFUSED
    else:
        right = REFUSED
        if choice == 8:
            depth = int(rng.choice([100, 10_000, 200_000]))
            text = "[" * depth + "]" * depth
        elif choice == 9:
            text = json.dumps({**document, "more": "x" * int(rng.choice([10**5, 2 * 10**7]))})
            right = ANY
        elif choice == 10:
            text = json.dumps(document)[: -int(rng.integers(1, 200))]
        else:
            text = str(rng.choice(["", "[]", "null", "1", '"x"', "{}", "9" * 10_000, "{{}}"]))
    data = text.encode("utf-8")
    if choice == 10 and rng.random() < 0.3:
        data = json.dumps(document).encode("utf-16")
    value: Any = np.frombuffer(data, dtype=np.uint8)
    if rng.random() < 0.05:
        value = value.astype(np.float64)  # not the bytes of any JSON
        right = REFUSED
    _replace(file, "metadata", value)
    return right


_EDITS = (
    _delete,
    _rename,
    _swap,
    _reshape,
    _retype,
    _values,
    _links,
    _storage,
    _clutter,
    _metadata,
)
_WEIGHTS = np.array([1, 1, 2, 3, 3, 4, 2, 2, 1, 6], dtype=float)


def forgery(content: bytes, rng: Generator) -> Mutant:
    """One to three changes of datasets, links, storage or metadata, with the checksum made new."""
    kinds, right = [], REFUSED_OR_SAME
    order = (REFUSED_OR_SAME, ANY, REFUSED)

    def change(file: h5py.File) -> None:
        nonlocal right
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            edit = _EDITS[int(rng.choice(len(_EDITS), p=_WEIGHTS / _WEIGHTS.sum()))]
            kinds.append(edit.__name__.strip("_"))
            try:
                meant = edit(file, rng)
            except (
                OSError,
                ValueError,
                KeyError,
                TypeError,
                RuntimeError,
                IndexError,
                OverflowError,
            ):
                meant = ANY  # the second change met what the first one left
            right = max(right, meant, key=order.index)
            if len(kinds) > 1 or right == REFUSED:
                break

    changed = edited(content, change)
    if len(kinds) > 1:
        right = ANY  # the second may have changed what the first made, and nobody reads
    return Mutant("forged " + "+".join(kinds), changed, right, True)


def header_forgery(content: bytes, rng: Generator) -> Mutant:
    """The header alone changed."""
    old, new = (
        (b"model 1\n", b"model 0\n"),
        (b"model 1\n", b"model 2\n"),
        (b"model 1\n", b"model 99999999999999999999999\n"),
        (b"model 1\n", b"model -1\n"),
        (b"model 1\n", b"labels 1\n"),
        (b"model 1\n", b"model 1.5\n"),
        (b"ase_knncalc model", b"ase_knncalc  model"),
        (b"sha256", b"md5   "),
        (b"\n", b"\r\n"),
    )[int(rng.integers(9))]
    head = content[:USER_BLOCK].replace(old, new, 1)[:USER_BLOCK].ljust(USER_BLOCK, b"\0")
    return Mutant("forged header", head + content[USER_BLOCK:], REFUSED, True)


def make_mutant(content: bytes, seed: int) -> Mutant:
    """The mutant of that number."""
    rng = np.random.default_rng([seed, 8])
    makers = (blind, raw_forgery, forgery, header_forgery)
    maker = makers[int(rng.choice(4, p=[0.2, 0.3, 0.48, 0.02]))]
    return maker(content, rng)


# --------------------------------------------------------------------------------------- judging


def numbers_of(model: KNNModel, probes: list[Atoms]) -> list[Any]:
    """All that a model says of some structures."""
    told: list[Any] = []
    for atoms in probes:
        p = model.predict(atoms, forces=model.smooth)
        told += [p.delta, p.trend, p.knn, p.energy_std, p.novelty]
        told += [p.calibration.multiple(0.9)]
        told += [x for n in p.neighbors for x in (n.distance, n.weight, n.residual)]
        told += [n.name for n in p.neighbors] + [n.composition for n in p.neighbors]
        told += [] if p.delta_forces is None else p.delta_forces.ravel().tolist()
        if model.force_calibration is not None and model.smooth:
            told += model.predict(atoms, forces_std=True).forces_std.tolist()
    return told


def judge(seed: int, original: bytes, told: list[Any], probes: list[Atoms], path: Path) -> Verdict:
    """Write, load and use one mutant."""
    mutant = make_mutant(original, seed)
    path.write_bytes(mutant.content)
    start = time.perf_counter()
    detail = ""
    try:
        model = load_model(path)
        _ = model.info.to_dict(), model.trained_on_forces, str(model.info.reference)
        found = numbers_of(model.with_baseline(None), probes)
        numbers = [x for x in found if not isinstance(x, str)]
        if found == told:
            outcome = "same"
        elif not all(math.isfinite(x) for x in numbers):
            outcome = "not finite"
        elif not mutant.forged or mutant.right == REFUSED_OR_SAME:
            outcome = "silently different"
        else:
            outcome = "different model"
        if mutant.right == REFUSED:
            outcome = "accepted"
    except ModelFileVersionError as e:
        outcome, detail = "newer version", str(e)
    except ModelFileError as e:
        outcome, detail = "refused", str(e)
    except KNNCalcError as e:
        # A model that is no longer for these elements or charges says so in the words of any model.
        outcome = "different model" if mutant.forged and mutant.right == ANY else "other error"
        detail = f"{type(e).__name__}: {e}"
    except Exception as e:
        outcome, detail = "other error", f"{type(e).__name__}: {e}"
    seconds = time.perf_counter() - start
    if outcome == "refused" and path.name not in detail:
        outcome, detail = "other error", f"does not name the file: {detail}"
    return Verdict(seed, mutant.kind, mutant.forged, outcome, detail[:300], seconds)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve(model_path: Path, probe_path: Path) -> None:
    import faulthandler

    from ase.io import read

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    original = model_path.read_bytes()
    probes = read(probe_path, ":")
    told = numbers_of(load_model(model_path).with_baseline(None), probes)
    _limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            print(json.dumps({"start": int(line)}), flush=True)
            verdict = judge(int(line), original, told, probes, Path(folder) / "mutant.h5")
            print(json.dumps(asdict(verdict)), flush=True)


def run_mutants(
    model: KNNModel, probes: list[Atoms], seeds: Iterable[int], *, workers: int = 2
) -> list[Verdict]:
    """Judge mutants in processes of their own: one that crashes or hangs is a verdict, too."""
    from ase.io import write

    with tempfile.TemporaryDirectory() as folder:
        model_path, probe_path = Path(folder) / "original.h5", Path(folder) / "probes.extxyz"
        save_model(model, model_path)
        write(probe_path, probes)
        seeds = list(seeds)
        parts = [seeds[i::workers] for i in range(workers)]
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda part: _supervise(part, model_path, probe_path), parts)
            return sorted((v for part in found for v in part), key=lambda v: v.seed)


def _supervise(seeds: list[int], model_path: Path, probe_path: Path) -> list[Verdict]:
    done: list[Verdict] = []
    while len(done) < len(seeds):
        rest = seeds[len(done) :]
        command = [sys.executable, __file__, str(model_path), str(probe_path)]
        with (
            tempfile.TemporaryFile("w+") as trouble,
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=trouble, text=True
            ) as worker,
        ):
            assert worker.stdin is not None
            assert worker.stdout is not None
            feeder = threading.Thread(target=_feed, args=(worker.stdin, rest))
            feeder.start()
            running, hung, started = None, threading.Event(), time.perf_counter()

            def kill(worker: Any = worker, hung: threading.Event = hung) -> None:
                hung.set()
                worker.kill()

            while True:
                timer = threading.Timer(TIME_LIMIT + 60.0 * (running is None), kill)
                timer.start()
                line = worker.stdout.readline()
                timer.cancel()
                if not line:
                    break
                record = json.loads(line)
                if "start" in record:
                    running, started = record["start"], time.perf_counter()
                else:
                    running = None
                    done.append(Verdict(**record))
            worker.kill()
            feeder.join()
            trouble.seek(0)
            text = trouble.read()[-300:]
        if running is not None:
            kind = make_mutant(model_path.read_bytes(), running)
            outcome = "hang" if hung.is_set() else f"crash {worker.returncode}"
            seconds = time.perf_counter() - started
            done.append(Verdict(running, kind.kind, kind.forged, outcome, text, seconds))
        elif len(done) < len(seeds) and rest == seeds[len(done) :]:
            raise RuntimeError(f"the worker does not start: {text}")
    return done


def _feed(stream: Any, seeds: list[int]) -> None:
    with contextlib.suppress(BrokenPipeError), stream:
        for seed in seeds:
            stream.write(f"{seed}\n")


def summarise(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Counts by outcome, and all that broke the guarantee."""
    verdicts = list(verdicts)
    return {
        "mutants": len(verdicts),
        "forged": sum(v.forged for v in verdicts),
        "outcomes_blind": dict(Counter(v.outcome for v in verdicts if not v.forged).most_common()),
        "outcomes_forged": dict(Counter(v.outcome for v in verdicts if v.forged).most_common()),
        "slowest_s": max(v.seconds for v in verdicts),
        "broken": [asdict(v) for v in verdicts if not v.fine],
    }


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
