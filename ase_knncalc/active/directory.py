"""Whether the working directory of a loop holds the beginning of this one, and what is in it."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from ase_knncalc.active.config import LoopConfig
from ase_knncalc.active.journal import Journal
from ase_knncalc.errors import DataError, ModelFileError, SettingsError
from ase_knncalc.labelers import Labeler
from ase_knncalc.store import find_model

# Files that a loop writes.
_MODELS = r"model(-\d{3,})?\.h5"
_POOLS = r"pool-\d{3,}\.extxyz"
_WRITTEN = rf"({_MODELS}|{_POOLS}|labelled\.extxyz|report\.(csv|png))"


def begun(config: LoopConfig, journal: Journal | None) -> bool:
    """Whether a directory holds the beginning of this loop; without a journal it cannot.

    Without a label nothing of worth is there: with another configuration the loop begins anew.
    Later on, what may change are the data, settings and tests that the next model is made with, the
    files of the pool, and how long, how much and by what strategy.

    Raises
    ------
    SettingsError
        If something else changed, or the directory holds files that are not of a loop but have the
        names of its own.
    """
    directory = config.loop.directory
    identity = config.identity()
    kept = None if journal is None else _kept(journal)
    if journal is None or kept is None:
        others = _files(directory, _WRITTEN)
        if others:
            raise SettingsError(
                f"loop.directory: {directory} holds {others[0].name}, which this loop would write "
                "over, but no journal.db of the loop that wrote it: give another directory"
            )
        return False
    if kept == identity:
        return True
    if not any(a.labelled for a in journal.asked()):
        return False
    for table, key in _fixed(identity):
        before, now = kept.get(table, {}).get(key), identity[table][key]
        if before != now:
            raise SettingsError(
                f"{table}.{key} is {now!r}, but {directory} was begun with {before!r}: restore "
                "it, or give another loop.directory (the labels of this one are in its "
                "labelled.extxyz, as training.data has it)"
            )
    return True


def take_up(config: LoopConfig, journal: Journal) -> None:
    """Go on with what a directory holds, or begin anew, as :func:`begun` says."""
    identity = config.identity()
    configuration = json.dumps(identity, sort_keys=True)
    here = begun(config, journal)
    kept = _kept(journal) or identity
    changed = {table for table in identity if identity[table] != kept.get(table)}
    # The first model is made anew while nothing has been learned from it; pools take long.
    mended = here and not first_model_stands(config, journal)
    if not here or mended or ({"model", "training"} & changed and not journal.reports()):
        _remove(config.loop.directory, _MODELS)
    if not here and {"pool", "loop"} & changed:
        _remove(config.loop.directory, _POOLS)
    if here:
        journal.set_fact("configuration", configuration)
    else:
        journal.begin(configuration)
    if not journal.reports():
        if mended:  # the labeler is compared with the data as they are now
            journal.forget_fact("level")
        journal.set_fact("inputs", _digest(config))


def first_model_stands(config: LoopConfig, journal: Journal) -> bool:
    """Whether files that the first model is made of are as they were, or it has been learned from.

    A file may be mended in place, which no configuration tells.
    """
    return bool(journal.reports()) or journal.fact("inputs") == _digest(config)


def _digest(config: LoopConfig) -> str:
    """Of the contents of model, training and monomer files."""
    digest = hashlib.sha256()
    paths = [*config.training.data, *config.training.monomers]
    if config.model.file is not None:
        # What is missing is told when it is loaded.
        with suppress(ModelFileError):
            paths.append(find_model(config.model.file))
    try:
        for path in paths:
            files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
            for file in files:
                content = hashlib.sha256()
                with file.open("rb") as handle:
                    while block := handle.read(1 << 20):
                        content.update(block)
                digest.update(content.digest())
    except OSError as e:
        raise DataError(f"cannot read {e.filename}: {e.strerror or e}") from e
    return digest.hexdigest()


def _kept(journal: Journal) -> dict[str, Any] | None:
    """The identity of the configuration that a loop was last called with."""
    kept: dict[str, Any] | None = json.loads(journal.fact("configuration") or "null")
    return kept


def _remove(directory: Path, pattern: str) -> None:
    for file in _files(directory, pattern):
        file.unlink()


def check_method(journal: Journal, labeler: Labeler) -> None:
    """Check that a labeler's level of theory is that of the labels so far.

    Raises
    ------
    SettingsError
        If it is another one.
    """
    for asked in journal.asked():
        method = asked.atoms.info.get("reference_method", labeler.method)
        if method != labeler.method:
            raise SettingsError(
                f"the labels in {journal.path.parent} are of {method!r}, and the labeler gives "
                f"{labeler.method!r}: give that one, or another directory"
            )


def _files(directory: Path, pattern: str) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(f for f in directory.iterdir() if re.fullmatch(pattern, f.name))


def _fixed(identity: dict[str, Any]) -> list[tuple[str, str]]:
    """Keys that labels, or files that are not made again, depend on."""
    return [
        ("loop", "seed"),
        ("model", "file"),
        *(("labeler", key) for key in identity["labeler"] if key != "files"),
        *(("pool", key) for key in identity["pool"] if key != "files"),
    ]
