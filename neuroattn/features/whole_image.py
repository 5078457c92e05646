"""One vector a whole image: where each family of transformers vision models gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neuroattn.errors import InputError
from neuroattn.features.towers import used

if TYPE_CHECKING:
    import torch

#: Ends the name of a basis whose vectors lie in one space with those of texts.
JOINT = "joint-embedding"
#: Ends the name of a basis whose vectors are class tokens.
CLASS = "class-embedding"
# Families whose class token stands first and behind the final norm.
CLASS_TOKEN = (
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "vit",
    "vit_mae",
    "vit_msn",
)
# Vision towers alone, saved with the projection into the space of the texts.
WITH_PROJECTION = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "metaclip_2_vision_model": "MetaClip2VisionModelWithProjection",
}
# A SigLIP tower comes into that space by its pooling head.
WITH_HEAD = ("siglip_vision_model",)
_TEXT_PARTS = ("text", "logit")


def whole_image(full_config: Any, config: Any) -> tuple[str, int]:
    """Return the kind of vector that a model gives for an image, and its channels.

    Parameters
    ----------
    full_config : transformers configuration
        Of the model; with ``text_config`` it also reads texts.
    config : transformers configuration
        Of its vision tower.

    Returns
    -------
    kind : str
        ``JOINT`` or ``CLASS``.
    channels : int
        Length of the vector.

    Raises
    ------
    InputError
        If the family gives neither.
    """
    family, hidden = config.model_type, int(config.hidden_size)
    headless = not getattr(config, "vision_use_head", True)
    if getattr(full_config, "text_config", None) is not None and not headless:
        return JOINT, int(getattr(full_config, "projection_dim", None) or hidden)
    if family in WITH_PROJECTION:
        return JOINT, int(config.projection_dim)
    if family in WITH_HEAD and not headless:
        return JOINT, hidden
    if family in CLASS_TOKEN:
        return CLASS, hidden
    raise InputError(
        f"source='embedding': a {family!r} gives no vector for a whole image. Take a model with a "
        "text tower (CLIP, SigLIP) or with a class token behind its final norm "
        f"({', '.join(CLASS_TOKEN)}), or average the tokens of another source."
    )


def embed(
    model: torch.nn.Module, pixels: torch.Tensor, options: dict[str, Any], kind: str
) -> torch.Tensor:
    """Return the vectors (image, channel) of images (image, 3, height, width).

    Raises
    ------
    InputError
        If the model gives no such vectors although its configuration says so.
    """
    of_images: Any = getattr(model, "get_image_features", model)
    output = of_images(pixel_values=pixels, **options)
    if kind == CLASS:
        vectors = output.last_hidden_state[:, 0]
    else:
        vectors = getattr(output, "image_embeds", getattr(output, "pooler_output", output))
    if not hasattr(vectors, "ndim") or vectors.ndim != 2:
        raise InputError(
            f"a {type(model).__name__} gives no vector (image, channel) for a whole image; take "
            "another source."
        )
    return vectors  # type: ignore[no-any-return]


def without_text(model: torch.nn.Module) -> torch.nn.Module:
    """Free the text tower of a model."""
    for name, _ in list(model.named_children()):
        if name.startswith(_TEXT_PARTS):
            setattr(model, name, None)
    return model


def used_for(kind: str, key: str) -> bool:
    """Return whether the weight of this name can change the vector of an image."""
    if kind == CLASS:
        return used(key)
    return not key.startswith(_TEXT_PARTS) and "mask_token" not in key.split(".")
