"""The table of faults names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "faults.md"


def named() -> list[tuple[str, str]]:
    if not TABLE.is_file():
        return []
    return re.findall(r"`((?:\w+/)?test_\w+\.py)::(\w+)`", TABLE.read_text(encoding="utf-8"))


@pytest.mark.skipif(not TABLE.is_file(), reason="the documentation is not beside the tests")
def test_every_test_in_the_table_exists() -> None:
    assert len(named()) > 40
    for file, name in named():
        tree = ast.parse((HERE / file).read_text(encoding="utf-8"))
        top = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert name in top, f"{file}::{name}"


@pytest.mark.skipif(not TABLE.is_file(), reason="the documentation is not beside the tests")
def test_every_row_names_a_test() -> None:
    rows = [r for r in TABLE.read_text(encoding="utf-8").splitlines() if r.startswith("| ")]
    rows = [
        r for r in rows if not (r.startswith("| --- |") or r.endswith("| what happens | test |"))
    ]
    assert len(rows) > 30
    for row in rows:
        assert re.search(r"`(?:\w+/)?test_\w+\.py::\w+`", row), row
