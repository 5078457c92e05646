"""Sets, contexts and three kinds of adaptive encoders that their tests share."""

from __future__ import annotations

from typing import Any

import torch

from neuroattn.encoders.adaptive import AdaptiveEncoder
from neuroattn.encoders.empirical_bayes import EmpiricalBayesEncoder
from neuroattn.encoders.group_average import GroupAverageEncoder
from neuroattn.errors import InputError
from tests.encoders.small import small_features, small_responses

FEATURES = small_features(images=60)
SETS = [
    small_responses(FEATURES, [*range(15), *range(5)], seed=3),
    small_responses(FEATURES, list(range(10, 30)), seed=4),
]
#: Images 2 and 3 of the context are shown again.
NEW = small_responses(FEATURES, [30, 33, 31, 33, 38, 31, 36], seed=5)
OTHER = small_responses(FEATURES, [40, 41, 42, 43], seed=6).isel(voxel=[1, 4])
TEST = small_responses(FEATURES, [50, 51, 52, 50, 53], seed=7)
PCA3 = {"view": "pca", "components": 3}


class Writer(AdaptiveEncoder):
    """Keeps the sets; writes covariances with the embedding, and means, times what it learned."""

    def __init__(self, embedding: Any = None, factor: float = 1.0) -> None:
        self.embedding = embedding
        self.factor = factor

    def _learn(self, sets, validation):
        if self.factor < 0:
            raise InputError("factor is negative")
        self.sets_, self.validation_ = sets, validation
        self.learned_ = torch.tensor(self.factor) * len(sets)

    def write(self, context):
        weights = context.response.T @ context.embedded / len(context.images)
        return self.learned_ * weights, context.response.mean(0)

    def _prior_state(self):
        return {"weights": self.learned_[None]}, {"sets": 2}

    def _restore_prior(self, tensors, state):
        self.learned_ = tensors["weights"][0]


KINDS = {
    "writer": Writer,
    "empirical Bayes": lambda **more: EmpiricalBayesEncoder(iterations=2, types=2, **more),
    "group average": lambda **more: GroupAverageEncoder(folds=3, **more),
}


def fitted(kind: Any = Writer, **parameters: Any) -> Any:
    return kind(**parameters).fit(FEATURES, SETS)
