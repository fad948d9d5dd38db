"""Killed at any moment, disk full, two writers: nothing is lost but the unit in work."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from helpers.factories import tiny, water_clusters

from ase_knncalc import load_model, save_model
from ase_knncalc.data import write_frames
from ase_knncalc.errors import ModelFileError
from ase_knncalc.labels.cache import CachedLabel, LabelCache

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")

TESTS = Path(__file__).parents[1]
KILLING = TESTS / "helpers" / "killing.py"


def python(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run this Python with this package, whatever the working directory."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def kill(job: str, folder: Path, kills: int, seed: int) -> None:
    done = python(
        str(KILLING),
        job,
        str(folder),
        "--kills",
        str(kills),
        "--seed",
        str(seed),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["killed"] == kills


@pytest.mark.parametrize("job", ["labels", "train", "append", "loop", "write"])
def test_a_few_kills(tmp_path, job: str) -> None:
    kill(job, tmp_path, 2, seed=0)


@pytest.mark.endurance
@pytest.mark.parametrize(
    ("job", "kills"), [("labels", 60), ("train", 40), ("append", 40), ("loop", 100)]
)
def test_many_kills(tmp_path, share, job: str, kills: int) -> None:
    kill(job, tmp_path, share(kills), seed=1)


# ------------------------------------------------------------------------------------- disk full

# Bytes of files that more than ten labels fit into: each is two pages or more of the journal.
MANY_LABELS = ("labels", 300_000)

FULL = textwrap.dedent(
    """
    import os, resource, sys, warnings
    from helpers.factories import tiny, water_clusters
    from ase_knncalc import load_model, save_model
    from ase_knncalc.training import append_to_file
    from ase_knncalc.data import write_frames
    from ase_knncalc.errors import KNNCalcError
    from ase_knncalc.labels.cache import CachedLabel, LabelCache

    warnings.simplefilter("ignore")
    kind, limit = sys.argv[1], int(sys.argv[2])
    model, frames = load_model("model.h5"), water_clusters(60, seed=4)
    # Nothing of HDF5 is loaded for the first time without space.
    os.makedirs("warm", exist_ok=True)
    save_model(model, "warm/model.h5")
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    kept = 0
    try:
        if kind == "model":
            save_model(model, "model.h5")
        elif kind == "append":
            append_to_file("model.h5", water_clusters(3, seed=77))
        elif kind == "frames":
            write_frames("frames.extxyz", frames)
        elif kind == "labels":
            with LabelCache("labels.db") as cache:
                for i in range(10_000):
                    cache.put(f"{i:064d}", CachedLabel(float(i)))
                    kept += 1
        print("done")
    except KNNCalcError as e:
        print(kept)
        print(type(e).__name__, e)
    """
)


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    save_model(tiny_model, tmp_path / "model.h5")
    write_frames(tmp_path / "frames.extxyz", water_clusters(20))
    with LabelCache(tmp_path / "labels.db") as cache:
        cache.put("old", CachedLabel(-1.0))
    return tmp_path


def check_old_files(folder: Path, before: dict[str, bytes], kept: int) -> None:
    for name in ("model.h5", "frames.extxyz"):
        assert (folder / name).read_bytes() == before[name]
    assert not list(folder.glob(".*.part-*"))
    with LabelCache(folder / "labels.db") as cache:
        assert cache.get("old") == CachedLabel(-1.0)
        assert len(cache) == 1 + kept
        assert all(cache.get(f"{i:064d}") == CachedLabel(float(i)) for i in range(kept))


@pytest.mark.parametrize(
    ("kind", "limit"),
    [*((k, n) for k in ("model", "append", "frames", "labels") for n in (1, 5000)), MANY_LABELS],
)
def test_no_space_left_is_one_error_and_the_old_file_stays(folder, kind: str, limit: int) -> None:
    """A limit on the size of files ends writing as a full disk does, in the middle of a write."""
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    done = python("-c", FULL, kind, str(limit), cwd=folder)
    assert done.returncode == 0, done.stderr
    kept, message = done.stdout.splitlines()
    assert "cannot write" in message
    # SQLite does not tell a limit from other reasons for which a disk takes no more.
    assert ("a limit on file sizes" if kind == "labels" else "File too large") in message
    check_old_files(folder, before, int(kept))
    if (kind, limit) == MANY_LABELS:
        assert int(kept) > 10
    # With space again, all goes on.
    assert python("-c", FULL, "append", "0", cwd=folder).stdout == "done\n"


def fill(path: Path) -> int:
    """Put labels into a cache until there is no space; how many were kept."""
    kept = 0

    def put() -> None:
        nonlocal kept
        with LabelCache(path) as cache:
            while kept < 100_000:
                cache.put(f"{kept:064d}", CachedLabel(float(kept)))
                kept += 1

    with pytest.raises(ModelFileError, match="No space left on device"):
        put()
    return kept


def test_full_disk(tiny_model, tmp_path) -> None:
    """The same on a file system that really is full."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mounted)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        save_model(tiny_model, mounted / "model.h5")
        with LabelCache(mounted / "labels.db") as cache:
            cache.put("old", CachedLabel(-1.0))
        model = (mounted / "model.h5").read_bytes()
        space = os.statvfs(mounted)
        (mounted / "filler").write_bytes(bytes(space.f_bavail * space.f_bsize - 16_384))
        with pytest.raises(ModelFileError, match="No space left on device"):
            save_model(tiny_model, mounted / "model.h5")
        assert (mounted / "model.h5").read_bytes() == model
        os.truncate(mounted / "filler", (mounted / "filler").stat().st_size - MANY_LABELS[1])
        kept = fill(mounted / "labels.db")
        assert kept > 10
        check = [CachedLabel(float(i)) for i in range(kept)]
        for _ in ("still full", "with space again"):
            with contextlib.suppress(ModelFileError), LabelCache(mounted / "labels.db") as cache:
                assert cache.get("old") == CachedLabel(-1.0)
                assert [cache.get(f"{i:064d}") for i in range(len(cache) - 1)] == check
            (mounted / "filler").unlink(missing_ok=True)
        assert sorted(p.name for p in mounted.iterdir()) == ["labels.db", "model.h5"]
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


# ----------------------------------------------------------------------------------- two writers


def test_second_training_to_the_same_file_is_told(tmp_path) -> None:
    frames = water_clusters(20)
    write_frames(tmp_path / "data.extxyz", frames)
    with LabelCache(tmp_path / "my.h5.labels.db"):  # as a training under way has it open
        done = python(
            "-c", "from ase_knncalc.cli import main; main()", "train", "data.extxyz", "-o", "my.h5",
            "--quiet", cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 1
    assert "in use by another process" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "my.h5").exists()


SAVING = """
import sys
from ase_knncalc import load_model, save_model
models = [load_model(name) for name in ("a.h5", "b.h5")]
print("ready", flush=True)
sys.stdin.readline()
for i in range(40):
    save_model(models[i % 2], "shared.h5")
"""


def test_two_savers_and_a_reader_see_whole_models_only(tmp_path) -> None:
    probe = water_clusters(1, seed=5)
    told = []
    for name, seed in (("a.h5", 1), ("b.h5", 2)):
        model = tiny(water_clusters(30, seed=seed))
        save_model(model, tmp_path / name)
        told.append(model.predict(probe).delta.tolist())
    save_model(load_model(tmp_path / "a.h5"), tmp_path / "shared.h5")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    savers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVING],
            cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for saver in savers:
        assert saver.stdout is not None
        assert saver.stdout.readline() == b"ready\n"
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write(b"\n")
        saver.stdin.flush()
    reads = 0
    while any(saver.poll() is None for saver in savers):
        assert load_model(tmp_path / "shared.h5").predict(probe).delta.tolist() in told
        reads += 1
    assert [saver.wait() for saver in savers] == [0, 0]
    assert reads > 0
    assert not list(tmp_path.glob(".*.part-*"))


APPENDING = """
import sys, time
import ase_knncalc.training.appending as appending
from helpers.factories import water_clusters
real = appending.append

def slow(*arguments, **options):
    print("reading", flush=True)
    time.sleep(1.0)
    return real(*arguments, **options)

appending.append = slow
appending.append_to_file("model.h5", water_clusters(2, seed=700))
"""


def test_saving_waits_for_an_append_and_is_not_undone_by_it(tmp_path) -> None:
    """Or the append would put the old model, with an addition, over the new one."""
    old, new = tiny(water_clusters(40, seed=1)), tiny(water_clusters(30, seed=2))
    save_model(old, tmp_path / "model.h5")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", APPENDING], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        save_model(new, tmp_path / "model.h5")
        assert process.wait() == 0
    assert len(load_model(tmp_path / "model.h5")) == len(new)
