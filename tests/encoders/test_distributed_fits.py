"""Voxelwise fits elsewhere: the same bytes as here, also when a worker is killed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroattn.encoders import RidgeEncoder
from neuroattn.encoders import voxel_blocks as module
from neuroattn.encoders.gram_ridge import ridge_cv, ridge_fit
from neuroattn.encoders.kernel_ridge import kernel_ridge_cv
from neuroattn.encoders.voxel_blocks import fitted_blocks
from neuroattn.encoders.weight_prior import WeightPrior
from neuroattn.errors import InputError
from neuroattn.tasks import use_workers
from tests.cluster import scaled, two_workers
from tests.encoders.small import small_features, small_responses

ALPHAS = torch.logspace(-1, 5, 7, dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(61, 23, generator=GENERATOR)
# The last block has one voxel: a product with one column takes another path.
Y = X @ torch.randn(23, 41, generator=GENERATOR) + torch.randn(61, 41, generator=GENERATOR)
FOLDS = torch.arange(61) % 3

Fit = Callable[[], tuple[torch.Tensor, ...]]


def gram() -> tuple[torch.Tensor, ...]:
    best, scores = ridge_cv(X, Y, ALPHAS, FOLDS, voxel_block=8)
    return best, scores, *ridge_fit(X, Y, best, voxel_block=8)


def kernel() -> tuple[torch.Tensor, ...]:
    return kernel_ridge_cv(X[:19], Y[:19].repeat(1, 2)[:, :64], ALPHAS, FOLDS[:19], voxel_block=2)


def posterior() -> tuple[torch.Tensor, ...]:
    prior = WeightPrior.spectral(X, 1.0, levels=3)
    found = prior.posterior(X, Y)
    return found.weights, found.type_probability, found.noise, found.log_evidence


def same(left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in pairs)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with two_workers() as address:
        yield address


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """Return a list that fills with where tasks ran and how many there were."""
    seen: list[tuple[Any, int]] = []
    original = module.run_tasks

    def spy(function: Any, tasks: Any, **where: Any) -> Any:
        seen.append((where["scheduler"] or where["jobs"], len(tasks)))
        return original(function, tasks, **where)

    monkeypatch.setattr(module, "run_tasks", spy)
    return seen


@pytest.mark.parametrize(
    ("fit", "blocks"),
    [(gram, [6, 6]), (kernel, [4]), (posterior, [6])],
    ids=["gram", "kernel", "posterior"],
)
def test_a_cluster_gives_the_same_bytes(
    fit: Fit,
    blocks: list[int],
    scheduler: str,
    sent: list[tuple[Any, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches blocks, layouts or threads that differ elsewhere, and a fit that is never sent."""
    monkeypatch.setattr("neuroattn.encoders.weight_prior.BLOCK_BYTES", 10_000)
    here = fit()
    del sent[:]
    with use_workers(scheduler=scheduler):
        elsewhere = fit()
    assert same(here, elsewhere)
    # himalaya's own batches are the same if what it is sent is cut between two of them.
    assert sent == [(scheduler, count) for count in blocks]


def test_processes_give_the_same_bytes(sent: list[tuple[Any, int]]) -> None:
    here = gram()
    del sent[:]
    with use_workers(jobs=2):
        assert same(here, gram())
    assert sent == [(2, 6), (2, 6)]


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_worker_takes_over_threads_and_layout(layout: str, threads: int, scheduler: str) -> None:
    """Catches bytes that depend on the worker's own number of threads, or on rows and columns."""
    draw = torch.Generator().manual_seed(1)
    factor = torch.randn(300, 700, generator=draw, dtype=torch.float64)
    factor = factor if layout == "rows" else factor.T.contiguous().T
    block = torch.randn(700, 150, generator=draw, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        here = dict_of(fitted_blocks(scaled, (factor, ""), [block], 60))
        with use_workers(scheduler=scheduler):
            elsewhere = dict_of(fitted_blocks(scaled, (factor, ""), [block], 60))
    finally:
        torch.set_num_threads(before)
    assert list(here) == [0, 60, 120]
    for start in here:
        assert same(here[start], elsewhere[start])
        assert set(elsewhere[start][1].tolist()) == {threads}


def dict_of(found: Iterator[tuple[slice, tuple[torch.Tensor, ...]]]) -> dict[int, Any]:
    return dict(sorted((block.start, tensors) for block, tensors in found))


def test_a_worker_killed_in_the_middle_changes_no_byte(scheduler: str, tmp_path: Path) -> None:
    """Catches a fit that fails, waits for ever or has a hole where a worker died."""
    factor, voxels = torch.eye(3) * 2, torch.arange(10.0).expand(3, 10).contiguous()
    marker = tmp_path / "died"
    with use_workers(scheduler=scheduler):
        found = dict_of(fitted_blocks(scaled, (factor, str(marker)), [voxels], 1))
    assert marker.exists()
    assert torch.equal(torch.cat([part[0] for part in found.values()], 1), 2 * voxels)


def test_blocks_cut_the_voxels_once_each() -> None:
    """Catches a lost last block, and blocks that overlap."""
    voxels = torch.arange(7.0)[None]
    for size in (1, 3, 7, 9):
        found = dict_of(fitted_blocks(scaled, (torch.eye(1), ""), [voxels], size))
        assert torch.equal(torch.cat([part[0] for part in found.values()], 1), voxels)
    with pytest.raises(InputError, match="voxel_block=0"):
        list(fitted_blocks(scaled, (torch.eye(1), ""), [voxels], 0))


@pytest.mark.parametrize("solver", ["gram", "himalaya"])
def test_a_ridge_encoder_fitted_elsewhere_is_saved_the_same(
    solver: str, scheduler: str, tmp_path: Path
) -> None:
    """Catches a scheduler's address that becomes part of a model, and other weights."""
    features = small_features()
    responses = small_responses(features, list(range(35)))
    RidgeEncoder(solver=solver).fit(features, responses).save(tmp_path / "here")
    with use_workers(scheduler=scheduler):
        RidgeEncoder(solver=solver).fit(features, responses).save(tmp_path / "there")
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert scheduler not in json.dumps(json.loads((tmp_path / "there" / "config.json").read_text()))


def test_blocks_of_any_size_agree_up_to_rounding() -> None:
    """Catches a block that is fitted with its neighbours' responses or means."""
    whole, cut = ridge_cv(X, Y, ALPHAS, FOLDS), ridge_cv(X, Y, ALPHAS, FOLDS, voxel_block=5)
    assert torch.equal(whole[0], cut[0])
    np.testing.assert_allclose(whole[1], cut[1], rtol=1e-10)
    left, right = ridge_fit(X, Y, whole[0]), ridge_fit(X, Y, whole[0], voxel_block=5)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_sent_arrives_in_its_layout_and_can_be_written() -> None:
    """Catches rows for columns, another dtype or shape, and memory that is not the receiver's."""
    rows = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    given = (rows, rows.T, rows[:0], [rows.double()[:, 1:]], torch.tensor(3), "word", 2)
    found = pickle.loads(pickle.dumps(module._Sent(given))).value
    assert [each.stride() for each in found[:2]] == [(3, 1), (1, 3)]
    assert found[2].shape == (0, 3)
    assert found[3][0].is_contiguous()
    assert found[5:] == ("word", 2)
    sent = [*given[:3], given[3][0], given[4]]
    for before, after in zip(sent, [*found[:3], found[3][0], found[4]], strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)
        assert after.data_ptr() % 64 == 0
        after += 1
