"""Model files under attack: mutants give the right answer or one error that names the file.

`benchmarks/fuzz_models.py` does the same with as many mutants as one likes.
"""

from __future__ import annotations

import os
import sys

import pytest
from helpers import judging
from helpers.forging import reseal
from helpers.fuzzmodels import fuzz_models
from helpers.judging import numbers_of, run_mutants
from helpers.mutants import Mutant, make_mutant

from ase_knncalc import load_model, save_model
from ase_knncalc.errors import ModelFileError, SettingsError
from ase_knncalc.store.container import read_container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")


@pytest.fixture(scope="module")
def models_and_probes():
    return fuzz_models()


def check(verdicts) -> None:
    broken = [v for v in verdicts if not v.fine]
    assert not broken, broken[:3]


def test_mutants_of_every_kind_of_model(models_and_probes) -> None:
    models, probes = models_and_probes
    for i, model in enumerate(models.values()):
        check(run_mutants(model, probes, range(1000 * i, 1000 * i + 20), workers=1))


@pytest.mark.endurance
def test_many_mutants(models_and_probes, share) -> None:
    models, probes = models_and_probes
    verdicts = run_mutants(models["forces"], probes, range(50_000, 50_000 + share(1_500)))
    check(verdicts)
    # The attack is worth its name: most forgeries are noticed, and some are models of their own.
    outcomes = [v.outcome for v in verdicts if v.forged]
    assert outcomes.count("refused") > len(verdicts) / 3
    assert outcomes.count("different model") > len(verdicts) / 75


def test_the_same_number_makes_the_same_mutant(models_and_probes, tmp_path) -> None:
    path = tmp_path / "m.h5"
    save_model(models_and_probes[0]["published"], path)
    content = path.read_bytes()
    for seed in range(30):
        a, b = make_mutant(content, seed), make_mutant(content, seed)
        assert isinstance(a, Mutant)
        assert (a.kind, a.right, a.content) == (b.kind, b.right, b.content)


def test_an_untouched_copy_passes_and_a_touched_one_is_seen(models_and_probes, tmp_path) -> None:
    """The judge itself: what it compares is there, and differs where something differs."""
    models, probes = models_and_probes
    path = tmp_path / "m.h5"
    for model in models.values():
        save_model(model, path)
        told = numbers_of(model.with_baseline(None), probes)
        path.write_bytes(reseal(path.read_bytes()))
        # To the bit: nothing of a model is lost in its file.
        assert numbers_of(load_model(path).with_baseline(None), probes) == told
    other = numbers_of(models["sparse"].with_baseline(None), probes)
    assert other != told


def test_crash_and_hang_are_verdicts(models_and_probes, monkeypatch) -> None:
    models, probes = models_and_probes
    program = (
        "import os, time\n"
        "from helpers import judging\n"
        "judge = judging.judge\n"
        "def spoilt(seed, *rest):\n"
        "    if seed == 3: {trouble}\n"
        "    return judge(seed, *rest)\n"
        "judging.judge = spoilt\n"
        "judging.serve()\n"
    )
    monkeypatch.setattr(judging, "TIME_LIMIT", 1.5)
    for trouble, outcome in (("os.abort()", "crash"), ("time.sleep(60)", "hang")):
        monkeypatch.setattr(judging, "PROGRAM", program.format(trouble=trouble))
        verdicts = run_mutants(models["published"], probes, range(6), workers=1)
        assert [v.seed for v in verdicts] == list(range(6))
        assert [v.outcome.split()[0] for v in verdicts if not v.fine] == [outcome]


def test_a_sparse_file_of_a_terabyte_is_refused_before_it_is_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "huge.h5"
    with open(path, "wb") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(ModelFileError, match=r"huge\.h5 is not a file of ase_knncalc"):
        load_model(path)


def test_what_is_not_a_file_is_told_and_not_waited_for(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ModelFileError, match="not a regular file"):
        read_container(pipe, "labels")
    with pytest.raises(ModelFileError):
        load_model(pipe)
    with pytest.raises(SettingsError, match="name of a file"):
        load_model("a\0b")


def test_settings_that_no_file_may_ask_for_are_refused_in_memory_too() -> None:
    from ase_knncalc.descriptors import FCHL19, SLATM
    from ase_knncalc.knn.weights import KNNSettings

    for make in (
        lambda: FCHL19((1, 8), n_rs2=10**9),
        lambda: FCHL19((1, 8), n_rs2=16.0),  # type: ignore[arg-type]
        lambda: FCHL19((1, 8), eta2=1e300),
        lambda: FCHL19((1.0, 8)),  # type: ignore[arg-type]
        lambda: SLATM((1, 8), grid=1e-9),
        lambda: KNNSettings(5, "kernel", float("inf")),
        lambda: KNNSettings(5, "kernel", 1e-200),
        lambda: KNNSettings(5, "distance", None, float("inf")),
        lambda: KNNSettings(True),
    ):
        with pytest.raises(SettingsError):
            make()


def test_number_of_slatm_features_is_counted_right() -> None:
    import numpy as np

    from ase_knncalc.descriptors import SLATM

    for elements, grid in (((1,), 0.1), ((1, 8), 0.13), ((1, 7, 8), 0.21), ((1, 6, 7, 8), 0.5)):
        slatm = SLATM(elements, grid=grid)
        rows = slatm.local(np.array(elements), np.arange(3 * len(elements)).reshape(-1, 3) * 1.5)
        assert rows.shape == (len(elements), slatm.n_features)
