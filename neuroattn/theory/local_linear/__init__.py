"""Local linear attention: every query fits a plane to its keys, and reads it where it stands.

Softmax attention fits a constant around each query, weighted by its logits; local linear attention
fits a plane, with a ridge on its slope and none on its height. We confirm that reading, as least
squares and as softmax minus a correction, and follow it to both of its ends: softmax at a large
ridge, and ordinary least squares with an intercept, not linear attention, without scale. Parallax,
its successor, is the same read with a learned slope, if the slope is taken about the mean key.

What the plane buys is the boundary: softmax errs there in first order of the bandwidth, a plane in
second, so that its integrated squared bias falls as the fourth power and not as the third. Inside
evenly spread keys nothing is gained.

What it costs is that weights are no probabilities. They sum to one, and their mean key is the query
where there is no ridge; so a query beyond its keys must have a negative weight, and in four
dimensions almost every random query has one.
"""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "centred_slope": "slope",
        "local_fit": "plane",
        "regression_rate": "smoothing",
        "smoothing_bias": "smoothing",
    },
)
