"""What a model says of itself, and which file each of its training structures came from."""

from __future__ import annotations

import json

import pytest
from helpers.factories import tiny, water_clusters

from ase_knncalc import load_model, save_model
from ase_knncalc.errors import ModelFileError
from ase_knncalc.info import ModelInfo, Provenance, source_table
from ase_knncalc.store.container import read_container, write_container


def test_sources_survive_training_file_and_appending(water_frames, tmp_path) -> None:
    frames = [a.copy() for a in water_frames]
    for i, atoms in enumerate(frames):
        atoms.info["source"] = f"{'first' if i % 2 else 'second'}.extxyz#{i}"
    model = tiny(frames)
    save_model(model, tmp_path / "m.h5")
    model = load_model(tmp_path / "m.h5")
    assert model.info.provenance.sources == ["first.extxyz", "second.extxyz"]
    assert [model.info.provenance.source(i) for i in (0, 1)] == ["second.extxyz", "first.extxyz"]
    new = water_clusters(2, seed=77)
    new[0].info["source"] = "third.extxyz#0"
    new[1].info["source"] = "first.extxyz#99"
    larger = model.append(new)
    assert len(larger.explain(new[0]).neighbor_sources) == 5
    assert "third.extxyz" in larger.explain(new[0]).neighbor_sources
    assert len(larger) == len(model) + 2
    n = len(larger)
    assert [larger.info.provenance.source(i) for i in (0, n - 2, n - 1)] == [
        "second.extxyz",
        "third.extxyz",
        "first.extxyz",
    ]
    json.dumps(larger.info.to_dict())


def test_sources_that_are_not_known(tiny_model) -> None:
    bare = Provenance()
    assert [bare.source(i) for i in (0, 3, -1)] == ["", "", ""]
    assert bare.with_sources(["a#1"]) == bare
    assert source_table(["", "b#1", "a#1"]) == (["a", "b"], [-1, 1, 0])


def test_a_file_gives_back_what_it_was_given(tiny_model) -> None:
    for model in (tiny_model, tiny_model.append(water_clusters(3, seed=78))):
        written = json.loads(json.dumps(model.info.to_dict()))
        assert ModelInfo.from_dict(written) == model.info
        assert ModelInfo.from_dict(written).to_dict() == written
    assert written["provenance"]["trained_structures"] == len(tiny_model)
    # Files of old, and of versions to come.
    assert Provenance.from_dict({}) == Provenance()
    assert Provenance.from_dict({"weather": "fair"}).to_dict()["weather"] == "fair"


def test_forged_sources_do_no_harm(tiny_model, tmp_path) -> None:
    save_model(tiny_model, tmp_path / "m.h5")
    metadata, arrays = read_container(tmp_path / "m.h5", "model")
    metadata["info"]["provenance"]["source_of"] = [10**6] * len(tiny_model)
    write_container(tmp_path / "m.h5", "model", metadata, arrays)
    assert load_model(tmp_path / "m.h5").info.provenance.source(0) == ""
    metadata["info"]["provenance"]["source_of"] = ["x"]
    write_container(tmp_path / "m.h5", "model", metadata, arrays)
    with pytest.raises(ModelFileError, match="source_of"):
        load_model(tmp_path / "m.h5")
