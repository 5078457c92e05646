"""Data: the labelled response set, readers of published layouts, splits, simulated cortex."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Algonauts2023": "algonauts2023",
        "ArraySource": "sources",
        "ImageSource": "sources",
        "Reader": "reader",
        "ResponseSet": "response_set",
        "ResponseSource": "sources",
        "SimulatedCortex": "simulated_cortex",
        "Split": "split",
        "TableData": "own",
        "VoxelSource": "sources",
        "add_ncsnr": "transforms",
        "average_repetitions": "transforms",
        "describe": "response_set",
        "drop_unusable_voxels": "response_set",
        "folds_by_image": "split",
        "open_responses": "storage",
        "prepare": "",
        "response_set": "",
        "save": "storage",
        "split_by_image": "split",
        "to_fsaverage": "surface",
        "validate": "rules",
        "zscore_within_session": "transforms",
    },
)
