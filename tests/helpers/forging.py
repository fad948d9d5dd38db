"""Changes of a model file's datasets, links, storage and metadata, with a checksum that fits.

Each says what is right of a file so changed: ``REFUSED``, ``REFUSED_OR_SAME`` (as the original to
the bit), or ``ANY`` where a value was changed to another one that makes sense: then the file is a
different model, whose numbers have to be finite.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import h5py
import numpy as np

from ase_knncalc.store.container import USER_BLOCK

REFUSED, REFUSED_OR_SAME, ANY = "refused", "refused or same", "any"

Generator = np.random.Generator


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


EDITS = (
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
WEIGHTS = np.array([1, 1, 2, 3, 3, 4, 2, 2, 1, 6], dtype=float)
