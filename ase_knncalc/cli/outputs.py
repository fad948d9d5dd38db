"""What a command will write is looked at before it works; what it leaves out is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from ase_knncalc._lib.files import check_writable

if TYPE_CHECKING:
    from ase_knncalc.data import Omission

Output = tuple[str, Path | None, Callable[[Path], object] | None]


def check_outputs(inputs: Iterable[Path | None], *outputs: Output) -> None:
    """Refuse before any work what cannot be written, or would take the place of what is read.

    Parameters
    ----------
    inputs
        Files and folders that the command reads; None where an option was not given.
    outputs
        For each file to write: the option, the path or None, and a function that raises for a
        format that cannot be written, or None.

    Raises
    ------
    SettingsError
        If an output is an input, under whatever name, or another output; if it is a folder or
        another thing that is no file; or if its folder is missing or cannot be written to.
    """
    from ase_knncalc.errors import SettingsError

    read = [p for path in inputs if path is not None for p in _files_of(path)]
    wanted = [(option, path, check) for option, path, check in outputs if path is not None]
    for option, path, check in wanted:
        problem = _unwritable(path)
        if problem:
            raise SettingsError(f"{option} {path}: {problem}")
        for given in read:
            if _same(path, given):
                raise SettingsError(
                    f"{option} {path} would overwrite {given}, which is read; name another file"
                )
        if check is not None:
            check(path)
    for (option, path, _), (other, second, _) in combinations(wanted, 2):
        if _same(path, second):
            raise SettingsError(f"{option} and {other} are one file, {path}; name two")


def model_place(path: Path) -> None:
    """Check of :func:`check_outputs` that a model takes the place of no other kind of file."""
    from ase_knncalc.store.container import check_replaceable

    check_replaceable(path, "model")


def cache_place(path: Path) -> None:
    """Check of :func:`check_outputs` that a label cache takes the place of no other file."""
    from ase_knncalc.store.container import check_replaceable

    check_replaceable(path, "labels")


def check_folder(option: str, path: Path | None) -> None:
    """Refuse before any work a folder that is not there or cannot be written to.

    Raises
    ------
    SettingsError
        If so.
    """
    problem = "" if path is None else _unwritable(path / "x")
    if problem:
        from ase_knncalc.errors import SettingsError

        raise SettingsError(f"{option} {path}: {problem}")


def refuse_omissions(omitted: Sequence[Omission], total: int) -> None:
    """Refuse to go on without some of the structures, for ``--strict``.

    Raises
    ------
    DataError
        If any was left out; names each.
    """
    if omitted:
        from ase_knncalc.data import report_omissions
        from ase_knncalc.errors import DataError

        raise DataError(f"--strict: {report_omissions(omitted, total, limit=20)}")


def tell_omissions(omitted: Sequence[Omission], total: int, strict: bool, nothing: str) -> None:
    """Say what was left out of so many structures.

    Raises
    ------
    DataError
        With ``strict``, if anything was; or if that is everything: ``nothing`` says what it means.
    """
    from ase_knncalc.data import report_omissions
    from ase_knncalc.errors import DataError

    if strict:
        refuse_omissions(omitted, total)
    if len(omitted) == total:
        raise DataError(f"{nothing}; {report_omissions(omitted, total)}")
    if omitted:
        print(report_omissions(omitted, total), file=sys.stderr)


def _files_of(path: Path) -> list[Path]:
    """A file; or the outputs in a folder, which are read in its place."""
    from ase_knncalc.data.outputs import output_files

    try:
        return output_files(path) if path.is_dir() else [path]
    except OSError:  # told by what reads it
        return []


def _same(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:  # one is not there (yet)
        return os.path.realpath(first) == os.path.realpath(second)


def _unwritable(path: Path) -> str:
    """Why no file can be written there; empty if it can."""
    try:
        if path.is_dir():
            return "that is a folder; name a file"
        # /dev/stdout is as good as a file where the output goes to one, and must not be replaced.
        place = os.path.realpath(path.parent)
        if place in ("/dev", "/proc") or place.startswith("/proc/"):
            return "that is no regular file"
        if not path.parent.is_dir():
            return f"there is no folder {path.parent}"
        check_writable(path)
        folder = Path(os.path.realpath(path)).parent  # of a link, the file behind it is replaced
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"the folder {folder} cannot be written to"
        # Files in the making have longer names.
        os.stat(path.with_name(f".{path.name}.part-12345678{''.join(path.suffixes[-2:])}"))
    except FileNotFoundError:
        return ""
    except OSError as e:
        return e.strerror or str(e)
    return ""
