"""Attention as Pavlovian conditioning: keys are conditional stimuli, values unconditional ones."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, {"crosstalk_variance": "crosstalk"})
