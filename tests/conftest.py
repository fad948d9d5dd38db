"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Set before numpy loads its BLAS: each of the processes that pytest-xdist starts has a core.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--share", type=float, default=1.0,
        help="of the kills, mutants and calculations of the tests marked endurance",
    )  # fmt: skip


@pytest.fixture(scope="session")
def share(request):
    """How many of so many repetitions: all, or the share that was asked for."""
    return lambda number: max(1, round(request.config.getoption("--share") * number))


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the labelled data that is not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"labelled data not found at {SHARED_DATA.name!r} beside the project folder")
    return SHARED_DATA


@pytest.fixture(scope="session")
def water_frames():
    """Small water clusters with a smooth made-up Δ."""
    from helpers.factories import water_clusters

    return water_clusters(60)


@pytest.fixture(scope="session")
def water_model(water_frames):
    """Models of the water clusters by the options of their training: each is trained once."""
    from helpers.factories import tiny

    models = {}

    def model(**options):
        key = repr(sorted(options.items()))
        if key not in models:
            models[key] = tiny(water_frames, **options)
        return models[key]

    return model


@pytest.fixture(scope="session")
def tiny_model(water_model):
    """A model without baseline, smooth, trained in seconds."""
    return water_model()


@pytest.fixture(scope="session")
def headed_model(water_model, water_frames):
    """A model with a sparse trend and properties beside the energy."""
    from helpers.factories import with_properties

    from ase_knncalc.trend.sparse import SparseSettings

    sparse = SparseSettings(environments=40, rank=20, variance_environments=20)
    return with_properties(water_model(trend="sparse", sparse=sparse), water_frames)


@pytest.fixture(scope="session")
def cluster_frames():
    """Small clusters with ωB97X-D/6-31++G(d,p) and GFN1-xTB labels (see tests/data/README.md)."""
    from ase_knncalc import read_dataset

    path = Path(__file__).parent / "data" / "clusters_wb97xd.extxyz"
    return read_dataset(path).frames


@pytest.fixture
def folder(tmp_path, water_frames, tiny_model, monkeypatch) -> Path:
    """A configuration of an active loop, with its files; the loop draws no figure."""
    from helpers.loops import fill_folder

    # More than half of the time of a loop with an oracle that answers at once.
    monkeypatch.setattr("ase_knncalc.active.report.plot_active", lambda path, reports: None)
    return fill_folder(tmp_path, water_frames, tiny_model)
