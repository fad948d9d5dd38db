"""Jobs of campaigns that are counted, and killed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from ase_knncalc.exploration import jobs


@contextmanager
def killed_after(n: int) -> Iterator[list[str]]:
    """Names of the jobs that are begun; in the place of the one after the n-th is a Ctrl-C."""
    asked: list[str] = []
    attempt = jobs._attempt

    def counted(work: Any, *arguments: Any) -> Any:
        if len(asked) == n and "killed" not in asked:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append(work.__name__)
        return attempt(work, *arguments)

    with mock.patch.object(jobs, "_attempt", counted):
        yield asked
