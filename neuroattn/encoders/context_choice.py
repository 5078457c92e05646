r"""Which images to show a new subject: at random, of one category, diverse, or most informative.

The greedy choice minimises what is left unknown. Under a prior with covariance :math:`C` of the
weights, and noise of variance :math:`s`, showing image :math:`j` with design row :math:`x_j` lowers
the sum over the pool of the posterior variances of the predictions by

.. math:: \frac{\|X C x_j\|^2}{s + x_j^T C x_j}, \qquad
          C \leftarrow C - \frac{C x_j x_j^T C}{s + x_j^T C x_j},

whatever the responses will be, so that the whole sequence can be chosen before the first scan.
Instead of :math:`C` a root :math:`B` of the covariance :math:`X C X^T = B B^T` of the pool's
predictions is kept, of min(pool, D) columns: with :math:`b` its row :math:`j`, the downdate is
:math:`B \leftarrow B (I - \gamma b b^T)` with
:math:`\gamma = (1 - \sqrt{s / (s + b^T b)}) / b^T b`. Variances never become negative in it, and
a step costs pool × min(pool, D).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr

from neuroattn.encoders.inputs import rows_of
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neuroattn.encoders.embedding import Embedding
    from neuroattn.encoders.weight_prior import WeightPrior

__all__ = ["CHOICES", "choose_context"]

CHOICES = ("random", "category", "diverse", "greedy")
#: The squared columns of the covariance are updated by differences; when the largest has fallen to
#: this share, they are computed anew, before rounding counts.
_REFRESH = 1e-3


def choose_context(
    features: xr.Dataset,
    pool: xr.Dataset | Iterable[str],
    count: int,
    how: str = "random",
    *,
    embedding: Embedding | None = None,
    labels: Mapping[str, str] | None = None,
    category: str | None = None,
    prior: WeightPrior | None = None,
    noise: float | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Choose the images that a new subject's encoders are written from.

    The first k of n chosen images are those that are chosen when k are asked for, and the order of
    the pool does not matter.

    Parameters
    ----------
    features : xarray.Dataset
        ``tokens (image, token, channel)`` of the pool; read for "diverse" and "greedy".
    pool : xarray.Dataset or iterable of str
        The candidates: ids, or responses whose images they are. Responses are not read.
    count : int
        How many, at least 1.
    how : {"random", "category", "diverse", "greedy"}
        "random": every image alike. "category": at random among the images of ``category``.
        "diverse": first the image nearest to the mean of the pool, then always that whose nearest
        chosen image is farthest, by Euclidean distance of embeddings. "greedy": always the image
        that lowers the mean posterior variance of the predictions over the pool most.
    embedding : Embedding, optional
        For "diverse" and "greedy": turns tokens into one vector.
    labels : mapping of str to str, optional
        For "category": image to category. Images without a label are not chosen.
    category : str, optional
        For "category": which.
    prior : WeightPrior, optional
        For "greedy": of the encoders' weights; its covariance over all types and amplitudes
        counts.
    noise : float, optional
        For "greedy": noise variance of one response, in the squared units of the prior (default:
        the prior's mean noise).
    seed : int
        Of "random" and "category"; the other two draw nothing.

    Returns
    -------
    tuple of str
        Different ids, in the order of choice.

    Raises
    ------
    InputError
        If more images are asked for than there are, something that this way of choosing needs is
        missing, or features of the pool hold NaN or infinity.
    UnknownNameError
        If ``how`` or ``category`` is unknown.
    MismatchError
        If an image has no features, or the prior is of another width than the embedding.

    References
    ----------
    Gonzalez (1985), Clustering to minimize the maximum intercluster distance, Theoretical Computer
    Science 38: farthest points. Cohn, Ghahramani, Jordan (1996), Active learning with statistical
    models, Journal of Artificial Intelligence Research 4: the mean posterior variance.
    """
    check_name("how", how, CHOICES)
    images = pool["image"].values if isinstance(pool, xr.Dataset) else list(pool)
    ids = np.unique(np.asarray(images, dtype=str))
    if how == "category":
        ids = _of_category(ids, labels, category)
    if not 1 <= count <= len(ids) or int(count) != count:
        among = f"the pool has {len(ids)} images" + (f" of {category!r}" * (how == "category"))
        raise InputError(f"count={count} must be a whole number, 1 to {len(ids)}: {among}.")
    count = int(count)
    if how in ("random", "category"):
        chosen = np.random.default_rng(seed).permutation(len(ids))[:count].tolist()
        return tuple(ids[chosen].tolist())
    if embedding is None:
        raise InputError(f"how={how!r} needs an embedding, such as encoder.embedding_.")
    vectors = embedding.transform(features, rows_of(features, ids)).double()
    broken = np.flatnonzero(~torch.isfinite(vectors).all(dim=1).numpy())
    if broken.size:
        raise InputError(
            f"the features of {broken.size} of {len(ids)} images of the pool hold NaN or infinity "
            f"(first: {str(ids[broken[0]])!r}). Extract them again, or leave these images out."
        )
    if how == "diverse":
        return tuple(ids[_farthest(vectors, count)].tolist())
    if prior is None:
        raise InputError("how='greedy' needs a prior, such as encoder.prior_ or WeightPrior.")
    level = float((prior.shares.sum((0, 1)) * prior.noise).sum()) if noise is None else noise
    if not 0 < level < np.inf:
        raise InputError(f"noise={level} must be positive and finite: it is a variance.")
    return tuple(ids[_informative(vectors, prior.covariance(), level, count)].tolist())


def _of_category(
    ids: NDArray[np.str_], labels: Mapping[str, str] | None, category: str | None
) -> NDArray[np.str_]:
    if labels is None or category is None:
        raise InputError(
            "how='category' needs labels (image to category) and a category; given are labels="
            f"{'None' if labels is None else 'a mapping'} and category={category!r}."
        )
    check_name("category", category, set(labels.values()))
    return ids[[labels.get(image) == category for image in ids.tolist()]]


def _farthest(vectors: torch.Tensor, count: int) -> list[int]:
    """Return rows by farthest-point traversal."""
    first = (vectors - vectors.mean(0)).square().sum(1).argmin()
    chosen = [int(first)]
    distance = torch.full((len(vectors),), torch.inf, dtype=vectors.dtype)
    while len(chosen) < count:
        own = (vectors - vectors[chosen[-1]]).square().sum(1)
        distance = torch.minimum(distance, own)
        # Copies of chosen images are as near as these are to themselves.
        distance[chosen[-1]] = -torch.inf
        chosen.append(int(distance.argmax()))
    return chosen


def _informative(
    vectors: torch.Tensor, covariance: torch.Tensor, noise: float, count: int
) -> list[int]:
    """Return rows in the order in which each lowers the mean posterior variance most."""
    design = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
    if len(covariance) != design.shape[1]:
        raise MismatchError(
            f"the prior is over {len(covariance) - 1} weights and an intercept, but the embedding "
            f"has {vectors.shape[1]} columns. Give the embedding that the prior was learned with."
        )
    values, axes = torch.linalg.eigh(covariance)
    root = design @ (axes * values.clamp(min=0).sqrt())
    if len(root) < root.shape[1]:
        root = torch.linalg.qr(root.T, mode="r")[1].T.contiguous()
    chosen: list[int] = []
    power, fresh = torch.zeros_like(root[:, 0]), torch.inf
    while len(chosen) < count:
        if power.max() <= _REFRESH * fresh:
            power = ((root @ (root.T @ root)) * root).sum(1)
            fresh = float(power.max())
        variance = root.square().sum(1)
        gain = power / (noise + variance)
        gain[chosen] = -torch.inf
        best = int(gain.argmax())
        chosen.append(best)
        row, own = root[best].clone(), float(variance[best])
        if own > 0:
            column, total = root @ row, noise + own
            power -= 2 / total * column * (root @ (root.T @ column))
            power += (column / total).square() * (column @ column)
            root.addr_(column, row, alpha=((noise / total) ** 0.5 - 1) / own)
    return chosen
