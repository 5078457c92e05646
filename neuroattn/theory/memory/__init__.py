"""Memory that learns at test time: Titans, Miras, and the regressions behind attention.

Titans writes every association into a memory by a step of gradient descent with momentum and
forgetting, and trains in parallel by taking all gradients of a chunk at its start. We find its
chunk in closed form, with the momentum that the chunk inherits; the edge beyond which a repeated
key is no longer learned, a step of 1 + eta; and that the parallel training is another mechanism,
whose edge is C times lower in chunks of C tokens. At a step of one half, without momentum and
forgetting, Titans is the delta rule.

Miras derives memories from a loss and a retention. Memora's update is the minimiser that it claims
to be, and so are elastic net retention and the robust loss. Two rules, as sources quote them, are
not what they are derived from (the seventh catch): Moneta's rescaling is no mirror map of a q-norm,
and Yaad's threshold makes the write jump, where a vector Huber loss is continuous. The registry has
both versions of both.

The bridge: linear attention is one gradient step of least squares from an empty memory, the delta
rule is stochastic gradient descent, the mesa layer solves ridge regression, and softmax fits a
constant around each query.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "decay_first": "reductions",
        "descent_error": "descent",
        "elastic_net_step": "elastic",
        "heavy_ball_edge": "heavy_ball",
        "heavy_ball_radius": "heavy_ball",
        "huber_jump": "surprise",
        "memora_gates": "simplex",
        "retention_gradient": "mirror_map",
        "robust_loss": "surprise",
        "titans_coefficients": "titans_chunk",
    },
)
