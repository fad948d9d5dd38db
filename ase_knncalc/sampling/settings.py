"""Settings of a sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from ase_knncalc._lib.arguments import Count, OneOf, Positive, Seed, Settings, Several

Method = Literal["packing", "monte-carlo", "basin-hopping", "md"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class SamplingSettings(Settings):
    """How structures are sampled.

    Parameters
    ----------
    methods
        Taken in turn: ``"packing"`` (random contacts, relaxed if ``relax``), ``"monte-carlo"``
        (rigid-body Metropolis walk from a packing), ``"basin-hopping"`` (rigid-body moves, each
        relaxed, Metropolis on the minima), ``"md"`` (Langevin dynamics from a relaxed packing).
    relax
        Whether packings are relaxed.
    fmax, relax_steps
        When a relaxation ends: largest force (eV/Å) or number of steps, after which it starts once
        more; what is not relaxed then has ``info["relaxed"]`` False. Soft modes of clusters need
        a small force: at 0.05 eV/Å copies of one minimum still differ by up to 0.08 eV.
    temperatures
        Of walks and dynamics, K; taken in turn.
    chain
        Structures taken from each walk, hopping run or trajectory.
    interval
        Moves between two structures of a Monte-Carlo walk.
    time_step, snapshot_time
        Of the dynamics: time step, and time between snapshots, fs.
    energy_tolerance, distance_tolerance
        Two structures of a composition are the same if their energies differ by less than this
        (eV), and their global descriptors by less than this fraction of their norm.
    attempts
        Runs are given up after this many times the number that ``n`` needs without duplicates.
    patience
        Runs in a row that find nothing new, after which there are no more; None: as ``attempts``
        says.
    seed
        Of everything.
    """

    methods: Several[Annotated[str, OneOf(METHODS)]] = ("packing",)
    relax: bool = True
    fmax: Positive = 0.01
    relax_steps: Count = 500
    temperatures: Several[Positive] = (200.0, 300.0, 400.0)
    chain: Count = 10
    interval: Count = 20
    time_step: Positive = 0.5
    snapshot_time: Positive = 50.0
    energy_tolerance: Positive = 0.01
    distance_tolerance: Positive = 0.01
    attempts: Count = 5
    patience: Count | None = None
    seed: Seed = 0
