"""Attention as Pavlovian conditioning: keys are conditional stimuli, values unconditional ones.

Qiao (2025) reads linear attention as a memory that a Hebbian rule writes while the context is
read: a key is a conditional stimulus, its value the unconditional stimulus that came with it, and
a query the stimulus of the test. From this follow a capacity theorem, a trade of depth against
width and heads, and predictions from classical conditioning: one-step error correction (the delta
rule) is the model of Rescorla and Wagner, decay is the fading of a stimulus trace.

The versions of the paper disagree about the capacity, O(sqrt(d)) in the first and O(d) in the
later ones. Both orders are right, for different questions: if values are independent of the keys,
1 + d/SNR associations can be read at a given signal-to-noise ratio; if an adversary chooses the
values after the keys, 1 + sqrt(pi d/2) suffice to drown the target; and between them lies
Hopfield's law, d/(2 ln M) for M bits that are all to be right. The text of the theorems was not at
hand: what is stated here, with its constants, is derived here, proved symbolically and measured on
the mechanisms.

Three things are sharper than the literature has them. A positive feature map such as elu + 1
leaves a capacity that no dimension raises; subtracting the mean from the keys alone restores the
order but costs a factor of three, from keys and queries nothing. A memory that fades holds
d/(e SNR) of the latest associations at the best decay, 1/e of what one that keeps everything can.
And a single pass of the delta rule does not remove the interference of the older associations: it
leaves three fifths of it when there are as many as dimensions.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "capacity": "capacities",
        "conditioning": "protocols",
        "crosstalk_variance": "crosstalk",
        "decay_capacity": "stream",
        "decay_crosstalk": "trace",
        "delta_rule_error": "delta",
        "depth_error": "depth",
        "feature_crosstalk": "feature_maps",
        "flawless_capacity": "flawless",
        "sign_error": "sign_bits",
        "softmax_capacity": "exponential",
        "worst_case_capacity": "adversary",
    },
)
