"""Walks of a cluster: relaxed packings, rigid-body Monte Carlo, basin hopping, dynamics.

Each is a function of a start, a calculator and a random generator that returns what it visited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, CalculatorError

from ase_knncalc.errors import KNNCalcError
from ase_knncalc.sampling.molecules import (
    CONTACT,
    assign_hydrogens,
    closest_contact,
    is_one_cluster,
)

if TYPE_CHECKING:
    from ase_knncalc.sampling.settings import SamplingSettings

# Rigid-body moves may press molecules together a bit more than packing does.
_CLOSEST = 0.9 * CONTACT[0]

# What a calculation that fails may raise, whatever the calculator.
FAILURES = (KNNCalcError, CalculatorError, ArithmeticError, np.linalg.LinAlgError)


@dataclass
class Outcome:
    """What a run found.

    Attributes
    ----------
    frames : list of Atoms
    failures : list of str
        Reasons of calculations that failed on the way.
    fell_apart : int
        Starts that fell apart when they were relaxed.
    """

    frames: list[Atoms] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    fell_apart: int = 0


def relaxed(atoms: Atoms, calculator: Calculator, settings: SamplingSettings) -> Atoms:
    """A copy at the nearest minimum, or as near as twice ``relax_steps`` take it.

    ``info["relaxed"]`` says whether it is there, and ``info["fmax"]`` how large a force is left,
    eV/Å. Hydrogens that have changed over to another molecule belong to it
    (:func:`ase_knncalc.sampling.molecules.assign_hydrogens`).
    """
    from ase.optimize import BFGS

    copy = atoms.copy()
    copy.calc = calculator
    # Where one comes to no end, another one starts, without what that thinks of curvatures.
    for _ in range(2):
        # A short step at first: packings have contacts that throw a quasi-Newton method off.
        search = BFGS(copy, logfile=None, maxstep=0.1)
        done = bool(search.run(fmax=settings.fmax, steps=settings.relax_steps))
        if done or not is_one_cluster(copy):
            break
    force = float(np.linalg.norm(copy.get_forces(), axis=1).max())
    copy.info.update(relaxed=done, fmax=force)
    assign_hydrogens(copy)
    return copy


def _finish(atoms: Atoms, energy: float, **info: Any) -> Atoms:
    copy = atoms.copy()
    copy.calc = None
    copy.positions -= copy.get_center_of_mass()
    copy.info.update(energy=float(energy), **info)
    return copy


def rigid_move(
    atoms: Atoms, rng: np.random.Generator, step: float = 0.3, angle: float = 0.5
) -> Atoms:
    """A copy with one molecule moved by about ``step`` (Å) and turned by about ``angle`` (rad)."""
    from scipy.spatial.transform import Rotation

    copy = atoms.copy()
    owner = copy.arrays["molecule"]
    molecules = np.unique(owner)
    chosen = owner == molecules[rng.integers(len(molecules))]
    part = copy.positions[chosen]
    centre = part.mean(axis=0)
    turn = Rotation.from_rotvec(rng.normal(size=3) * angle / 3**0.5).as_matrix()
    copy.positions[chosen] = (part - centre) @ turn.T + centre + rng.normal(size=3) * step / 3**0.5
    return copy


def _allowed(trial: Atoms, current: Atoms) -> bool:
    """Whether a rigid move neither presses the moved molecule into another one nor loses one.

    Contacts of the others do not count: a short hydrogen bond is no reason to refuse all moves.
    """
    moved = (trial.positions != current.positions).any(axis=1)
    return closest_contact(trial, moved) > _CLOSEST and is_one_cluster(trial)


def _metropolis(rng: np.random.Generator, rise: float, temperature: float) -> bool:
    """Whether a move that raises the energy by so much (eV) is taken."""
    return bool(rng.random() < np.exp(min(0.0, -rise / (units.kB * temperature))))


def monte_carlo(
    start: Atoms,
    calculator: Calculator,
    rng: np.random.Generator,
    temperature: float,
    settings: SamplingSettings,
) -> Outcome:
    """Rigid-body Metropolis walk; one structure every ``interval`` moves, ``chain`` in all.

    Step lengths are adapted to an acceptance of 40 % until the first structure is taken. Moves that
    press molecules together or lose one are rejected without a calculation, and those whose
    calculation fails.
    """
    outcome = Outcome()
    current = start.copy()
    current.calc = calculator
    energy = float(current.get_potential_energy())
    step = 0.3
    for move in range(1, settings.interval * (settings.chain + 1) + 1):
        trial = rigid_move(current, rng, step, 1.5 * step)
        accepted = False
        if _allowed(trial, current):
            trial.calc = calculator
            try:
                new = float(trial.get_potential_energy())
            except FAILURES as e:
                outcome.failures.append(str(e))
                new = np.inf
            accepted = _metropolis(rng, new - energy, temperature)
            if accepted:
                current, energy = trial, new
        if move <= settings.interval:
            step = float(np.clip(step * (1.12 if accepted else 0.93), 0.02, 2.0))
        elif move % settings.interval == 0:
            outcome.frames.append(_finish(current, energy, temperature=float(temperature)))
    return outcome


def basin_hopping(
    start: Atoms,
    calculator: Calculator,
    rng: np.random.Generator,
    temperature: float,
    settings: SamplingSettings,
) -> Outcome:
    """Minima visited by rigid-body moves, each relaxed; ``chain`` of them.

    Half of the moves take a molecule off and dock it anew, half shift one by an Å or so. A proton
    moves with the molecule that it was transferred to. Relaxations that fail, or after which the
    cluster has fallen apart, are passed over; there is nothing if that is so of the first one.

    References
    ----------
    D. J. Wales, J. P. K. Doye, J. Phys. Chem. A 101, 5111 (1997).
    """
    current = relaxed(start, calculator, settings)
    if not is_one_cluster(current):
        return Outcome(fell_apart=1)
    energy = float(current.get_potential_energy())
    outcome = Outcome([_finish(current, energy)])
    for _ in range(settings.chain - 1):
        trial = None
        for _ in range(50):
            moved = rigid_move(current, rng, *((1.0, 1.5) if rng.random() < 0.5 else (3.0, 3.0)))
            if _allowed(moved, current):
                trial = moved
                break
        if trial is None:
            break
        try:
            trial = relaxed(trial, calculator, settings)
            new = float(trial.get_potential_energy())
        except FAILURES as e:
            outcome.failures.append(str(e))
            continue
        if not is_one_cluster(trial):
            continue
        outcome.frames.append(_finish(trial, new))
        if _metropolis(rng, new - energy, temperature):
            current, energy = trial, new
    return outcome


def dynamics(
    start: Atoms,
    calculator: Calculator,
    rng: np.random.Generator,
    temperature: float,
    settings: SamplingSettings,
) -> Outcome:
    """Snapshots of Langevin dynamics from the relaxed start, until a molecule leaves.

    Or until a calculation fails.
    """
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    atoms = relaxed(start, calculator, settings)
    if not is_one_cluster(atoms):
        return Outcome(fell_apart=1)
    for key in ("relaxed", "fmax"):  # of the start alone
        del atoms.info[key]
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    run = Langevin(
        atoms,
        settings.time_step * units.fs,
        temperature_K=temperature,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=rng,
    )
    steps = max(1, round(settings.snapshot_time / settings.time_step))
    outcome = Outcome()
    for _ in range(settings.chain):
        try:
            run.run(steps)
            energy = float(atoms.get_potential_energy())
        except FAILURES as e:
            outcome.failures.append(str(e))
            break
        if not is_one_cluster(atoms):
            break
        assign_hydrogens(atoms)
        outcome.frames.append(_finish(atoms, energy, temperature=float(temperature)))
    return outcome


def packing(
    start: Atoms,
    calculator: Calculator,
    rng: np.random.Generator,
    temperature: float,
    settings: SamplingSettings,
) -> Outcome:
    """The start itself, relaxed if the settings say so; nothing if it falls apart."""
    atoms = start
    if settings.relax:
        atoms = relaxed(start, calculator, settings)
        if not is_one_cluster(atoms):
            return Outcome(fell_apart=1)
    else:
        atoms = start.copy()
        atoms.calc = calculator
    return Outcome([_finish(atoms, atoms.get_potential_energy())])
