"""Labelling many structures in processes, by labelers of whatever quality."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from helpers.labelers import Recorder, labelled, small, water

from ase_knncalc.errors import (
    LabelerError,
    SettingsError,
)
from ase_knncalc.labelers import (
    ASELabeler,
    Label,
    LabelResult,
    LookupLabeler,
    label_frames,
)


class Careless:
    """Returns what its structure says."""

    method = "careless"
    provides_forces = True
    in_process = True

    def label(self, atoms: Atoms) -> Any:
        answer = atoms.info["answer"]
        return Label(*answer, 0.0, self.method) if isinstance(answer, tuple) else answer


class TestLabelsOfAnyonesLabeler:
    def results(self, *answers: Any) -> tuple[list[Atoms], list[LabelResult]]:
        frames = []
        for i, answer in enumerate(answers):
            frames.append(water())
            frames[-1].info.update(answer=answer, name=f"w{i}")
        return label_frames(Careless(), frames)

    @pytest.mark.parametrize(
        ("forces", "fault"),
        [
            (np.zeros((2, 3)), r"shape \(2, 3\), expected \(3, 3\)"),
            (np.zeros(9), r"shape \(9,\)"),
            (np.full((3, 3), np.nan), "not all finite"),
            ([["a", "b", "c"]] * 3, "no array of numbers"),
        ],
    )
    def test_forces_that_are_none(self, forces: Any, fault: str) -> None:
        with pytest.warns(UserWarning, match=rf"w0 \(frame 0\).*{fault}"):
            (good, other), failures = self.results((-1.5, forces), (-2.5, np.ones((3, 3))))
        assert not failures
        assert good.info["reference_energy"] == -1.5
        assert "reference_forces" not in good.arrays
        assert other.arrays["reference_forces"].tolist() == np.ones((3, 3)).tolist()

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((np.nan, None), "energy of nan"),
            ((np.inf, None), "energy of inf"),
            ((None, None), "energy of nan|energy of None"),
            (("low", None), "energy of 'low'"),
            ((np.zeros(2), None), "expected a number"),
            (-1.5, "returned a float; expected a Label"),
        ],
    )
    def test_energies_that_are_none(self, answer: Any, reason: str) -> None:
        (good,), (failure,) = self.results(answer, (-2.5, np.zeros((3, 3))))
        assert good.info["reference_energy"] == -2.5
        assert failure.label is None
        assert re.search(reason, failure.reason)

    def test_result_holds_plain_numbers(self) -> None:
        seen: list[LabelResult] = []
        atoms = water()
        atoms.info["answer"] = (np.array(-1.5), np.zeros((3, 3)).tolist())
        label_frames(Careless(), [atoms], on_result=seen.append)
        label = seen[0].label
        assert label is not None
        assert type(label.energy) is float
        assert isinstance(label.forces, np.ndarray)


class Scripted:
    """Does what ``info["do"]`` of a structure says."""

    method = "scripted"
    provides_forces = True

    def label(self, atoms: Atoms) -> Label:
        action = atoms.info.get("do", "label")
        if action == "crash":
            sys.stderr.write("segmentation of a fault\n")
            sys.stderr.flush()
            os._exit(7)
        if action == "hang":
            time.sleep(600)
        if action == "raise":
            raise ValueError("no such orbital")
        if action == "fail":
            raise LabelerError("SCF did not converge")
        if action == "print":
            print("a program's banner", flush=True)
            os.system("echo more of it")
        energy = -float(atoms.info["number"])
        return Label(energy, np.full((len(atoms), 3), energy), 0.0, f"scripted by {os.getpid()}")


def scripted_frames(*actions: str) -> list[Atoms]:
    frames = []
    for i, action in enumerate(actions):
        frames.append(water())
        frames[-1].info.update(do=action, number=i)
    return frames


def _wait(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody waits for is a zombie, not running
    return not (status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")


# Writes to its folder as long as it runs.
PROGRAM = "import sys\nwhile True: open(f'{sys.argv[1]}/more', 'w').write('x')"


class TestLabelFrames:
    def test_failures_cost_their_structure_only(self) -> None:
        frames = scripted_frames("label", "crash", "print", "raise", "fail", "label")
        before = [a.copy() for a in frames]
        seen: list[LabelResult] = []
        good, failures = label_frames(Scripted(), frames, n_jobs=2, on_result=seen.append)
        assert [a.info["reference_energy"] for a in good] == [0, -2, -5]
        assert all(np.all(a.arrays["reference_forces"] == -a.info["number"]) for a in good)
        assert all((a.info["charge"], a.info["multiplicity"]) == (0, 1) for a in good)
        reasons = {f.index: f.reason for f in failures}
        assert list(reasons) == [1, 3, 4]
        assert "code 7: segmentation of a fault" in reasons[1]
        assert reasons[3] == "ValueError: no such orbital"
        assert reasons[4] == "SCF did not converge"
        assert all(f.label is None and f.atoms == frames[f.index] for f in failures)
        assert sorted(r.index for r in seen) == list(range(6))
        for atoms, old in zip(frames, before, strict=True):
            assert atoms == old
            assert atoms.info == old.info
        processes = {a.info["reference_method"] for a in good}
        assert f"scripted by {os.getpid()}" not in processes

    def test_hanging_calculation(self) -> None:
        frames = scripted_frames("label", "hang", "label")
        good, failures = label_frames(Scripted(), frames, time_limit=3.0)
        assert [a.info["number"] for a in good] == [0, 2]
        assert failures[0].reason.startswith("time limit of 3 s passed")

    def test_labels_replace_older_ones(self) -> None:
        frame = labelled(1, -5.0)
        labeler = ASELabeler(Recorder(), "DLPNO", energies_only=True)
        (good,), failures = label_frames(labeler, [frame])
        assert not failures
        assert good.info["reference_energy"] == -1.0
        assert good.info["reference_method"] == "DLPNO"
        assert "reference_forces" not in good.arrays
        assert frame.info["reference_energy"] == -5.0

    def test_lookup_runs_here(self) -> None:
        frames = [labelled(i, -float(i)) for i in range(1, 4)]
        good, failures = label_frames(LookupLabeler(frames), [water(2), molecule("CH4"), water(3)])
        assert [a.info["reference_energy"] for a in good] == [-2.0, -3.0]
        assert [f.index for f in failures] == [1]

    def test_interrupted_by_the_journal(self) -> None:
        threads = threading.active_count()

        def stop(result: LabelResult) -> None:
            raise KeyboardInterrupt

        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            label_frames(Scripted(), scripted_frames("label", "hang"), on_result=stop)
        assert time.monotonic() - start < 300  # the hanging process was not waited for
        assert _wait(lambda: threading.active_count() == threads)

    def test_labeler_that_cannot_travel(self) -> None:
        calculator = EMT()
        calculator.lock = threading.Lock()
        with pytest.raises(SettingsError, match="factory"):
            label_frames(ASELabeler(calculator, "EMT"), [water()])

    def test_nothing_to_do(self) -> None:
        assert label_frames(Scripted(), []) == ([], [])

    @pytest.mark.parametrize("limit", [np.inf, 1e10, np.float64(1e300)])
    def test_limits_that_no_timer_can_count_to(self, limit: float) -> None:
        (good,), failures = label_frames(Scripted(), scripted_frames("label"), time_limit=limit)
        assert good.info["reference_energy"] == 0.0
        assert not failures

    @pytest.mark.parametrize(
        "options",
        [
            {"n_jobs": 0},
            {"n_jobs": -3},
            *({"time_limit": t} for t in (0.0, -np.inf, np.nan, "60", True)),
        ],
    )
    def test_settings_out_of_range(self, options: dict[str, Any]) -> None:
        with pytest.raises(SettingsError, match=next(iter(options))):
            label_frames(Scripted(), [water()], **options)

    def test_script_without_main_guard(self, tmp_path: Path) -> None:
        # Labelers defined in a plain script reach the workers, which do not run the script again.
        script = tmp_path / "script.py"
        script.write_text(
            "from ase.build import molecule\n"
            "from ase_knncalc.labelers import Label, label_frames\n"
            "print('started')\n"
            "class Mine:\n"
            "    method, provides_forces = 'mine', False\n"
            "    def label(self, atoms):\n"
            "        return Label(-3.0, None, 0.0, self.method)\n"
            "print(label_frames(Mine(), [molecule('H2O')])[0][0].info['reference_energy'])\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        output = subprocess.run(
            [sys.executable, str(script)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert output.stdout.split() == ["started", "-3.0"]

    @pytest.mark.skipif(os.name != "posix", reason="looks for processes by signal 0")
    def test_workers_end_with_a_killed_parent(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import os, subprocess, sys, tempfile, time\n"
            "from ase.build import molecule\n"
            "from ase_knncalc.labelers import label_frames\n"
            "class Mine:\n"
            "    method, provides_forces = 'mine', False\n"
            "    def label(self, atoms):\n"
            "        folder = tempfile.mkdtemp()\n"
            "        open(folder + '/integrals', 'w').write('large')\n"
            f"        program = subprocess.Popen([sys.executable, '-c', {PROGRAM!r}, folder])\n"
            f"        with open({str(tmp_path / 'pid')!r}, 'w') as note:\n"
            "            note.write(f'{os.getpid()} {program.pid}.')\n"
            "        time.sleep(600)\n"
            "label_frames(Mine(), [molecule('H2O')])\n"
        )
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment["TMPDIR"] = str(scratch)
        parent = subprocess.Popen([sys.executable, str(script)], env=environment)
        note = tmp_path / "pid"
        assert _wait(lambda: note.exists() and note.read_text().endswith("."))
        assert len(list(scratch.iterdir())) == 1
        parent.kill()
        parent.wait()
        worker, program = map(int, note.read_text().rstrip(".").split())
        assert _wait(lambda: not _runs(worker) and not _runs(program))
        assert _wait(lambda: not list(scratch.iterdir()), 10.0)

    def test_pyscf_in_workers(self) -> None:
        labeler = small(forces=False)
        far = water()
        far.info["charge"] = 1
        far.info["multiplicity"] = 2
        good, failures = label_frames(labeler, [water(), far])
        assert not failures
        energies = [a.info["reference_energy"] for a in good]
        assert energies[0] == pytest.approx(labeler.label(water()).energy, abs=1e-6)
        assert energies[1] > energies[0] + 5.0  # ionisation
