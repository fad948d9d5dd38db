"""Labels of a loop, its model and its data are of one level of theory."""

from __future__ import annotations

import pytest
from ase.io import read
from helpers.factories import water_clusters
from helpers.loops import Oracle, read_labelled, write_config

from ase_knncalc.active import read_config, run_loop
from ase_knncalc.active.journal import structure_key
from ase_knncalc.data import write_frames
from ase_knncalc.errors import DataError, LabelerError, SettingsError
from ase_knncalc.labelers import Label

# As it is in the small model of these tests.
pytestmark = pytest.mark.filterwarnings("ignore:model. its k-NN term is off")


def test_labels_of_two_methods_do_not_mix(folder) -> None:
    class Other(Oracle):
        method = "triples"

    run_loop(read_config(write_config(folder, iterations=1)), labeler=Oracle(folder / "calls"))
    other = Other(folder / "others")
    with pytest.raises(SettingsError, match=r"are of 'pairs', and the labeler gives 'triples'"):
        run_loop(read_config(write_config(folder, iterations=2)), labeler=other)
    assert not other.calls.exists()


class Shifted(Oracle):
    """Another level of theory under the same name."""

    def label(self, atoms):
        found = super().label(atoms)
        return Label(found.energy - 20.0 * len(atoms), None, 0.0, self.method)


def test_a_labeler_of_another_level_stops_the_loop(folder) -> None:
    path = write_config(folder, batch=20)
    text = path.read_text().replace("check_labels = false", "")
    path.write_text(text.replace('data = ["known.extxyz"]', ""))
    oracle = Shifted(folder / "calls")
    for _ in range(2):  # the second call finds out without another label
        with pytest.raises(DataError, match=r"below what the model .*another level of theory"):
            run_loop(read_config(path), labeler=oracle)
        assert len(oracle.calls.read_text().split()) == 3
        assert len(read_labelled(folder / "work")) == 3


class FirstWrong(Oracle):
    """One calculation that ended in another state."""

    def label(self, atoms):
        first = not self.calls.exists()
        found = super().label(atoms)
        return Label(found.energy + 50.0 * first, None, 0.0, self.method)


def test_one_wrong_label_does_not_stop_the_loop(folder) -> None:
    path = write_config(folder, batch=6, iterations=1)
    text = path.read_text().replace("check_labels = false", "")
    path.write_text(text.replace('data = ["known.extxyz"]', ""))
    (report,) = run_loop(read_config(path), labeler=FirstWrong(folder / "calls"))
    assert (report["labels"], report["structures"]) == (6, 60 + 5)
    assert "its reference energy lies" in report["left_out"][0]


@pytest.mark.parametrize("labels", [1, 2])
def test_stopping_at_the_first_labels_gives_the_same_as_running_through(folder, labels) -> None:
    class Stopped(FirstWrong):
        left = labels

        def label(self, atoms):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().label(atoms)

    path = write_config(folder, iterations=2)
    text = path.read_text().replace("check_labels = false", "")
    text = text.replace('data = ["known.extxyz"]', "")
    path.write_text(text.replace('"work"', '"other"'))
    through = run_loop(read_config(path), labeler=FirstWrong(folder / "others"))
    path.write_text(text)
    config = read_config(path)
    with pytest.raises(KeyboardInterrupt):
        run_loop(config, labeler=Stopped(folder / "calls"))
    assert run_loop(config, labeler=FirstWrong(folder / "calls")) == through
    assert (folder / "calls").read_text() == (folder / "others").read_text()


def test_a_labeler_of_another_level_than_the_training_data_labels_one_structure(folder) -> None:
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("check_labels = false", ""))
    oracle = Shifted(folder / "calls")
    with pytest.raises(SettingsError, match=r"labeler: it gives .* training data have"):
        run_loop(read_config(path), labeler=oracle)
    assert len(oracle.calls.read_text().split()) == 1
    good = Oracle(folder / "others")
    run_loop(read_config(path), labeler=good)
    assert len(good.calls.read_text().split()) == 1 + 15


class Choosy(Oracle):
    """Fails for the sizes that it is told of."""

    fails = ()

    def label(self, atoms):
        found = super().label(atoms)
        if len(atoms) in self.fails:
            raise LabelerError("SCF did not converge")
        return found


def test_a_failed_comparison_of_levels_is_told_and_not_paid_again(folder) -> None:
    known = read(folder / "known.extxyz", ":")
    sizes = [next(a for a in known if len(a) == n) for n in (3, 6, 9, 12)]
    few = [*sizes, *(a for a in known if len(a) == 12 and a is not sizes[-1])]
    write_frames(folder / "known.extxyz", few)
    path = folder / "config.toml"
    text = path.read_text().replace("check_labels = false", "").replace("iterations = 3", "{}")
    path.write_text(text.format("iterations = 1"))
    oracle = Choosy(folder / "calls")
    oracle.fails = (3, 6, 9)
    name = sizes[0].info["name"]
    with pytest.warns(UserWarning, match=rf"{name}: SCF did not.*is not compared"):
        run_loop(read_config(path), labeler=oracle)
    tried = oracle.calls.read_text().split()
    assert tried[:3] == [structure_key(a) for a in sizes[:3]]
    path.write_text(text.format("iterations = 2"))
    with pytest.warns(UserWarning, match=rf"{name}: SCF did not.*is not compared"):
        run_loop(read_config(path), labeler=oracle)
    later = oracle.calls.read_text().split()[len(tried) :]
    assert not {structure_key(a) for a in sizes} & set(later)
    # Once it is asked again for what failed, the comparison is, too, until one succeeds.
    path.write_text(text.format("iterations = 3"))
    oracle.fails = (3,)
    done = len(oracle.calls.read_text().split())
    with pytest.warns(UserWarning, match=rf"{name}: SCF did not.*compared .* by the next"):
        run_loop(read_config(path), labeler=oracle, retry=True)
    again = oracle.calls.read_text().split()[done:]
    assert again[:2] == [structure_key(a) for a in sizes[:2]]
    assert structure_key(sizes[2]) not in again


@pytest.mark.parametrize("table", ["known", "test"])
def test_data_of_another_level_are_refused(folder, table) -> None:
    frames = water_clusters(60, seed=4)
    for atoms in frames:
        atoms.info["reference_energy"] += 0.7 * len(atoms)
    write_frames(folder / f"{table}.extxyz", frames)
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("check_labels = false", ""))
    oracle = Oracle(folder / "calls")
    with pytest.raises(DataError, match=r"(training\.data|test\.files): .* another level"):
        run_loop(read_config(path), labeler=oracle)
    assert not oracle.calls.exists()
