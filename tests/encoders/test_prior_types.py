"""First types of the voxels: clusters of their weights, or their ROIs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.encoders.evidence import Reduced
from neuroattn.encoders.prior_types import Assignment, assign
from neuroattn.encoders.voxel_set import VoxelSet
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError
from tests.encoders.drawn_voxels import normal, subject, with_rois

WIDTH = 4


def broad() -> WeightPrior:
    one = torch.ones(1)
    return WeightPrior(
        torch.zeros(1, WIDTH + 1), torch.eye(WIDTH + 1)[None], one, one, one[None, None]
    )


def first_types(sets: list[VoxelSet], types: int | str, seed: int = 0) -> Assignment:
    reduced = [Reduced.of(one.embedded, one.response) for one in sets]
    return assign(sets, reduced, broad(), types, seed)


def two_kinds() -> tuple[list[VoxelSet], list[torch.Tensor]]:
    means = torch.zeros(2, WIDTH + 1)
    means[0, 0], means[1, 2] = 4, 4
    factors = 0.3 * torch.eye(WIDTH + 1).repeat(2, 1, 1)
    prior = WeightPrior(means, factors, [1.0], [0.5], torch.tensor([[[0.7]], [[0.3]]]))
    pairs = [subject(prior, normal(30, WIDTH, seed=s), 50 + s, s) for s in range(2)]
    return [one for one, _ in pairs], [truth.type for _, truth in pairs]


def test_clusters_of_the_weights_are_the_kinds_of_voxels():
    # Catches labels that are dealt back to the wrong subject.
    sets, truth = two_kinds()
    found = first_types(sets, 2)
    assert found.names == ("1", "2")
    labels = [one.exp().argmax(0) for one in found.log_weights]
    assert [len(one) for one in labels] == [50, 51]
    same = torch.cat(labels) == torch.cat(truth)
    assert same.all() or not same.any()
    again = first_types(sets, 2)
    for one, other in zip(found.log_weights, again.log_weights, strict=True):
        assert torch.equal(one, other)


def test_voxels_without_signal_do_not_make_a_cluster_of_their_own():
    # Catches directions that all count alike: most voxels of a brain are noise here.
    sets, truth = two_kinds()
    silent = [0.05 * normal(30, 300, seed=7 + s) for s in range(2)]
    noisy = [
        VoxelSet(one.images, one.embedded, torch.cat([one.response, rest], 1), one.voxels)
        for one, rest in zip(sets, silent, strict=True)
    ]
    labels = [one.exp().argmax(0)[:50] for one in first_types(noisy, 2).log_weights]
    same = torch.cat(labels) == torch.cat([one[:50] for one in truth])
    assert same.all() or not same.any()


def test_one_type_holds_every_voxel():
    found = first_types(two_kinds()[0], 1)
    assert found.names == ("1",)
    assert all((one == 0).all() for one in found.log_weights)


def test_rois_are_shared_evenly_and_voxels_of_none_have_a_type():
    # Catches an overlap that counts twice, and ROIs matched by position instead of by name.
    one, other = two_kinds()[0]
    first, second = np.arange(50) < 20, (np.arange(50) >= 15) & (np.arange(50) < 30)
    third, empty = np.ones(51, dtype=bool), np.zeros(51, dtype=bool)
    found = first_types(
        [with_rois(one, A=first, B=second), with_rois(other, C=empty, B=third)], "roi"
    )
    assert found.names == ("A", "B", "no ROI")
    shares = [part.exp() for part in found.log_weights]
    expected = torch.zeros(3, 50).double()
    expected[0, :15], expected[:2, 15:20], expected[1, 20:30], expected[2, 30:] = 1, 0.5, 1, 1
    torch.testing.assert_close(shares[0], expected)
    torch.testing.assert_close(shares[1], torch.tensor([[0.0], [1], [0]]).double().repeat(1, 51))


def test_rois_that_cover_every_voxel_make_no_further_type():
    one = two_kinds()[0][0]
    half = np.arange(50) < 20
    assert first_types([with_rois(one, A=half, B=~half)], "roi").names == ("A", "B")


@pytest.mark.parametrize("types", [0, 102, 1.5, True, "rois"])
def test_types_that_are_no_number_of_voxels_are_refused(types):
    with pytest.raises(InputError, match="for 101 voxels"):
        first_types(two_kinds()[0], types)


def test_types_by_roi_without_rois_are_refused():
    one, other = two_kinds()[0]
    full = with_rois(one, A=np.ones(50, dtype=bool))
    with pytest.raises(InputError, match="response set 1 has no ROI"):
        first_types([full, other], "roi")
    with pytest.raises(InputError, match="response set 0 has no ROI"):
        first_types([with_rois(one, A=np.zeros(50, dtype=bool))], "roi")
