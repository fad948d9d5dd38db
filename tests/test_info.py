"""Which file each training structure of a model came from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from helpers.factories import tiny, water_clusters

from ase_knncalc import load_model, save_model
from ase_knncalc.errors import ModelFileError
from ase_knncalc.labels.sources import extended_sources, source_table, sources_of
from ase_knncalc.store.container import read_container, write_container


def test_sources_survive_training_file_and_appending(water_frames, tmp_path) -> None:
    frames = [a.copy() for a in water_frames]
    for i, atoms in enumerate(frames):
        atoms.info["source"] = f"{'first' if i % 2 else 'second'}.extxyz#{i}"
    model = tiny(frames)
    save_model(model, tmp_path / "m.h5")
    model = load_model(tmp_path / "m.h5")
    assert model.info.provenance["sources"] == ["first.extxyz", "second.extxyz"]
    assert sources_of(model, [0, 1]) == ["second.extxyz", "first.extxyz"]
    new = water_clusters(2, seed=77)
    new[0].info["source"] = "third.extxyz#0"
    new[1].info["source"] = "first.extxyz#99"
    larger = model.append(new)
    assert len(larger.explain(new[0]).neighbor_sources) == 5
    assert "third.extxyz" in larger.explain(new[0]).neighbor_sources
    assert len(larger) == len(model) + 2
    n = len(larger)
    assert sources_of(larger, [0, n - 2, n - 1]) == [
        "second.extxyz",
        "third.extxyz",
        "first.extxyz",
    ]
    json.dumps(larger.info.to_dict())


def test_sources_that_are_not_known(tiny_model) -> None:
    bare = replace(tiny_model, info=replace(tiny_model.info, provenance={}))
    assert sources_of(bare, [0, 3]) == ["", ""]
    assert extended_sources({}, ["a#1"]) == {}
    assert source_table(["", "b#1", "a#1"]) == {"sources": ["a", "b"], "source_of": [-1, 1, 0]}


def test_forged_sources_do_no_harm(tiny_model, tmp_path) -> None:
    save_model(tiny_model, tmp_path / "m.h5")
    metadata, arrays = read_container(tmp_path / "m.h5", "model")
    metadata["info"]["provenance"]["source_of"] = [10**6] * len(tiny_model)
    write_container(tmp_path / "m.h5", "model", metadata, arrays)
    assert sources_of(load_model(tmp_path / "m.h5"), [0]) == [""]
    metadata["info"]["provenance"]["source_of"] = ["x"]
    write_container(tmp_path / "m.h5", "model", metadata, arrays)
    with pytest.raises(ModelFileError, match="source_of"):
        load_model(tmp_path / "m.h5")
