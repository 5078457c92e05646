"""The Natural Scenes Dataset as published: betas, design, ROIs, stimuli; and NSD-synthetic."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "NSD": "reader",
        "NSDSynthetic": "synthetic",
        "compare_ncsnr": "ceilings",
    },
)
