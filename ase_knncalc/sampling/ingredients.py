"""Which molecules are meant: by name, from a file or standard input, or by SMILES.

Names are those of :data:`ase_knncalc.sampling.molecules.MOLECULES`, and of the molecules that a
model was trained on (``knncalc info``), with or without the number 1 before them.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from ase_knncalc._lib.arguments import checked
from ase_knncalc.errors import DataError, SettingsError
from ase_knncalc.sampling.molecules import MOLECULES, Ingredient
from ase_knncalc.settings import DEFAULT_MODEL
from ase_knncalc.structure import check_structure, resolve_charge

STANDARD_INPUT = "-"


def parse_ingredients(texts: Sequence[str], model: str = DEFAULT_MODEL) -> list[Ingredient]:
    """Molecules and their numbers from texts such as ``sa:2`` or ``monomers/eda.xyz:1``.

    Parameters
    ----------
    texts
        Each a molecule and, behind a colon, how many of it (1 by default). The molecule is a name;
        a file that holds one, or one of its structures, as in ``conformers.xyz@3``; ``"-"``, for
        extended XYZ on standard input; or SMILES, where RDKit is installed.
    model
        Whose molecules are known by name, beside those of every installation.

    Raises
    ------
    SettingsError
        If a text is not of that form, a name is unknown, or there is nothing.
    DataError
        If a file cannot be read, or holds several structures and none of them is named.
    """
    found = [_ingredient(name, count, model) for name, count in _counts(texts).items()]
    names = [i.name for i in found]
    if len(set(names)) < len(names):
        raise SettingsError(f"two molecules have the same name: {', '.join(sorted(names))}")
    return sorted(found, key=lambda i: i.name)


def ingredient_files(texts: Sequence[str]) -> list[Path]:
    """Files that :func:`parse_ingredients` reads for these texts.

    Raises
    ------
    SettingsError
        If a text is not of the form NAME:COUNT, or there is nothing.
    """
    return [file for name in _counts(texts) if (file := _file_and_index(name)[0]) is not None]


def _counts(texts: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for text in checked("molecules", texts, tuple[str, ...]):
        match = re.fullmatch(r"(.+?)(?::(\d+))?", text.strip())
        if match is None or (match[2] is not None and int(match[2]) < 1):
            raise SettingsError(f"{text!r}: expected NAME:COUNT, as in sa:2, or FILE.xyz:COUNT")
        counts[match[1]] = counts.get(match[1], 0) + int(match[2] or 1)
    if not counts:
        raise SettingsError("no molecules: give at least one, as in sa:2")
    return counts


def _file_and_index(name: str) -> tuple[Path | None, str]:
    """``FILE.xyz@3`` taken apart; no file where the text names none."""
    match = re.fullmatch(r"(.+?)(?:@(-?\d+))?", name)
    assert match is not None
    path = Path(match[1])
    return (path if re.fullmatch(r"\.\w+", path.suffix) else None), match[2] or ""


def _ingredient(name: str, count: int, model: str) -> Ingredient:
    if name in MOLECULES:
        return Ingredient(name, MOLECULES[name](), count)
    path, index = _file_and_index(name)
    if name == STANDARD_INPUT:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stdin.xyz"
            path.write_text(sys.stdin.read(), encoding="utf-8")
            return _of_file(path, "", count)
    if path is not None:
        return _of_file(path, index, count)
    known = _of_model(name, model)
    if known is not None:
        return Ingredient(name.removeprefix("1"), known, count)
    # Names in compositions are letters: 2am1CCO.
    return Ingredient("".join(filter(str.isalpha, name)), _of_smiles(name), count)


def _of_file(path: Path, index: str, count: int) -> Ingredient:
    from ase_knncalc.data import read_structures
    from ase_knncalc.data.paths import file_stem

    frames = read_structures(path, index or ":")
    if len(frames) != 1:
        raise DataError(
            f"{path} holds {len(frames)} structures, expected one molecule: say which, as in "
            f"{path.name}@0"
        )
    check_structure(frames[0])
    name = file_stem(path) + (f"_{index}" if index else "")
    return Ingredient(name, _bare(frames[0], *resolve_charge(frames[0])), count)


def _bare(atoms: Atoms, charge: int, multiplicity: int) -> Atoms:
    bare = Atoms(atoms.numbers, atoms.positions)
    bare.info.update(charge=charge, multiplicity=multiplicity)
    return bare


def _of_model(name: str, model: str) -> Atoms | None:
    """A molecule that a model was trained on; None if there is none of that name."""
    from ase_knncalc.store import load_model

    monomers = load_model(model, baseline=None).info.monomers
    record = monomers.get(name) or monomers.get(f"1{name}")
    if record is None or "positions" not in record:
        return None
    atoms = Atoms(record["numbers"], record["positions"])
    atoms.info["charge"] = record["charge"]
    return _bare(atoms, *resolve_charge(atoms))


def _of_smiles(text: str) -> Atoms:
    """A conformer of the molecule that SMILES describe, by RDKit: the same each time.

    Raises
    ------
    SettingsError
        If it is no molecule; or RDKit is not installed.
    """
    unknown = (
        f"unknown molecule {text!r}: known are {', '.join(sorted(MOLECULES))}, and those of the "
        "model (knncalc info); for another one give a file, as in eda.xyz:1, or SMILES"
    )
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem import AllChem
    except ImportError:
        raise SettingsError(f"{unknown}, for which `pip install rdkit` is needed") from None
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text)
        if molecule is None:
            raise SettingsError(unknown)
        if len(Chem.GetMolFrags(molecule)) > 1:
            raise SettingsError(f"{text!r} are several molecules: give each of them, as in CCO:1")
        molecule = Chem.AddHs(molecule)
        if AllChem.EmbedMolecule(molecule, randomSeed=0) != 0:
            raise SettingsError(f"{text!r}: RDKit finds no geometry for it; give a file")
        if AllChem.MMFFHasAllMoleculeParams(molecule):
            AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
    unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    atoms = Atoms(
        [atom.GetAtomicNum() for atom in molecule.GetAtoms()],
        molecule.GetConformer().GetPositions(),
    )
    return _bare(atoms, Chem.GetFormalCharge(molecule), unpaired + 1)
