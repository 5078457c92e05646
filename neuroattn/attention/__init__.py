"""Attention mechanisms: one registry, one door (:func:`attend`), one learnable block."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Mechanism": "registry",
        "MultiheadAttention": "block",
        "attend": "registry",
        "get": "registry",
        "list_mechanisms": "registry",
        "weights": "registry",
    },
)
