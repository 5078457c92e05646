"""Feature bases (image to token grid), the store that keeps their output, and texts beside them."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, _exported = lazy_exports(
    __name__,
    {
        "FeatureBasis": "base",
        "FeatureStore": "store",
        "GaborPyramid": "gabor",
        "HuggingFaceVision": "huggingface",
        "Labels": "labels",
        "Pixels": "pixels",
        "StimulusTable": "stimulus_table",
        "TextTower": "text",
    },
)
__all__ = [*_exported]
