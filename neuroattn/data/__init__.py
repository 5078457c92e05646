"""Data: the labelled response set, readers of published layouts, splits, simulated cortex."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Algonauts2023": "algonauts2023",
        "ArraySource": "sources",
        "ImageSource": "sources",
        "CATEGORIES": "scenes",
        "Reader": "reader",
        "ResponseSet": "schema",
        "ResponseSource": "sources",
        "Scanner": "simulated_cortex",
        "SimulatedCortex": "simulated_cortex",
        "Split": "split",
        "TableData": "own",
        "VoxelSource": "sources",
        "add_ncsnr": "transforms",
        "average_repetitions": "transforms",
        "describe": "schema",
        "drop_unusable_voxels": "schema",
        "folds_by_image": "split",
        "open_responses": "storage",
        "prepare": "preparation",
        "response_set": "schema",
        "save": "storage",
        "split_by_image": "split",
        "to_fsaverage": "surface",
        "validate": "rules",
        "zscore_within_session": "transforms",
    },
)
