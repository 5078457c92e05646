"""Encoders: models that predict responses to images from features of the images."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Comparison": "comparison",
        "DecoderConfig": "decoder",
        "Encoder": "base",
        "FactorizedEncoder": "factorized",
        "FactorizedModule": "factorized",
        "RidgeEncoder": "ridge",
        "TransformerEncoder": "transformer",
        "TransformerModule": "transformer",
        "load": "loading",
    },
)
