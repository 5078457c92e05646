"""How many points of the binary cube two Hamming balls share, in exact integers.

Float64 loses digits from about 53 dimensions on; everything here is a Python integer.
"""

from __future__ import annotations

from functools import cache
from math import comb

from neuroattn.errors import InputError


def ball(dim: int, radius: int) -> int:
    """Return how many points of {0,1}^dim lie within ``radius`` of a point.

    Parameters
    ----------
    dim : int
        Number of bits, at least 1.
    radius : int
        Hamming distance, at least 0.

    Raises
    ------
    InputError
        If either is out of its range.
    """
    _check(dim, radius, 0)
    return sum(comb(dim, step) for step in range(min(dim, radius) + 1))


def intersection(dim: int, radius: int, distance: int) -> int:
    """Return how many points lie within ``radius`` of both of two points.

    The sum runs over how many of the ``distance`` bits that differ, and how many of the others,
    a point does not share with the first of the two.

    Parameters
    ----------
    dim : int
        Number of bits, at least 1.
    radius : int
        Hamming radius of both balls, at least 0.
    distance : int
        Hamming distance of the two centres, 0 to ``dim``.

    Raises
    ------
    InputError
        If one of them is out of its range.

    References
    ----------
    Kanerva (1988), Sparse distributed memory, appendix B.
    """
    _check(dim, radius, distance)
    total = 0
    for apart in range(min(radius, distance) + 1):
        most = min(radius - apart, radius - distance + apart, dim - distance)
        total += comb(distance, apart) * sum(comb(dim - distance, j) for j in range(most + 1))
    return total


def intersection_by_agreement(dim: int, radius: int, distance: int) -> int:
    """Return what :func:`intersection` does, summed over bits that agree.

    Parameters
    ----------
    dim, radius, distance : int
        As in :func:`intersection`.

    Raises
    ------
    InputError
        As :func:`intersection`.

    References
    ----------
    Bricken & Pehlevan (2021), Attention approximates sparse distributed memory, appendix B.1;
    arXiv 2111.05498.
    """
    _check(dim, radius, distance)
    total = 0
    for shared in range(max(0, dim - radius - distance // 2), dim - distance + 1):
        least = dim - radius - shared
        lowest, highest = max(0, least), min(distance, distance - least)
        count = sum(comb(distance, first) for first in range(lowest, highest + 1))
        total += comb(dim - distance, shared) * count
    return total


@cache
def circle_table(dim: int, radius: int) -> tuple[int, ...]:
    """Return :func:`intersection` at every distance 0 to ``dim``, through Kanerva's lune.

    Each odd step takes the points away that one more differing bit puts out of one ball; an even
    step takes none, so that the table is a staircase.

    Parameters
    ----------
    dim, radius : int
        As in :func:`intersection`.

    Raises
    ------
    InputError
        As :func:`intersection`.

    References
    ----------
    Kanerva (1988), Sparse distributed memory, appendix B.
    """
    table = [ball(dim, radius)]
    for distance in range(1, dim + 1):
        half = (distance - 1) // 2
        lune = 0
        if distance % 2 and radius >= half:
            lune = comb(distance - 1, half) * comb(dim - distance, radius - half)
        table.append(table[-1] - lune)
    return tuple(table)


def krawtchouk(dim: int, degree: int, place: int) -> int:
    """Return the Krawtchouk polynomial K_degree(place) of the cube of ``dim`` bits.

    Parameters
    ----------
    dim : int
        Number of bits, at least 0.
    degree, place : int
        ``place`` from 0 to ``dim``; a degree above ``dim`` gives 0.
    """
    return sum(
        (-1) ** j * comb(place, j) * comb(dim - place, degree - j)
        for j in range(min(place, degree) + 1)
    )


def spectrum(dim: int, radius: int) -> tuple[int, ...]:
    """Return the eigenvalues λ_w of the intersection as a kernel on the cube, w = 0 to ``dim``.

    ``2**dim * intersection(dim, radius, x) == sum(λ_w * krawtchouk(dim, w, x))``. All are squares:
    the kernel is positive semi-definite.

    Parameters
    ----------
    dim, radius : int
        As in :func:`intersection`.

    Raises
    ------
    InputError
        As :func:`intersection`.
    """
    rest = (krawtchouk(dim - 1, radius, weight - 1) ** 2 for weight in range(1, dim + 1))
    return (ball(dim, radius) ** 2, *rest)


def _check(dim: int, radius: int, distance: int) -> None:
    if dim < 1 or radius < 0 or not 0 <= distance <= dim:
        raise InputError(
            f"dim={dim}, radius={radius}, distance={distance}; needed are dim of at least 1, "
            "radius of at least 0 and distance from 0 to dim."
        )
