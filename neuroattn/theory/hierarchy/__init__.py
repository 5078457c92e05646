"""Hierarchical attention: blocks whose pairs are tied, as close to softmax as they can be.

Amizadeh and others tie the weights that the tokens of one block give to those of another, and ask
for the tied attention of least Kullback-Leibler divergence from softmax attention. For one level of
blocks we give the weights and the divergence that is left in closed form. No feasible change of the
weights lowers it, single tokens or one block give back softmax, and averaging the softmax weights
of a pair of blocks, which looks the same, minimises the divergence the other way round.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"tied_divergence": "divergence"})
