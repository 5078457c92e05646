"""Attention as sparse distributed memory."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "intersection": "overlap",
    },
)
