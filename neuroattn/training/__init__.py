"""Training: data modules, the Lightning module, checkpoints, the run directory."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "EncoderModule": "module",
        "EncodingData": "datamodule",
        "EpochBatches": "batches",
        "ImageResponses": "dataset",
        "Manifest": "manifest",
        "Optimisation": "optimisation",
        "RunDirectory": "run_directory",
        "SplitPlan": "datamodule",
        "train": "loop",
    },
)
