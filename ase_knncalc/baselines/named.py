"""ASE calculators as baselines that have a name, which a model file can ask for."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ase_knncalc.baselines.ase_calculator import ASEBaseline
from ase_knncalc.errors import BaselineError

GROUP = "ase_knncalc.baselines"


class NamedBaseline(ASEBaseline):
    """An ASE calculator that an installed package registers by a name.

    The entry point, of the group ``ase_knncalc.baselines``, is a calculator class or any function
    that returns a calculator. A model file holds the name and the options, and remakes the
    calculator of them where the package is installed; it can name nothing that is not registered.

    Parameters
    ----------
    name
        Of the entry point.
    options
        Keyword arguments of the class or function; ``charge_via`` is that of :class:`ASEBaseline`.

    Raises
    ------
    BaselineError
        If no installed package registers it, or it cannot be made.
    """

    library = "named"

    def __init__(self, name: str, options: dict[str, Any] | None = None) -> None:
        found = registered().get(name)
        if found is None:
            raise BaselineError(
                f"the baseline {name!r} is a calculator by name, and no installed package has it "
                f"among its entry points {GROUP!r}; install the one that does, or pass a "
                "calculator object"
            )
        self.name, self.options = name, dict(options or {})
        arguments = dict(self.options)
        charge_via = arguments.pop("charge_via", "auto")
        self.version = found.dist.version if found.dist is not None else ""
        try:
            calculator = found.load()(**arguments)
        except Exception as error:
            raise BaselineError(
                f"the baseline {name!r} ({found.value}) cannot be made with the options "
                f"{arguments}: {type(error).__name__}: {error}"
            ) from error
        super().__init__(calculator, charge_via)

    @property
    def method(self) -> str:
        """The name."""
        return self.name

    def spec(self) -> dict[str, str]:
        """Name, version of the package that registers it, and the options as JSON."""
        return {
            "method": self.name,
            "library": self.library,
            "version": self.version,
            "options": json.dumps(self.options, sort_keys=True),
        }


def registered() -> dict[str, EntryPoint]:
    """Calculators that installed packages register as baselines, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}
