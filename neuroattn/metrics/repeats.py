"""Which presentations show the same image, and how to deal them into halves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from neuroattn.errors import InputError, MismatchError
from neuroattn.metrics.moments import Float64


def groups(
    argument: str, labels: npt.ArrayLike, rows: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return each presentation's group index and each group's size.

    Raises
    ------
    MismatchError
        If there is not one label a presentation.
    """
    labels = np.asarray(labels)
    if labels.shape != (rows,):
        raise MismatchError(
            f"{argument} has shape {labels.shape}, betas has {rows} presentations; "
            f"allowed is one label a presentation, ({rows},)."
        )
    _, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return group, sizes


def repeated(sizes: npt.NDArray[np.intp], repeats: int | None) -> npt.NDArray[np.bool_]:
    """Say which images are shown twice or more, or exactly ``repeats`` times.

    Raises
    ------
    InputError
        If none is, or ``repeats`` is under 2.
    """
    if repeats is not None and repeats < 2:
        raise InputError(f"repeats={repeats}; allowed is 2 or more, or None for all repeated.")
    used = sizes >= 2 if repeats is None else sizes == repeats
    if not used.any():
        wanted = "twice or more" if repeats is None else f"exactly {repeats} times"
        raise InputError(
            f"images: none is shown {wanted} (most often shown: {sizes.max(initial=0)} times); a "
            "ceiling from repeats needs repeats, else see leave_one_subject_out_ceiling."
        )
    return used


def halves(
    group: npt.NDArray[np.intp],
    sizes: npt.NDArray[np.intp],
    used: npt.NDArray[np.bool_],
    generator: np.random.Generator,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Return two matrices (image, presentation) that average disjoint random halves."""
    order = np.lexsort((generator.random(len(group)), group))
    starts = np.cumsum(sizes) - sizes
    sorted_group = group[order]
    rank = np.arange(len(group)) - starts[sorted_group]
    half = sizes // 2
    row = np.cumsum(used) - 1
    matrices = []
    for part in (0, 1):
        size = half[sorted_group]
        chosen = used[sorted_group] & (rank >= part * size) & (rank < (part + 1) * size)
        of_image = sorted_group[chosen]
        entries = (1.0 / half[of_image], (row[of_image], order[chosen]))
        matrices.append(sparse.csr_array(entries, shape=(int(used.sum()), len(group))))
    return matrices[0], matrices[1]


def variance_within(values: Float64, sizes: npt.NDArray[np.intp]) -> Float64:
    """Return the variance within images (ddof 1), weighted by degrees of freedom.

    Parameters
    ----------
    values : float64 array (presentation, voxel)
        Sorted by image.
    sizes : int array (image,)
        Number of rows of each image.

    Returns
    -------
    float64 array (voxel,)
        An image with a NaN is left out for that voxel; NaN where none is left.
    """
    bounds = np.cumsum(sizes) - sizes
    squares = np.empty((len(sizes), values.shape[1]))
    for count in np.unique(sizes):
        alike = sizes == count
        rows = bounds[alike, None] + np.arange(count)
        block = values[rows.ravel()].reshape(*rows.shape, values.shape[1])
        # The first presentation goes first, so that a large mean costs no digits.
        block -= block[:, :1].copy()
        block -= block.mean(axis=1, keepdims=True)
        squares[alike] = np.einsum("irv,irv->iv", block, block)
    whole = np.isfinite(squares)
    freedom = whole.T @ (sizes - 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(whole, squares, 0.0).sum(axis=0) / freedom)
