"""Attention as a marginal probability: the expected value over a latent edge.

The paper reads a query's weights as the posterior over which key it is joined to, and the read as
the expected value over that edge. Priors add to the logits, and a mask is a prior of zero.

The claim enumerates a discrete model, every observation and every edge, and finds the attention
matrix as its posterior. One thing has to be added: a key's likelihood has a normaliser, which grows
with the key. Softmax attention without a prior is therefore the posterior under a prior that is not
uniform, but favours loud keys.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"edge_posterior": "posterior"})
