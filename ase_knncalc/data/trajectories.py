"""ASE trajectories (``*.traj``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_knncalc.data.info import comes_back, move_arrays, per_atom
from ase_knncalc.data.paths import ErrorHandler
from ase_knncalc.errors import DataError


def iter_trajectory(
    path: Path, frames: slice, on_error: ErrorHandler | None = None
) -> Iterator[tuple[int, Atoms]]:
    """Frames with their numbers; those that cannot be read go to ``on_error``."""
    from ase.io.trajectory import TrajectoryReader

    with TrajectoryReader(str(path)) as trajectory:
        for number in range(*frames.indices(len(trajectory))):
            try:
                atoms = trajectory[number]
            except Exception as e:
                error = DataError(f"{path}: frame {number} cannot be read: {e}")
                if on_error is None:
                    raise error from e
                on_error(path, error)
                continue
            move_arrays(atoms)
            yield number, atoms


def write_trajectory(path: Path, frames: Iterable[Atoms]) -> None:
    """One frame after the other."""
    from ase.io.trajectory import TrajectoryWriter

    with TrajectoryWriter(str(path), mode="w") as trajectory:
        for atoms in frames:
            atoms.info |= per_atom(atoms)
            trajectory.write(atoms)


def fits_trajectory(key: str, value: Any) -> bool:
    """Whether ASE's JSON gives the value back."""
    from ase.io.jsonio import decode, encode

    return comes_back(key, value, lambda v: decode(encode(v)))
