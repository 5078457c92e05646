"""What the rank of an attention head can represent.

Amsel, Yehudai and Bruna ask for the nearest of N points on a sphere. One hard head of full rank
finds it for any N. Heads of low rank have to be mixed, and the paper shows that exponentially many
are needed as the dimension grows.

For two points everything about hard heads of rank one can be written down: how often two heads
agree, how often a head agrees with the target (the paper's plane, and here any dimension), and from
these two tables the least error of a mixture of given heads. The claims hold those formulas to
softmax attention at a scale at which it is an argmax. The error of H random heads falls as a slow
power of H even in the plane, and at a fixed H it climbs with the dimension towards 1/2, the error
of reading the mean of the two points. The catch: for two points and an error that is kept, here
1/4, the number of random heads grows as a power of the dimension, about 2.5, not exponentially.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "head_agreement": "hard_heads",
        "target_agreement": "hard_heads",
        "mixture_error": "mixture",
    },
)
