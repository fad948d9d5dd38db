"""ASE calculators as baselines by name, which model files can ask for."""

from __future__ import annotations

import pytest
from helpers.factories import water_clusters

from ase_knncalc import load_model, save_model, train
from ase_knncalc.baselines import make_baseline
from ase_knncalc.errors import BaselineError, SettingsError


@pytest.fixture(scope="module")
def frames():
    return water_clusters(30, largest=2)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """An installed package that registers ASE's Lennard-Jones and a function that fails."""
    about = tmp_path / "site" / "jones-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: jones\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(
        "[ase_knncalc.baselines]\njones = ase.calculators.lj:LennardJones\n"
        "broken = ase.calculators.nowhere:Nothing\n"
        "classes = ase.calculators.calculator:get_calculator_class\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return about


def test_a_calculator_by_name_and_options_is_remade_by_a_model(
    registered, frames, tmp_path
) -> None:
    baseline = make_baseline("jones, epsilon=0.01, sigma=1.2, charge_via=ignore")
    assert baseline.calculator.parameters["epsilon"] == 0.01
    assert make_baseline(baseline.spec()).spec() == baseline.spec()
    assert baseline.spec()["version"] == "1.2"
    model = train(
        [a.copy() for a in frames], baseline=baseline, trend="linear", n_components=3,
        metric_iterations=5, k=3, n_jobs=1, check_labels=False, reference="pairs",
    )  # fmt: skip
    save_model(model, tmp_path / "jones.h5")
    loaded = load_model(tmp_path / "jones.h5")
    assert loaded.baseline.charge_via == "ignore"
    assert loaded.predict(frames[1]).energy == model.predict(frames[1]).energy
    with pytest.raises(BaselineError, match=r'options = .*0\.01.*, not \{"epsilon": 0\.02\}'):
        load_model(tmp_path / "jones.h5", baseline="jones,epsilon=0.02")
    (registered / "entry_points.txt").write_text("")
    with pytest.raises(BaselineError, match="'jones' is a calculator by name, and no installed"):
        load_model(tmp_path / "jones.h5")


def test_names_that_are_not_registered_or_cannot_be_made(registered) -> None:
    with pytest.raises(BaselineError, match=r"'broken' \(ase\.calculators\.nowhere:Nothing\)"):
        make_baseline("broken")
    with pytest.raises(BaselineError, match=r"made with the options \{'name': 'nowhere'\}"):
        make_baseline("classes,name=nowhere")
    with pytest.raises(SettingsError, match=r"registers \(.*broken, classes, jones"):
        make_baseline("smith")
