"""Settings and arguments are what their annotations say, or a :class:`SettingsError` is raised.

pydantic compares; what it finds is put into our words here alone, in the first line of a call and
not after its work.

pydantic is loaded when the first settings are made: importing it takes a third of the time that
the whole package does.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MinLen

from ase_knncalc.errors import SettingsError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import CoreSchema, ErrorDetails
    from typing_extensions import Self

T = TypeVar("T")

Whole = Annotated[int, Ge(0), Lt(2**31)]
Count = Annotated[int, Ge(1), Lt(2**31)]
# What NumPy's and scikit-learn's generators both take.
Seed = Annotated[int, Ge(0), Lt(2**32)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
# Against 1 for something else, of which nothing is left beyond the limit.
Share = Annotated[float, Ge(0), Le(1e6)]
# Of smaller and of larger lengths the squares, or their inverses, overflow.
Length = Annotated[float, Ge(1e-12), Le(1e18)]
Several = Annotated[tuple[T, ...], MinLen(1)]


@dataclass(frozen=True)
class OneOf:
    """Annotation of a text that is one of several."""

    choices: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """What pydantic checks."""
        from pydantic_core import core_schema

        return core_schema.literal_schema(list(self.choices))


@dataclass(frozen=True)
class Settings:
    """Base of settings: frozen dataclasses whose fields are what their annotations say.

    NumPy's numbers become Python's, and lists tuples, so that files can hold what is kept. True is
    no number, and 2.0 no whole one.
    """

    def __post_init__(self) -> None:
        given = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        for name, value in _checked(type(self), given):
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> Self:
        """Settings of the given names and values; tables in it become the settings they are.

        Parameters
        ----------
        where
            Name of the table, for messages.

        Raises
        ------
        SettingsError
            If a name is unknown or missing, or a value makes no sense.
        """
        instance(where or cls.__name__, values, Mapping)
        prefix = f"{where}." if where else ""
        hints, known = get_type_hints(cls), {f.name: f for f in fields(cls)}
        for name in values:
            if name not in known:
                raise SettingsError(f"{prefix}{name}: unknown key{similar(name, known)}")
        made = {
            name: hints[name].from_dict(value, f"{prefix}{name}")
            if _is_settings(hints[name])
            else value
            for name, value in values.items()
        }
        for name, field in known.items():
            if name not in made and field.default is field.default_factory is MISSING:
                raise SettingsError(f"{prefix}{name}: missing")
        try:
            return cls(**made)
        except SettingsError as e:
            raise SettingsError(f"{prefix}{e}") from None


def checked(name: str, value: Any, kind: Any) -> Any:
    """An argument as its annotation has it: a kind of number or text, or a tuple of them.

    Raises
    ------
    SettingsError
        If it is something else; with its name.
    """
    return _checked(kind, _plain(value), name)


def instance(name: str, value: T, kind: type[Any]) -> T:
    """An argument that is an object of a class, or a :class:`SettingsError` with its name."""
    if not isinstance(value, kind):
        raise SettingsError(f"{name} must be of type {kind.__name__}, got {_short(value)}")
    return value


def instances(name: str, values: Sequence[T], kind: type[Any]) -> None:
    """Check that there are some objects, and all of a class."""
    if not isinstance(values, Sequence) or not values:
        raise SettingsError(f"{name} must be a list of one value or more, got {_short(values)}")
    for i, value in enumerate(values):
        instance(f"{name}[{i}]", value, kind)


def finite_numbers(name: str, values: Any, n: int) -> np.ndarray:
    """As many finite numbers, as floats of shape (n,); a single one may be without a list."""
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.array(None)
    if n == 1:
        array = array.reshape(-1)
    if array.dtype.kind not in "iuf" or array.shape != (n,) or not np.isfinite(array).all():
        raise SettingsError(
            f"{name} must be {n} finite number{'s' * (n != 1)}, one for each structure, got "
            f"{_short(values)}"
        )
    return array.astype(np.float64)


def file_name(name: str, value: Any) -> Any:
    """Names of files: ``str``, or what ``os.fspath`` makes a ``str`` of."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or "\0" in text:
        raise SettingsError(f"{name} must be the name of a file, got {_short(value)}")
    return value


def similar(name: str, known: Iterable[str]) -> str:
    """End of a message on a name that is not known: the one that was meant, or all there are."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Settings)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter, create_model

    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    if not _is_settings(kind):
        return TypeAdapter(kind, config=config)
    hints = get_type_hints(kind, include_extras=True)
    table: Any = {f.name: (hints[f.name], ...) for f in fields(kind)}
    return TypeAdapter(create_model(kind.__name__, __config__=config, **table))


def _checked(kind: Any, value: Any, name: str = "") -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as e:
        problem = e.errors(include_url=False)[0]
    field = get_type_hints(kind)[str(problem["loc"][0])] if _is_settings(kind) else kind
    message = _sentence(name, problem, " or None" if type(None) in get_args(field) else "")
    if _is_settings(kind):
        default = getattr(kind, str(problem["loc"][0]), MISSING)
        message += "" if default is MISSING else f"; the default is {default!r}"
    raise SettingsError(message)


# What pydantic expected, by the type of its problem; others are in its own words.
_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "True or False",
    "string_type": "a text",
    "string_too_short": "a text that is not empty",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "a list of one value or more",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "dataclass_exact_type": "of type {class_name}",
}


def _sentence(name: str, problem: ErrorDetails, none: str) -> str:
    """What was found, what was expected, and the word that was meant."""
    for part in problem["loc"]:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part not in ("str", "float"):  # members of a union
            name += f".{part}" if name else part
    if problem["type"] == "missing":
        return f"{name} is missing"
    found, context, hint = problem["input"], problem.get("ctx", {}), ""
    if problem["type"] == "literal_error":
        choices = re.findall("'(.*?)'", context["expected"])
        expected = f"one of {', '.join(choices)}"
        near = difflib.get_close_matches(found, choices, 1) if isinstance(found, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
    elif problem["type"] in _EXPECTED:
        limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in context.items()}
        expected = _EXPECTED[problem["type"]].format(**limits)
    else:
        expected = problem["msg"].removeprefix("Input should be ")
    return f"{name} must be {expected}{none}, got {_short(found)}{hint}"


def _plain(value: Any) -> Any:
    """Lists and arrays as tuples, and NumPy's numbers as Python's, also in them."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__}: {text[:60]}…"
