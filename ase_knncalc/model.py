"""The model: one equation, E(x) = E_base(x) + T(x) + K(x), and what is known of its error.

``T`` is the trend (:mod:`ase_knncalc.trend`), ``K`` the k-NN term (:mod:`ase_knncalc.knn`),
the error estimate comes from :mod:`ase_knncalc.uncertainty`. This module knows neither files nor
any particular baseline: a baseline is handed to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from ase import Atoms

from ase_knncalc._lib.arguments import finite_numbers, instance
from ase_knncalc._lib.arrays import AnyArray, FloatArray, IntArray
from ase_knncalc._lib.threads import one_blas_thread
from ase_knncalc.baselines import (
    Baseline,
    NoBaseline,
    SinglePoint,
    TBLiteBaseline,
    baseline_difference,
)
from ase_knncalc.descriptors import (
    Compressed,
    Descriptor,
    FeatureBatch,
    MovingRows,
    featurize,
    require_atoms,
    require_elements,
)
from ase_knncalc.errors import BaselineError, SettingsError
from ase_knncalc.heads import Gas, Heads, PropertyPrediction, properties_of, require_heads
from ase_knncalc.heads.dipole import Dipole, dipole_corrections, dipole_of
from ase_knncalc.heads.levels import level_correction
from ase_knncalc.info import HeldOutErrors, ModelInfo
from ase_knncalc.knn.metrics import Metric
from ase_knncalc.knn.term import KNNEstimate, KNNTerm
from ase_knncalc.prediction import Neighbor, Prediction, Predictions, neighbors_of
from ase_knncalc.structure import (
    check_structure,
    lowest_multiplicity,
    resolve_charge,
)
from ase_knncalc.trend.base import ForceVariance, Trend, TrendEstimate
from ase_knncalc.trend.sparse import SparseTrend
from ase_knncalc.uncertainty import Calibration, ForceCalibration, Signals

if TYPE_CHECKING:
    from ase_knncalc.analysis.explanation import Explanation


@dataclass(frozen=True)
class KNNModel:
    """A trained correction, ready to predict.

    Made by :func:`ase_knncalc.train`, read by :func:`ase_knncalc.load_model`.

    Attributes
    ----------
    descriptor : Descriptor
    trend : Trend
    metric : Metric
        Where structures lie.
    knn : KNNTerm
        Projected training structures with their residuals.
    names, compositions : ndarray of bytes, shape (n,)
        Of the training structures, UTF-8.
    calibration : Calibration
    info : ModelInfo
    baseline : Baseline or None
        Gives E_base; None leaves only the correction.
    force_calibration : ForceCalibration or None
        Of a model that was trained on forces.
    held_out : HeldOutErrors or None
        Of the training structures, in the order of ``names``; None in files of old.
    heads : Heads or None
        Properties beside the energy.
    """

    descriptor: Descriptor
    trend: Trend
    metric: Metric
    knn: KNNTerm
    names: AnyArray
    compositions: AnyArray
    calibration: Calibration
    info: ModelInfo
    baseline: Baseline | None = None
    force_calibration: ForceCalibration | None = None
    held_out: HeldOutErrors | None = None
    heads: Heads | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> KNNModel:
        # Nothing but the baseline (of an ASE calculator) has a state that changes, and workflows
        # copy calculators for each image of a path.
        return replace(self, baseline=deepcopy(self.baseline, memo))

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers the model covers, ascending."""
        return self.descriptor.elements

    def __len__(self) -> int:
        return len(self.knn)

    @property
    def smooth(self) -> bool:
        """Whether the energy is continuously differentiable, so that forces exist.

        But for three atoms exactly in line, where FCHL19 has a cusp: forces across the line jump.
        """
        parts = self.knn.settings.smooth, self.descriptor.differentiable, self.metric.differentiable
        return all(parts)

    @property
    def trained_on_forces(self) -> bool:
        """Whether forces took part in the training, so that slopes mean something."""
        return bool(self.info.provenance.trend.get("force_frames"))

    def with_baseline(self, baseline: Baseline | None, *, allow_other: bool = False) -> KNNModel:
        """The same model with a baseline attached; None takes it off.

        Raises
        ------
        SettingsError
            If it is no :class:`Baseline`, such as :func:`~ase_knncalc.baselines.make_baseline`
            makes from names and calculators.
        BaselineError
            If it is not the baseline that the model corrects, unless ``allow_other`` is set.
        """
        if baseline is not None:
            instance("baseline", baseline, Baseline)
        if baseline is not None and not allow_other:
            difference = baseline_difference(self.info.baseline, baseline)
            if difference:
                raise BaselineError(
                    f"the model corrects {difference}: use baseline='auto', or set "
                    "allow_other_baseline=True (--allow-other-baseline) if both give the same "
                    "energies"
                )
        return replace(self, baseline=baseline)

    def following(self) -> KNNModel:
        """The same for a trajectory: its baseline follows if it can, loops are numba's if there."""
        descriptor, trend = self.descriptor, self.trend
        if isinstance(descriptor, Compressed):
            descriptor = descriptor.compiled()
        if isinstance(trend, SparseTrend):
            trend = trend.compiled()
        baseline = self.baseline
        if isinstance(baseline, TBLiteBaseline):
            baseline = baseline.following()
        return replace(self, descriptor=descriptor, trend=trend, baseline=baseline)

    def append(self, data: Any, **options: Any) -> KNNModel:
        """The model with further labelled structures; metric and trend stay as they are.

        Arguments and errors as for :func:`ase_knncalc.training.append`, which also says what was
        added and how well it had been predicted.
        """
        from ase_knncalc.training import append

        return append(self, data, **options).model

    def check(
        self, atoms: Atoms, charge: int | None = None, multiplicity: int | None = None
    ) -> int:
        """Total charge of a structure, after making sure that the model covers it.

        Raises
        ------
        StructureError
            As for :meth:`state`.
        """
        return self.state(atoms, charge, multiplicity)[0]

    def state(
        self, atoms: Atoms, charge: int | None = None, multiplicity: int | None = None
    ) -> tuple[int, int]:
        """Total charge and multiplicity of a structure that the model covers.

        Raises
        ------
        StructureError
            NaN positions, overlapping atoms, periodic cell, elements never seen
            (:class:`UnknownElementError`), charges or multiplicities never seen or contradicting
            (:class:`ChargeError`), a formula that is no combination of those of the training
            (:class:`FormulaError`).
        """
        check_structure(atoms)
        require_elements(atoms.numbers, self.elements)
        total, spin = resolve_charge(atoms, charge, multiplicity)
        self.info.require_state(total, spin, lowest_multiplicity(atoms, total))
        if self.held_out is not None:  # None in files of old
            self.held_out.require_formula(atoms, total, self.elements, self._span)
        return total, spin

    @cached_property
    def _span(self) -> FloatArray:
        assert self.held_out is not None
        return self.held_out.span(self.info.provenance.trained_structures)

    @overload
    def predict(
        self,
        structures: Sequence[Atoms],
        *,
        charge: int | None = ...,
        multiplicity: int | None = ...,
        baseline_energy: float | Sequence[float] | FloatArray | None = ...,
        forces: bool = ...,
        forces_std: bool = ...,
    ) -> Predictions: ...

    @overload
    def predict(
        self,
        structures: Atoms,
        *,
        charge: int | None = ...,
        multiplicity: int | None = ...,
        baseline_energy: float | Sequence[float] | FloatArray | None = ...,
        forces: bool = ...,
        forces_std: bool = ...,
    ) -> Prediction: ...

    def predict(
        self,
        structures: Atoms | Sequence[Atoms],
        *,
        charge: int | None = None,
        multiplicity: int | None = None,
        baseline_energy: float | Sequence[float] | FloatArray | None = None,
        forces: bool = False,
        forces_std: bool = False,
    ) -> Prediction | Predictions:
        """Energy, its uncertainty and neighbours of one structure or several.

        Parameters
        ----------
        structures
            One ``Atoms``, or a sequence of them.
        charge, multiplicity
            Of every structure; by default each structure's own
            (:func:`ase_knncalc.structure.resolve_charge`).
        baseline_energy
            Baseline energy of each structure in eV where they are known already: they are not
            computed again. Where the model's baseline is ``"given"``, they are needed.
        forces
            Whether to add forces (needs a smooth k-NN term).
        forces_std
            Whether to add forces and their standard deviation (needs a model that was trained on
            forces).

        Returns
        -------
        Prediction or Predictions
            Of one ``Atoms``, or of a sequence.

        Raises
        ------
        StructureError
            If the model does not cover a structure (see :meth:`check`).
        BaselineError
            If the baseline fails for a structure.
        SettingsError
            If the model has no forces, or no standard deviation of them; or ``baseline_energy``
            is not one finite number for each structure, or not zero and the model has learned
            the reference itself.
        """
        one = isinstance(structures, Atoms)
        frames = [structures] if one else list(instance("structures", structures, Iterable))
        energies: Sequence[float | None] = [None] * len(frames)
        if baseline_energy is not None:
            energies = self.known_energies(len(frames), baseline_energy).tolist()
        single = [
            self.predict_one(atoms, charge, multiplicity, energy, forces, forces_std)
            for atoms, energy in zip(frames, energies, strict=True)
        ]
        return single[0] if one else Predictions.of(single, self.calibration)

    def known_energies(self, n: int, baseline_energy: Any) -> FloatArray:
        """Baseline energies that a caller has of n structures, in eV, shape (n,).

        Raises
        ------
        SettingsError
            If they are not one finite number for each structure, or not zero where the model was
            trained without a baseline.
        """
        energies: FloatArray = finite_numbers("baseline_energy", baseline_energy, n)
        if self.info.baseline == NoBaseline().spec() and energies.any():
            raise SettingsError(
                "baseline_energy: the model was trained without a baseline and predicts the "
                "reference energy itself; leave it out"
            )
        return energies

    def predict_one(
        self,
        atoms: Atoms,
        charge: int | None = None,
        multiplicity: int | None = None,
        baseline_energy: float | None = None,
        forces: bool = False,
        forces_std: bool = False,
        properties: Collection[str] = (),
        point: SinglePoint | None = None,
        **learned: Any,
    ) -> Prediction:
        """:meth:`predict` of one structure; ``properties`` are those of the baseline to add.

        Where ``point``, what the baseline gives, is known, it is not run. ``learned`` are ``level``
        and ``dipole`` of :meth:`correct`.
        """
        forces = forces or forces_std
        total, spin = self.state(atoms, charge, multiplicity)
        if point is None:
            point = SinglePoint(np.nan if baseline_energy is None else baseline_energy)
            if self.baseline is not None and (baseline_energy is None or forces or properties):
                wanted = {*properties, *(("forces",) if forces else ())}
                point = self.baseline.single_point(atoms, total, spin, wanted)
        if baseline_energy is None and self.baseline is not None:
            baseline_energy = point.energy
        correction = self.correct(
            atoms.numbers, atoms.positions, total, forces=forces, forces_std=forces_std, **learned
        )
        return replace(
            correction,
            baseline_energy=baseline_energy,
            baseline_forces=point.forces if forces else None,
            baseline_charges=point.charges,
            baseline_dipole=point.dipole,
        )

    def correct(
        self,
        numbers: IntArray,
        positions: FloatArray,
        charge: int,
        *,
        forces: bool = False,
        forces_std: bool = False,
        level: str | None = None,
        dipole: bool = False,
    ) -> Prediction:
        """Correction of one structure that is known to be covered; no baseline is run.

        It is described once, and its kernels are computed once, whatever is asked for.

        Parameters
        ----------
        numbers, positions, charge
            Shapes (n_atoms,) and (n_atoms, 3), Å; total charge.
        forces, forces_std
            Whether to add the negative gradient of the correction; and its standard deviation.
        level, dipole
            Level of theory beside the reference that the correction is to reach; whether to add
            what corrects the baseline's dipole.
        """
        numbers, positions = require_atoms(numbers, positions, self.elements)
        moving = None
        with one_blas_thread():
            if forces or forces_std:
                self._require_smooth()
                moving = self.descriptor.moving(numbers, positions)
            rows = self.descriptor.local(numbers, positions) if moving is None else moving.rows
            batch = FeatureBatch.of_one(self.descriptor, numbers, rows, charge)
            found = self._correct(batch, moving, forces_std)
            if level is not None:
                found = found.at_level(level_correction(level, self.heads, batch, moving))
            if dipole:
                (added,) = dipole_corrections(self.heads, batch, [positions])
                found = replace(found, dipole_correction=added)
        return found

    def _require_smooth(self) -> None:
        if not self.smooth:
            metric = "" if self.metric.differentiable else " and the kernel-induced distance"
            raise SettingsError(
                f"weights={self.knn.settings.weights!r} with {self.descriptor.kind}{metric} have "
                "no forces (1/d and rank weights jump where neighbours change); train with "
                "weights='kernel', fchl19 and a linear metric"
            )

    def _correct(self, batch: FeatureBatch, moving: MovingRows | None, std: bool) -> Prediction:
        """Of one structure, with forces where its rows can move."""
        terms = self._terms(batch, gradient=moving is not None)
        found = self._predictions(*terms)[0]
        if moving is None:
            return found
        slope, of_place = terms[0].gradient, terms[1][0].gradient
        assert slope is not None
        assert of_place is not None
        return replace(
            found,
            delta_forces=-moving.pull(slope + self.metric.pull(batch.numbers, of_place)),
            forces_std=self._forces_std(batch.numbers, moving) if std else None,
        )

    def _forces_std(self, numbers: IntArray, moving: MovingRows) -> FloatArray:
        """Standard deviation of each atom's force components, eV/Å, shape (n_atoms,)."""
        if self.force_calibration is None or not isinstance(self.trend, ForceVariance):
            raise SettingsError(
                "this model knows no error of its forces: it was trained on energies alone. Train "
                "with forces, or use a model that was, such as saw-wb97xd-md"
            )
        leverage = self.trend.force_leverage(np.asarray(numbers), moving)
        return self.force_calibration.std(np.asarray(numbers), leverage)

    def correct_features(self, batch: FeatureBatch) -> Predictions:
        """Corrections of structures whose descriptors are known."""
        return self._predictions(*self._terms(batch))

    def _predictions(
        self, trend: TrendEstimate, estimates: list[KNNEstimate], signals: Signals
    ) -> Predictions:
        knn = np.array([e.mean for e in estimates])
        return Predictions(
            delta=trend.energy + knn,
            trend=trend.energy,
            knn=knn,
            energy_std=self.calibration.std(signals),
            novelty=np.max(list(self._novelties(signals).values()), axis=0),
            neighbors=[self.describe(e) for e in estimates],
            calibration=self.calibration,
        )

    def novelties(self, batch: FeatureBatch) -> dict[str, FloatArray]:
        """What the novelty is the largest of, see :meth:`Calibration.novelties`.

        And ``"size"``: an atom alone has no environment, so that no distance tells how little
        molecules say of it.
        """
        return self._novelties(self._terms(batch)[2])

    def _novelties(self, signals: Signals) -> dict[str, FloatArray]:
        smallest = self.info.size_range[0]
        alone = (signals.n_atoms == 1) & (smallest > 1)
        size = np.where(alone, float(smallest), 0.0)
        return {**self.calibration.novelties(signals), "size": size}

    def _terms(
        self, batch: FeatureBatch, *, gradient: bool = False
    ) -> tuple[TrendEstimate, list[KNNEstimate], Signals]:
        """Both terms of the correction, and what they tell of its error."""
        estimates = self.knn.evaluate_many(self.metric.place(batch))
        trend = self.trend.evaluate(batch, gradient=gradient)
        signals = Signals.of(trend.leverage, estimates, batch.sizes, trend.remoteness)
        return trend, estimates, signals

    def predict_properties(
        self,
        atoms: Atoms,
        *,
        charge: int | None = None,
        multiplicity: int | None = None,
        **gas: Any,
    ) -> PropertyPrediction:
        """Properties of a structure beside its energy; no baseline is run.

        ``gas``, for thermochemistry of minima, has ``temperature`` (K, 200 to 400), ``pressure``
        (Pa), ``treatment`` of soft modes and ``symmetry`` number (:class:`~ase_knncalc.heads.Gas`).
        Errors are those of :meth:`check`, and :class:`SettingsError` where nothing was learned.
        """
        heads, conditions = require_heads(self.heads), Gas(**gas)
        total, spin = self.state(atoms, charge, multiplicity)
        with one_blas_thread():
            batch = featurize(self.descriptor, [(atoms.numbers, atoms.positions, total)])
            return properties_of(heads, batch, [(atoms, spin)], conditions)[0]

    def predict_dipole(
        self, atoms: Atoms, *, charge: int | None = None, multiplicity: int | None = None
    ) -> Dipole:
        """Dipole moment, the baseline's with a correction; errors as for :meth:`predict`."""
        total, spin = self.state(atoms, charge, multiplicity)
        return dipole_of(self.heads, self.descriptor, self.baseline, atoms, total, spin)

    def explain(
        self, atoms: Atoms, *, charge: int | None = None, multiplicity: int | None = None
    ) -> Explanation:
        """Neighbours, contributions of atoms, and what sets the distances.

        See :func:`ase_knncalc.analysis.explanation.explain`.
        """
        from ase_knncalc.analysis.explanation import explain

        return explain(self, atoms, charge=charge, multiplicity=multiplicity)

    def describe(self, estimate: KNNEstimate) -> list[Neighbor]:
        """Names and numbers of the neighbours in an estimate."""
        return neighbors_of(estimate, self.names, self.compositions, self.knn.residuals)
