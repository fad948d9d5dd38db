"""The command line: in this process, where an import is paid for once, or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from ase_knncalc.cli import main

WIDTH = {"COLUMNS": "160"}


class Done(NamedTuple):
    """How the program ended."""

    returncode: int
    stdout: str
    stderr: str


def knncalc(*arguments: object, cwd: Path, code: int = 0) -> Done:
    """Run the program in this process, from its ``main`` on."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    returncode, before = 0, Path.cwd()
    os.chdir(cwd)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "argv", ["knncalc", *map(str, arguments)]),
            mock.patch.dict(os.environ, WIDTH),
            warnings.catch_warnings(),
        ):
            # As the interpreter has it, not as the tests do; `main` sets how they are shown.
            warnings.resetwarnings()
            for category in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)
            main()
    except SystemExit as e:
        returncode = e.code if isinstance(e.code, int) else int(e.code is not None)
    finally:
        os.chdir(before)
    printed = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return _checked(Done(returncode, *printed), code)


def program(*arguments: object, cwd: Path, code: int = 0) -> Done:
    """Run the program in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from ase_knncalc.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, **WIDTH},
    )
    return _checked(Done(done.returncode, done.stdout, done.stderr), code)


def _checked(done: Done, code: int) -> Done:
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done
