"""The covariance rule against loops, numpy's covariance, and the theory of crosstalk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.attention import attend
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]
FORMS = ["parallel", "chunked", "recurrent"]
EXAMPLES = {
    "covariance": [
        Example(label="default"),
        Example(
            lambda s, g: {"feature_map": "elu", "normalize": False, "chunk_size": 16},
            lengths=(1, 15, 16, 17, 65),
            label="elu",
        ),
        Example(lambda s, g: {"add_mean": False}, lengths=(2, 65), label="without-mean"),
        Example(lambda s, g: {"feature_map": "taylor"}, dim=2, lengths=(2, 9), label="taylor"),
        *(
            Example(lambda s, g, n=name: {"feature_map": n}, lengths=(2, 9), label=name)
            for name in ("relu", "sigmoid", "softmax")
        ),
    ]
}


def tensors(queries, keys, dim=3, value_dim=2, batch=2, heads=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (queries, dim), (keys, dim), (keys, value_dim)
    return [
        torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)
        for shape in shapes
    ]


def by_loops(query, key, value, causal, mask, normalize, add_mean, scale=1.0):
    """Read one query after the other from what it sees."""
    queries, keys = query.shape[2], key.shape[2]
    read = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for i in range(queries):
                last = i + keys - queries if causal else keys - 1
                seen = [j for j in range(last + 1) if mask is None or mask[b, 0, 0, j]]
                if not seen:
                    continue
                told = sum(key[b, h, j] for j in seen) / len(seen)
                mean = sum(value[b, h, j] for j in seen) / len(seen)
                for j in seen:
                    match = (scale * query[b, h, i] - told) @ (key[b, h, j] - told)
                    step = match * (value[b, h, j] - mean)
                    read[b, h, i] += step / len(seen) if normalize else step
                read[b, h, i] += mean if add_mean else 0.0
    return read


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("add_mean", [False, True])
def test_all_forms_equal_the_definition_by_loops(causal, normalize, add_mean):
    # Catches means at the time of writing, means of hidden keys, and a query that is not centred.
    mask = torch.rand(2, 1, 1, 9, generator=torch.Generator().manual_seed(7)) > 0.4
    mask[0, ..., :2] = False
    for queries in (9, 4):
        query, key, value = tensors(queries, 9)
        for hidden, scale in ((None, None), (mask, 0.4)):
            wanted = by_loops(query, key, value, causal, hidden, normalize, add_mean, scale or 1.0)
            for form in FORMS:
                read = attend(
                    "covariance",
                    query,
                    key,
                    value,
                    causal=causal,
                    mask=hidden,
                    scale=scale,
                    form=form,
                    normalize=normalize,
                    add_mean=add_mean,
                    chunk_size=4,
                )
                torch.testing.assert_close(read, wanted, **EXACT)


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_state_is_the_covariance_of_numpy(form, causal):
    # Catches the old mean on both sides of Welford's update.
    query, key, value = tensors(20, 20)
    _, state = attend(
        "covariance", query, key, value, causal=causal, form=form, return_state=True, chunk_size=8
    )
    joined = np.concatenate([key[1, 0].numpy(), value[1, 0].numpy()], axis=1)
    whole = np.cov(joined.T, bias=True)[:3, 3:]
    np.testing.assert_allclose(state["memory"][1, 0].numpy() / 20, whole, rtol=1e-10)
    np.testing.assert_allclose(state["key_mean"][1, 0].numpy(), joined[:, :3].mean(0), rtol=1e-10)
    np.testing.assert_allclose(state["value_mean"][1, 0].numpy(), joined[:, 3:].mean(0), rtol=1e-10)
    assert (state["count"] == 20).all()


def test_a_positive_map_destroys_the_capacity_and_centring_restores_it():
    # Catches a query that is not centred: the crosstalk of N keys of elu + 1 is then (N - 1)/d, at
    # N = 128 and d = 256 .4961, where a raw memory has 59.6.
    dim, number, spread = 256, 128, 1.965987 - 1.160521**2
    generator = torch.Generator().manual_seed(0)
    key = torch.randn(60, 1, number, dim, generator=generator, dtype=torch.float64)
    value = torch.randn(60, 1, number, 64, generator=generator, dtype=torch.float64)
    value /= value.norm(dim=-1, keepdim=True)
    read = attend("covariance", key, key, value, feature_map="elu", normalize=False, add_mean=False)
    error = (read / (dim * spread) - value).square().sum(-1).mean()
    # The items' own loudness varies by (E(φ - mean)⁴/var² - 1)/d, about .004 at this dim.
    assert float(error) == pytest.approx((number - 1) / dim, rel=0.04)


@pytest.mark.parametrize("form", FORMS)
def test_a_shift_of_all_keys_queries_or_values_changes_nothing_else(form):
    # Catches a mean of tokens that are filled with zeros.
    query, key, value = tensors(9, 9)
    mask = torch.tensor([True, True, False] * 3)[None, None, None]
    ways = {"causal": True, "form": form, "mask": mask, "chunk_size": 4}
    plain = attend("covariance", query, key, value, **ways)
    moved = attend("covariance", query + 5, key + 5, value, **ways)
    torch.testing.assert_close(moved, plain, **EXACT)
    torch.testing.assert_close(
        attend("covariance", query, key, value + 5, **ways), plain + 5, **EXACT
    )


@pytest.mark.parametrize("form", ["chunked", "recurrent"])
@pytest.mark.parametrize("causal", [False, True])
def test_far_from_zero_the_blocks_keep_their_digits(form, causal):
    # Catches Σkv minus the product of means: float32 keeps nothing of it here.
    query, key, value = tensors(90, 90)
    exact = attend("covariance", query, key, value, causal=causal, add_mean=False)
    far = [(each + 1024).float() for each in (query, key, value)]
    read = attend("covariance", *far, causal=causal, form=form, add_mean=False, chunk_size=16)
    assert (read - exact).abs().max() < 5e-3


@pytest.mark.parametrize("causal", [False, True])
def test_linear_with_center_reads_the_same_memory(causal):
    # Catches a mean that one of the two takes otherwise: what differs is the query's centring.
    query, key, value = tensors(8, 8)
    told = key.cumsum(2) / torch.arange(1, 9)[:, None] if causal else key.mean(2, keepdim=True)
    common = {"causal": causal, "feature_map": "identity", "normalize": False}
    centred = attend("covariance", query, key, value, add_mean=False, **common)
    linear = attend("linear", query - told, key, value, center=True, **common)
    torch.testing.assert_close(centred, linear, **EXACT)
