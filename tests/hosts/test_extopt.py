"""ORCA's external optimizer: request, answer, and a server that keeps the model."""

from __future__ import annotations

import json
import os
import stat
import threading

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from ase.units import Bohr, Hartree
from helpers.commands import knncalc

from ase_knncalc import KNNCalculator
from ase_knncalc.errors import ChargeError, DataError, NoveltyError, SettingsError
from ase_knncalc.hosts import answer, read_request, serve
from ase_knncalc.hosts.serving import ask


@pytest.fixture(scope="module")
def calculator() -> KNNCalculator:
    return KNNCalculator("multibase-wb97xd", on_novelty="ignore")


@pytest.fixture
def request_file(tmp_path):
    """A function that writes what ORCA writes."""

    def make(atoms: Atoms, charge=0, multiplicity=1, gradient=1, more=""):
        write(tmp_path / "job_EXT.xyz", atoms, format="xyz")
        path = tmp_path / "job_EXT.extinp.tmp"
        path.write_text(
            f"job_EXT.xyz # xyz filename\n{charge} # charge\n{multiplicity} # multiplicity\n"
            f"1 # NCores\n{gradient} # do gradient\n{more}"
        )
        return path

    return make


def _read_engrad(path) -> list[float]:
    lines = path.read_text().splitlines()
    return [float(line) for line in lines if not line.startswith("#")]


def test_energy_and_gradient_in_orcas_units(calculator, request_file, tmp_path) -> None:
    water = molecule("H2O")
    path = request_file(water)
    asked = read_request(path)
    assert asked.atoms.info == {"charge": 0, "multiplicity": 1}
    said = answer(path, calculator)
    n, energy, *gradient = _read_engrad(tmp_path / "job_EXT.engrad")
    atoms = asked.atoms
    assert n == 3
    assert energy * Hartree == pytest.approx(calculator.get_property("energy", atoms), abs=1e-8)
    np.testing.assert_allclose(
        np.reshape(gradient, (3, 3)) * -Hartree / Bohr,
        calculator.get_property("forces", atoms),
        atol=1e-8,
    )
    assert said["energy_std"] == calculator.results["energy_std"]
    answer(request_file(water, gradient=0), calculator)
    assert len(_read_engrad(tmp_path / "job_EXT.engrad")) == 2
    lines = (tmp_path / "job_EXT.knncalc.jsonl").read_text().splitlines()
    assert [json.loads(line)["novelty"] for line in lines] == [said["novelty"]] * 2


def test_charge_is_that_of_the_request(calculator, request_file) -> None:
    hydroxide = molecule("OH")
    neutral = answer(request_file(molecule("H2O")), calculator)
    with pytest.raises(ChargeError):
        answer(request_file(molecule("H2O"), charge=2), calculator)
    assert read_request(request_file(hydroxide, charge=-1)).atoms.info["charge"] == -1
    ammonium = Atoms(
        "NH4", 0.6 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    )
    ion = answer(request_file(ammonium, charge=1), calculator)
    ammonium.info["charge"] = 1
    assert ion["energy"] == pytest.approx(calculator.get_property("energy", ammonium), abs=1e-5)
    assert neutral["energy"] != ion["energy"]


def test_thresholds_end_the_run_and_write_nothing(request_file, tmp_path, calculator) -> None:
    strict = KNNCalculator(calculator.model, on_novelty="raise", std_threshold=1e-6)
    with pytest.raises(NoveltyError, match="std_threshold"):
        answer(request_file(molecule("H2O")), strict)
    assert not (tmp_path / "job_EXT.engrad").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "five lines"),
        ("job_EXT.xyz\n0\n1\n1\n", "five lines"),
        ("job_EXT.xyz\nzero\n1\n1\n1\n", "zero"),
        ("nowhere.xyz\n0\n1\n1\n1\n", r"nowhere\.xyz"),
        ("job_EXT.xyz\n0\n1\n1\n1\ncharges.pc\n", r"point charges \(charges\.pc\)"),
    ],
)
def test_what_is_no_request_is_told(request_file, text, says) -> None:
    path = request_file(molecule("H2O"))
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_request(path)
    with pytest.raises(DataError, match=r"extinp\.tmp"):
        read_request(path.with_name("job.inp"))


def test_command(request_file, tmp_path) -> None:
    path = request_file(molecule("H2O"))
    done = knncalc("extopt", path.name, "--json", "-m", "saw-wb97xd-md", cwd=tmp_path)
    assert json.loads(done.stdout)["energy_std"] > 0
    assert (tmp_path / "job_EXT.engrad").exists()


@pytest.mark.skipif(os.name != "posix", reason="Unix sockets")
def test_server_answers_as_the_command_and_survives_errors(
    calculator, request_file, tmp_path
) -> None:
    place = tmp_path / "s"
    place.touch()
    with pytest.raises(SettingsError, match="no socket can be made"):
        serve(place, calculator)
    place.unlink()
    served = []
    server = threading.Thread(target=lambda: served.append(serve(place, calculator, requests=3)))
    server.start()
    path = request_file(molecule("H2O"))
    while not place.exists():
        assert server.is_alive()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    first = ask(place, path)
    with pytest.raises(SettingsError, match="another server listens"):
        serve(place, calculator)
    with pytest.raises(DataError, match=r"extinp\.tmp"):
        ask(place, tmp_path / "other")
    done = knncalc("extopt", path.name, "--json", "--server", str(place), cwd=tmp_path)
    server.join(60)
    assert not server.is_alive()
    assert served == [3]
    assert first["energy"] == pytest.approx(json.loads(done.stdout)["energy"], abs=1e-9)
    assert not place.exists()
    with pytest.raises(SettingsError, match="no server listens"):
        ask(place, path)
