"""What stacked layers can do that one cannot, and what one layer's idle head does.

Following a chain of associations needs depth: a layer reads one association for each token. If all
tokens read, and not only the last, the distance doubles with every layer, and L layers of hard
heads follow 2^L - 1 steps. The same task trained from scratch shows the other side: one layer
learns one step and stays near chance at two, where two layers succeed.

An idle softmax head has to put its weight somewhere. Guo and others' bigram-backcopy task makes a
head that is needed after trigger tokens only; trained here, it parks its weight on the first token,
whose value it drains. Relu weights solve the same task with a weak sink or none: they may read
nothing, though what they still read when idle is mostly the first token.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"reachable_hops": "hops"})
