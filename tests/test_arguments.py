"""Arguments of a wrong kind or value: one error of the package that names what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from typing import get_type_hints

import numpy as np
import pytest
from ase import Atoms
from helpers.factories import tiny, water_clusters

from ase_knncalc import (
    KeyMap,
    KNNCalculator,
    KNNModel,
    TrainingSettings,
    binding_energy,
    find_in_training,
    load_model,
    predict_frames,
    read_dataset,
    save_model,
    snapshot,
    train,
)
from ase_knncalc.data import iter_frames, write_frames
from ase_knncalc.errors import KNNCalcError, SettingsError
from ase_knncalc.sampling import SamplingSettings, parse_ingredients, sample, select_frames
from ase_knncalc.thermochemistry import gibbs_energy
from ase_knncalc.training import append_to_file, needs_retraining
from ase_knncalc.trend.sparse import SparseSettings

# ---------------------------------------------------------------------------------------- settings

KINDS = (TrainingSettings, SparseSettings, SamplingSettings)


def fields_of(kind: type, *types: object) -> list[str]:
    hints = get_type_hints(kind)
    return [f.name for f in fields(kind) if hints[f.name] in types]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_numpy_in_settings_are_plain_ones(kind) -> None:
    """What is kept in a file must be JSON, and found out before the work is done."""
    options = {name: np.int32(7) for name in fields_of(kind, int)}
    options |= {name: np.float32(0.5) for name in fields_of(kind, float, float | None)}
    made = kind(**options)
    assert json.loads(json.dumps(asdict(made))) == json.loads(
        json.dumps(asdict(kind(**{name: value.item() for name, value in options.items()})))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_numbers_in_settings_name_the_field(kind) -> None:
    for name in fields_of(kind, int):
        for wrong in (True, np.True_, 1.0, 1.5, "3", None, -1, 2**33, np.nan, [1], {}, np.ones(2)):
            with pytest.raises(SettingsError, match=rf"^{name} must be"):
                kind(**{name: wrong})
    for name in fields_of(kind, float):
        for wrong in (True, "3", None, -1.0, np.inf, np.nan, [1.0], {}, np.ones(2), 1j):
            with pytest.raises(SettingsError, match=rf"^{name} must be"):
                kind(**{name: wrong})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TrainingSettings, {"trend": ["linear"]}, "trend must be one of"),
        (TrainingSettings, {"metric": np.ones(2)}, "metric must be one of"),
        (TrainingSettings, {"weights": None}, "weights must be one of"),
        (TrainingSettings, {"sparse": {"rank": 3}}, "sparse must be of type SparseSettings"),
        (TrainingSettings, {"bandwidth": "wide"}, "bandwidth must be a number or None, got 'wide'"),
        (TrainingSettings, {"bandwidth": 0}, "bandwidth must be at least 1e-12 or None, got 0"),
        (TrainingSettings, {"nugget": True}, "nugget must be a number"),
        (TrainingSettings, {"descriptor_options": None}, "descriptor_options must be a mapping"),
        (
            TrainingSettings,
            {"descriptor_options": {"rcut": -1}},
            "rcut must be at least 1e-06, got -1",
        ),
        (TrainingSettings, {"descriptor_options": {"cutoff": 3.0}}, "cutoff"),
        (TrainingSettings, {"descriptor_kind": "soap"}, "unknown descriptor 'soap'"),
        (SparseSettings, {"penalties": ()}, "penalties must be a list"),
        (
            SparseSettings,
            {"penalties": (1e-5, 0.0)},
            r"penalties\[1\] must be above 0, got 0.0; the default is",
        ),
        (SparseSettings, {"length_scale": 1e-300}, "length_scale must be at least 1e-12"),
        (SparseSettings, {"force_weights": 0.3}, "force_weights must be a list"),
        (SparseSettings, {"selection": 3}, "selection must be one of"),
        (SamplingSettings, {"temperatures": 300}, "temperatures must be a list, got 300"),
        (SamplingSettings, {"temperatures": ["hot"]}, r"temperatures\[0\] must be a number"),
        (SamplingSettings, {"methods": "md"}, "methods must be a list"),
        (SamplingSettings, {"methods": (3,)}, r"methods\[0\] must be one of"),
        (SamplingSettings, {"relax": "no"}, "relax must be True or False"),
    ],
)
def test_other_wrong_settings(kind, options: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**options)


def test_a_model_with_settings_of_numpy_is_saved(water_frames, tmp_path) -> None:
    options = {
        "k": np.int64(4), "n_components": np.int32(3), "seed": np.uint8(2), "bandwidth": None,
        "monomer_weight": np.float32(10), "descriptor_options": {"rcut": np.float32(5), "n_rs2": 8},
    }  # fmt: skip
    model = tiny(water_frames[:20], **options)
    save_model(model, tmp_path / "m.h5")
    assert load_model(tmp_path / "m.h5").info.provenance.settings["seed"] == 2
    # Settings that a model keeps give the same settings again.
    kept = TrainingSettings.from_dict(model.info.provenance.settings)
    assert replace(kept) == kept
    assert kept.descriptor([1, 8]) == model.descriptor


def test_names_that_no_utf8_has_do_not_lose_a_training(tmp_path) -> None:
    """Bytes of an old file name become lone surrogates, which no file takes."""
    frames = water_clusters(20)
    for i, a in enumerate(frames):
        a.info.update(name=f"w\udcff{i}", source="f\udc80.xyz", citation="\udc81")
        a.info["composition"] += "\ud800"
    model = tiny(frames[:15])
    for asked in (model, model.append(frames[15:])):
        save_model(asked, tmp_path / "m.h5")
        model = load_model(tmp_path / "m.h5")
        assert find_in_training(model, frames[1]).structure == r"w\udcff1"
    assert len(model) == 20
    for suffix in ("extxyz", "csv", "traj", "db"):
        file = tmp_path / f"f.{suffix}"
        write_frames(file, frames)
        assert suffix == "csv" or read_dataset(file).names[1] == r"w\udcff1"


# --------------------------------------------------------------------------------------- arguments

JUNK = {
    "None": None, "number": 3, "text": "zz", "bytes": b"zz", "list": [1], "dict": {"a": 1},
    "object": object(), "class": Atoms, "array": np.ones(2), "nan": np.nan, "NUL": "a\0b",
    "long": 5000 * "x", "frames": [None], "model": "the model", "function": len,
}  # fmt: skip

# Each call with an argument in place of which junk is put, and the junk that it takes.
CALLS = {
    "load_model": (lambda m, f, v: load_model(v), ()),
    "load_model, baseline": (lambda m, f, v: load_model("saw-wb97xd", baseline=v), ("None",)),
    "KNNCalculator": (lambda m, f, v: KNNCalculator(v), ("model",)),
    "KNNCalculator, baseline": (lambda m, f, v: KNNCalculator(m, baseline=v), ("None",)),
    "KNNCalculator, coverage": (lambda m, f, v: KNNCalculator(m, coverage=v), ("None",)),
    "KNNCalculator, novelty": (
        lambda m, f, v: KNNCalculator(m, novelty_threshold=v), ("None", "number"),
    ),
    "KNNCalculator, std": (lambda m, f, v: KNNCalculator(m, std_threshold=v), ("None", "number")),
    "KNNCalculator, on_novelty": (lambda m, f, v: KNNCalculator(m, on_novelty=v), ()),
    "KNNCalculator, atoms": (lambda m, f, v: KNNCalculator(m, atoms=v), ("None",)),
    "save_model": (lambda m, f, v: save_model(v, "never.h5"), ("model",)),
    "train": (lambda m, f, v: train(v, baseline="none", n_jobs=1), ()),
    "train, settings": (lambda m, f, v: quick(f, settings=v), ("None",)),
    "train, keys": (lambda m, f, v: quick(f, keys=v), ("None",)),
    "train, monomers": (lambda m, f, v: quick(f, monomers=v), ("None",)),
    "train, baseline": (lambda m, f, v: quick(f, baseline=v), ("None",)),
    "train, reference": (lambda m, f, v: quick(f, reference=v), ("text", "NUL", "long")),
    "train, n_jobs": (lambda m, f, v: quick(f, n_jobs=v), ("number",)),
    "train, scratch": (lambda m, f, v: quick(f, scratch=v), ("None", "text", "long")),
    "train, foo": (lambda m, f, v: quick(f, foo=v), ()),
    "append": (lambda m, f, v: m.append(v), ()),
    "append, keys": (lambda m, f, v: m.append(f, keys=v), ("None",)),
    "append, source": (lambda m, f, v: m.append(f, source=v), ("text", "NUL", "long")),
    "predict": (lambda m, f, v: m.predict(v), ()),
    "predict, energies": (lambda m, f, v: m.predict(f, baseline_energy=v), ("None",)),
    "predict, energy": (
        lambda m, f, v: m.predict(f[0], baseline_energy=v), ("None",),
    ),
    "predict, charge": (lambda m, f, v: m.predict(f[0], charge=v), ("None",)),
    "predict, multiplicity": (lambda m, f, v: m.predict(f[0], multiplicity=v), ("None",)),
    "with_baseline": (lambda m, f, v: m.with_baseline(v), ("None",)),
    "correct": (lambda m, f, v: m.correct(v, f[0].positions, 0), ()),
    "correct, positions": (lambda m, f, v: m.correct(f[0].numbers, v, 0), ()),
    "energy_interval": (lambda m, f, v: m.predict(f[0]).energy_interval(v), ()),
    "predict_frames": (lambda m, f, v: predict_frames(m, v), ()),
    "predict_frames, model": (lambda m, f, v: predict_frames(v, f, n_jobs=1), ("model",)),
    "predict_frames, energies": (
        lambda m, f, v: predict_frames(m, f, baseline_energy=v), ("None",),
    ),
    "predict_frames, n_jobs": (lambda m, f, v: predict_frames(m, f, n_jobs=v), ("number",)),
    "snapshot": (lambda m, f, v: snapshot(v), ()),
    "binding_energy": (lambda m, f, v: binding_energy(v, f[1]), ("model",)),
    "binding_energy, atoms": (lambda m, f, v: binding_energy(m, v), ()),
    "binding_energy, monomers": (lambda m, f, v: binding_energy(m, f[1], monomers=v), ("None",)),
    "binding_energy, molecules": (lambda m, f, v: binding_energy(m, f[1], molecules=v), ("None",)),
    "find_in_training": (lambda m, f, v: find_in_training(v, f[1]), ("model",)),
    "find_in_training, atoms": (lambda m, f, v: find_in_training(m, v), ()),
    "explain": (lambda m, f, v: m.explain(v), ()),
    "read_dataset": (lambda m, f, v: read_dataset(v), ()),
    "read_dataset, keys": (lambda m, f, v: read_dataset(f, keys=v), ("None",)),
    "read_dataset, tolerance": (lambda m, f, v: read_dataset(f, tolerance=v), ("number",)),
    "select_frames": (lambda m, f, v: select_frames(m, v, 2, n_jobs=1), ()),
    "select_frames, n": (lambda m, f, v: select_frames(m, f, v, n_jobs=1), ("number",)),
    "select_frames, strategy": (lambda m, f, v: select_frames(m, f, 2, v, n_jobs=1), ()),
    "sample": (lambda m, f, v: sample(v, 2, n_jobs=1), ()),
    "append_to_file": (lambda m, f, v: append_to_file(v, f), ()),
    "needs_retraining": (lambda m, f, v: needs_retraining(v), ("model",)),
    "needs_retraining, growth": (lambda m, f, v: needs_retraining(m, growth=v), ("number",)),
    "parse_ingredients": (lambda m, f, v: parse_ingredients(v), ()),
    "iter_frames": (lambda m, f, v: list(iter_frames(v)), ()),
    "write_frames": (lambda m, f, v: write_frames(v, f), ()),
    "write_frames, frames": (lambda m, f, v: write_frames("never.extxyz", v), ()),
    "from_dict": (lambda m, f, v: TrainingSettings.from_dict(v), ()),
    "from_dict, sparse": (lambda m, f, v: TrainingSettings.from_dict({"sparse": v}), ()),
    "gibbs_energy": (lambda m, f, v: gibbs_energy(v), ()),
    **{
        f"KeyMap, {f.name}": (lambda m, f, v, name=f.name: KeyMap(**{name: v}), also)
        for f in fields(KeyMap)
        for also in [
            ("None", "number") if f.name == "force_unit"
            else () if f.name in ("energy_unit", "own_predictions", "ignore_cell")
            else ("text", "NUL", "long")
        ]
    },
}  # fmt: skip


def quick(frames: list[Atoms], **options) -> KNNModel:
    small = {"trend": "linear", "metric_iterations": 1, "n_components": 2, "k": 2}
    return train(frames, **{"baseline": "none", "n_jobs": 1, **small, **options})


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", CALLS)
def test_junk_is_one_error_of_the_package(call: str, tiny_model, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    function, taken = CALLS[call]
    frames = water_clusters(8, seed=11, largest=2)
    for name, value in JUNK.items():
        value = tiny_model if name == "model" else value
        if name in taken:
            function(tiny_model, frames, value)
        else:
            with pytest.raises(KNNCalcError):
                function(tiny_model, frames, value)


def test_arguments_that_are_swapped_or_forgotten(tiny_model, water_frames, tmp_path) -> None:
    with pytest.raises(SettingsError, match="model must be of type KNNModel, got str"):
        save_model(str(tmp_path / "m.h5"), tiny_model)
    for path in (None, 3, tiny_model):
        with pytest.raises(SettingsError, match="path must be the name of a file"):
            save_model(tiny_model, path)
    with pytest.raises(SettingsError, match="no argument 'seeds'; did you mean 'seed'"):
        tiny(water_frames, seeds=3)
    three = water_frames[:3]
    for wrong in (1.0, [1.0, 2.0], [1.0, 2.0, np.nan], ["1", "2", "3"], [[1.0], [2.0], [3.0]]):
        for ask in (tiny_model.predict, lambda f, **o: predict_frames(tiny_model, f, **o)):
            with pytest.raises(SettingsError, match="baseline_energy must be 3 finite numbers"):
                ask(three, baseline_energy=wrong)


def test_settings_and_options_go_together(water_frames) -> None:
    settings = TrainingSettings(trend="linear", k=3, n_components=3, metric_iterations=2)
    frames = [a.copy() for a in water_frames[:20]]
    model = train(frames, baseline="none", n_jobs=1, settings=settings, k=4)
    assert model.info.provenance.settings["k"] == 4
    assert model.info.provenance.settings["trend"] == "linear"


def test_frames_of_any_kind_are_predicted(tiny_model, water_frames) -> None:
    expected = predict_frames(tiny_model, water_frames[:4], n_jobs=1).energy
    for frames in (iter(water_frames[:4]), (a for a in water_frames[:4]), tuple(water_frames[:4])):
        np.testing.assert_array_equal(predict_frames(tiny_model, frames, n_jobs=1).energy, expected)
    one = predict_frames(tiny_model, water_frames[0], n_jobs=1)
    assert one.energy == pytest.approx(expected[:1])
