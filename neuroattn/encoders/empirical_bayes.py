"""The empirical-Bayes encoder: other subjects' voxels as a prior, a new voxel's by Bayes' rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.embedding import EmbeddingConfig
from neuroattn.encoders.prior_estimation import estimate_prior
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import Posterior, WeightPrior
from neuroattn.names import check_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EmpiricalBayesEncoder"]


class EmpiricalBayesEncoder(AdaptiveEncoder):
    """Linear encoders with a Gaussian prior that other subjects' voxels taught.

    ``fit`` estimates means and covariances of the weights over the embedding, of each functional
    type, and how often which type, amplitude and noise occur (:func:`estimate_prior`). ``adapt``
    writes each voxel's posterior mean in closed form: one factorisation for all voxels. On voxels
    drawn from the prior no encoder does better on average. Responses that average more or fewer
    presentations than those of the training have less or more noise, and are read so.

    Parameters
    ----------
    embedding : EmbeddingConfig or mapping, optional
        How the tokens of an image become one vector.
    types : int or "roi"
        Functional types: how many, or one for each ROI.
    iterations : int
        Most steps of the estimation.
    noise : {"average", "maximum"}
        Average over a voxel's noise and amplitude by their posterior, or take those at the
        maximum of its marginal likelihood.
    seed : int
        Of the first division into types.

    Attributes
    ----------
    prior_ : WeightPrior
        The estimated prior.
    types_ : tuple of str
        Names of its types: "1", "2", ... or the ROIs.
    objective_ : tuple of float
        Log evidence per response, voxels of the prior's regularisation included, before each step.
    noise_ : numpy.ndarray
        (voxel) float64, noise variance of the adapted voxels, in squared units of the responses;
        that of a response of ``repeats_`` presentations.
    type_probability_ : numpy.ndarray
        (voxel, type) float64, of the adapted voxels.
    repeats_ : float
        Mean number of presentations that a response of the training averages.
    """

    prior_: WeightPrior
    types_: tuple[str, ...]
    objective_: tuple[float, ...]
    noise_: NDArray[np.float64]
    type_probability_: NDArray[np.float64]
    repeats_: float

    def __init__(
        self,
        embedding: EmbeddingConfig | Mapping[str, Any] | None = None,
        types: int | str = 1,
        iterations: int = 30,
        noise: str = "average",
        seed: int = 0,
    ) -> None:
        self.embedding = embedding
        self.types = types
        self.iterations = iterations
        self.noise = noise
        self.seed = seed

    def _learn(self, sets: list[VoxelSet], validation: list[VoxelSet]) -> None:
        check_name("noise", self.noise, ("average", "maximum"))
        found = estimate_prior(sets, self.types, self.iterations, seed=self.seed)
        self.prior_, self.types_, self.objective_ = found.prior, found.types, found.objective
        self.repeats_ = found.repeats
        self.noise_ = np.zeros(0)
        self.type_probability_ = np.zeros((0, len(found.types)))

    def write(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoders of new voxels, see :meth:`AdaptiveEncoder.write`."""
        return _split(self._posterior(context))

    def _adapt_to(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = self._posterior(context)
        self.noise_ = posterior.noise.numpy()
        self.type_probability_ = posterior.type_probability.numpy()
        return _split(posterior)

    def _posterior(self, context: VoxelSet) -> Posterior:
        precision = None if context.repeats is None else context.repeats / self.repeats_
        return self.prior_.posterior(context.embedded, context.response, self.noise, precision)

    def _prior_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        own = {
            "voxel_noise": torch.from_numpy(self.noise_),
            "voxel_type_probability": torch.from_numpy(self.type_probability_),
        }
        plain = {
            "types": list(self.types_),
            "objective": list(self.objective_),
            "repeats": self.repeats_,
        }
        return {**self.prior_.tensors(), **own}, plain

    def _restore_prior(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        self.prior_ = WeightPrior.restored(tensors)
        self.types_, self.objective_ = tuple(state["types"]), tuple(state["objective"])
        self.repeats_ = float(state["repeats"])
        self.noise_ = tensors["voxel_noise"].numpy()
        self.type_probability_ = tensors["voxel_type_probability"].numpy()


def _split(posterior: Posterior) -> tuple[torch.Tensor, torch.Tensor]:
    return posterior.weights[:, :-1], posterior.weights[:, -1]
