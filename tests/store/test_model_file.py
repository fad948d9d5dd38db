"""Model files: identity, atomicity, and damage of every kind."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ase_knncalc import list_models, load_model, save_model
from ase_knncalc.errors import ModelFileError, ModelFileVersionError
from ase_knncalc.store import find_model
from ase_knncalc.store.container import USER_BLOCK, read_container, write_container


@pytest.fixture(scope="module")
def model_file(tiny_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("store") / "tiny.h5"
    save_model(tiny_model, path)
    return path


def reseal(path: Path, change) -> None:
    """Change the HDF5 part and give it a checksum that fits, as a forger would."""
    raw = io.BytesIO(path.read_bytes())
    with h5py.File(raw, "r+") as file:
        change(file)
    content = bytearray(raw.getvalue())
    digest = hashlib.sha256(bytes(content[USER_BLOCK:])).hexdigest().encode()
    header = re.sub(rb"sha256 [0-9a-f]{64}", b"sha256 " + digest, bytes(content[:USER_BLOCK]))
    path.write_bytes(header + bytes(content[USER_BLOCK:]))


def copy_of(model_file: Path, folder: Path) -> Path:
    path = folder / "copy.h5"
    path.write_bytes(model_file.read_bytes())
    return path


def test_predictions_survive_the_round_trip_to_the_bit(
    tiny_model, model_file, water_frames
) -> None:
    loaded = load_model(model_file)
    before, after = tiny_model.predict(water_frames), loaded.predict(water_frames)
    np.testing.assert_array_equal(before.energy, after.energy)
    np.testing.assert_array_equal(before.energy_std, after.energy_std)
    np.testing.assert_array_equal(before.novelty, after.novelty)
    assert before.neighbors == after.neighbors
    assert loaded.info.to_dict() == tiny_model.info.to_dict()


def test_saving_twice_gives_the_same_bytes(tiny_model, model_file, tmp_path) -> None:
    save_model(tiny_model, tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == model_file.read_bytes()


def test_hdf5_tools_can_read_it(model_file) -> None:
    with h5py.File(model_file, "r") as file:
        assert file["index/points"].dtype == np.float32
        assert b'"descriptor"' in file["metadata"][()].tobytes()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_and_missing_bytes_are_noticed(model_file, tmp_path, data) -> None:
    content = bytearray(model_file.read_bytes())
    # The padding after the header lines carries nothing.
    header_end = content.index(b"written by")
    kind = data.draw(st.sampled_from(["flip", "truncate", "extend"]))
    if kind == "flip":
        place = data.draw(
            st.one_of(st.integers(0, header_end - 1), st.integers(USER_BLOCK, len(content) - 1))
        )
        content[place] ^= data.draw(st.integers(1, 255))
    elif kind == "truncate":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content += data.draw(st.binary(min_size=1, max_size=64))
    path = tmp_path / "damaged.h5"
    path.write_bytes(bytes(content))
    with pytest.raises(ModelFileError, match=r"damaged\.h5"):
        load_model(path)


FORGERIES = {
    "missing": (lambda f: f.__delitem__("index/residuals"), "'index/residuals' is missing"),
    "shape": (
        lambda f: (f.__delitem__("metric/mean"), f.create_dataset("metric/mean", data=np.zeros(3))),
        "'metric/mean' has type float64 and shape (3,), expected shape (168,)",
    ),
    "nan": (lambda f: f["index/residuals"].__setitem__(0, np.nan), "NaN"),
    "infinite point": (lambda f: f["index/points"].__setitem__((0, 0), np.inf), "infinite"),
    "text for numbers": (
        lambda f: (
            f.__delitem__("index/residuals"),
            f.create_dataset("index/residuals", data=np.array([b"x"] * 60)),
        ),
        "'index/residuals' has type",
    ),
    "external link": (
        lambda f: f.__setitem__("index/more", h5py.ExternalLink("/etc/passwd", "/")),
        "link",
    ),
    "soft link": (lambda f: f.__setitem__("index/more", h5py.SoftLink("/metric")), "link"),
    "external storage": (
        lambda f: f.create_dataset(
            "index/outside", (10,), "f8", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        ),
        "plain array",
    ),
    "absurd size": (
        lambda f: f.create_dataset("index/huge", (10**13,), "f8", chunks=(1024,)),
        "plain array",
    ),
    "absurd contiguous size": (lambda f: f.create_dataset("index/huge", (10**13,), "f8"), "plain"),
    "compressed": (
        lambda f: f.create_dataset("index/zip", data=np.zeros(100), compression="gzip"),
        "plain array",
    ),
    "half precision": (
        lambda f: (
            f.__delitem__("index/residuals"),
            f.create_dataset("index/residuals", data=np.zeros(60, "f2")),
        ),
        r"item 'index/residuals' has type float16",
    ),
    "objects": (
        lambda f: f.create_dataset("index/text", data="variable length"),
        "plain array",
    ),
    "nested": (lambda f: f.create_dataset("a/b/c", data=np.zeros(1)), "nested"),
    "metadata": (
        lambda f: (f.__delitem__("metadata"), f.create_dataset("metadata", data=np.zeros(3, "u1"))),
        "cannot be read",
    ),
    "metadata list": (
        lambda f: (
            f.__delitem__("metadata"),
            f.create_dataset("metadata", data=np.frombuffer(b"[1]", dtype="u1")),
        ),
        "not a JSON object",
    ),
    "metadata empty": (
        lambda f: (
            f.__delitem__("metadata"),
            f.create_dataset("metadata", data=np.frombuffer(b"{}", dtype="u1")),
        ),
        "metadata: 'descriptor' is missing",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files_are_refused_and_the_item_named(model_file, tmp_path, name: str) -> None:
    change, message = FORGERIES[name]
    path = copy_of(model_file, tmp_path)
    reseal(path, change)
    with pytest.raises(ModelFileError, match=re.escape(message)):
        load_model(path)


@pytest.mark.parametrize(
    "name", ["factor", "shift", "free_map", "length_scale", "counts", "spacings"]
)
def test_forged_sparse_trend_is_refused_at_loading(water_model, tmp_path, name: str) -> None:
    """Not later, with an error of numpy's in the first prediction."""
    path = tmp_path / "sparse.h5"
    save_model(water_model(trend="sparse"), path)

    def spoil(file) -> None:
        dtype = file[f"trend/{name}"].dtype
        del file[f"trend/{name}"]
        file.create_dataset(f"trend/{name}", data=np.ones((2, 3), dtype=dtype))

    reseal(path, spoil)
    with pytest.raises(ModelFileError, match=name):
        load_model(path)


def test_newer_format_says_what_to_upgrade(model_file, tmp_path) -> None:
    path = tmp_path / "new.h5"
    path.write_bytes(model_file.read_bytes().replace(b"model 1\n", b"model 9\n", 1))
    with pytest.raises(ModelFileVersionError, match="pip install --upgrade ase_knncalc"):
        load_model(path)


def test_other_kinds_and_places_are_told(model_file, tmp_path) -> None:
    write_container(tmp_path / "labels.h5", "labels", {}, {})
    with pytest.raises(ModelFileError, match="is a labels file"):
        load_model(tmp_path / "labels.h5")
    with pytest.raises(ModelFileError, match="neither a file nor one of the shipped"):
        load_model("no-such-model")
    with pytest.raises(ModelFileError, match="is a folder"):
        load_model(tmp_path)
    (tmp_path / "empty.h5").touch()
    with pytest.raises(ModelFileError, match="not a file of ase_knncalc"):
        load_model(tmp_path / "empty.h5")
    with pytest.raises(ModelFileError, match="cannot write"):
        write_container(tmp_path / "no" / "folder.h5", "labels", {}, {})


def test_failed_write_leaves_the_old_file_whole(model_file, tmp_path, monkeypatch) -> None:
    path = copy_of(model_file, tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match="No space left"):
        write_container(path, "model", {}, {"a": np.zeros(3)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["copy.h5"]


def test_container_keeps_types_and_scalars(tmp_path) -> None:
    arrays = {
        "a/f32": np.arange(3, dtype=np.float32),
        "a/scalar": np.array(2.5),
        "b/text": np.array([b"x", b"yz"]),
        "b/empty": np.zeros((0, 3)),
    }
    write_container(tmp_path / "c.h5", "labels", {"ä": [1, None]}, arrays)
    metadata, back = read_container(tmp_path / "c.h5", "labels")
    assert metadata == {"ä": [1, None]}
    assert set(back) == set(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def test_shipped_models_are_found_by_name() -> None:
    names = list_models()
    assert "saw-wb97xd" in names
    for name in names:
        assert find_model(name).name == f"{name}.h5"
        assert len(load_model(name, baseline=None)) > 0


def test_held_out_errors_are_kept_and_files_without_them_load(tiny_model, model_file, tmp_path):
    kept = load_model(model_file).held_out
    assert kept is not None
    assert len(kept) == len(tiny_model)
    assert np.abs(kept.errors).mean() == pytest.approx(tiny_model.info.errors["mae"], rel=1e-5)
    np.testing.assert_array_equal(kept.counts, tiny_model.held_out.counts)
    np.testing.assert_array_equal(kept.deltas, tiny_model.held_out.deltas)
    np.testing.assert_array_equal(kept.sizes % 3, 0)  # waters
    old = copy_of(model_file, tmp_path)
    reseal(old, lambda f: f.__delitem__("held_out"))
    assert load_model(old).held_out is None
    reseal(old, lambda f: f.create_dataset("held_out/errors", data=np.zeros(3)))
    with pytest.raises(ModelFileError, match="held_out/"):
        load_model(old)


def test_file_of_a_newer_package_says_what_to_upgrade(tiny_model, tmp_path, monkeypatch) -> None:
    """Same file format, but with something that this version does not know."""
    from ase_knncalc.store import model_file

    installed = model_file.package_versions()["ase_knncalc"]
    monkeypatch.setattr(model_file, "package_versions", lambda: {"ase_knncalc": "99.1.0"})
    path = tmp_path / "new.h5"
    save_model(tiny_model, path)
    monkeypatch.setattr(model_file, "package_versions", lambda: {"ase_knncalc": installed})
    load_model(path)
    metadata, arrays = read_container(path, "model")
    metadata["descriptor"]["kind"] = "fchl29"
    write_container(path, "model", metadata, arrays)
    with pytest.raises(ModelFileError, match=r"fchl29.*pip install --upgrade 'ase_knncalc>=99\.1"):
        load_model(path)
    metadata["versions"]["ase_knncalc"] = installed
    write_container(path, "model", metadata, arrays)
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert "upgrade" not in str(caught.value)
