"""Scores, noise ceilings and resampling statistics: the one place where a number is defined."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Bounds": "ceiling",
        "Interval": "resampling",
        "PairMoments": "moments",
        "PairedTest": "resampling",
        "Score": "score",
        "algonauts2023_accuracy": "legacy",
        "algonauts2023_vertex_accuracy": "legacy",
        "bootstrap_ceiling": "ceiling",
        "bootstrap_interval": "resampling",
        "compare_models": "rsa",
        "compare_rdms": "rsa",
        "crossnobis": "dissimilarity",
        "dissimilarities": "dissimilarity",
        "explained_variance": "moments",
        "fdr": "resampling",
        "leave_one_subject_out_ceiling": "ceiling",
        "ncsnr": "ceiling",
        "noise_ceiling": "ceiling",
        "paired_permutation_test": "resampling",
        "pearson": "moments",
        "r2": "moments",
        "rdm_ceiling": "rsa",
        "reweighted_scores": "reweighting",
        "spearman_brown": "ceiling",
        "split_half_ceiling": "ceiling",
    },
)
