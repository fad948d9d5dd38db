"""A fresh folder for each calculation of a program that reads and writes files.

Programs that ASE drives by files (ORCA, Gaussian, …) use the same names for each structure. In one
folder two calculations at a time would read each other's output, and a failed one what the last
one left behind.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase.calculators.calculator import BaseCalculator

from ase_knncalc.errors import LabelerError


@dataclass
class Folders:
    """Folders of one calculation: what is removed in any case, and what stays if it fails."""

    temporary: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def files(self) -> str:
        """What becomes of the files of a calculation that failed, as the end of a message."""
        used = [folder for folder in self.kept if _has_files(folder)]
        if used:
            return f" (its files are in {', '.join(used)})"
        if any(_has_files(folder) for folder in self.temporary):
            return " (its files are removed: give the calculator a directory to keep them)"
        return ""


@contextmanager
def fresh_folders(calculator: BaseCalculator, name: str) -> Iterator[Folders]:
    """Give a calculator, and those that it is made of, folders that no other calculation uses.

    Where its ``directory`` is ASE's default, that is a temporary folder, removed in the end;
    otherwise a new one within ``directory``, which stays if the calculation fails. Afterwards
    ``directory`` is as it was. What has no ``directory`` that can be set is left alone.

    Parameters
    ----------
    calculator
        The calculator.
    name
        Of the structure, for the names of folders.

    Yields
    ------
    Folders
        Where they are.

    Raises
    ------
    LabelerError
        If a folder cannot be made.
    """
    prefix = re.sub(r"[^A-Za-z0-9_.+-]+", "-", name).strip("-.")[:60] + "-"
    before: list[tuple[Any, str | os.PathLike[str]]] = []
    folders = Folders()
    failed = True
    try:
        for each in _parts(calculator):
            directory = getattr(each, "directory", None)
            if not isinstance(directory, str | os.PathLike):
                continue
            given = Path(directory) != Path()
            folder = _made(os.path.abspath(directory) if given else None, prefix)
            try:
                each.directory = type(directory)(folder) if isinstance(directory, Path) else folder
            except Exception:  # calculators refuse attributes with what they like
                shutil.rmtree(folder, ignore_errors=True)
                continue
            before.append((each, directory))
            (folders.kept if given else folders.temporary).append(folder)
        yield folders
        failed = False
    finally:
        for each, directory in before:
            each.directory = directory
        for folder in [*folders.temporary, *folders.kept]:
            # Of a calculator that writes no files there is nothing to look at.
            if not (failed and folder in folders.kept and _has_files(folder)):
                shutil.rmtree(folder, ignore_errors=True)


def _has_files(folder: str) -> bool:
    return os.path.isdir(folder) and bool(os.listdir(folder))


def _made(within: str | None, prefix: str) -> str:
    try:
        if within is not None:
            os.makedirs(within, exist_ok=True)
        return tempfile.mkdtemp(prefix=prefix, dir=within)
    except OSError as e:
        raise LabelerError(
            f"no folder for a calculation can be made in {within or tempfile.gettempdir()}: "
            f"{e.strerror or e}"
        ) from e


def _parts(calculator: BaseCalculator) -> list[Any]:
    """The calculator, and all that it calls, as a sum of calculators does."""
    from ase.calculators.mixing import Mixer

    found: list[Any] = []
    todo: list[Any] = [calculator]
    while todo:
        each = todo.pop()
        if isinstance(each, Mapping):
            todo.extend(v for v in each.values() if isinstance(v, BaseCalculator))
        elif isinstance(each, list | tuple):
            todo.extend(v for v in each if isinstance(v, BaseCalculator))
        elif isinstance(each, Mixer):
            todo.extend(each.calcs)
        elif isinstance(each, BaseCalculator) and not any(each is f for f in found):
            found.append(each)
            todo.extend(vars(each).values())
    return found
