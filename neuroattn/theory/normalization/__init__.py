"""What the normaliser of attention does, and what it forbids.

Mudarisov and others ask what follows from weights that are positive and sum to one. With bounded
logits every weight stays within constant factors of 1/L, so that attention over a long context
cannot single out a token: we give the sharp constants, the entropy's exact deficit, and the length
scaling of the logits at which a token survives. Their gradient bound, as it is quoted, is refuted:
the spectral norm of the softmax's Jacobian reaches 1/(2T); 1/(4T) is its largest entry (catch 5 of
our list).

The same family holds what other normalisers do. Affine-scaled attention's rows sum to the gain's
average exactly when N counts the visible keys (catch 6), and hold negative weights. Softmax with
one more term in its denominator is softmax gated by its log-sum-exp. Rows of relu and sigmoid
attention sum to what the logits' law says, not to one. A gate on the read lifts its rank by
the rank of the gates, up to the width of the head.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "weight_bounds": "bounds",
        "entropy_deficit": "bounds",
        "surviving_weight": "bounds",
        "jacobian_norm": "jacobian",
        "expected_row_sum": "elementwise",
    },
)
