"""What a published vision model does to an image before it looks, by Pillow and numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neuroattn.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Colour statistics of model families, for a model folder that brings no preprocessor file.
STATISTICS = {"clip": CLIP, "clip_vision_model": CLIP, "siglip": HALF, "siglip_vision_model": HALF}


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop about the centre, scale and normalise.

    Attributes
    ----------
    resize : tuple of int or int
        (height, width), or the length of the shorter edge.
    crop : tuple of int, optional
        (height, width) kept about the centre; beyond the image it is black.
    resample : int
        Pillow's number of the filter (2 bilinear, 3 bicubic, ...).
    scale : float
        What the pixels, 0 to 255, are multiplied by.
    mean, std : tuple of float
        Subtracted from, and then divided into, the scaled red, green and blue.
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of every output."""
        size = self.crop or self.resize
        return size if isinstance(size, tuple) else (size, size)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map a (row, column, 3) uint8 image to float32 of shape (3, height, width)."""
        height, width = self._target(*image.shape[:2])
        if image.shape[:2] != (height, width):
            filter_ = Image.Resampling(self.resample)
            image = np.asarray(Image.fromarray(image).resize((width, height), filter_))
        if self.crop:
            image = _crop(image, *self.crop)
        scaled = image.astype(np.float32) * np.float32(self.scale)
        normal = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.resize, tuple):
            return self.resize
        short = min(height, width)
        return height * self.resize // short, width * self.resize // short


def preprocessing(
    config: Mapping[str, Any], family: str, default_size: int, image_size: int | None = None
) -> Preprocessing:
    """Read a ``preprocessor_config.json``, or take the family's defaults where it is empty.

    Parameters
    ----------
    config : mapping
        The file's content; empty for a model that has none. Defaults: the whole image is
        resized (bicubic) to ``default_size``, scaled to 0..1 and normalised with the statistics
        of CLIP or SigLIP for these families, of ImageNet for others.
    family : str
        The model's type.
    default_size : int
        Height and width that the model was made for, in pixels.
    image_size : int, optional
        Resize the whole image to this square instead, without a crop.

    Raises
    ------
    InputError
        If the file's size or resampling filter cannot be understood.
    """
    mean, std = STATISTICS.get(family, IMAGENET)
    cropped = bool(config.get("do_center_crop", False)) and image_size is None
    resize = _size(config.get("size", default_size), edge=cropped)
    if image_size is not None or not config.get("do_resize", True):
        resize = (image_size or default_size,) * 2
    elif isinstance(resize, int) and not cropped:
        # A model whose token grid has to fit every image needs one shape for all.
        resize = (resize, resize)
    crop = _size(config.get("crop_size", default_size), edge=False) if cropped else None
    if not config.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    resample = config.get("resample", Image.Resampling.BICUBIC.value)
    if resample not in [member.value for member in Image.Resampling]:
        raise InputError(f"the preprocessor's resample={resample!r} is no filter of Pillow (0-5).")
    return Preprocessing(
        resize=resize,
        crop=crop if isinstance(crop, tuple) else None,
        resample=int(resample),
        scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1,
        mean=_triple(config.get("image_mean") if config.get("do_normalize", True) else mean, mean),
        std=_triple(config.get("image_std") if config.get("do_normalize", True) else std, std),
    )


def _size(size: Any, edge: bool) -> tuple[int, int] | int:
    if isinstance(size, int):
        return size if edge else (size, size)
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, Mapping) and "shortest_edge" in size:
        return int(size["shortest_edge"])
    raise InputError(
        f"the preprocessor's size {size!r} is not understood; it is a number, height and width, "
        "or shortest_edge. Give image_size instead."
    )


def _triple(values: Any, default: tuple[float, float, float]) -> tuple[float, float, float]:
    if values is None:
        return default
    red, green, blue = np.broadcast_to(np.asarray(values, float), 3).tolist()
    return red, green, blue


def _crop(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    missing = [
        max(0, want - have) for want, have in zip((height, width), image.shape, strict=False)
    ]
    if any(missing):
        # As transformers does: the odd row of an odd border comes before the image.
        border = [(-(-gap // 2), gap // 2) for gap in missing]
        image = np.pad(image, (*border, (0, 0)))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
