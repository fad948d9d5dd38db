"""Mutants of a model file, made from a number each.

A blind mutant is damaged as a disk or a network damages a file. A forged one has a checksum that
fits its content (:mod:`helpers.forging`): nothing but the checks of structure and values stands
between it and the user. :mod:`helpers.judging` tells what becomes of them.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from helpers.forging import ANY, EDITS, REFUSED, REFUSED_OR_SAME, WEIGHTS, Generator, edited, reseal

from ase_knncalc.store.container import USER_BLOCK


@dataclass(frozen=True)
class Mutant:
    """A file made from another one."""

    kind: str
    content: bytes
    right: str
    forged: bool


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


def forgery(content: bytes, rng: Generator) -> Mutant:
    """One to three changes of datasets, links, storage or metadata, with the checksum made new."""
    kinds, right = [], REFUSED_OR_SAME
    order = (REFUSED_OR_SAME, ANY, REFUSED)

    def change(file: h5py.File) -> None:
        nonlocal right
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            edit = EDITS[int(rng.choice(len(EDITS), p=WEIGHTS / WEIGHTS.sum()))]
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
