"""The HTML report: what it says, that it stands alone, and that it works in a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from ase import units
from helpers.factories import tiny, water_clusters

from ase_knncalc.baselines import make_baseline
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.evaluation.report import read_curves, write_report
from ase_knncalc.evaluation.report.figures import wilson
from ase_knncalc.evaluation.report.judged import judge_held_out
from ase_knncalc.heads.summary import head_rows

HOSTILE = """</script><img src=x onerror="document.body.dataset.pwned='1'"> & 'ω'"""


class Page(HTMLParser):
    """What a page holds: elements with attributes, text, and the data of its figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.json = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.json)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = "data" if dict(attrs).get("id") == "data" else tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "data":
            self.json += data
        elif self._inside not in ("script", "style"):
            self.text.append(data)

    def figure(self, name: str) -> dict:
        return next(f for f in self.data["figures"] if f["id"] == name)


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model.with_baseline(make_baseline("none"))


@pytest.fixture(scope="module")
def test_frames():
    frames = water_clusters(30, seed=11, largest=5)
    frames[3].info["name"] = HOSTILE
    return frames


@pytest.fixture(scope="module")
def full(model, test_frames, water_frames, tmp_path_factory):
    """A page with everything on it, and what the writer says of it."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    report = write_report(
        path, model, name="tiny <b>", data=test_frames, training=water_frames, repeats=2, n_jobs=1
    )
    return path, report


def test_page_stands_alone(full) -> None:
    page = Page(full[0])
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    text = full[0].read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text


def test_everything_is_on_it(full) -> None:
    path, report = full
    page = Page(path)
    assert report.figures == [f["id"] for f in page.data["figures"]]
    assert set(report.figures) == {"parity", "trust", "coverage", "size", "learning", "map"}
    assert report.missing == []
    drawn = {a["id"] for tag, a in page.elements if tag == "figure"}
    assert drawn == set(report.figures)
    assert "tiny <b>" in page.text
    assert report.test["n"] == 30


def test_figures_show_the_numbers(full, model, test_frames) -> None:
    page = Page(full[0])
    found = model.predict(test_frames)
    truth = np.array([a.info["reference_energy"] for a in test_frames])
    error = units.mol / units.kcal * (found.energy - truth)
    series = next(s for s in page.figure("parity")["series"] if s["set"] == "test")
    np.testing.assert_allclose(np.subtract(series["y"], series["x"]), error, atol=0.02)
    size = next(s for s in page.figure("size")["series"] if s["set"] == "test")
    np.testing.assert_allclose(size["y"], np.abs(error), rtol=1e-4, atol=1e-6)
    assert full[1].test["mae"] == pytest.approx(np.abs(found.energy - truth).mean())
    inside = np.abs(found.energy - truth) <= model.calibration.multiple(0.9) * found.energy_std
    assert full[1].test["coverage"] == pytest.approx(inside.mean())
    coverage = next(s for s in page.figure("coverage")["series"] if s["set"] == "test")
    assert coverage["y"][coverage["x"].index(0.9)] == pytest.approx(inside.mean(), rel=1e-4)
    assert page.data["labels"]["training"][0].startswith(model.names[0].decode())


def test_map_is_a_projection_of_the_metric(full, model) -> None:
    """No two points of the map are further apart than in the metric, and the worst loses least."""
    series = Page(full[0]).figure("map")["series"][0]
    flat = np.column_stack([series["x"], series["y"]])
    points = model.knn.index.points.astype(float)
    spread = points - points.mean(axis=0)
    assert np.all(np.linalg.norm(flat, axis=1) <= np.linalg.norm(spread, axis=1) * (1 + 1e-3))
    kept = np.linalg.svd(spread, compute_uv=False)[:2] ** 2
    assert (flat**2).sum() == pytest.approx(kept.sum(), rel=1e-3)


def test_worst_cases_have_geometries(full, test_frames) -> None:
    page = Page(full[0])
    keys = [a["data-structure"] for tag, a in page.elements if tag == "button"]
    assert keys[0].startswith("training:")
    assert any(key.startswith("test:") for key in keys)
    assert set(keys) <= set(page.data["structures"])
    for key in keys:
        if key.startswith("test:"):
            atoms = test_frames[int(key.split(":")[1])]
            shown = page.data["structures"][key]
            centred = atoms.positions - atoms.positions.mean(axis=0)
            np.testing.assert_allclose(shown["positions"], centred, atol=1e-3)
            assert shown["symbols"] == list(atoms.symbols)


def test_without_data_the_page_says_what_is_missing(tiny_model, tmp_path) -> None:
    report = write_report(tmp_path / "a.html", tiny_model)
    assert report.test is None
    assert report.held_out["n"] == len(tiny_model)
    assert report.held_out["mae"] == pytest.approx(tiny_model.info.errors["mae"], rel=1e-5)
    assert [m.split(":")[0] for m in report.missing] == [
        "Geometries of training structures",
        "Errors on data the model has never seen",
        "A learning curve",
    ]
    old = write_report(tmp_path / "b.html", replace(tiny_model, held_out=None))
    assert old.figures == ["map"]
    assert old.held_out is None
    assert any("written before" in text for text in Page(tmp_path / "b.html").text)


def test_what_is_not_covered_is_counted_not_fatal(model, test_frames, tmp_path) -> None:
    odd = test_frames[0].copy()
    odd.symbols[0] = "S"
    odd.info.update(name="odd", reference_energy=1.0)
    charged = test_frames[1].copy()
    charged.info.update(name="ion", charge=-1, multiplicity=2)
    report = write_report(tmp_path / "a.html", model, data=[*test_frames[2:6], odd, charged])
    assert report.test["n"] == 4
    assert sorted(r.split(":")[0] for r in report.refused) == ["ion", "odd"]
    with pytest.raises(DataError, match="odd"):
        write_report(tmp_path / "b.html", model, data=[odd])
    assert not (tmp_path / "b.html").exists()


def test_data_that_the_model_was_trained_on_are_told(tiny_model, water_frames, tmp_path) -> None:
    fresh = water_clusters(4, seed=9)
    seen = [a.copy() for a in water_frames[:5]]
    with pytest.warns(UserWarning, match="5 of 9 structures of the data are in the model's train"):
        report = write_report(tmp_path / "a.html", tiny_model, data=[*seen, *fresh], n_jobs=1)
    assert report.test["n"] == 4, "what was learned is no test"
    assert sum("in the model's training data" in text for text in report.refused) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # of ASE, with numpy 2.5
        write_report(tmp_path / "a.html", tiny_model, data=fresh, n_jobs=1)


def test_they_are_told_whatever_they_are_called(tiny_model, water_frames, tmp_path) -> None:
    seen = [a.copy() for a in water_frames]
    for atoms in seen:
        del atoms.info["composition"]
        del atoms.info["name"]
    with pytest.raises(DataError, match="60 of 60 structures of the data are in the model's train"):
        write_report(tmp_path / "a.html", tiny_model, data=seen, n_jobs=1)


def test_geometries_are_those_of_the_structures_where_names_repeat(water_frames, tmp_path) -> None:
    """Found by their place in the metric; and none is shown rather than one of another."""
    frames = [a.copy() for a in water_frames]
    for i, atoms in enumerate(frames):
        if i % 3:
            atoms.info["name"] = "conf"
    model = tiny(frames)
    shown = judge_held_out(model).with_geometries(model, frames[::-1])
    assert [a is b for a, b in zip(shown.frames, frames, strict=True)] == [True] * 60
    lost = judge_held_out(model).with_geometries(model, frames[:30])
    assert [a is b for a, b in zip(lost.frames, frames[:30], strict=False)] == [True] * 30
    assert lost.frames[30:] == [None] * 30
    # Other structures of the same name and composition are none of the model's.
    strange = water_clusters(60, seed=8)
    for atoms in strange:
        atoms.info["name"] = "conf"
    assert judge_held_out(model).with_geometries(model, strange).frames == [None] * 60
    # On the page: each worst case with its own.
    write_report(tmp_path / "a.html", model, training=frames, repeats=2, n_jobs=1)
    structures = Page(tmp_path / "a.html").data["structures"]
    assert len(structures) > 20
    for key, drawn in structures.items():
        atoms = frames[int(key.split(":")[1])]
        np.testing.assert_allclose(
            np.ravel(drawn["positions"]),
            (atoms.positions - atoms.positions.mean(0)).ravel(),
            atol=2e-3,
        )


def test_data_need_a_baseline(tiny_model, test_frames, tmp_path) -> None:
    with pytest.raises(SettingsError, match="baseline"):
        write_report(tmp_path / "a.html", tiny_model.with_baseline(None), data=test_frames)
    with pytest.raises(SettingsError, match=r"cannot write .*nowhere"):
        write_report(tmp_path / "nowhere" / "a.html", tiny_model)


def test_known_curves_are_read(tiny_model, tmp_path) -> None:
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({"sparse": [{"size": 8, "mae": 0.1, "mae_sd": 0.01, "rmse": 0.2}]}))
    report = write_report(tmp_path / "a.html", tiny_model, curves=read_curves(path))
    assert "learning" in report.figures
    path.write_text("[1, 2]")
    with pytest.raises(DataError, match="learning-curve"):
        read_curves(path)
    with pytest.raises(DataError, match="cannot read"):
        read_curves(tmp_path / "none.json")


def test_held_out_intervals_cover_what_they_say(tiny_model) -> None:
    judged = judge_held_out(tiny_model)
    assert judged.inside.mean() == pytest.approx(0.9, abs=0.05)


def test_wilson_interval_holds_the_true_fraction() -> None:
    """Against the binomial distribution itself: 95 % of samples give an interval that holds p."""
    from scipy.stats import binom

    n, p = 40, 0.83
    k = np.arange(n + 1)
    low, high = wilson(k / n, n)
    inside = (low <= p) & (p <= high)
    assert binom.pmf(k[inside], n, p).sum() == pytest.approx(0.95, abs=0.03)


# --- in a browser ---------------------------------------------------------------------------------

_WATCH = """<script>
window.addEventListener("error", (e) => { document.body.dataset.error = e.message; });
</script>"""
_USER = Path(__file__).parents[1] / "data" / "report_user.js"


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def test_page_works_in_a_browser(browser, full, tmp_path) -> None:
    """Hovering, clicking, turning, zooming and sorting do what they should, without an error."""
    text = full[0].read_text(encoding="utf-8")
    text = text.replace("<main>", _WATCH + "<main>")
    user = _USER.read_text(encoding="utf-8")
    text = text.replace("</body>", f"<script>{user}</script></body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000",
            "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=100, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    (tmp_path / "dom.html").write_text(done.stdout)
    dom = Page(tmp_path / "dom.html")
    body = next(a for tag, a in dom.elements if tag == "body")
    assert "data-error" not in body, body["data-error"]
    assert "data-pwned" not in body
    log = json.loads(next(t for t in dom.text if t.startswith('{"blank"')))
    assert log["blank"] == 0
    assert log["figures"] == "6"
    assert log["first"] in {s["name"] for s in dom.data["structures"].values()}
    assert log["second"] == log["expected"]
    assert all(log[k] for k in ("turned", "zoomed", "enlarged", "back"))
    labels = set(dom.data["labels"]["training"]) | set(dom.data["labels"]["test"])
    assert set(log["tips"]) <= labels
    assert len(log["tips"]) > 20
    assert log["ascending"] == sorted(log["ascending"])
    assert log["descending"] == sorted(log["ascending"], reverse=True)


def test_properties_with_their_errors(headed_model, model, tmp_path) -> None:
    write_report(tmp_path / "page.html", headed_model)
    text = " ".join(Page(tmp_path / "page.html").text)
    rows = head_rows(headed_model.heads)
    assert [r["property"] for r in rows][-3:] == ["polarizability", "cc", "twice"]
    for found in rows:
        assert found["property"] in text
        assert f"{found['composition_left_out']:.3f}" in text
    write_report(tmp_path / "bare.html", model)
    assert "this model knows energies alone" in " ".join(Page(tmp_path / "bare.html").text)
