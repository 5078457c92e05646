"""In-context linear regression by a layer of softmax attention.

A layer of softmax attention sees examples (x, y) of a linear function and predicts the label of a
new x. He et al. (2025) train it and find a pattern: each head compares covariates by ω times the
identity and writes μ times the label, both signs of ω occur, and the μ sum to zero; so the heads
together make one step of *debiased* gradient descent, with covariates less their mean.

The paper argues with a loss that is right in high dimension. Here the risks are exact: those of
gradient descent in closed form, that of any number of softmax heads by quadrature. They confirm the
pattern and sharpen the rest: the approximate loss is low by exactly 1/(L + d(1 + σ²)) for two
opposite heads; plain gradient descent with its own best step is always a little better than
debiased, so that what two heads beat is one softmax head; and in short contexts the best heads are
not small. The published curves add the noise floor twice (the fourth catch): their two heads stand
at .341, of which .1 is noise that the label held already.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "approximate_loss": "approximation",
        "approximate_optimum": "approximation",
        "bayes_limit": "risks",
        "bayes_risk": "risks",
        "debiased_gd_risk": "risks",
        "debiasing_constant": "exact",
        "gd_limit": "risks",
        "gd_risk": "risks",
        "optimal_preconditioner": "risks",
        "optimal_step": "risks",
        "preconditioned_risk": "risks",
        "softmax_risk": "exact",
    },
)
