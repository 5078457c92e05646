"""Mixture-of-heads attention against the published equations, head by head."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import MultiheadAttention, attend, weights
from neuroattn.attention.softmax.mixture_of_heads import balance_loss, head_gates
from neuroattn.errors import InputError
from tests.attention.contract import Example
from tests.tolerances import TOLERANCE

EXACT = TOLERANCE["float64"]


def two_groups(sizes, generator):
    shape = (sizes["batch"], 2, sizes["queries"])
    balance = torch.randn(shape, generator=generator, dtype=torch.float64)
    return {"shared": 1, "top": 1, "balance": balance}


def all_heads(sizes, generator):
    return {"top": 2}


EXAMPLES = {
    "mixture_of_heads": [
        Example(heads_apart=False, label="half"),
        Example(two_groups, lengths=(1, 2, 65), heads_apart=False, label="shared"),
        Example(all_heads, lengths=(1, 2, 65), heads_apart=False, label="all"),
    ]
}


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def three(heads, queries=4):
    return drawn(2, heads, queries, 4), drawn(2, heads, 7, 4, seed=1), drawn(2, heads, 7, 3, seed=2)


def by_equations(router, balance, shared, top):
    """Return the gates of one query (heads,) from its logits."""
    always, routed = router[:shared].exp(), router[shared:].exp()
    chosen = sorted(range(len(routed)), key=lambda head: -float(routed[head]))[:top]
    gates = [shared * x / always.sum() for x in always]
    total = sum(routed[head] for head in chosen)
    gates += [
        top * routed[head] / total if head in chosen else torch.zeros(()).double()
        for head in range(len(routed))
    ]
    if shared and balance is not None:
        first, second = 2 * balance.exp() / balance.exp().sum()
        gates = [(first if head < shared else second) * x for head, x in enumerate(gates)]
    return torch.stack(gates)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
@pytest.mark.parametrize(("shared", "top"), [(0, 1), (0, 5), (1, 2), (2, 3), (4, 1)])
@pytest.mark.parametrize("balanced", [False, True])
def test_gates_equal_the_equations(backend, shared, top, balanced):
    # Catches a softmax over shared and routed heads at once, gates that are not renormalised over
    # those chosen, and balance weights exchanged.
    inputs, router = three(5), drawn(2, 5, 4, seed=3)
    balance = drawn(2, 2, 4, seed=4) if balanced else None
    ways = {"router": router, "balance": balance, "shared": shared, "top": top}
    read = attend("mixture_of_heads", *inputs, causal=True, backend=backend, **ways)
    plain = attend("softmax", *inputs, causal=True)
    for image in range(2):
        for query in range(4):
            pair = None if balance is None else balance[image, :, query]
            gates = by_equations(router[image, :, query], pair, shared, top)
            wanted = gates[:, None] * plain[image, :, query]
            torch.testing.assert_close(read[image, :, query], wanted, **EXACT)
    sums = weights("mixture_of_heads", *inputs[:2], **ways).sum(-1)
    gates = head_gates(router, 5, shared, top, balance)
    torch.testing.assert_close(sums, gates, **EXACT)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_all_heads_and_a_constant_router_are_softmax(backend):
    # Catches gates that sum to 1, which would shrink the output with the number of heads.
    inputs, plain = three(4), attend("softmax", *three(4))
    constant = torch.full((1, 1, 1), 0.3).double()
    read = attend("mixture_of_heads", *inputs, router=constant, top=4, backend=backend)
    torch.testing.assert_close(read, plain, **EXACT)
    even = torch.zeros(1, 2, 1).double()
    both = attend(
        "mixture_of_heads", *inputs, router=constant, shared=1, top=3, balance=even, backend=backend
    )
    torch.testing.assert_close(both, plain, **EXACT)


@pytest.mark.parametrize(("shared", "top"), [(0, 1), (0, 3), (2, 2), (1, None)])
def test_exactly_top_heads_count_and_they_are_the_likeliest(shared, top):
    # Catches a threshold that lets ties pass together, and a choice among the shared heads.
    count = (6 - shared + 1) // 2 if top is None else top
    for router in (drawn(3, 6, 8), torch.zeros(3, 6, 8).double()):
        gates = head_gates(router, 6, shared, top)
        assert (gates[:, :shared] > 0).all()
        on = gates[:, shared:] > 0
        assert (on.sum(dim=1) == count).all()
        routed = router[:, shared:]
        least = routed.masked_fill(~on, torch.inf).amin(dim=1)
        most = routed.masked_fill(on, -torch.inf).amax(dim=1)
        assert (least >= most).all()
        totals = torch.full((3, 8), float(shared + count), dtype=torch.float64)
        torch.testing.assert_close(gates.sum(dim=1), totals, **EXACT)


def test_the_auxiliary_loss_is_least_when_all_heads_are_used_alike():
    # Catches a loss that leaves out which heads were chosen, or whose gradient does not reach the
    # router, or that counts shared heads.
    even = torch.zeros(4, 6, 6).double()
    for query in range(6):
        even[:, query, query] = even[:, (query + 1) % 6, query] = 1e-6
    torch.testing.assert_close(
        balance_loss(even, top=2), torch.tensor(2.0).double(), rtol=1e-5, atol=0
    )
    router = drawn(4, 6, 50, seed=1)
    probability = router[:, 1:].softmax(dim=1)
    wanted = torch.zeros(()).double()
    for head in range(5):
        rank = (probability > probability[:, head : head + 1]).sum(dim=1)
        wanted += (rank < 2).double().mean() * probability[:, head].mean()
    found = balance_loss(router.requires_grad_(), shared=1, top=2)
    torch.testing.assert_close(found, wanted / 5 * 25, **EXACT)
    collapsed = torch.zeros(4, 6, 50).double()
    collapsed[:, 0] = 5
    assert float(balance_loss(collapsed, top=2)) > float(found.detach()) > 2
    slope = torch.autograd.grad(found, router)[0]
    assert (slope[:, 0] == 0).all()
    assert slope[:, 1:].abs().min() > 0


@pytest.mark.parametrize("shared", [0, 2])
def test_the_gradient_reaches_the_router_of_the_block(shared):
    # Catches a choice that detaches the gates, and a balance that is made without shared heads.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = MultiheadAttention(12, 6, 5, "mixture_of_heads", {"shared": shared, "top": 2})
    block = block.double()
    tokens, queries, target = drawn(4, 9, 5), drawn(1, 7, 12), drawn(4, 7, 12, seed=3)
    assert (block.learned.balance is not None) == bool(shared)
    optimiser = torch.optim.SGD(block.parameters(), lr=0.02)
    losses = []
    for _ in range(3):
        loss = (block(queries, block.project(tokens)) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad.abs().max() > 0 for p in block.learned.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]
    sums = block.maps(queries, block.project(tokens)).sum(-1)
    assert ((sums > 0).sum(dim=1) == shared + 2).all()


def test_more_heads_than_there_are_cannot_be_chosen():
    # Catches a message of topk about a dimension that nobody knows.
    for shared, top in ((0, 4), (1, 3), (3, None)):
        with pytest.raises(InputError, match=f"shared={shared} and top={top} of heads=3"):
            attend("mixture_of_heads", *three(3), router=drawn(2, 3, 4), shared=shared, top=top)
    with pytest.raises(InputError, match="top=0; allowed: an integer at least 1"):
        attend("mixture_of_heads", *three(3), router=drawn(2, 3, 4), top=0)
