"""What every reader of a data set offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import xarray as xr

from neuroattn.data.split import Split
from neuroattn.images import Images


class Reader(ABC):
    """A data set: responses, and the images that they name.

    A subclass takes plain data in its constructor, so that a recipe can name it.
    """

    @abstractmethod
    def responses(self) -> xr.Dataset:
        """Return the response set."""

    @abstractmethod
    def images(self) -> Images:
        """Return the images that the responses name."""

    def splits(self) -> Mapping[str, Split]:
        """Return the splits that the data set's authors or its users agreed on, by name."""
        return {}
