"""Which file each training structure of a model came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase_knncalc.model import KNNModel


def source_table(sources: Sequence[str]) -> dict[str, Any]:
    """Provenance entries ``sources``, the files, and ``source_of``, the file of each structure.

    Parameters
    ----------
    sources
        Of each structure in the order of the index, such as ``"clusters.extxyz.gz#17"``; empty
        where it is not known.
    """
    files = [source.rpartition("#")[0] or source for source in sources]
    known = sorted(set(files) - {""})
    place = {file: i for i, file in enumerate(known)} | {"": -1}
    return {"sources": known, "source_of": [place[file] for file in files]}


def extended_sources(provenance: Mapping[str, Any], added: Sequence[str]) -> dict[str, Any]:
    """The entries of :func:`source_table` after structures were added; none if there were none."""
    if "source_of" not in provenance:
        return {}
    known = list(provenance.get("sources", []))
    more = source_table(added)
    known += [file for file in more["sources"] if file not in known]
    place = [known.index(more["sources"][i]) if i >= 0 else -1 for i in more["source_of"]]
    return {"sources": known, "source_of": [*provenance["source_of"], *place]}


def sources_of(model: KNNModel, indices: Sequence[int]) -> list[str]:
    """Files that training structures came from; empty where the model file does not say."""
    files = model.info.provenance.get("sources", [])
    places = model.info.provenance.get("source_of", [])
    found = []
    for i in indices:
        place = places[i] if len(places) == len(model) else -1
        found.append(files[place] if 0 <= place < len(files) else "")
    return found
