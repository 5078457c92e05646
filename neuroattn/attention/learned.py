"""What a mechanism learns: a module of the block that gives the mechanism its named tensors."""

from __future__ import annotations

from torch import Tensor, nn


class Learned(nn.Module):
    """Base of the modules that hold what a mechanism learns.

    A subclass takes ``(dim, heads, token_dim, **options)``: the width of queries and output,
    the number of heads, the channels of the tokens, and the mechanism's own options. The tensors
    that it returns are given to :func:`neuroattn.attention.attend` under their names.
    """

    def of_tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        """Return the named tensors that depend on the tokens (batch, tokens, token_dim)."""
        return {}

    def of_queries(self, queries: Tensor) -> dict[str, Tensor]:
        """Return the named tensors that depend on the queries (batch, queries, dim), or nothing."""
        return {}

    def observe(self, query: Tensor, key: Tensor) -> None:
        """Take note of projected queries and keys (batch, heads, tokens, width), in training only.

        For what is moved by averages instead of gradients. A read that is recomputed in the
        backward pass is observed again.
        """
