"""Configuration of a loop, read from TOML; every error names the key."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from ase_knncalc._lib.arguments import Count, NotNegative, OneOf, Positive, Seed, Settings
from ase_knncalc._lib.parallel import check_jobs
from ase_knncalc.data import KeyMap
from ase_knncalc.errors import SettingsError
from ase_knncalc.labelers.dft import RESOURCES
from ase_knncalc.sampling import SamplingSettings
from ase_knncalc.sampling.selection import STRATEGIES
from ase_knncalc.settings import TrainingSettings


@dataclass(frozen=True)
class LoopTable(Settings):
    """``[loop]``: how long, how much, and where."""

    directory: Path = Path("active")
    iterations: Count = 5
    batch: Count = 20
    strategy: Annotated[str, OneOf(STRATEGIES)] = "variance"
    energy_window: NotNegative | None = None
    """eV above the lowest of a composition."""
    retrain: Literal["auto", "always", "never"] = "auto"
    growth: Positive = 0.2
    """Additions, as a fraction of the training structures, that call for training."""
    seed: Seed = 0
    jobs: int = 1


@dataclass(frozen=True)
class ModelTable(Settings):
    """``[model]``: what the loop starts from; without it, ``[training]`` makes the first model."""

    file: str | None = None
    baseline: str = "auto"
    reference: str = ""


@dataclass(frozen=True)
class TrainingTable(Settings):
    """``[training]``: the data that training starts from, and its settings."""

    data: tuple[Path, ...] = ()
    monomers: tuple[Path, ...] = ()
    reference_key: str = "reference_energy"
    baseline_key: str = "baseline_energy"
    check_labels: bool = True
    use_forces: bool = False
    """Whether forces of new labels take part; a model trained on forces has no k-NN term."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`TrainingSettings`; ``sparse`` is a table of :class:`SparseSettings`."""

    def training_settings(self) -> TrainingSettings:
        """Settings, checked."""
        return TrainingSettings.from_dict(self.settings, "training.settings")

    def keys(self) -> KeyMap:
        """Where the training data keep their labels."""
        return KeyMap(reference_energy=self.reference_key, baseline_energy=self.baseline_key)


@dataclass(frozen=True)
class PoolTable(Settings):
    """``[pool]``: structures to choose from: files, or molecules to sample clusters of."""

    files: tuple[Path, ...] = ()
    sample: tuple[tuple[str, ...], ...] = ()
    """Clusters, each a list such as ``["sa:2", "am:2"]``."""
    n: Count = 100
    """Structures to sample of each cluster."""
    engine: str = "auto"
    refresh: bool = False
    """Whether each iteration samples anew, with another seed."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of :class:`SamplingSettings`."""

    def sampling_settings(self, seed: int, shift: int = 0) -> SamplingSettings:
        """Settings, checked; each sampling of a loop shifts the seed, its own or the loop's."""
        made = SamplingSettings.from_dict({"seed": seed, **self.settings}, "pool.settings")
        return replace(made, seed=(made.seed + shift) % 2**32)


@dataclass(frozen=True)
class LabelerTable(Settings):
    """``[labeler]``: who gives the labels."""

    kind: Literal["pyscf", "ase", "lookup"]
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the labeler, or of the ASE calculator."""
    calculator: str = ""
    """ASE's name of the calculator (``orca``, ``gaussian``, ``psi4``, …); kind ``ase``."""
    method: str = ""
    """Level of theory, for provenance; kind ``ase``."""
    energies_only: bool = False
    charge_key: str | None = None
    """Argument of the calculator for the charge; None: found by itself, empty: it has none."""
    multiplicity_key: str | None = None
    files: tuple[Path, ...] = ()
    """Labelled structures; kind ``lookup``."""
    reference_key: str = "reference_energy"
    time_limit: Positive | None = None
    """Seconds for one structure."""


@dataclass(frozen=True)
class TestTable(Settings):
    """``[test]``: labelled structures held out, for the curve of errors."""

    files: tuple[Path, ...] = ()
    reference_key: str = "reference_energy"
    baseline_key: str = "baseline_energy"


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Settings):
    """A whole configuration."""

    loop: LoopTable = field(default_factory=LoopTable)
    model: ModelTable = field(default_factory=ModelTable)
    training: TrainingTable = field(default_factory=TrainingTable)
    pool: PoolTable
    labeler: LabelerTable
    test: TestTable = field(default_factory=TestTable)

    def identity(self) -> dict[str, Any]:
        """What two runs of one loop have in common, as plain values.

        Paths count from the loop's directory: they stay the same where the configuration is named
        by another path, and where all of it moves.
        """
        tables = {name: table for name, table in asdict(self).items() if name != "loop"}
        tables["labeler"].pop("time_limit")
        if self.labeler.kind == "pyscf":
            for name in RESOURCES:
                tables["labeler"]["options"].pop(name, None)
        tables["loop"] = {"seed": self.loop.seed}
        for name, key in _PATHS & {(table, key) for table in tables for key in tables[table]}:
            tables[name][key] = [self._relative(p) for p in tables[name][key]]
        if self.model.file is not None and Path(self.model.file).is_absolute():
            tables["model"]["file"] = self._relative(self.model.file)
        return dict(json.loads(json.dumps(tables)))

    def _relative(self, path: str | Path) -> str:
        return os.path.relpath(path, self.loop.directory)


def read_config(path: str | os.PathLike[str]) -> LoopConfig:
    """Read and check a configuration; paths in it count from its folder.

    Raises
    ------
    SettingsError
        If the file cannot be read, is no TOML, or a key is unknown or has a wrong value.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    path = Path(os.path.abspath(path))
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise SettingsError(f"cannot read {path}: {e.strerror or e}") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path} is not TOML: {e}") from e
    try:
        config = LoopConfig.from_dict(_with_paths(tables, path.parent))
        _check(config)
    except SettingsError as e:
        raise SettingsError(f"{path}: {e}") from None
    return config


_PATHS = {
    ("loop", "directory"), ("training", "data"), ("training", "monomers"), ("pool", "files"),
    ("labeler", "files"), ("test", "files"),
}  # fmt: skip


def _with_paths(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The tables with paths taken from the folder of the configuration."""

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(v) for v in value]
        return folder / os.path.expanduser(value) if isinstance(value, str) else value

    tables = {"loop": {}, **tables}
    if isinstance(tables["loop"], dict):
        tables["loop"] = {"directory": "active", **tables["loop"]}
    found: dict[str, Any] = {}
    for name, table in tables.items():
        found[name] = table
        if isinstance(table, dict):
            found[name] = {k: resolve(v) if (name, k) in _PATHS else v for k, v in table.items()}
    model, pool = found.get("model"), found.get("pool")
    if isinstance(model, dict) and isinstance(model.get("file"), str):
        file = model["file"]
        # What looks like a path is one, whether or not it is (still) there.
        if Path(file).name != file or Path(file).suffix or (folder / file).is_file():
            found["model"] = {**model, "file": str(folder / os.path.expanduser(file))}
    if isinstance(pool, dict):
        found["pool"] = {**pool, **_pool_paths(pool, folder)}
    return found


def _pool_paths(pool: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``sample`` and ``engine`` with files that lie beside the configuration."""

    def beside(text: Any, file: str, pattern: str) -> Any:
        return pattern.format(folder / file) if file and (folder / file).is_file() else text

    changed: dict[str, Any] = {}
    engine, sample = pool.get("engine"), pool.get("sample")
    if isinstance(engine, str) and engine.startswith("model:"):
        changed["engine"] = beside(engine, engine.removeprefix("model:"), "model:{}")
    if isinstance(sample, list) and all(isinstance(texts, list) for texts in sample):
        split = re.compile(r"(.+?)((?:@-?\d+)?(?::\d+)?)")
        changed["sample"] = [
            [
                beside(t, m[1], "{}" + m[2])
                if isinstance(t, str) and (m := split.fullmatch(t))
                else t
                for t in texts
            ]
            for texts in sample
        ]
    return changed


def _check(config: LoopConfig) -> None:
    """What one key demands of another."""
    if config.model.file is None and not config.training.data:
        raise SettingsError("model.file or training.data: one of them is needed to start from")
    if config.loop.retrain == "always" and not config.training.data:
        raise SettingsError("training.data: needed with loop.retrain = 'always'")
    if not config.pool.files and not config.pool.sample:
        raise SettingsError("pool.files or pool.sample: one of them is needed")
    if config.pool.refresh and not config.pool.sample:
        raise SettingsError("pool.refresh: only with pool.sample")
    try:
        check_jobs(config.loop.jobs)
    except SettingsError as e:
        raise SettingsError(f"loop.jobs: {e}") from None
    if config.loop.directory.is_file():
        raise SettingsError(f"loop.directory: {config.loop.directory} is a file, not a directory")
    only = {"files": "lookup", "reference_key": "lookup", "calculator": "ase", "method": "ase",
            "energies_only": "ase", "charge_key": "ase", "multiplicity_key": "ase"}  # fmt: skip
    for key, kind in only.items():
        default = getattr(LabelerTable, key)
        if config.labeler.kind != kind and getattr(config.labeler, key) != default:
            raise SettingsError(f"labeler.{key}: only with kind = {kind!r}")
    if config.labeler.kind == "lookup" and not config.labeler.files:
        raise SettingsError("labeler.files: needed with kind = 'lookup'")
    if config.labeler.kind == "ase" and not (config.labeler.calculator and config.labeler.method):
        raise SettingsError(
            "labeler.calculator and labeler.method: needed with kind = 'ase', such as 'orca' and "
            "'DLPNO-CCSD(T)/aug-cc-pVTZ'"
        )
    config.training.training_settings()
    config.pool.sampling_settings(config.loop.seed)
    for texts in config.pool.sample:
        from ase_knncalc.sampling import parse_ingredients

        parse_ingredients(texts)
    for table, paths in (
        ("training.data", config.training.data),
        ("training.monomers", config.training.monomers),
        ("pool.files", config.pool.files),
        ("labeler.files", config.labeler.files),
        ("test.files", config.test.files),
    ):
        for path in paths:
            if not path.exists():
                raise SettingsError(f"{table}: {path} does not exist")
