"""What a loop shows without doing it, asks again, and does where two begin at once."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.factories import water_clusters
from helpers.loops import Oracle, write_config

from ase_knncalc import TrainingSettings, save_model, train
from ase_knncalc.active import ActiveLoop, Journal, read_config, run_loop
from ase_knncalc.errors import ModelFileError


def contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in directory.iterdir()}


def test_a_plan_reads_only(folder) -> None:
    """With a window and a baseline that computes, and of a folder that it may not write to."""
    settings = TrainingSettings(trend="linear", k=3, metric="pca", n_components=3, folds=2)
    first = train(water_clusters(40, seed=2), baseline="GFN1-xTB", settings=settings)
    save_model(first, folder / "first.h5")
    path = write_config(folder, iterations=1)
    text = path.read_text().replace('baseline = "none"', "")
    path.write_text(text.replace("batch =", "energy_window = 5.0\nbatch ="))
    work = folder / "work"
    work.mkdir()
    assert len(ActiveLoop(read_config(path)).plan().chosen) == 5
    assert not list(work.iterdir())
    run_loop(read_config(path))
    path.write_text(path.read_text().replace("iterations = 1", "iterations = 2"))
    before = contents(work)
    assert "baseline.db" in before
    work.chmod(0o555)
    for file in work.iterdir():
        file.chmod(0o444)
    try:
        code = (
            "from ase_knncalc.active import ActiveLoop, read_config\n"
            "print(len(ActiveLoop(read_config('config.toml')).plan().chosen))\n"
        )
        folder.chmod(0o755)
        done = subprocess.run(
            [*unprivileged(folder), sys.executable, "-c", code],
            cwd=folder, capture_output=True, text=True, env=os.environ,
        )  # fmt: skip
        assert done.stdout.strip() == "5", done.stderr
    finally:
        work.chmod(0o755)
    assert contents(work) == before


def unprivileged(folder: Path) -> list[str]:
    """What a command begins with so that permissions count, as they do not for root."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


@pytest.mark.filterwarnings("ignore:test.files")
def test_a_plan_of_a_loop_that_was_killed_rolls_back_a_copy(folder) -> None:
    run_loop(read_config(write_config(folder, iterations=1)))
    work = folder / "work"
    # A transaction that has reached the file, with its rollback journal beside it.
    database = sqlite3.connect(work / "journal.db", isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("PRAGMA cache_spill = 1")
    database.execute("BEGIN EXCLUSIVE")
    database.execute("CREATE TABLE filler (x)")
    database.executemany("INSERT INTO filler VALUES (?)", [("x" * 3000,)] * 200)
    database.execute("DELETE FROM labels")
    killed = {name: (work / name).read_bytes() for name in ("journal.db", "journal.db-journal")}
    database.execute("ROLLBACK")
    database.close()
    for name, content in killed.items():
        (work / name).write_bytes(content)
    before = contents(work)
    plan = ActiveLoop(read_config(write_config(folder, iterations=2))).plan()
    assert (plan.iteration, plan.pool, len(plan.chosen)) == (2, 25, 5)
    assert contents(work) == before
    reports = run_loop(read_config(folder / "config.toml"))
    assert [r["labels"] for r in reports] == [5, 10]


def test_a_plan_with_retry_shows_what_would_be_asked_again(folder) -> None:
    oracle = Oracle(folder / "calls", failing="1w-0")
    path = write_config(folder, strategy="random", iterations=1, batch=29)
    run_loop(read_config(path), labeler=oracle)
    config = read_config(write_config(folder, strategy="random", iterations=2, batch=29))
    for retry in (False, True):
        plan = ActiveLoop(config, labeler=oracle, retry=retry).plan()
        with Journal(folder / "work" / "journal.db") as journal:
            failed = sum(bool(a.reason) for a in journal.asked())
        assert failed == 1
        assert len(plan.chosen) == (1 + failed if retry else 1)
    again = Oracle(folder / "again")
    run_loop(config, labeler=again, retry=True)
    assert len(again.calls.read_text().split()) == 2


def test_retry_of_a_finished_loop_keeps_the_failures_and_says_so(folder) -> None:
    path = write_config(folder, strategy="random", iterations=1, batch=30)
    config = read_config(path)
    oracle = Oracle(folder / "calls", failing="1w-0")
    reports = run_loop(config, labeler=oracle)
    with pytest.warns(UserWarning, match=r"1 structures .* not asked .*raise loop\.iterations"):
        assert run_loop(config, labeler=oracle, retry=True) == reports
    with Journal(folder / "work" / "journal.db") as journal:
        assert sum(bool(a.reason) for a in journal.asked()) == 1


def test_a_damaged_cache_is_said_to_be_one(folder) -> None:
    (folder / "work").mkdir()
    (folder / "work" / "baseline.db").write_bytes(b"nonsense")
    config = read_config(folder / "config.toml")
    for act in (lambda: ActiveLoop(config).plan(), lambda: run_loop(config)):
        with pytest.raises(ModelFileError, match=r"work.baseline\.db is a cache: delete it"):
            act()
    (folder / "work" / "baseline.db").unlink()
    assert len(run_loop(config)) == 3


def test_one_of_two_loops_that_start_at_once_goes_on(tmp_path) -> None:
    """Each opens the journal again and again; that both are refused at once is what must not be."""
    code = (
        "import sys, time\n"
        "from ase_knncalc.active import Journal\n"
        "from ase_knncalc.errors import DataError\n"
        "for at in sys.argv[2:]:\n"
        "    while time.time() < float(at): pass\n"
        "    try:\n"
        "        with Journal(f'{sys.argv[1]}-{at}'): time.sleep(0.5); print(1)\n"
        "    except DataError: print(0)\n"
    )
    start = time.time() + 2.0
    times = [str(start + 0.9 * i) for i in range(5)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "journal"), *times],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    got = [process.communicate()[0].split() for process in both]
    assert len(got[0]) == len(got[1]) == len(times)
    assert all("1" in pair for pair in zip(*got, strict=True))
