"""Charge and multiplicity from all their sources; what counts as a computable structure."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read
from hypothesis import given
from hypothesis import strategies as st

from ase_knncalc.charges import stated_copy
from ase_knncalc.errors import ChargeError, SettingsError, StructureError
from ase_knncalc.structure import (
    check_electrons,
    check_structure,
    composition_label,
    resolve_charge,
    structure_label,
)


def water(**info: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.info.update(info)
    return atoms


class TestResolveCharge:
    @pytest.mark.parametrize(
        ("name", "expected"), [("H2O", (0, 1)), ("CH3", (0, 2)), ("O2", (0, 3)), ("NH3", (0, 1))]
    )
    def test_nothing_given(self, name: str, expected: tuple[int, int]) -> None:
        # The G2 set brings magnetic moments: two of them make oxygen a triplet.
        assert resolve_charge(molecule(name)) == expected

    def test_lowest_multiplicity_without_moments(self) -> None:
        assert resolve_charge(Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])) == (0, 1)

    @pytest.mark.parametrize("charge", [None, 1, -1])
    def test_an_odd_number_of_electrons_needs_a_multiplicity(self, charge: int | None) -> None:
        atoms = Atoms("H") if charge is None else water()
        with pytest.raises(ChargeError, match=r"an odd number, and nothing says the multiplicity"):
            resolve_charge(atoms, charge)
        assert resolve_charge(atoms, charge, 2) == (charge or 0, 2)

    @pytest.mark.parametrize(
        ("arguments", "info", "charges", "moments", "expected"),
        [
            ((1, 2), {}, None, None, (1, 2)),
            ((None, 3), {}, None, None, (0, 3)),
            ((None, 2), {"charge": -1}, None, None, (-1, 2)),
            ((None, None), {"charge": -2}, None, None, (-2, 1)),
            ((None, None), {"charge": -1, "multiplicity": 4}, None, None, (-1, 4)),
            ((None, 2), {}, [1.0, 0.0, 0.0], None, (1, 2)),
            ((None, None), {}, [-0.402, 0.2, 0.2], None, (0, 1)),
            ((None, None), {}, [-0.4, 0.2, 0.2], None, (0, 1)),
            ((None, None), {}, [-0.6, -0.2, -0.2], [0.0, 0.5, 0.5], (-1, 2)),
            ((None, None), {}, None, [0.0, -1.0, -1.0], (0, 3)),
            ((None, None), {}, None, [0.0, -1.0, 1.0], (0, 1)),
            # ASE's zeros say nothing, so that they contradict nothing.
            ((None, None), {"charge": 2}, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], (2, 1)),
            ((1, 2), {"charge": 1, "multiplicity": 2}, [0, 0, 1.0], [0, 0, 1.0], (1, 2)),
            ((0, None), {"charge": None, "multiplicity": None}, None, None, (0, 1)),
            # 2S and 2S + 1, as programs have it; both are this molecule's.
            ((None, None), {"spin": 0}, None, None, (0, 1)),
            ((None, None), {"spin": 1}, None, None, (0, 1)),
            ((None, None), {"spin": 3, "multiplicity": 3}, None, None, (0, 3)),
            ((None, None), {"total_spin": 2, "mult": 3}, None, None, (0, 3)),
            # Other names.
            ((None, None), {"total_charge": -2}, None, None, (-2, 1)),
            ((None, None), {"net_charge": "2"}, None, None, (2, 1)),
            ((None, None), {"q": -1, "uhf": 1}, None, None, (-1, 2)),
            ((None, None), {"Total Charge": 1.0, "spin_multiplicity": 4}, None, None, (1, 4)),
            # With an odd number of electrons 2S and 2S + 1 cannot be mistaken for each other.
            ((1, None), {"spin": 1}, None, None, (1, 2)),
            ((1, None), {"spin": 2}, None, None, (1, 2)),
            ((1, None), {"spin": 0.5}, None, None, (1, 2)),
            ((1, None), {"total_spin": "3"}, None, None, (1, 4)),
            # Not the charge of the whole.
            ((None, None), {"charge_transfer": 0.13, "charge_source": "log"}, None, None, (0, 1)),
            ((None, None), {"charges": [1.0, 0.0, 0.0], "Q": 17.0}, None, None, (0, 1)),
        ],
    )
    def test_sources(self, arguments, info, charges, moments, expected) -> None:
        atoms = water(**info)
        if charges is not None:
            atoms.set_initial_charges(charges)
        if moments is not None:
            atoms.set_initial_magnetic_moments(moments)
        found = resolve_charge(atoms, *arguments)
        assert found == expected
        assert [type(x) for x in found] == [int, int]

    @pytest.mark.parametrize(
        ("arguments", "info", "charges", "moments", "named"),
        [
            ((0,), {"total_charge": -2}, None, None, ["argument charge = 0", "total_charge.*= -2"]),
            ((), {"charge": 0, "q": -2}, None, None, [r'info\["charge"\] = 0', r'"q"\] = -2']),
            ((0,), {"uhf": 2, "mult": 1}, None, None, [r'"uhf"\] \+ 1 = 3', r'"mult"\] = 1']),
            ((1,), {"charge": 0}, None, None, ["argument charge = 1", r'info\["charge"\] = 0']),
            ((), {"charge": 1}, [-1.0, 0, 0], None, [r'"charge"\] = 1', "initial charges = -1"]),
            # Partial charges that sum to zero do say that the molecule is neutral.
            ((1,), {}, [-0.4, 0.2, 0.2], None, ["charge = 1", "initial charges = 0"]),
            ((0, 1), {"multiplicity": 3}, None, None, ["argument multiplicity = 1", "= 3"]),
            ((), {"multiplicity": 1}, None, [1.0, 1.0, 0], ["= 1", r"moments\| \+ 1 = 3"]),
        ],
    )
    def test_contradictions_name_sources_and_values(
        self, arguments, info, charges, moments, named
    ) -> None:
        atoms = water(name="water-7", **info)
        if charges is not None:
            atoms.set_initial_charges(charges)
        if moments is not None:
            atoms.set_initial_magnetic_moments(moments)
        with pytest.raises(ChargeError, match=r"^water-7: .*contradict") as caught:
            resolve_charge(atoms, *arguments)
        for part in named:
            assert caught.match(part)

    def test_spin_that_fits_no_convention_is_an_error(self) -> None:
        with pytest.raises(ChargeError, match=r"neither 2S nor 2S \+ 1.*multiplicity 1.*set"):
            resolve_charge(water(spin=3))

    def test_attributes_of_the_atoms(self) -> None:
        atoms = water()
        atoms.charge, atoms.spin_multiplicity = -1, 4
        assert resolve_charge(atoms) == (-1, 4)
        assert resolve_charge(stated_copy(atoms)) == (-1, 4)
        atoms.info["charge"] = 1
        with pytest.raises(ChargeError, match=r'info\["charge"\] = 1, atoms\.charge = -1'):
            resolve_charge(atoms)
        atoms.info["charge"], atoms.spin_multiplicity = -1, "doublet"
        with pytest.raises(ChargeError, match=r"atoms\.spin_multiplicity is 'doublet'"):
            resolve_charge(atoms)

    @pytest.mark.parametrize(
        "info",
        [{"charge_of_cluster": -2}, {"anion": 2}, {"my_multiplicity": 3}, {"spin": "triplet"}],
    )
    def test_what_is_not_understood_is_refused(self, info: dict[str, object]) -> None:
        with pytest.raises(ChargeError, match=f"{next(iter(info))}.*set atoms|correct or remove"):
            resolve_charge(water(**info))
        assert resolve_charge(water(**info) if "spin" not in info else water(), 0, 1) == (0, 1)

    @pytest.mark.parametrize(
        "value", [1, np.int64(1), np.int8(1), 1.0, np.float32(1), 0.9995, "1", "+1", " 1 "]
    )
    def test_ways_to_write_one(self, value: object) -> None:
        assert resolve_charge(water(charge=value), multiplicity=2) == (1, 2)
        assert resolve_charge(water(), value, 2) == (1, 2)
        array = np.array(value) if value == 1 else value
        assert resolve_charge(water(charge=array), multiplicity=2) == (1, 2)

    @pytest.mark.parametrize(
        "value",
        [
            *[True, np.True_, 0.5, 1.002, math.nan, math.inf],
            *["", "one", "1.5", "1-", "NaN", "0x1"],
            *[[1], (1,), np.array([1]), {}, 1j, b"1", object],
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("key", ["charge", "multiplicity"])
    def test_no_integer(self, key: str, value: object) -> None:
        with pytest.raises(ChargeError, match=rf'atoms\.info\["{key}"\] is .*expected an integer'):
            resolve_charge(water(**{key: value}))
        with pytest.raises(ChargeError, match=f"argument {key} is .*expected an integer"):
            resolve_charge(water(), **{key: value})

    @pytest.mark.parametrize("values", [[0.5, 0, 0], [math.nan, 0, 0]])
    def test_no_integer_in_arrays(self, values: list[float]) -> None:
        atoms = water()
        atoms.set_initial_charges(values)
        with pytest.raises(ChargeError, match="sum of initial charges is"):
            resolve_charge(atoms)
        atoms = water()
        atoms.set_initial_magnetic_moments(values)
        with pytest.raises(ChargeError, match="initial magnetic moments"):
            resolve_charge(atoms)

    def test_noncollinear_moments(self) -> None:
        atoms = water()
        atoms.set_initial_magnetic_moments(np.ones((3, 3)))
        with pytest.raises(ChargeError, match="collinear"):
            resolve_charge(atoms)

    @pytest.mark.parametrize(
        ("charge", "multiplicity", "match"),
        [
            (0, 2, r"10 electrons, an even number.*expected an odd multiplicity"),
            (1, 1, r"9 electrons, an odd number.*expected an even multiplicity"),
            (0, 0, "at least 1"),
            (0, -1, "at least 1"),
            (0, 13, "at most multiplicity 11"),
            (11, None, "removes more electrons"),
        ],
    )
    def test_impossible(self, charge: int, multiplicity: int | None, match: str) -> None:
        with pytest.raises(ChargeError, match=match) as caught:
            resolve_charge(water(), charge, multiplicity)
        assert caught.match("charge from argument charge")

    def test_bare_proton(self) -> None:
        assert resolve_charge(Atoms("H"), 1) == (1, 1)
        with pytest.raises(ChargeError):
            resolve_charge(Atoms("H"), 1, 3)

    def test_structure_is_not_changed(self) -> None:
        atoms = water(charge="2")
        resolve_charge(atoms)
        assert atoms.info == {"charge": "2"}
        assert not atoms.has("initial_charges")

    @given(
        numbers=st.lists(st.integers(1, 86), min_size=1, max_size=6),
        charge=st.integers(-4, 4),
        unpaired=st.integers(-2, 8),
    )
    def test_accepts_exactly_the_possible_states(
        self, numbers: list[int], charge: int, unpaired: int
    ) -> None:
        electrons = sum(numbers) - charge
        possible = 0 <= unpaired <= electrons and (electrons - unpaired) % 2 == 0
        atoms = Atoms(numbers=numbers, positions=np.zeros((len(numbers), 3)))
        if possible:
            assert resolve_charge(atoms, charge, unpaired + 1) == (charge, unpaired + 1)
            check_electrons(atoms, charge, unpaired + 1)
        else:
            with pytest.raises(ChargeError):
                resolve_charge(atoms, charge, unpaired + 1)

    @given(
        numbers=st.lists(st.integers(1, 86), min_size=1, max_size=6),
        charge=st.integers(-3, 1),
        noise=st.floats(-9e-4, 9e-4),
        how=st.sampled_from(["argument", "info", "string", "array"]),
    )
    def test_all_sources_are_equivalent(
        self, numbers: list[int], charge: int, noise: float, how: str
    ) -> None:
        atoms = Atoms(numbers=numbers, positions=np.zeros((len(numbers), 3)))
        expected = (charge, 1 + (sum(numbers) - charge) % 2)
        argument = None
        if how == "argument":
            argument = charge + noise
        elif how == "info":
            atoms.info["charge"] = np.float64(charge + noise)
        elif how == "string":
            atoms.info["charge"] = f"{charge:+d}"
        else:
            atoms.set_initial_charges(np.full(len(atoms), (charge + noise) / len(atoms)))
        assert resolve_charge(atoms, argument, expected[1]) == expected


class TestCheckStructure:
    @pytest.mark.parametrize("name", ["H2O", "C6H6", "H2", "LiH", "SO2", "CH3CH2OH"])
    def test_molecules(self, name: str) -> None:
        check_structure(molecule(name))

    def test_single_atom_and_far_atoms(self) -> None:
        check_structure(Atoms("H"))
        check_structure(Atoms("H2", [[0, 0, 0], [0, 0, 1e6]]))

    @pytest.mark.parametrize("not_atoms", [None, "water.xyz", [water()], water().positions])
    def test_other_types(self, not_atoms: object) -> None:
        with pytest.raises(StructureError, match=r"expected one ase\.Atoms"):
            check_structure(not_atoms)

    def test_empty(self) -> None:
        with pytest.raises(StructureError, match="no atoms"):
            check_structure(Atoms())

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_positions_not_finite(self, value: float) -> None:
        atoms = water()
        atoms.positions[1, 2] = value
        with pytest.raises(StructureError, match=r"NaN or infinite positions of atom 1;"):
            check_structure(atoms)

    @pytest.mark.parametrize("pbc", [True, (True, False, False), (0, 0, 1)])
    def test_periodic(self, pbc: object) -> None:
        atoms = water()
        atoms.set_cell([9, 9, 9])
        check_structure(atoms)
        atoms.pbc = pbc
        with pytest.raises(StructureError, match=r"periodic.*atoms\.pbc = False"):
            check_structure(atoms)

    def test_dummy_atoms(self) -> None:
        with pytest.raises(StructureError, match=r"dummy atoms.*atom 1"):
            check_structure(Atoms("HXH", [[0, 0, 0], [0, 0, 5], [0, 0, 9]]))

    @pytest.mark.parametrize(
        ("symbols", "limit"), [("HH", 0.31), ("OH", 0.485), ("CC", 0.76), ("SO", 0.855)]
    )
    def test_overlap_begins_at_half_the_covalent_distance(self, symbols: str, limit: float) -> None:
        check_structure(Atoms(symbols, [[0, 0, 0], [0, limit * 1.001, 0]]))
        with pytest.raises(StructureError, match=r"atoms 0 .* and 1 .* overlap"):
            check_structure(Atoms(symbols, [[0, 0, 0], [0, limit * 0.999, 0]]))

    def test_overlap_names_the_worst_pair(self) -> None:
        atoms = molecule("C6H6")
        atoms.positions[9] = atoms.positions[2] + [0.1, 0, 0]
        atoms.positions[8] = atoms.positions[4] + [0.4, 0, 0]
        with pytest.raises(StructureError) as caught:
            check_structure(atoms)
        assert caught.match(r"C6H6: atoms 2 \(C\) and 9 \(H\) overlap at a distance of 0.100 Å")
        assert caught.match(r"and 1 more pairs")

    def test_factor(self) -> None:
        close = Atoms("H2", [[0, 0, 0], [0, 0, 0.1]])
        check_structure(close, min_distance_factor=0)
        check_structure(close, min_distance_factor=0.1)
        with pytest.raises(StructureError):
            check_structure(water(), min_distance_factor=1.5)
        for factor in (-1, math.nan, math.inf):
            with pytest.raises(SettingsError, match="min_distance_factor"):
                check_structure(water(), min_distance_factor=factor)

    @pytest.mark.parametrize("what", ["positions", "numbers", "pbc", "factor"])
    def test_what_has_passed_is_checked_again_where_it_changes(self, what: str) -> None:
        atoms = molecule("H2O")
        check_structure(atoms)
        check_structure(atoms)
        if what == "positions":
            atoms.positions[2] = atoms.positions[1]
        elif what == "numbers":
            atoms.numbers[0] = 0
        elif what == "pbc":
            atoms.pbc[0] = True
        with pytest.raises(StructureError):
            check_structure(atoms, min_distance_factor=3.0 if what == "factor" else 0.5)

    def test_pairs_across_blocks(self) -> None:
        # More atoms than fit into one block of distances; the pair is far apart in the list.
        n = 1300
        grid = np.stack(np.meshgrid(*[np.arange(11)] * 3), axis=-1).reshape(-1, 3)[:n] * 3.0
        atoms = Atoms(numbers=np.full(n, 8), positions=grid)
        check_structure(atoms)
        atoms.positions[1299] = atoms.positions[3] + [0, 0, 0.3]
        with pytest.raises(StructureError, match=r"atoms 3 \(O\) and 1299 \(O\)"):
            check_structure(atoms)

    def test_off_equilibrium_clusters_pass(self, shared_data) -> None:
        for atoms in read(shared_data / "saw_4sa5w_offequilibrium.extxyz.gz", index="::13"):
            check_structure(atoms)


def test_structure_label() -> None:
    assert structure_label(water()) == "H2O"
    assert structure_label(water(name="3w-1"), 4) == "3w-1 (frame 4)"
    assert structure_label(molecule("CH3CH2OH"), 0) == "C2H6O (frame 0)"
    assert structure_label(water(name=17)) == "17"
    assert structure_label(Atoms()) == "no atoms"


def test_composition_label() -> None:
    assert composition_label(water()) == "H2O"
    assert composition_label(water(composition="1w")) == "1w"
    assert composition_label(water(composition=" ")) == "H2O"
