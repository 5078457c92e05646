"""The contract of a feature basis: an image becomes a grid of tokens with channels."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.images import Images


class FeatureBasis(ABC):
    """A fixed map from images to tokens on a grid.

    Attributes
    ----------
    name : str
        Short name, part of file names.
    grid : tuple of int
        (rows, columns); token ``row * columns + column`` looks at that cell of the image.
    channels : int
        Number of channels a token has.
    """

    name: str
    grid: tuple[int, int]
    channels: int

    @abstractmethod
    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Map images to tokens.

        Parameters
        ----------
        images : sequence of ndarray
            Each uint8 of shape (height, width, 3), RGB; sizes may differ.

        Returns
        -------
        ndarray
            float32 of shape (image, token, channel).
        """

    def extract_all(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Return every output of the basis by name.

        Returns
        -------
        dict
            ``"tokens"`` (image, token, channel) and, where the basis has one,
            ``"class_token"`` (image, channel), both float32.
        """
        return {"tokens": self.extract(images)}

    def extract_images(
        self, images: Images, indices: Sequence[int]
    ) -> dict[str, NDArray[np.float32]]:
        """Read some images of a collection and return :meth:`extract_all` of them.

        The store comes in by this door; a basis that needs the ids overrides it.
        """
        return self.extract_all([images.read(index) for index in indices])

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return plain JSON data of everything that changes the output."""

    def key(self) -> str:
        """Return the SHA-256 of the canonical JSON of :meth:`spec` and the name."""
        facts = {"basis": self.name, **self.spec()}
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()
