"""Attention mechanisms: one registry, one door (:func:`attend`), one learnable block."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Learned": "learned",
        "Mechanism": "registry",
        "MultiheadAttention": "block",
        "Plan": "dispatch",
        "attend": "dispatch",
        "get": "registry",
        "list_mechanisms": "registry",
        "register": "registry",
        "weights": "dispatch",
    },
)
