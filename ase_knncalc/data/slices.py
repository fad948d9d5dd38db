"""Frames of a file by their numbers, for formats that are read forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ase import Atoms


def forwards(frames: slice, count: Callable[[], int]) -> slice:
    """The same frames as a slice without negative numbers; ``count`` is called if it has any."""
    if all(part is None or part >= 0 for part in (frames.start, frames.stop, frames.step)):
        return frames
    numbers = range(*frames.indices(count()))
    if not numbers:
        return slice(0, 0)
    if numbers.step < 0:
        numbers = numbers[::-1]
    return slice(numbers[0], numbers[-1] + 1, numbers.step)


def ordered(frames: slice, forward: Iterator[tuple[int, Atoms]]) -> Iterator[tuple[int, Atoms]]:
    """Turn round what was read forwards if the slice runs backwards."""
    if frames.step is not None and frames.step < 0:
        return iter(list(forward)[::-1])
    return forward
