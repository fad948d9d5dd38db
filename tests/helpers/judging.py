"""What becomes of mutants of a model file when they are loaded and used.

Each is judged in another process, within limits of memory and time: one that crashes or hangs has
a verdict, too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ase import Atoms
from helpers.forging import ANY, REFUSED, REFUSED_OR_SAME
from helpers.mutants import make_mutant

from ase_knncalc import KNNModel, load_model, save_model
from ase_knncalc.errors import KNNCalcError, ModelFileError, ModelFileVersionError

MEMORY_LIMIT = 1 << 30
"""Address space that loading and predicting may take beyond what the imports took, bytes."""
TIME_LIMIT = 60.0
"""Seconds after which a mutant counts as hanging."""
PROGRAM = "from helpers.judging import serve; serve()"
"""What runs in the processes that judge."""


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant.

    ``outcome`` is ``refused``, ``newer version``, ``same``, ``different model``, or what must not
    be: ``other error``, ``not finite``, ``crash``, ``hang``, ``silently different``, ``accepted``.
    """

    seed: int
    kind: str
    forged: bool
    outcome: str
    detail: str
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether the guarantee was kept."""
        return self.outcome in ("refused", "newer version", "same", "different model")


def numbers_of(model: KNNModel, probes: list[Atoms]) -> list[Any]:
    """All that a model says of some structures."""
    told: list[Any] = []
    for atoms in probes:
        p = model.predict(atoms, forces=model.smooth)
        told += [p.delta, p.trend, p.knn, p.energy_std, p.novelty]
        told += [p.calibration.multiple(0.9)]
        told += [x for n in p.neighbors for x in (n.distance, n.weight, n.residual)]
        told += [n.name for n in p.neighbors] + [n.composition for n in p.neighbors]
        told += [] if p.delta_forces is None else p.delta_forces.ravel().tolist()
        if model.force_calibration is not None and model.smooth:
            told += model.predict(atoms, forces_std=True).forces_std.tolist()
    return told


def judge(seed: int, original: bytes, told: list[Any], probes: list[Atoms], path: Path) -> Verdict:
    """Write, load and use one mutant."""
    mutant = make_mutant(original, seed)
    path.write_bytes(mutant.content)
    start = time.perf_counter()
    detail = ""
    try:
        model = load_model(path)
        _ = model.info.to_dict(), model.trained_on_forces, str(model.info.reference)
        found = numbers_of(model.with_baseline(None), probes)
        numbers = [x for x in found if not isinstance(x, str)]
        if found == told:
            outcome = "same"
        elif not all(math.isfinite(x) for x in numbers):
            outcome = "not finite"
        elif not mutant.forged or mutant.right == REFUSED_OR_SAME:
            outcome = "silently different"
        else:
            outcome = "different model"
        if mutant.right == REFUSED:
            outcome = "accepted"
    except ModelFileVersionError as e:
        outcome, detail = "newer version", str(e)
    except ModelFileError as e:
        outcome, detail = "refused", str(e)
    except KNNCalcError as e:
        # A model that is no longer for these elements or charges says so in the words of any model.
        outcome = "different model" if mutant.forged and mutant.right == ANY else "other error"
        detail = f"{type(e).__name__}: {e}"
    except Exception as e:
        outcome, detail = "other error", f"{type(e).__name__}: {e}"
    seconds = time.perf_counter() - start
    if outcome == "refused" and path.name not in detail:
        outcome, detail = "other error", f"does not name the file: {detail}"
    return Verdict(seed, mutant.kind, mutant.forged, outcome, detail[:300], seconds)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def serve() -> None:
    """Judge the mutants whose numbers are read, of the files that the arguments name."""
    import faulthandler

    from ase.io import read

    faulthandler.enable()
    model_path, probe_path = Path(sys.argv[1]), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    original = model_path.read_bytes()
    probes = read(probe_path, ":")
    told = numbers_of(load_model(model_path).with_baseline(None), probes)
    _limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            print(json.dumps({"start": int(line)}), flush=True)
            verdict = judge(int(line), original, told, probes, Path(folder) / "mutant.h5")
            print(json.dumps(asdict(verdict)), flush=True)


def run_mutants(
    model: KNNModel, probes: list[Atoms], seeds: Iterable[int], *, workers: int = 2
) -> list[Verdict]:
    """Judge mutants in processes of their own: one that crashes or hangs is a verdict, too."""
    from ase.io import write

    with tempfile.TemporaryDirectory() as folder:
        model_path, probe_path = Path(folder) / "original.h5", Path(folder) / "probes.extxyz"
        save_model(model, model_path)
        write(probe_path, probes)
        seeds = list(seeds)
        parts = [seeds[i::workers] for i in range(workers)]
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(lambda part: _supervise(part, model_path, probe_path), parts)
            return sorted((v for part in found for v in part), key=lambda v: v.seed)


def _supervise(seeds: list[int], model_path: Path, probe_path: Path) -> list[Verdict]:
    done: list[Verdict] = []
    while len(done) < len(seeds):
        rest = seeds[len(done) :]
        command = [sys.executable, "-c", PROGRAM, str(model_path), str(probe_path)]
        with (
            tempfile.TemporaryFile("w+") as trouble,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=trouble,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            ) as worker,
        ):
            assert worker.stdin is not None
            assert worker.stdout is not None
            feeder = threading.Thread(target=_feed, args=(worker.stdin, rest))
            feeder.start()
            running, hung, started = None, threading.Event(), time.perf_counter()

            def kill(worker: Any = worker, hung: threading.Event = hung) -> None:
                hung.set()
                worker.kill()

            while True:
                timer = threading.Timer(TIME_LIMIT + 60.0 * (running is None), kill)
                timer.start()
                line = worker.stdout.readline()
                timer.cancel()
                if not line:
                    break
                record = json.loads(line)
                if "start" in record:
                    running, started = record["start"], time.perf_counter()
                else:
                    running = None
                    done.append(Verdict(**record))
            worker.kill()
            feeder.join()
            trouble.seek(0)
            text = trouble.read()[-300:]
        if running is not None:
            kind = make_mutant(model_path.read_bytes(), running)
            outcome = "hang" if hung.is_set() else f"crash {worker.returncode}"
            seconds = time.perf_counter() - started
            done.append(Verdict(running, kind.kind, kind.forged, outcome, text, seconds))
        elif len(done) < len(seeds) and rest == seeds[len(done) :]:
            raise RuntimeError(f"the worker does not start: {text}")
    return done


def _feed(stream: Any, seeds: list[int]) -> None:
    with contextlib.suppress(BrokenPipeError), stream:
        for seed in seeds:
            stream.write(f"{seed}\n")


def summarise(verdicts: Iterable[Verdict]) -> dict[str, Any]:
    """Counts by outcome, and all that broke the guarantee."""
    verdicts = list(verdicts)
    return {
        "mutants": len(verdicts),
        "forged": sum(v.forged for v in verdicts),
        "outcomes_blind": dict(Counter(v.outcome for v in verdicts if not v.forged).most_common()),
        "outcomes_forged": dict(Counter(v.outcome for v in verdicts if v.forged).most_common()),
        "slowest_s": max(v.seconds for v in verdicts),
        "broken": [asdict(v) for v in verdicts if not v.fine],
    }
