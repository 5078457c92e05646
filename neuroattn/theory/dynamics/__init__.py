"""Attention as a dynamical system.

Sieber, Amo Alonso, Didier, Zeilinger & Orvieto (2024) write attention, state-space models and
recurrent networks in one form, h_i = Λ_i h_(i-1) + B_i u_i and y_i = C_i h_i + D_i u_i, and compare
them by their matrices. `state_space` returns these matrices for every registered mechanism that
has them, and `simulate` runs them: that the simulation is the mechanism is a claim, for each.

What we found. The paper's rows hold exactly, also the normaliser as a ratio Λ_i = η_(i-1)/η_i,
linear attention as SSD and S6 with a scalar A, and the reversed sigmoid. The framework's diagonal Λ
leaves the delta rules out; a full matrix takes them in, with Titans at twice the states. Sparse
distributed memory is linear attention, and so has a row as well. Of the three differences between
linear attention and SSD one is none: that B is tied to Δ is undone by scaling the keys.

Two catches. Eigenvalues of single steps mislead: those of normalised attention exceed 1 although
the read is an average, and Titans' steps, each stable by itself, diverge when orthogonal keys are
written in turn (the edge falls from 1 + η to 1 - η). And softmax's state is infinite only because
it reads all keys: over a window it is a shift register; without one, the rank of the weights from
the past to the future grows as the tokens do.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Equivalence": "equivalence",
        "StateSpace": "space",
        "equivalences": "equivalence",
        "exponential_rank": "finite_state",
        "kernel": "space",
        "momentum_edge": "momentum",
        "moving_average": "sliding",
        "quasi_lstm": "sliding",
        "simulate": "space",
        "state_size": "finite_state",
        "state_space": "systems",
        "taylor_bound": "taylor",
        "taylor_error": "taylor",
        "taylor_features": "taylor",
        "with_state_space": "systems",
    },
)
