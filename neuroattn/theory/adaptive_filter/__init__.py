"""Attention as an adaptive filter: tokens are noisy measurements of one drifting state.

Racioppo takes each key and value for a measurement of a state that decays, turns and drifts by a
linear stochastic equation. A measurement that is carried over a lag has a variance in closed form,
and a query weighs all tokens by their precision there, times how well they fit.

The variance is what the stochastic equation gives, by simulation and through the mechanism, which
tells its variances when queries and keys are zero. Without dynamics, and for unit vectors, the
filter is softmax attention at twice the inverse variance. The robust filter becomes the Gaussian
one as its degrees of freedom grow, at a rate that we give, but only in Student's form: without the
factor of the degrees of freedom, as in the authors' code, the limit ignores the residuals.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"propagated_variance": "variance"})
