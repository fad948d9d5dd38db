"""Code in the documentation and the README runs, and doctests of the package give what they say."""

from __future__ import annotations

import contextlib
import doctest
import io
import shlex
import shutil
import unittest
from pathlib import Path

import pytest
from ase import Atoms
from ase.io import read, write
from helpers.commands import knncalc

sybil = pytest.importorskip("sybil", reason="needs sybil (the test extra)")
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser, SkipParser  # noqa: E402
from sybil.parsers.rest import DocTestParser  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def run_commands(example) -> None:
    """Run the ``knncalc`` lines of a block in the current folder."""
    text = example.parsed.replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "knncalc":
            continue
        knncalc(*words[1:], cwd=Path.cwd())


MARKDOWN = sybil.Sybil(
    parsers=[PythonCodeBlockParser(), CodeBlockParser("bash", run_commands), SkipParser()]
)
DOCSTRINGS = sybil.Sybil(parsers=[DocTestParser(doctest.ELLIPSIS)])


@pytest.fixture
def folder(tmp_path, monkeypatch, cluster_frames) -> Path:
    """The files that pages speak of."""
    monkeypatch.chdir(tmp_path)
    waters = [a for a in cluster_frames if a.info["composition"] == "2w"][:6]
    for atoms in cluster_frames:
        atoms.info["my_dft_energy"] = atoms.info["reference_energy"]
    hydrate = next(
        a for a in cluster_frames
        if a.info["composition"] == "1sa1w" and a.info["temperature"] == 0
    )  # fmt: skip
    shutil.copytree(ROOT / "examples", "examples", ignore=shutil.ignore_patterns("*.py"))
    write("cluster.xyz", Atoms(hydrate.numbers, hydrate.positions), format="extxyz")
    bare = [a.copy() for a in waters]
    for atoms in bare:
        atoms.info = {"name": atoms.info["name"]}
        del atoms.arrays["reference_forces"], atoms.arrays["baseline_forces"]
    write("conformers.xyz", bare, format="extxyz")
    labelled = [a.copy() for a in cluster_frames]
    for atoms in labelled:
        del atoms.arrays["reference_forces"], atoms.arrays["baseline_forces"]
    write("labelled.extxyz", labelled)
    write("data.extxyz", labelled)
    write("labelled_new.extxyz", [a for a in labelled if a.info["composition"] == "3w"])
    Path("small.toml").write_text(
        'composition = "2 w"\nmethods = ["packing"]\nfmax = 0.03\nvibrations = 2\n', "utf-8"
    )
    return tmp_path


SLOW = ("tutorial", "active-learning", "exploration")


# Structures that are far from the data are what the pages speak of.
@pytest.mark.filterwarnings("ignore:.* is far from the training data")
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow if p.stem in SLOW else ()) for p in PAGES],
    ids=lambda p: p.stem,
)
def test_code_on_the_page_runs(page, folder, request) -> None:
    if page.stem == "tutorial":
        jkqc = request.getfixturevalue("shared_data") / "jkqc"
        for path in jkqc.glob("*.pkl"):
            shutil.copy(path, folder)
    if page.stem == "active-learning":
        from ase_knncalc import save_model, train

        some = read("labelled.extxyz", index=":")
        model = train(some, trend="linear", n_components=5, k=3, n_jobs=1, check_labels=False)
        save_model(model, "my.h5")
    document = MARKDOWN.parse(page)
    for example in document.examples():
        # A program that is not installed skips its own example, not the page.
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


def test_the_readme_and_its_example_print_what_the_readme_says(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text("utf-8")
    code, said = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("python", "text"))
    assert len([line for line in code.splitlines() if line]) <= 8
    for script in (code, (ROOT / "examples" / "quickstart.py").read_text("utf-8")):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(script, {"__file__": str(ROOT / "examples" / "quickstart.py")})
        assert printed.getvalue() == said


def test_the_gallery_shows_every_example() -> None:
    text = (ROOT / "docs" / "gallery.md").read_text("utf-8")
    for example in (ROOT / "examples").glob("*.py"):
        assert text.count(f"../examples/{example.name}\n") == 1


def test_the_version_is_one() -> None:
    import ase_knncalc

    for file, line in (
        ("pyproject.toml", f'version = "{ase_knncalc.__version__}"'),
        ("CITATION.cff", f"version: {ase_knncalc.__version__}"),
        ("CHANGELOG.md", f"## {ase_knncalc.__version__}"),
    ):
        assert f"\n{line}" in (ROOT / file).read_text("utf-8")


MODULES = sorted(p for p in (ROOT / "ase_knncalc").rglob("*.py") if ">>> " in p.read_text("utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_docstrings_tell_the_truth(path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = list(DOCSTRINGS.parse(path).examples())
    assert examples
    for example in examples:
        example.evaluate()
