"""Which mechanisms have a state space, what its matrices are, and who is refused why."""

from __future__ import annotations

import pytest
import torch

from neuroattn.attention import attend, list_mechanisms, weights
from neuroattn.errors import InputError, UnknownNameError
from neuroattn.theory.dynamics import kernel, simulate, state_space, with_state_space
from tests.tolerances import TOLERANCE


def tokens(seed: int = 0, length: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    sizes = (4, 4, 3)
    query, key, value = (
        torch.randn(1, 2, length, size, dtype=torch.float64, generator=drawn) for size in sizes
    )
    return query, key, value


@pytest.mark.parametrize("name", sorted(set(with_state_space()) - {"hedgehog"}))
def test_defaults_are_those_of_the_mechanism(name: str) -> None:
    # Defaults that are copied instead of read from the registry would drift apart.
    made = state_space(name, *tokens())
    read = attend(name, *tokens(), causal=True)
    torch.testing.assert_close(simulate(made), read, **TOLERANCE["float64"])


@pytest.mark.parametrize("name", ["linear", "retention", "ssd", "delta", "gated_delta", "longhorn"])
def test_the_kernel_is_the_matrix_of_weights(name: str) -> None:
    # Matrices whose simulation is right by cancellation of errors with the values would show.
    query, key, value = tokens()
    found = kernel(state_space(name, query, key, value))
    wanted = weights(name, query, key, causal=True)
    torch.testing.assert_close(found, wanted[:, :, None].expand_as(found), **TOLERANCE["float64"])


def test_matrices_of_one_delta_token_are_written_out() -> None:
    # β on the wrong term, or a key that is not normalised, would show.
    key = torch.tensor([[[[3.0, 4.0]]]], dtype=torch.float64)
    made = state_space("delta", key, key, key, beta=0.5)
    wanted = torch.tensor([[1 - 0.18, -0.24], [-0.24, 1 - 0.32]], dtype=torch.float64)
    torch.testing.assert_close(made.Lambda[0, 0, 0, 0], wanted)
    torch.testing.assert_close(made.B[0, 0, 0, 0], torch.tensor([0.3, 0.4], dtype=torch.float64))
    torch.testing.assert_close(made.C[0, 0, 0, 0], key[0, 0, 0])
    assert not made.diagonal


def test_the_transition_of_equal_tokens_is_a_running_mean() -> None:
    # The inverse ratio of normalisers, or one token late, would show.
    ones = torch.ones(1, 1, 5, 1, dtype=torch.float64)
    made = state_space("linear", ones, ones, ones, feature_map="identity")
    wanted = torch.tensor([1, 1 / 2, 2 / 3, 3 / 4, 4 / 5], dtype=torch.float64)
    torch.testing.assert_close(made.Lambda.flatten(), wanted)


@pytest.mark.parametrize(
    ("name", "given", "states"),
    [
        ("linear", {"feature_map": "taylor", "order": 3}, 35),
        ("linear", {"center": True}, 5),
        ("sdm", {"radius": 1}, 16),
        ("titans", {}, 8),
        ("titans", {"gradient": "chunk start"}, 12),
        ("oja", {}, 3),
        ("neighborhood", {"window": 3, "dilation": 2}, 5),
    ],
)
def test_numbers_of_states(name: str, given: dict[str, object], states: int) -> None:
    # A state that is kept twice, or one that is missing, would show.
    assert state_space(name, *tokens(), **given).states == states


def test_every_mechanism_has_a_form_or_a_reason() -> None:
    # A mechanism that is forgotten would raise something else, or nothing.
    for name in set(list_mechanisms()) - set(with_state_space()):
        with pytest.raises(InputError, match=f"mechanism='{name}' has no finite linear"):
            state_space(name, *tokens())


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("softmax", {}, "exponentials of products"),
        ("yaad", {}, "other than linearly"),
        ("mega", {}, "moving_average"),
        ("efficient", {}, "no causal read"),
        ("hierarchical", {}, "no causal read"),
        ("routing", {}, "no causal read"),
        ("set_inducing", {}, "no causal read"),
        ("neural", {}, "scores of a small network"),
        ("adaptive_filter", {}, "variance that grows with their lag"),
        ("oja", {"target": "output"}, "third order"),
        ("linear", {"causal": False}, "causal=False must be True"),
        ("neighborhood", {"grid": (3, 3), "window": 3}, "one causal axis"),
        ("ssd", {"alpha": 2.0}, "alpha=2.0"),
    ],
)
def test_what_cannot_be_is_said(name: str, given: dict[str, object], why: str) -> None:
    # A wrong system in place of an error would go unnoticed.
    with pytest.raises(InputError, match=why):
        state_space(name, *tokens(), **given)


def test_nothing_that_is_given_is_ignored() -> None:
    # A mask or a state that is swallowed gives the system of another read, without a word.
    query, key, value = tokens()
    state = attend("delta", query, key, value, causal=True, return_state=True)[1]
    hides = torch.ones(1, 1, 1, query.shape[2], dtype=torch.bool)
    for name, given in {
        "mask": hides,
        "initial_state": state,
        "return_state": True,
        "explain": True,
        "form": "recurrent",
        "backend": "reference",
    }.items():
        for each in with_state_space():
            with pytest.raises(InputError, match=f"state_space does not take '{name}': "):
                state_space(each, query, key, value, **{name: given})
    with pytest.raises(UnknownNameError, match="no parameter 'betta'; did you mean 'beta'"):
        state_space("delta", query, key, value, betta=0.5)
    with pytest.raises(UnknownNameError, match="Allowed besides causal and scale: alpha, beta"):
        state_space("ssd", query, key, value, momentum=0.5)


def test_a_cube_too_large_and_unequal_tokens_are_refused() -> None:
    # 2^20 states, or a read without a token, would exhaust memory or misalign.
    wide = torch.randn(1, 1, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(InputError, match="2\\*\\*20 states"):
        state_space("sdm", wide, wide, wide)
    with pytest.raises(InputError, match="2 queries and 3 keys"):
        state_space("ssd", wide[:, :, :2], wide, wide)
    with pytest.raises(UnknownNameError, match="did you mean 'delta'"):
        state_space("dellta", wide, wide, wide)
