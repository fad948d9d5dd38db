"""Arguments of a wrong kind or value: one error of the package that names what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from factories import tiny

from ase_knncalc import TrainingSettings, load_model, save_model
from ase_knncalc.errors import SettingsError
from ase_knncalc.sampling import SamplingSettings
from ase_knncalc.sparse import SparseSettings

# ---------------------------------------------------------------------------------------- settings

KINDS = (TrainingSettings, SparseSettings, SamplingSettings)


def fields_of(kind: type, *types: str) -> list[str]:
    return [f.name for f in fields(kind) if f.type in types]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_numpy_in_settings_are_plain_ones(kind) -> None:
    """What is kept in a file must be JSON, and found out before the work is done."""
    options = {name: np.int32(7) for name in fields_of(kind, "int")}
    options |= {name: np.float32(0.5) for name in fields_of(kind, "float", "float | None")}
    made = kind(**options)
    assert json.loads(json.dumps(asdict(made))) == json.loads(
        json.dumps(asdict(kind(**{name: value.item() for name, value in options.items()})))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_numbers_in_settings_name_the_field(kind) -> None:
    for name in fields_of(kind, "int"):
        for wrong in (True, np.True_, 1.0, 1.5, "3", None, -1, 2**33, np.nan, [1], {}, np.ones(2)):
            with pytest.raises(SettingsError, match=rf"^{name} must be"):
                kind(**{name: wrong})
    for name in fields_of(kind, "float"):
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
        (TrainingSettings, {"bandwidth": "wide"}, "need a positive bandwidth"),
        (TrainingSettings, {"bandwidth": 0}, "need a positive bandwidth"),
        (TrainingSettings, {"nugget": True}, "nugget must be a number"),
        (TrainingSettings, {"descriptor_options": None}, "descriptor_options must be of type dict"),
        (TrainingSettings, {"descriptor_options": {"rcut": -1}}, "rcut must be positive"),
        (TrainingSettings, {"descriptor_options": {"cutoff": 3.0}}, "cutoff"),
        (TrainingSettings, {"descriptor_kind": "soap"}, "unknown descriptor 'soap'"),
        (SparseSettings, {"penalties": ()}, "penalties must be a list"),
        (SparseSettings, {"penalties": (1e-5, 0.0)}, "each of penalties must be a positive"),
        (SparseSettings, {"force_weights": 0.3}, "force_weights must be a list"),
        (SparseSettings, {"selection": 3}, "selection must be one of"),
        (SamplingSettings, {"temperatures": 300}, "temperatures must be a list of one value or m"),
        (SamplingSettings, {"temperatures": ["hot"]}, "each of temperatures must be a positive"),
        (SamplingSettings, {"methods": "md"}, "methods must be a list"),
        (SamplingSettings, {"methods": (3,)}, "each of methods must be one of"),
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
    assert load_model(tmp_path / "m.h5").info.provenance["settings"]["seed"] == 2
    # Settings that a model keeps give the same settings again.
    kept = TrainingSettings.from_dict(model.info.provenance["settings"])
    assert replace(kept) == kept
    assert kept.descriptor([1, 8]) == model.descriptor
