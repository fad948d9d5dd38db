"""What users get wrong on the command line: told before any work, and no file is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

# Imported before anything is patched: they import by name.
import ase_knncalc.evaluation.report
import ase_knncalc.training  # noqa: F401
from ase_knncalc import load_model, save_model
from ase_knncalc.cli import main

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory, water_frames, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write(folder / "data.extxyz", water_frames)
    conformers = [a.copy() for a in water_frames if a.info["composition"] == "2w"]
    for atoms in conformers:
        atoms.info = {"name": atoms.info["name"]}
    write(folder / "conformers.extxyz", conformers)
    write(folder / "conformers.traj", conformers)
    save_model(tiny_model, folder / "tiny.h5")
    (folder / "link.extxyz").symlink_to("data.extxyz")
    os.link(folder / "data.extxyz", folder / "hard.extxyz")
    (folder / "outputs").mkdir()
    (folder / "outputs" / "a.out").write_text("an output")
    (folder / "empty.extxyz").touch()
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    (folder / "odd.foo").write_text("not a structure\n")
    return folder


@pytest.fixture
def call(files, monkeypatch, capsys) -> Call:
    """Runs the program in this process: exit code, and what it printed."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main() sets its own

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["knncalc", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else int(e.code is not None)
        done = capsys.readouterr()
        return code, done.out, done.err

    return run


@pytest.fixture
def no_work(monkeypatch) -> None:
    """Fails if anything is computed, or a model is read."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was computed first")

    for name in (
        "ase_knncalc.store.load_model",
        "ase_knncalc.training.train",
        "ase_knncalc.labels.training_data.prepare",
        "ase_knncalc.data.read_structures",
        "ase_knncalc.data.read_dataset",
        "ase_knncalc.sampling.sample",
        "ase_knncalc.labels.files.check_files",
        "ase_knncalc.training.append_to_file",
    ):
        monkeypatch.setattr(name, refuse)


MODEL = ("-m", "tiny.h5")


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (("train", "data.extxyz", "-o", "data.extxyz"), "data.extxyz"),
        (("train", "data.extxyz", "-o", "./../faults0/data.extxyz"), "data.extxyz"),
        (("train", "data.extxyz", "-o", "hard.extxyz"), "data.extxyz"),
        (("train", "data.extxyz", "-o", "x.h5", "--low", "conformers.extxyz", "--cache",
          "conformers.extxyz"), "conformers.extxyz"),
        (("train", "outputs", "-o", "outputs/a.out"), "outputs/a.out"),
        (("train", "data.extxyz", "--monomers", "conformers.extxyz", "-o", "conformers.extxyz"),
         "conformers.extxyz"),
        (("predict", "conformers.extxyz", *MODEL, "-o", "conformers.extxyz"), "conformers.extxyz"),
        (("predict", "conformers.extxyz", *MODEL, "--csv", "conformers.extxyz"),
         "conformers.extxyz"),
        (("predict", "conformers.extxyz", *MODEL, "--csv", "tiny.h5"), "tiny.h5"),
        (("rank", "conformers.extxyz", *MODEL, "--csv", "conformers.extxyz"), "conformers.extxyz"),
        (("report", "tiny.h5", "-o", "tiny.h5"), "tiny.h5"),
        (("report", "tiny.h5", "-d", "data.extxyz", "-o", "link.extxyz"), "data.extxyz"),
        (("select", "data.extxyz", *MODEL, "-o", "link.extxyz"), "data.extxyz"),
        (("append", "data.extxyz", *MODEL, "--cache", "tiny.h5"), "tiny.h5"),
        (("convert", "data.extxyz", "-o", "link.extxyz"), "data.extxyz"),
        (("convert", "data.extxyz", "--low", "conformers.traj", "-o", "conformers.traj"),
         "conformers.traj"),
        (("check", "data.extxyz", "-o", "data.extxyz"), "data.extxyz"),
        (("cv", "data.extxyz", "--cache", "data.extxyz"), "data.extxyz"),
        (("sample", "conformers.extxyz:2", "-o", "conformers.extxyz"), "conformers.extxyz"),
        (("sample", "conformers.extxyz", "-o", "conformers.extxyz"), "conformers.extxyz"),
    ],
)  # fmt: skip
def test_an_output_that_is_an_input_is_refused_and_kept(
    call, no_work, files, arguments, kept
) -> None:
    arguments = [a.replace("faults0", files.name) for a in arguments]
    before = (files / kept).read_bytes()
    code, _, err = call(*arguments)
    assert code == 1
    assert "would overwrite" in err
    assert (files / kept).read_bytes() == before
    assert (files / "link.extxyz").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "data.extxyz", "-o", "outputs"), "that is a folder"),
        (("train", "data.extxyz", "-o", "."), "that is a folder"),
        (("train", "data.extxyz", "-o", ""), "that is a folder"),
        (("train", "data.extxyz", "-o", "no/x.h5"), "there is no folder no"),
        (("train", "data.extxyz", "-o", "x.h5", "--cache", "no/x.h5"), "there is no folder no"),
        (("train", "data.extxyz", "-o", "x.h5", "--cache", "x.h5"), "are one file"),
        (("train", "data.extxyz", "-o", "conformers.extxyz"), "and is no model file"),
        (("train", "data.extxyz", "-o", "x.h5", "--scratch", "no"), "there is no folder no"),
        (("train", "data.extxyz", "-o", "x.h5", "--cache", "tiny.h5"), "and is no label cache"),
        (("check", "data.extxyz", "--cache", "conformers.extxyz"), "and is no label cache"),
        (("train", "data.extxyz", "-o", os.devnull), "no regular file"),
        (("predict", "conformers.extxyz", *MODEL, "--csv", "/dev/stdout"), "no regular file"),
        (("predict", "conformers.extxyz", *MODEL, "--csv", "/dev/fd/1"), "no regular file"),
        (("train", "data.extxyz", "-o", "x" * 300), "File name too long"),
        (("train", "data.extxyz", "-o", "data.extxyz/x.h5"), "there is no folder data.extxyz"),
        (("predict", "conformers.extxyz", *MODEL, "-o", "x.foo"), "frames are written as"),
        (("predict", "conformers.extxyz", *MODEL, "--csv", "no/x.csv"), "there is no folder no"),
        (("predict", "conformers.extxyz", *MODEL, "-o", "x.csv", "--csv", "x.csv"), "one file"),
        (("select", "data.extxyz", *MODEL, "-o", "x.foo"), "frames are written as"),
        (("select", "data.extxyz", *MODEL, "--strategy", "best"), "strategy must"),
        (("sample", "w:2", "-o", "p.foo"), "frames are written as"),
        (("convert", "data.extxyz", "-o", "x.h5"), "frames are written as"),
        (("check", "data.extxyz", "-o", "no/x.extxyz"), "there is no folder no"),
        (("report", "tiny.h5", "-o", "no/x.html"), "there is no folder no"),
        (("cv", "data.extxyz", "--plot", "no/x.png"), "there is no folder no"),
        (("cv", "data.extxyz", "--plot", "x.foo"), "plots are written as"),
        (("learning-curve", "data.extxyz", "--sizes", "8", "--plot", "x"), "plots are written as"),
        (("compare", "data.extxyz", "--methods", "linear,odd"), "trend must"),
        (("compare", "data.extxyz", "--split", "odd"), "split must"),
        (("cv", "data.extxyz", "--split", "odd"), "split must"),
        (("learning-curve", "data.extxyz", "--sizes", "8,x"), "--sizes '8,x': expected whole num"),
        (("tune", "data.extxyz", "--length-scales", "10,"), "--length-scales '10,': expected num"),
        (("tune", "data.extxyz", "--environments", "1.5"), "expected whole numbers"),
        (("sample", "w:2", "-o", "p.xyz", "--temperatures", ""), "--temperatures '': expected"),
        (("tune", "data.extxyz", "--cache", "no/x.h5"), "there is no folder no"),
    ],
)  # fmt: skip
def test_an_output_that_cannot_be_written_is_told_before_any_work(
    call, no_work, arguments, message
) -> None:
    if "--plot" in arguments:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    code, _, err = call(*arguments)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_model_takes_the_place_of_an_older_one_or_of_nothing(call, files) -> None:
    before = (files / "tiny.h5").read_bytes()
    for name, start in (("old.h5", before), ("blank.h5", b"")):
        (files / name).write_bytes(start)
        code, _, err = call("train", "data.extxyz", "-b", "none", "--trend", "none", "-o", name,
                            "--components", 2, "-k", 2, "-q", "-j", 1)  # fmt: skip
        assert code == 0, err
        assert load_model(files / name, baseline=None).trend.kind == "none"


def test_a_folder_without_permission_is_told(call, no_work, files) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (files / "locked").mkdir(mode=0o500)
    code, _, err = call("train", "data.extxyz", "-o", "locked/x.h5")
    assert code == 1
    assert "cannot be written to" in err


def test_coverage_is_looked_at_before_the_baseline_is_run(call, monkeypatch) -> None:
    monkeypatch.setattr(
        "ase_knncalc.analysis.ranking.predict_frames", lambda *_, **__: pytest.fail("ran")
    )
    for value in ("1.5", "nan", "-1"):
        code, _, err = call("predict", "conformers.extxyz", *MODEL, "--coverage", value)
        assert code == 1
        assert "coverage must be " in err


@pytest.mark.parametrize(
    "arguments",
    [
        *[(name, "data.extxyz", *more, "--seed", "-1") for name, more in (
            ("train", ("-o", "x.h5")), ("cv", ()), ("compare", ()), ("tune", ()), ("check", ()),
            ("learning-curve", ("--sizes", "8")), ("select", MODEL))],
        ("sample", "w:2", "-o", "x.extxyz", "--seed", "-1"),
        ("sample", "w:2", "-o", "x.extxyz", "--seed", 2**32),
        ("sample", "w:2", "-o", "x.extxyz", "-n", "0"),
        ("select", "data.extxyz", *MODEL, "-n", "0"),
        ("learning-curve", "data.extxyz", "--sizes", "8", "--repeats", "0"),
        ("cv", "data.extxyz", "--folds", "1"),
        ("cv", "data.extxyz", "--jobs", "0"),
        ("cv", "data.extxyz", "--jobs", "-2"),
        ("predict", "conformers.extxyz", *MODEL, "--jobs", "0"),
        ("rank", "conformers.extxyz", *MODEL, "--top", "-1"),
        ("train", "data.extxyz", "-o", "x.h5", "-k", "0"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_usage_errors(call, no_work, arguments) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert not out
    assert "Invalid value" in err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("~nosuchuser/x.h5", "home directory"),
        ("x" * 5000, "File name too long"),
        ("outputs", "is a folder"),
        ("", ". is a folder"),
        ("odd.foo", "odd.foo"),
    ],
)
def test_a_model_that_cannot_be_found_is_one_line(call, name, message) -> None:
    code, _, err = call("info", name)
    assert code == 1
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny.h5", "its format is not known; known are"),
        ("odd.foo", "its format is not known; known are"),
        ("empty.extxyz", "the file is empty"),
        ("x" * 5000, "File name too long"),
        ("outputs", "a.out: cannot be read"),
        ("missing.xyz", "no such file"),
        ("loop", "no such file"),
        ("pipe", "a pipe does not tell its format"),
    ],
)
def test_structures_that_cannot_be_read_are_one_line(call, name, message) -> None:
    code, _, err = call("predict", name, *MODEL, "--csv", "out.csv")
    assert code == 1
    assert message in err
    assert "after 0 frames: h5" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("address", ["foo", "tcp://foo", "http//x:1", "tcp://x:y", ""])
def test_what_is_no_address_of_a_scheduler_is_refused_at_once(call, address) -> None:
    code, _, err = call("check", "data.extxyz", "--dask", address)
    assert code == 1
    assert f"{address!r} is no address of a Dask scheduler" in err


def test_different_charges_are_not_ranked_in_one_table(call, files) -> None:
    waters = read(files / "conformers.extxyz", ":4")
    for atoms in waters[2:]:
        atoms.info["charge"] = 2
    write(files / "charged.extxyz", waters)
    code, out, err = call("rank", "charged.extxyz", *MODEL, "-q")
    assert code == 1
    assert "the files hold 2: H4O2, H4O2 (+2)" in err
    assert not out
    code, out, _ = call("rank", "conformers.extxyz", *MODEL, "-q", "--charge", "0", "-j", "1")
    assert code == 0
    assert "H4O2," in out


def test_a_model_without_baseline_takes_no_notice_of_baseline_energies(
    call, files, water_frames
) -> None:
    """It predicts the reference alone: energies of a baseline in the data are no part of it."""
    frames = [a.copy() for a in water_frames[:8]]
    for atoms in frames:
        atoms.positions += np.random.default_rng(len(atoms)).normal(0, 0.01, (len(atoms), 3))
    write(files / "bare.extxyz", frames)
    for atoms in frames:
        atoms.info["baseline_energy"] = -50.0 * len(atoms)
    write(files / "based.extxyz", frames)
    found = []
    for name in ("bare", "based"):
        code, out, err = call("predict", f"{name}.extxyz", *MODEL, "--json", "-q", "-j", "1")
        assert (code, err) == (0, "")
        pages = call("report", "tiny.h5", "-d", f"{name}.extxyz", "-o", f"{name}.html", "--json",
                     "-q", "-j", "1")  # fmt: skip
        assert pages[0] == 0, pages[2]
        (files / f"{name}.h5").write_bytes((files / "tiny.h5").read_bytes())
        grown = call("append", f"{name}.extxyz", "-m", f"{name}.h5", "--json", "-q", "-j", "1")
        assert grown[0] == 0, grown[2]
        residuals = load_model(files / f"{name}.h5", baseline=None).knn.residuals
        found.append((out, pages[1].replace(name, ""), grown[1], residuals.tobytes()))
    assert found[0] == found[1]
    # Who trains such a model may have meant to learn the difference.
    code, _, err = call("train", "based.extxyz", "-b", "none", "-o", "x.h5")
    assert code == 1
    assert "learns reference energies alone" in err


PROGRAM = """
from ase_knncalc.cli import app

def command(run=app.command):
    print("ready", file=sys.stderr, flush=True)
    run()

app.command = command
app.main()
"""


def start(*arguments: object, program: str = PROGRAM, **options: object) -> subprocess.Popen[bytes]:
    """The program in a process of its own, once it looks at its arguments."""
    command = [sys.executable, "-c", f"import sys\n{program}", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert process.stderr.readline() == b"ready\n"
    return process


@pytest.mark.parametrize(
    "arguments",
    [
        ("models",),
        ("models", "--json"),
        ("--help",),
        ("train", "--help"),
        ("explain", "conformers.extxyz", *MODEL),
    ],
)
def test_a_reader_that_has_enough_is_no_error(files, arguments) -> None:
    """As with ``knncalc … | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*arguments, stdout=writing, cwd=files)
    os.close(writing)
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_for_the_output_is_one_line(files) -> None:
    with open("/dev/full", "wb") as full:
        process = start("models", stdout=full, cwd=files)
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines() == [b"knncalc: error: [Errno 28] No space left on device"]


def interrupt(process: subprocess.Popen[bytes], after: float) -> list[bytes]:
    """What it says to an interrupt."""
    try:
        time.sleep(after)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    return err.splitlines()


def heed_interrupts() -> None:
    """In the background of a script they are ignored, and by children of the tests, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


INTERRUPTED = b"knncalc: interrupted; labels in a cache and runs of a sampling are kept"


@pytest.mark.parametrize("after", [0.0, 0.3, 1.5])
def test_interruption_is_one_line_and_exit_code_130(files, after) -> None:
    process = start("sample", "w:2", "-n", 10**6, "--no-relax", "-q", "-j", 1, "-o", "pool.extxyz",
                    cwd=files, preexec_fn=heed_interrupts)  # fmt: skip
    # Destructors of the GFN1 library's bindings print an interrupt, and go on.
    *ignored, last = interrupt(process, after)
    assert last == INTERRUPTED
    assert not ignored or ignored[0].startswith(b"Exception ignored")
    assert not (files / "pool.extxyz").exists()


@pytest.mark.parametrize(
    "turned", ["pass", "raise TypeError('incompatible function arguments') from None"]
)
def test_an_interrupt_counts_whatever_a_library_makes_of_it(turned) -> None:
    """Destructors swallow it, and compiled functions raise another error in its place."""
    library = f"""if True:
        import time
        from ase_knncalc.cli import app, interrupts

        def command():
            print("ready", file=sys.stderr, flush=True)
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                {turned}
            time.sleep(30)

        app.command = command
        interrupts._PATIENCE = 0.5
        app.main()"""
    process = start(program=library, preexec_fn=heed_interrupts)
    assert interrupt(process, 0.2) == [INTERRUPTED]


def test_names_are_shown_as_they_are(call, files) -> None:
    """Brackets and colons are markup of the library that draws tables."""
    names = ["[/x]", "[red]a[/red]", ":smile:", "ä☃"]
    frames = read(files / "conformers.extxyz", ":4")
    for atoms, name in zip(frames, names, strict=True):
        atoms.info = {"name": name}
    write(files / "[b].extxyz", frames)
    code, out, err = call("rank", "[b].extxyz", *MODEL, "-q", "-j", "1")
    assert (code, err) == (0, "")
    assert all(f"│ {name} " in out for name in names)
    (files / "[red].h5").write_bytes((files / "tiny.h5").read_bytes())
    code, out, err = call("info", "[red].h5")
    assert (code, err) == (0, "")
    assert out.startswith("[red].h5")


def test_names_that_are_no_text_are_read_and_written(files, tmp_path) -> None:
    name = os.fsdecode(b"\xff.extxyz")
    try:
        (tmp_path / name).write_bytes((files / "conformers.extxyz").read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    process = start("predict", name, "-m", files / "tiny.h5", "-q", "-j", 1, "-o", "out.extxyz",
                    cwd=tmp_path, stdout=subprocess.PIPE)  # fmt: skip
    _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert read(tmp_path / "out.extxyz").info["source"] == "\ufffd.extxyz#14"
