"""The simulation of a state space, against dense matrices and impulses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuroattn.errors import InputError
from neuroattn.theory.dynamics import StateSpace, kernel, simulate, state_space
from tests.tolerances import TOLERANCE


def system(diagonal: bool = False, mixed: bool = False) -> StateSpace:
    drawn = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=drawn)

    states = (3,) if diagonal else (3, 3)
    return StateSpace(
        "none",
        normal(2, 1, 7, 4),
        normal(2, 1, 7, 4, *states),
        normal(2, 1, 7, 1, 3),
        normal(2, 1, 7, 1, 3),
        normal(2, 1, 7, 4),
        normal(2, 1, 4, 3),
        mixing=normal(2, 1, 7, 4) if mixed else None,
    )


@pytest.mark.parametrize("diagonal", [True, False])
def test_simulation_is_the_recurrence_of_its_matrices_in_numpy(diagonal: bool) -> None:
    # A read before the write, or a skip or a first state that is dropped, would show.
    made = system(diagonal)
    read = simulate(made)
    for batch in range(2):
        for channel in range(4):
            state = made.initial[batch, 0, channel].numpy()
            for token in range(7):
                step = made.Lambda[batch, 0, token, channel].numpy()
                step = np.diag(step) if diagonal else step
                given = made.input[batch, 0, token, channel].item()
                state = step @ state + made.B[batch, 0, token, 0].numpy() * given
                wanted = made.C[batch, 0, token, 0].numpy() @ state
                wanted += made.D[batch, 0, token, channel].item() * given
                assert read[batch, 0, token, channel].item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("diagonal", [True, False])
def test_kernel_applied_to_the_input_is_the_simulation(diagonal: bool) -> None:
    # A product that begins at the token that is written would show.
    made = system(diagonal)
    silent = torch.zeros_like(made.input)
    rest = simulate(made) - simulate(made, silent)
    through = (kernel(made) @ made.input.transpose(2, 3)[..., None])[..., 0].transpose(2, 3)
    torch.testing.assert_close(through, rest, **TOLERANCE["float64"])


def test_mixed_channels_are_summed_with_their_weights() -> None:
    # Mixing along the states instead of the channels would show.
    made = system(mixed=True)
    first = made.initial
    first = (made.Lambda[:, :, 0] @ first[..., None])[..., 0]
    first = first + made.B[:, :, 0] * made.input[:, :, 0, :, None]
    assert made.mixing is not None
    wanted = torch.einsum("bhc,bhcn->bhn", made.mixing[:, :, 0], first)
    torch.testing.assert_close(simulate(made)[:, :, 0], wanted, **TOLERANCE["float64"])
    with pytest.raises(InputError, match="mixes channels"):
        kernel(made)


def test_sizes_and_eigenvalues_are_those_of_the_matrices() -> None:
    # A size that forgets the channels, or eigenvalues of the wrong axis, would show.
    made = system()
    assert (made.states, made.size, made.diagonal) == (3, 12, False)
    wanted = np.linalg.eigvals(made.Lambda[1, 0, 4, 2].numpy())
    found = made.eigenvalues()[1, 0, 4, 2].numpy()
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(wanted), rtol=1e-9)
    assert made.spectral_radius()[1, 0, 4, 2].item() == pytest.approx(abs(wanted).max())
    assert system(True).eigenvalues().is_complex()


def test_an_input_of_another_shape_is_refused() -> None:
    # A broadcast input would simulate something that nobody asked for.
    with pytest.raises(InputError, match=r"needed is \(2, 1, 7, 4\)"):
        simulate(system(), torch.zeros(1, 1, 7, 4, dtype=torch.float64))


def test_no_tokens_give_no_reads() -> None:
    # A stack of nothing would raise.
    empty = torch.zeros(1, 2, 0, 3, dtype=torch.float64)
    made = state_space("ssd", empty, empty, empty)
    assert simulate(made).shape == (1, 2, 0, 3)
    assert kernel(made).shape == (1, 2, 3, 0, 0)
