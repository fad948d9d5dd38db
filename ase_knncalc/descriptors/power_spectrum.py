"""The power spectrum of each atom's neighbour density, with a two-body part beside it.

    c_qlm(i) = Σ_j g_n(r_ij) Y_lm(r̂_ij)        q = (element of j, n)
    row(i)   = [ Σ_j h_n(r_ij) by element ;  Σ_m c_qlm c_q'lm / √(2l + 1) for q ≤ q', each l ]

Radial functions are Gaussians in ln r: sharp for bonds, broad for contacts, as errors of a baseline
are. They fade with a power of the distance and end smoothly at the cutoff.

References
----------
A. P. Bartók, R. Kondor, G. Csányi, Phys. Rev. B 87, 184115 (2013): the power spectrum (SOAP).
M. J. Willatt, F. Musil, M. Ceriotti, Phys. Chem. Chem. Phys. 20, 29661 (2018): radial scaling.
A. S. Christensen et al., J. Chem. Phys. 152, 044107 (2020): log-normal radial functions (FCHL19).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import ClassVar

import numpy as np
from ase.data import chemical_symbols

from ase_knncalc._lib.arrays import FloatArray, IntArray, runs
from ase_knncalc.descriptors.base import DescriptorSettings, Functions, Parameter, require_atoms
from ase_knncalc.descriptors.harmonics import Harmonics
from ase_knncalc.descriptors.moving import Derivatives, pull_pairs


@dataclass(frozen=True)
class PowerSpectrum(DescriptorSettings):
    """Two-body histograms and the power spectrum of the neighbour density.

    Parameters
    ----------
    elements
        Atomic numbers the descriptor distinguishes, in ascending order.
    rcut, pair_rcut
        Cutoff of the power spectrum and of the two-body part, Å.
    n_radial, n_pair
        Radial functions of the power spectrum and of the two-body part, for each element.
    l_max
        Highest degree of the spherical harmonics.
    r_min
        Centre of the first radial function, Å.
    width
        Width of the radial functions in units of their spacing in ln r.
    decay
        Exponent of the power law by which neighbours fade.
    """

    kind: ClassVar[str] = "power-spectrum"
    differentiable: ClassVar[bool] = True
    by_element: ClassVar[bool] = False

    rcut: Parameter = 5.0
    pair_rcut: Parameter = 6.0
    n_radial: Functions = 6
    n_pair: Functions = 16
    l_max: Functions = 3
    r_min: Parameter = 0.8
    width: Parameter = 1.5
    decay: Parameter = 2.0

    @property
    def n_channels(self) -> int:
        """Radial functions of all elements."""
        return len(self.elements) * self.n_radial

    @property
    def n_features(self) -> int:
        """Length of one atom's row."""
        q = self.n_channels
        return len(self.elements) * self.n_pair + (self.l_max + 1) * q * (q + 1) // 2

    def blocks(self) -> dict[str, slice]:
        """The two-body part by the other atom's element, then the power spectrum by degree."""
        lengths = {f"pairs with {chemical_symbols[z]}": self.n_pair for z in self.elements}
        triples = self.n_channels * (self.n_channels + 1) // 2
        lengths |= {f"triples, degree {degree}": triples for degree in range(self.l_max + 1)}
        stops = np.cumsum(list(lengths.values())).tolist()
        return {
            name: slice(stop - length, stop)
            for (name, length), stop in zip(lengths.items(), stops, strict=True)
        }

    def local(self, numbers: IntArray, positions: FloatArray) -> FloatArray:
        """Rows of all atoms, shape (n_atoms, n_features).

        Parameters
        ----------
        numbers
            Atomic numbers, shape (n_atoms,).
        positions
            Cartesian coordinates in Å, shape (n_atoms, 3).

        Raises
        ------
        StructureError, UnknownElementError
            See :func:`require_atoms`.
        """
        return self.moving(numbers, positions).rows

    def moving(self, numbers: IntArray, positions: FloatArray) -> Expansion:
        """Rows as from :meth:`local`, and what moves them."""
        return Expansion(self, *require_atoms(numbers, positions, self.elements))

    def together(self, numbers: IntArray, positions: FloatArray, starts: IntArray) -> FloatArray:
        """Rows of several structures, see :meth:`DescriptorSettings.together`."""
        return Expansion(self, *require_atoms(numbers, positions, self.elements), starts).rows

    def features_of(self, places: IntArray) -> IntArray:
        """Which numbers of a row neighbours of some elements (by their places, ascending) make."""
        channels = (places[:, None] * self.n_radial + np.arange(self.n_radial)).ravel()
        first, second = np.triu_indices(len(channels))
        own = self.entries[1].reshape(self.n_channels, -1)[channels[first], channels[second]]
        pairs = (places[:, None] * self.n_pair + np.arange(self.n_pair)).ravel()
        return np.concatenate([pairs, *(part.start + own for _, part, _ in self.degrees)])

    @cached_property
    def entries(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Entries of a row, one for each two channels q ≤ q'.

        Returns
        -------
        places : ndarray of int, shape (n_entries,)
            q · n_channels + q' of each entry.
        of_places : ndarray of int, shape (n_channels²,)
            The entry of each two channels in any order.
        factors : ndarray, shape (n_entries,)
            But for the degree. Entries off the diagonal stand for two, so that products of rows
            are those of all entries.
        """
        q = self.n_channels
        first, second = np.triu_indices(q)
        square = np.zeros((q, q), dtype=np.intp)
        square[first, second] = square[second, first] = np.arange(len(first))
        factors = np.where(first == second, 1.0, np.sqrt(2.0))
        return first * q + second, square.ravel(), factors

    @cached_property
    def degrees(self) -> list[tuple[slice, slice, float]]:
        """Of each degree: its harmonics, its part of a row, and its factor."""
        q = self.n_channels
        length, start = q * (q + 1) // 2, len(self.elements) * self.n_pair
        return [
            (
                slice(degree**2, (degree + 1) ** 2),
                slice(start + degree * length, start + (degree + 1) * length),
                (2 * degree + 1) ** -0.5,
            )
            for degree in range(self.l_max + 1)
        ]

    def symmetric(self, slopes: FloatArray) -> list[FloatArray]:
        """Slopes (…, n_features) by the products c_q c_q' of each degree, (…, q, q)."""
        q = self.n_channels
        _, of_places, factors = self.entries
        return [
            (slopes[..., part] * (weight / factors).astype(slopes.dtype))
            .take(of_places, axis=-1)
            .reshape(*slopes.shape[:-1], q, q)
            for _, part, weight in self.degrees
        ]

    def by_products(self, maps: FloatArray) -> list[FloatArray]:
        """:meth:`symmetric` of projections (n_components, n_features), components last."""
        q = self.n_channels
        return [
            np.ascontiguousarray(np.moveaxis(part, 0, -1)).reshape(q, -1)
            for part in self.symmetric(maps)
        ]


class _Radial:
    """Radial functions of pairs, shape (n_pairs, n), and their slopes when asked for."""

    def __init__(self, settings: PowerSpectrum, distances: FloatArray, n: int, cutoff: float):
        self._r = r = distances[:, None]
        self._cutoff, self._decay = cutoff, settings.decay
        centers, self._width = radial_centers(settings.r_min, settings.width, n, cutoff)
        self._offset = (np.log(r) - centers) / self._width
        self._angle = np.pi * np.minimum(r / cutoff, 1.0)
        self._power = np.where(r < cutoff, r**-self._decay, 0.0)
        self._fade = self._power * (0.5 + 0.5 * np.cos(self._angle))
        self._gauss = np.exp(-0.5 * self._offset**2)
        self.values = self._gauss * self._fade

    @cached_property
    def slopes(self) -> FloatArray:
        """Derivatives by the distance."""
        r, fade = self._r, self._fade
        of_fade = self._power * (-0.5 * np.pi / self._cutoff) * np.sin(self._angle)
        of_fade -= fade * self._decay / r
        return np.asarray(self._gauss * (of_fade - self._offset * (fade / (self._width * r))))


@cache
def radial_centers(r_min: float, width: float, n: int, cutoff: float) -> tuple[FloatArray, float]:
    """Centres of the n Gaussians in ln r, and their width."""
    centers = np.linspace(np.log(r_min), np.log(cutoff), n + 1)[:n]
    return centers, float(width * (np.log(cutoff) - np.log(r_min)) / n)


class Expansion:
    """Coefficients of the neighbour densities of one structure or several, and the rows they make.

    Structure ``s`` has the atoms ``starts[s]:starts[s + 1]``, one structure all of them.

    Attributes
    ----------
    settings : PowerSpectrum
    centers, neighbors : ndarray of int, shape (n_pairs,)
        Ordered by center and by the element of the neighbour.
    owners : ndarray of int, shape (n_pairs,)
        The density that a pair adds to: center · n_elements + place of the neighbour's element.
    coefficients : ndarray, shape (n_atoms, n_channels, n_harmonics)
    pairs : ndarray, shape (n_atoms, n_elements · n_pair)
        The two-body part of the rows.
    """

    def __init__(
        self,
        settings: PowerSpectrum,
        numbers: IntArray,
        positions: FloatArray,
        starts: IntArray | None = None,
    ) -> None:
        self.settings = settings
        n, n_elements = len(numbers), len(settings.elements)
        kinds = np.searchsorted(settings.elements, numbers)
        first, second = _pairs_within(kinds, starts)
        vectors = positions[second] - positions[first]
        distances = np.sqrt(np.einsum("pc,pc->p", vectors, vectors))
        near = np.flatnonzero(distances < max(settings.rcut, settings.pair_rcut))
        self.centers, self.neighbors = first[near], second[near]
        self._distances = distances[near]
        self._directions = vectors[near] / self._distances[:, None]
        self.owners = owner = self.centers * n_elements + kinds[self.neighbors]
        self._starts = begins = runs(owner)
        self._radial = _Radial(settings, self._distances, settings.n_radial, settings.rcut)
        self._two_body = _Radial(settings, self._distances, settings.n_pair, settings.pair_rcut)
        self._angular = Harmonics(self._directions, settings.l_max)
        harmonics = (settings.l_max + 1) ** 2
        densities = np.zeros((n * n_elements, settings.n_radial * harmonics))
        pairs = np.zeros((n * n_elements, settings.n_pair))
        if len(owner):
            outer = self._radial.values[:, :, None] * self._angular.values[:, None, :]
            densities[owner[begins]] = np.add.reduceat(outer.reshape(len(owner), -1), begins)
            pairs[owner[begins]] = np.add.reduceat(self._two_body.values, begins)
        self.coefficients = densities.reshape(n, settings.n_channels, harmonics)
        self.pairs = pairs.reshape(n, -1)

    @cached_property
    def segments(self) -> list[tuple[int, int, slice]]:
        """Consecutive pairs of one center and one element: center, place of the element, where."""
        n, starts = len(self.settings.elements), self._starts.tolist()
        owners = self.owners[self._starts].tolist()
        return [
            (owner // n, owner % n, slice(a, b))
            for owner, (a, b) in zip(owners, pairwise([*starts, len(self.owners)]), strict=True)
        ]

    @cached_property
    def rows(self) -> FloatArray:
        """Rows of the atoms, shape (n_atoms, n_features)."""
        places, _, factors = self.settings.entries
        n = len(self.pairs)
        out = np.empty((n, self.settings.n_features))
        out[:, : self.pairs.shape[1]] = self.pairs
        for harmonics, part, weight in self.settings.degrees:
            c = self.coefficients[:, :, harmonics]
            products = (c @ c.transpose(0, 2, 1)).reshape(n, -1)
            np.multiply(products.take(places, axis=1), weight * factors, out=out[:, part])
        return out

    def pull(self, slopes: FloatArray) -> FloatArray:
        """Gradient of Σ slopes · rows by the positions, 1/Å, shape (n_atoms, 3)."""
        s = self.settings
        by_coefficient = np.empty_like(self.coefficients)
        for (harmonics, _, _), matrix in zip(s.degrees, s.symmetric(slopes), strict=True):
            by_coefficient[:, :, harmonics] = 2.0 * matrix @ self.coefficients[:, :, harmonics]
        of_pair = by_coefficient.reshape(-1, s.n_radial, by_coefficient.shape[2])[self.owners]
        of_two = slopes[:, : self.pairs.shape[1]].reshape(-1, s.n_pair)[self.owners]
        value, slope = self._radial.values, self._radial.slopes
        angular, turn = self._angular.values, self._angular.derivatives
        along = np.einsum("pn,pn->p", of_two, self._two_body.slopes)
        along += np.einsum("pn,pn->p", np.einsum("pnm,pm->pn", of_pair, angular), slope)
        across = np.einsum("pnm,pn->pm", of_pair, value)
        turned = self._across(np.einsum("pm,pmc->pc", across, turn))
        parts = along[:, None] * self._directions + turned
        return pull_pairs(self.centers, self.neighbors, parts, len(slopes))

    def along(self, displacements: FloatArray) -> FloatArray:
        """Changes of the rows along displacements (k, n_atoms, 3), (k, n_atoms, n_features)."""
        s, k = self.settings, len(displacements)
        places, _, factors = s.entries
        changes = np.zeros((k, *self.coefficients.shape))
        out = np.zeros((k, len(self.pairs), s.n_features))
        densities, pairs = self.pair_slopes()
        relative = displacements[:, self.neighbors] - displacements[:, self.centers]
        for center, element, part in self.segments:
            channels = slice(element * s.n_radial, (element + 1) * s.n_radial)
            two = slice(element * s.n_pair, (element + 1) * s.n_pair)
            moved = relative[:, part].reshape(k, -1)
            of_densities = densities[part].reshape(moved.shape[1], -1)
            changes[:, center, channels] = (moved @ of_densities).reshape(k, s.n_radial, -1)
            out[:, center, two] = moved @ pairs[part].reshape(moved.shape[1], -1)
        for harmonics, part, weight in s.degrees:
            half = changes[..., harmonics] @ self.coefficients[:, :, harmonics].swapaxes(-1, -2)
            both = (half + half.swapaxes(-1, -2)).reshape(*half.shape[:2], -1)
            np.multiply(np.take(both, places, axis=-1), weight * factors, out=out[..., part])
        return out

    def _across(self, turn: FloatArray) -> FloatArray:
        """Derivatives by directions (p, …, 3) as derivatives by the neighbour's position."""
        shape = (-1, *(1,) * (turn.ndim - 2), 3)
        u = self._directions.reshape(shape)
        along = np.einsum("p...c,p...c->p...", turn, np.broadcast_to(u, turn.shape))
        return np.asarray((turn - along[..., None] * u) / self._distances.reshape((*shape[:-1], 1)))

    def pair_slopes(self, dtype: str = "float64") -> tuple[FloatArray, FloatArray]:
        """Derivatives of what one pair adds, by the position of its neighbour.

        Returns
        -------
        densities : ndarray, shape (n_pairs, 3, n_radial · n_harmonics)
        pairs : ndarray, shape (n_pairs, 3, n_pair)
        """
        n = len(self.centers)
        value, slope, of_pairs, angular, along, across = (
            part.astype(dtype)
            for part in (
                self._radial.values,
                self._radial.slopes,
                self._two_body.slopes,
                self._angular.values,
                self._directions[:, :, None],
                self._across(self._angular.derivatives).transpose(0, 2, 1),
            )
        )
        densities = slope[:, None, :, None] * (along * angular[:, None, :])[:, :, None, :]
        densities += value[:, None, :, None] * across[:, :, None, :]
        width = value.shape[1] * angular.shape[1]
        return densities.reshape(n, 3, width), along * of_pairs[:, None, :]

    def derivatives(self, dtype: str = "float64") -> Derivatives:
        """All derivatives of the rows."""
        whole = np.eye(self.settings.n_features, dtype=dtype)[None]
        which = np.zeros(len(self.pairs), dtype=np.intp)
        return self.projected(whole, [self.settings.by_products(whole[0])], which)

    def projected(
        self, maps: FloatArray, products: Sequence[Sequence[FloatArray]], which: IntArray
    ) -> Derivatives:
        """Derivatives of projected rows, without making those of the rows.

        Parameters
        ----------
        maps
            Projections, shape (n_maps, n_components, n_features); the result has their precision.
        products
            :meth:`PowerSpectrum.by_products` of each of them.
        which
            The map of each atom, shape (n_atoms,).
        """
        s = self.settings
        n, rank = len(which), maps.shape[1]
        q, harmonics = self.coefficients.shape[1:]
        by_coefficient = np.empty((n, q, harmonics, rank), dtype=maps.dtype)
        for one in np.unique(which):
            atoms = np.flatnonzero(which == one)
            for (own, _, _), matrix in zip(s.degrees, products[one], strict=True):
                c = 2.0 * self.coefficients[atoms, :, own].transpose(0, 2, 1)
                moved = c.reshape(-1, q).astype(maps.dtype) @ matrix
                by_coefficient[atoms, :, own] = moved.reshape(len(atoms), -1, q, rank).transpose(
                    0, 2, 1, 3
                )
        densities, pairs = self.pair_slopes(maps.dtype.name)
        values = np.empty((len(self.centers), 3, rank), dtype=maps.dtype)
        for center, element, part in self.segments:
            channels = slice(element * s.n_radial, (element + 1) * s.n_radial)
            two = slice(element * s.n_pair, (element + 1) * s.n_pair)
            out = values[part].reshape(-1, rank)
            np.matmul(
                densities[part].reshape(len(out), -1),
                by_coefficient[center, channels].reshape(-1, rank),
                out=out,
            )
            out += pairs[part].reshape(len(out), -1) @ maps[which[center]][:, two].T
        return Derivatives(self.centers, self.neighbors, values)


# Atoms of structures whose pairs are kept: steps of a trajectory and conformers share them.
_KEPT_ATOMS = 128


def _pairs_within(kinds: IntArray, starts: IntArray | None) -> tuple[IntArray, IntArray]:
    """Ordered pairs of two atoms of one structure, by the first, then the second's kind."""
    if starts is None:
        return _pairs_of(kinds)
    found = [_pairs_of(kinds[a:b]) for a, b in pairwise(starts.tolist())]
    shifts = np.repeat(starts[:-1], [len(first) for first, _ in found])
    first, second = (np.concatenate(column) + shifts for column in zip(*found, strict=True))
    return first, second


def _pairs_of(kinds: IntArray) -> tuple[IntArray, IntArray]:
    find = _ordered_pairs if len(kinds) <= _KEPT_ATOMS else _ordered_pairs.__wrapped__
    return find(kinds.tobytes())


@lru_cache(maxsize=64)
def _ordered_pairs(kinds: bytes) -> tuple[IntArray, IntArray]:
    of = np.frombuffer(kinds, dtype=np.intp)
    n = len(of)
    first, second = np.repeat(np.arange(n), n), np.tile(np.argsort(of, kind="stable"), n)
    apart = first != second
    return first[apart], second[apart]
