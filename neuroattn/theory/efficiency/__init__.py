"""The same read at less cost: which savings are exact, and what the others give up.

Some mechanisms are softmax attention in another order: blocks with a running maximum (Rabe and
Staats), landmarks whose logit is their block's log-sum-exp, a window as wide as the sequence.
Others give something up, and it can be counted. Efficient attention keeps rows that sum to one but
has at most the rank of its channels, so that the tail of softmax attention's spectrum bounds its
error from below. A landmark that is the mean of its block's keys gives a far block less than its
share by at least a factor of the block's size. Hedgehog's distillation cannot fall below the
entropy of the attention that it imitates. Mega's laplace function meets the square of relu in value
and slope.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, {"low_rank_error": "low_rank", "window_counts": "exact"}
)
