"""What a loop may choose from, and what it does not buy."""

from __future__ import annotations

import pytest
from ase.build import molecule
from helpers.factories import water_clusters
from helpers.loops import TRUTH, Oracle, read_labelled, write_config

from ase_knncalc.active import ActiveLoop, Journal, inputs, read_config, run_loop
from ase_knncalc.active.pool import Candidates
from ase_knncalc.data import write_frames
from ase_knncalc.errors import KNNCalcError

# As it is in the small model of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:model. its k-NN term is off")


def test_each_sampling_is_another_whatever_seed_is_set(folder) -> None:
    path = folder / "config.toml"
    text = path.read_text().replace("[pool]", "[pool]\nsettings = {seed = 7}")
    path.write_text(text)
    table = read_config(path).pool
    seeds = {table.sampling_settings(0, shift).seed for shift in (0, 100, 1000)}
    assert seeds == {7, 107, 1007}


def test_files_of_a_pool_lie_beside_the_configuration(folder, monkeypatch) -> None:
    write_frames(folder / "own.xyz", water_clusters(1))
    path = folder / "config.toml"
    pool = 'sample = [["own.xyz:2", "w:1"], ["own.xyz"]]\nengine = "model:first.h5"'
    path.write_text(path.read_text().replace('files = ["pool.extxyz"]', pool))
    monkeypatch.chdir(folder.parent)
    table = read_config(path).pool
    assert table.sample == ((f"{folder / 'own.xyz'}:2", "w:1"), (str(folder / "own.xyz"),))
    assert table.engine == f"model:{folder / 'first.h5'}"


def test_molecules_of_a_pool_that_do_not_bind_are_told(folder) -> None:
    path = write_config(folder, iterations=1)
    (folder / "work").mkdir()
    good = path.read_text()
    pool = 'sample = [["amp:2"]{}]\nn = 1\nengine = "GFN1-xTB"\n'
    pool += "settings = {{relax_steps = 60, attempts = 1}}"
    path.write_text(good.replace('files = ["pool.extxyz"]', pool.format("")))
    with pytest.raises(KNNCalcError, match=r"pool.sample: 2amp: no structures, .* fell apart"):
        Candidates(read_config(path)).of(1, None)
    path.write_text(good.replace('files = ["pool.extxyz"]', pool.format(', ["w:1"]')))
    with pytest.warns(UserWarning, match=r"pool.sample: 2amp: no structures, .* fell apart"):
        found = Candidates(read_config(path)).of(1, None)
    assert [a.info["composition"] for a in found] == ["1w"]


def test_spins_of_sampled_molecules_are_checked(folder, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(inputs, "check_pool", lambda _config, _model, frames: seen.extend(frames))
    oxygen = molecule("O2")
    oxygen.set_initial_magnetic_moments(None)
    oxygen.info["multiplicity"] = 3
    write_frames(folder / "o2.xyz", [oxygen])
    path = write_config(folder, iterations=1)
    pool = 'sample = [["o2.xyz", "amp:1"]]'
    path.write_text(path.read_text().replace('files = ["pool.extxyz"]', pool))
    inputs.check_ingredients(read_config(path), None)
    assert [(a.info["charge"], a.info["multiplicity"]) for a in seen] == [(1, 3)]


def test_plan_counts_what_is_left_to_label(folder) -> None:
    class Stopped(Oracle):
        left = 4

        def label(self, atoms):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().label(atoms)

    config = read_config(write_config(folder, iterations=1))
    with pytest.raises(KeyboardInterrupt):
        run_loop(config, labeler=Stopped(folder / "calls"))
    assert len(ActiveLoop(config).plan().chosen) == 1
    run_loop(config, labeler=Oracle(folder / "calls"))
    plan = ActiveLoop(config).plan()
    assert plan.chosen == []
    assert "all iterations are done" in plan.note


def test_what_is_known_is_not_bought(folder) -> None:
    """Not in another orientation and order of atoms either, nor as a file rounds it."""
    known = water_clusters(60)[:4]
    pool = water_clusters(30, seed=11)[:6]
    turned = []
    for atoms in (*known, *pool[:3]):
        copy = atoms[::-1]
        copy.rotate(70, (1, 2, 3))
        copy.positions = copy.positions.round(5)
        copy.info = {"name": f"{atoms.info['name']}-turned"}
        turned.append(copy)
    write_frames(folder / "pool.extxyz", [*pool, *turned])
    for data in ('data = ["known.extxyz"]', ""):
        path = write_config(folder, strategy="random", iterations=1, batch=20)
        text = path.read_text().replace('data = ["known.extxyz"]', data)
        path.write_text(text.replace('"work"', '"work"' if data else '"other"'))
        oracle = Oracle(folder / ("calls" if data else "others"))
        if not data:  # the model has its own in their places
            write_frames(folder / "pool.extxyz", [*pool, *turned[4:], *known])
        (report,) = run_loop(read_config(path), labeler=oracle)
        assert (report["asked"], report["pool"]) == (6, 0)


def test_a_pool_of_known_structures_is_told(folder) -> None:
    write_frames(folder / "pool.extxyz", water_clusters(60)[:4])
    oracle = Oracle(folder / "calls")
    with pytest.warns(UserWarning, match="after 0 of 2 iterations: all structures .* are known"):
        assert run_loop(read_config(write_config(folder, iterations=2)), labeler=oracle) == []
    assert not oracle.calls.exists()


def test_a_sampled_pool_outlives_other_mistakes(folder) -> None:
    path = write_config(folder, iterations=1)
    pool = 'sample = [["w:2"]]\nn = 4\nengine = "model:first.h5"\nsettings = {relax = false}'
    good = path.read_text().replace('files = ["pool.extxyz"]', pool)
    path.write_text(good.replace("batch = 5", 'batch = 5\nretrain = "never"'))
    loop = ActiveLoop(read_config(path), labeler=Oracle(folder / "calls", failing="2w-0"))
    loop._label = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        loop.run()
    file = folder / "work" / "pool-000.extxyz"
    before = file.stat().st_mtime_ns
    path.write_text(good.replace('["test.extxyz"]', "[]"))
    run_loop(read_config(path), labeler=Oracle(folder / "calls"))
    assert file.stat().st_mtime_ns == before


def test_the_energy_window_does_not_creep(folder) -> None:
    path = write_config(folder, strategy="random", iterations=6)
    path.write_text(path.read_text().replace("batch =", "energy_window = 0.05\nbatch ="))
    with pytest.warns(UserWarning, match=r"\d+ structures .* all outside loop.energy_window"):
        run_loop(read_config(path), labeler=Oracle(folder / "calls"))
    pool = water_clusters(30, seed=11)
    lowest: dict[str, float] = {}
    for atoms in pool:
        formula = atoms.get_chemical_formula()
        lowest[formula] = min(lowest.get(formula, 0.0), TRUTH[atoms.info["name"]])
    above = [
        energy - lowest[a.get_chemical_formula()]
        for a in pool
        for name, energy in read_labelled(folder / "work").items()
        if a.info["name"] == name
    ]
    assert max(above) < 0.05 + 0.03  # the model's own error
    assert len(above) < len(pool)


@pytest.mark.parametrize("known_to", ["training", "model"])
def test_the_energy_window_counts_from_what_is_known(folder, known_to) -> None:
    known = [a for a in water_clusters(60) if len(a) == 6]
    lowest = min(known, key=lambda a: a.info["reference_energy"])
    window = 0.05
    limit = lowest.info["reference_energy"] + window + 0.03  # the model's own error
    pool = [
        a for a in water_clusters(30, seed=11) if len(a) == 6 and a.info["reference_energy"] > limit
    ]
    assert len(pool) > 2
    write_frames(folder / "pool.extxyz", [*pool, lowest])
    path = write_config(folder, iterations=1)
    text = path.read_text().replace("batch =", f"energy_window = {window}\nbatch =")
    if known_to == "model":
        text = text.replace('data = ["known.extxyz"]', "")
    path.write_text(text)
    oracle = Oracle(folder / "calls")
    with pytest.warns(UserWarning, match=r"all outside loop\.energy_window"):
        assert run_loop(read_config(path), labeler=oracle) == []
    assert not oracle.calls.exists()


def test_structures_of_two_samplings_have_two_names(folder) -> None:
    path = write_config(folder, iterations=2, batch=3)
    pool = 'sample = [["w:2"]]\nn = 4\nrefresh = true\nengine = "model:first.h5"\n'
    pool += "settings = {relax = false}"
    path.write_text(path.read_text().replace('files = ["pool.extxyz"]', pool))
    run_loop(read_config(path), labeler=Oracle(folder / "calls"))
    with Journal(folder / "work" / "journal.db") as journal:
        names = [a.atoms.info["name"] for a in journal.asked()]
    assert len(names) == len(set(names)) == 6
