"""In-context voxel models: a network that reads (image, response) pairs and writes an encoder."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "PRESETS": "network",
        "SetTransformer": "network",
        "SetTransformerConfig": "network",
        "load_published": "published",
        "published_state": "published",
        "weight_count": "network",
    },
)
