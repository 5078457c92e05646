"""Encoders: models that predict responses to images from features of the images."""

from neuroattn.names import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "AdaptiveEncoder": "adaptive",
        "Comparison": "comparison",
        "DecoderConfig": "decoder",
        "Embedding": "embedding",
        "EmbeddingConfig": "embedding",
        "EmpiricalBayesEncoder": "empirical_bayes",
        "Encoder": "base",
        "EpisodeConfig": "incontext.episodes",
        "FactorizedEncoder": "factorized",
        "FactorizedModule": "factorized",
        "GroupAverageEncoder": "group_average",
        "InContextData": "incontext.data",
        "InContextEncoder": "incontext.encoder",
        "InContextModule": "incontext.module",
        "RidgeEncoder": "ridge",
        "SetTransformerConfig": "incontext.network",
        "TransformerEncoder": "transformer",
        "TransformerModule": "transformer",
        "WeightPrior": "weight_prior",
        "category_accuracy": "text_queries",
        "choose_context": "context_choice",
        "excess_risk": "oracle",
        "few_image_baselines": "baselines",
        "load": "loading",
        "scaling_curve": "scaling",
        "text_selectivity": "text_queries",
    },
)
