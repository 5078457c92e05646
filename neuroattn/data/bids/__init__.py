"""BIDS: raw or fMRIPrep-derivative data sets, and single-trial responses from them."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "BIDS": "reader",
        "BoldRun": "layout",
        "Glm": "glm",
        "Layout": "layout",
        "StimulusLabels": "stimulus_labels",
        "Trials": "events",
        "fir_response": "fir",
    },
)
