"""JKQC databases that are hostile, damaged or strange: nothing in them is trusted."""

from __future__ import annotations

import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.orca import ORCA
from ase.calculators.singlepoint import SinglePointCalculator
from helpers.jkqc import PICKLES
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc.data import read_jkqc
from ase_knncalc.data.jkqc import standins, unpickle
from ase_knncalc.data.jkqc.arrow import decode_arrow
from ase_knncalc.data.jkqc.standins import NotRead
from ase_knncalc.data.jkqc.unpickle import as_array, read_table
from ase_knncalc.errors import DataError


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function = function
        self.args = args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


def _mark(marker: str) -> str:
    return f"open({marker!r}, 'w').close()"


HOSTILE: dict[str, Any] = {
    "posix.system": lambda m: _Call(os.system, f"touch {m}"),
    "builtins.eval": lambda m: _Call(eval, _mark(m)),
    "builtins.exec": lambda m: _Call(exec, _mark(m)),
    "builtins.getattr": lambda m: _Call(getattr, Atoms, "write"),
    "builtins.__import__": lambda m: _Call(__import__, "this"),
    "functools.partial": lambda m: functools.partial(slice, 1),
    "operator.attrgetter": lambda m: operator.attrgetter("__class__.__base__"),
    "operator.methodcaller": lambda m: operator.methodcaller("touch"),
    "pathlib.": lambda m: _Call(Path.touch, Path(m)),
    "numpy.savetxt": lambda m: _Call(np.savetxt, m, [1.0]),
    "numpy.load": lambda m: _Call(np.load, m, None, True),
    "_io.open": lambda m: _Call(io.open, m, "w"),
    "ctypes": lambda m: _Call(__import__("ctypes").CDLL, m),
    "ase.": lambda m: _Call(__import__("ase.io", fromlist=["write"]).write, m, Atoms("H")),
    "pickle.loads": lambda m: _Call(pickle.loads, pickle.dumps(1)),
}


def _nested(payload: Any) -> list[Any]:
    """The payload alone, and where unpicklers have been fooled before."""
    hidden = np.empty(1, dtype=object)
    hidden[0] = payload
    deeper = np.empty((1, 1), dtype=object)
    deeper[0, 0] = hidden
    atoms = Atoms("H", info={"x": payload})
    return [payload, [payload], {"_mgr": payload}, hidden, deeper, atoms]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_hostile_pickles_are_refused_and_do_nothing(
    tmp_path: Path, name: str, protocol: int
) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "hostile.pkl"
    for payload in _nested(HOSTILE[name](str(marker))):
        path.write_bytes(pickle.dumps(payload, protocol=protocol))
        with pytest.raises(DataError, match=r"hostile\.pkl: refused"):
            read_jkqc(path)
        assert not marker.exists()


def test_calculators_are_not_made(tmp_path: Path) -> None:
    """Their classes may stand in a structure; whatever is done with them there, nothing happens."""
    marker = tmp_path / "marker"
    calculator = _Call(ORCA, None, None, None, None, str(marker))
    structure = Atoms("H", info={"x": calculator, "y": SinglePointCalculator(Atoms("H"), energy=1)})
    path = tmp_path / "calculators.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"a": structure}, protocol=protocol))
        with pytest.raises(DataError, match="no table"):
            read_jkqc(path)
        assert standins.load(path.read_bytes())["a"].item("info").keys() == {"x", "y"}
        assert type(standins.load(path.read_bytes())["a"].item("info")["x"]) is standins.Opaque
        assert not marker.exists()


def _arrow(kind: str, length: int, offset: int, *buffers: bytes | None) -> Any:
    alias = standins.Applied("arrow type", (kind,))
    return standins.Applied("arrow array", ((alias, length, 0, offset, list(buffers), [], None),))


def test_arrow_columns() -> None:
    """Offsets into the buffers, missing values, chunks: as the Arrow columnar format has them."""
    starts = struct.pack("<5i", 0, 1, 1, 4, 6)
    texts = _arrow("string", 3, 1, b"\x0b", starts, "aβcde".encode())
    assert decode_arrow(texts) == ["", None, "de"]
    numbers = _arrow("double", 2, 0, None, struct.pack("<2d", 0.5, -76.5))
    flags = _arrow("bool", 3, 7, None, b"\x80\x02")
    assert decode_arrow(flags) == [True, False, True]
    chunks = standins.Applied("arrow chunks", ([numbers, flags], None))
    assert decode_arrow(chunks) == [0.5, -76.5, True, False, True]
    with pytest.raises(NotRead, match="date32"):
        decode_arrow(_arrow("date32[day]", 1, 0, None, b"\0" * 4))


@pytest.mark.parametrize(
    "column",
    [
        _arrow("double", 3, 0, None, struct.pack("<2d", 0.5, -76.5)),
        _arrow("double", 1, 2, None, struct.pack("<2d", 0.5, -76.5)),
        _arrow("double", -1, 0, None, b""),
        _arrow("int64", 9, 0, b"\xff", bytes(72)),
        _arrow("string", 2, 0, None, struct.pack("<3i", 0, 2, 1), b"abc"),
        _arrow("string", 2, 0, None, struct.pack("<3i", 0, 2, 9), b"abc"),
        _arrow("string", 2**31, 0, None, struct.pack("<3i", 0, 2, 3), b"abc"),
        _arrow("string", 1, 0, None, struct.pack("<2i", 0, 1), b"\xff"),
        standins.Applied("arrow chunks", ([None], None)),
        None,
    ],
)
def test_damaged_arrow_columns(column: Any) -> None:
    with pytest.raises(ValueError):
        decode_arrow(column)


def test_arrow_chunks_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ase_knncalc.data.jkqc.arrow.MAX_ROWS", 100)
    chunk = _arrow("int8", 50, 0, None, bytes(50))
    with pytest.raises(ValueError, match="too many rows"):
        decode_arrow(standins.Applied("arrow chunks", ([chunk] * 3, None)))


def test_columns_of_other_types_do_no_harm(tmp_path: Path) -> None:
    """A column of dates is passed over, and an error where it is wanted."""
    path = tmp_path / "dates.pkl"
    data = PICKLES["pandas 2, own types, calculators"]
    assert data.count(b"CategoricalDtype") == data.count(b"\x8c\x0bCategorical\x94") == 1
    path.write_bytes(data.replace(b"\x8c\x0bCategorical\x94", b"\x8c\x0bDatetimeArr\x94"))
    assert "composition" not in read_table(path).columns
    with pytest.raises(DataError, match=r"column \('info', 'cluster_type'\).*not read"):
        read_jkqc(path)


def test_refusal_names_the_forbidden_global(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(_Call(os.system, "true"), protocol=4))
    with pytest.raises(DataError, match=rf"the name {os.system.__module__}\.system"):
        read_jkqc(path)


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


@pytest.mark.parametrize(
    "program",
    [
        # functools.partial of what is allowed, but not applied to a block
        _global("functools", "partial") + _global("ase.atoms", "Atoms") + b"\x85R.",
        # a dotted name behind an allowed module
        b"\x8c\x0bpandas.core\x8c\x10frame.os.system\x94\x93.",
        _global("numpy", "dtype.__class__") + b".",
        # protocol 0 and extension opcodes, out-of-band buffers, persistent names
        b"(S'x'\ni" + b"os\nsystem\n.",
        b"\x82\x01.",
        b"\x97.",
        b"Pname\n.",
    ],
)
def test_hand_made_programs_are_refused(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "hand.pkl"
    path.write_bytes(b"\x80\x05" + program)
    with pytest.raises(DataError, match=r"hand\.pkl"):
        read_jkqc(path)


@pytest.mark.parametrize("key", sorted(standins._STAND_INS))
@pytest.mark.parametrize("slots", [False, True])
def test_stand_ins_cannot_be_changed(tmp_path: Path, key: tuple[str, str], slots: bool) -> None:
    """BUILD sets attributes on what has no ``__setstate__``: on a function for all that follow."""
    path = tmp_path / "build.pkl"
    state = b"}\x8c\x05kind1\x8c\x01xs"
    state = b"N" + state + b"\x86" if slots else state
    path.write_bytes(b"\x80\x05" + _global(*key) + state + b"b.")
    before = dict(vars(standins))
    with pytest.raises(DataError, match=r"build\.pkl"):
        read_jkqc(path)
    assert not hasattr(standins._STAND_INS[key], "kind1")
    assert dict(vars(standins)) == before


@pytest.mark.parametrize(
    "program",
    [
        b"Nr\xff\xff\xff\x7f.",  # LONG_BINPUT: room for two thousand million entries
        b"\x8d\xff\xff\xff\xff\xff\x00\x00\x00abc.",  # a text of a terabyte
        b"\x96\xff\xff\xff\xff\xff\x00\x00\x00abc.",  # a bytearray of a terabyte
        b"\x95\xff\xff\xff\xff\xff\x00\x00\x00N.",  # a frame of a terabyte
    ],
)
def test_absurd_sizes_are_refused(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "big.pkl"
    path.write_bytes(b"\x80\x05" + program)
    with pytest.raises(DataError, match=r"big\.pkl"):
        read_jkqc(path)


@pytest.mark.parametrize(
    "program",
    [
        # the key of a dictionary: a tuple a million deep, whose hash overflows the C stack
        b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
        # a tuple of the same tuple twice, 60 times over, whose hash takes 2⁶⁰ steps
        b"})\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(60)) + b"K\x01s.",
        # and one of a thousand of the same, three times over
        b"})\x94"
        + b"".join(b"(" + bytes([104, i]) * 999 + b"t\x94" for i in range(3))
        + b"K\x01s.",
        # deep in other ways, which Python takes: lists, objects in the state of objects, calls
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"case.atoms\nAtoms\n)\x81" * 100_000 + b"N" + b"b" * 100_000 + b".",
        b"cbuiltins\nslice\n" * 100_000 + b"N" + b"\x85R" * 100_000 + b".",
        # an unknown memo number, and a value taken from an empty stack
        b"h\x07.",
        b"\x85.",
        b"(\x85.",
    ],
    ids=["deep", "twice", "wide", "lists", "states", "calls", "memo", "empty", "mark"],
)
def test_nesting_neither_crashes_nor_stalls(tmp_path: Path, program: bytes) -> None:
    """In a process of its own: the unpickler would crash the interpreter, or never end."""
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x05" + program)
    script = (
        "import sys\nfrom ase_knncalc.data import read_jkqc\n"
        "from ase_knncalc.errors import DataError\n"
        "try: read_jkqc(sys.argv[1])\nexcept DataError as e: print(str(e)[:400])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "bomb.pkl" in done.stdout


def test_names_of_columns_are_texts(tmp_path: Path) -> None:
    """``str()`` of lists in lists, each there twice, would be longer than any memory."""
    data = PICKLES["pandas 2, protocol 4"]
    name = b"\x8c\x03xyz\x94et"
    assert data.count(name) == 1
    path = tmp_path / "names.pkl"
    path.write_bytes(data.replace(name, b"]M\x01\x01a\x94et"))
    with pytest.raises(DataError, match=r"names\.pkl.*no texts"):
        read_jkqc(path)


def test_absurd_shapes_are_refused(tmp_path: Path) -> None:
    data = PICKLES["pandas 2, protocol 4"]
    matrix = b"K\x03K\x03\x86"  # the shape (3, 3), of a cell, positions or forces
    path = tmp_path / "shape.pkl"
    path.write_bytes(data.replace(matrix, b"K\x03K\xc8\x86"))
    with pytest.raises(DataError, match="size than its shape"):
        read_jkqc(path)


def test_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pkl"
    with open(path, "wb") as handle:
        handle.truncate(unpickle.MAX_BYTES + 1)  # sparse
    with pytest.raises(DataError, match=r"huge\.pkl: a pickle of 4\.0 GiB"):
        read_jkqc(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "no table"),
        (np.zeros(3), "no table"),
        (Atoms("H"), "no table"),
    ],
)
def test_other_pickles(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(DataError, match=message):
        read_jkqc(path)


def _read_damaged(path: Path, data: bytes) -> None:
    """Either frames, or an error that names the file: never anything else."""
    path.write_bytes(data)
    try:
        frames = read_jkqc(path)
    except DataError as e:
        message = str(e)
    else:
        message = path.name
        for atoms in frames:
            assert isinstance(atoms.info["name"], str)
            assert atoms.positions.shape == (len(atoms), 3)
            assert isinstance(atoms.info.get("reference_energy", 0.0), float)
    assert path.name in message


@pytest.mark.parametrize("version", PICKLES)
def test_every_truncation_is_a_data_error(tmp_path: Path, version: str) -> None:
    data = PICKLES[version]
    path = tmp_path / "cut.pkl"
    for length in range(1, len(data), 23):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut\.pkl"):
            read_jkqc(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pickletools")
@given(st.sampled_from(sorted(PICKLES)), st.data())
@settings(max_examples=200, deadline=None)
def test_every_mutation_is_frames_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, version: str, data: st.DataObject
) -> None:
    raw = bytearray(PICKLES[version])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["change", "insert", "delete"]))
        if kind == "change":
            raw[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            raw[place:place] = data.draw(st.binary(min_size=1, max_size=6))
        else:
            del raw[place : place + data.draw(st.integers(1, 20))]
    _read_damaged(tmp_path_factory.mktemp("mutated") / "mutated.pkl", bytes(raw))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, program: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.pkl"
    path.write_bytes(b"\x80\x05" + program)
    with pytest.raises(DataError, match=r"any\.pkl"):
        read_jkqc(path)


def test_arrays_are_those_of_numpy() -> None:
    """Orders, byte orders and types, through the same stand-ins that tables use."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 4))
    for array in (
        matrix,
        np.asfortranarray(matrix),
        matrix.astype(">f8"),
        matrix.astype("f4"),
        np.arange(6, dtype="i1").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(2.5),
    ):
        for protocol in (2, 3, 4, 5):
            stand_in = io.BytesIO(pickle.dumps(array, protocol=protocol))
            found = as_array(standins._TableUnpickler(stand_in).load())
            np.testing.assert_array_equal(found, array.reshape(found.shape))
            assert found.dtype == array.dtype.newbyteorder("=")


def test_nothing_to_cite_is_no_citation(shared_data: Path) -> None:
    frames = [a for p in sorted((shared_data / "jkqc").glob("*.pkl")) for a in read_jkqc(p)]
    assert len(frames) > 80
    assert not any("citation" in a.info for a in frames)
