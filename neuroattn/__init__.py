"""Attention as a model of the visual brain, and what attention can and cannot remember."""

from neuroattn.names import lazy_exports

__version__ = "0.1.0"

__getattr__, __dir__, _exported = lazy_exports(
    __name__,
    {
        "attention": "",
        "data": "",
        "encoders": "",
        "features": "",
        "images": "",
        "metrics": "",
        "report": "",
        "theory": "",
        "training": "",
        "load": "encoders.loading",
    },
)
__all__ = [*_exported, "__version__"]
