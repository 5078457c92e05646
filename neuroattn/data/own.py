"""Anybody's own data without code: images, responses and tables named in a few lines of YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.data.array_images import merged, open_images
from neuroattn.data.arrays import read_array
from neuroattn.data.brain_images import (
    BrainImage,
    read_brain_rois,
    read_surface_responses,
    read_volume_responses,
)
from neuroattn.data.reader import Reader
from neuroattn.data.schema import ResponseSet, response_set
from neuroattn.data.sources import (
    ArraySource,
    ImageSource,
    ResponseSource,
    RoiSource,
    VoxelSource,
    as_source,
)
from neuroattn.data.storage import open_responses
from neuroattn.data.tables import numbers, read_rois, read_table
from neuroattn.data.volumes import grid_of, is_volume
from neuroattn.errors import InputError, MismatchError
from neuroattn.images import Images
from neuroattn.names import check_name

_PRESENTATION = ("image", "session", "run", "repetition")
_VOXEL_TEXT = ("name", "subject", "hemisphere")
_VOXEL_WHOLE = ("vertex", "i", "j", "k")


class TableData(Reader):
    """A data set of your own: files named here, no code.

    Where no column ``image`` says which image a presentation shows, row n belongs to the n-th
    image (files sorted by path), and both counts must be the same. A named image may be called
    by its id or its file name.

    Parameters
    ----------
    images : ImageSource
        Folder of images, or a file that holds them as an array.
    responses : ResponseSource
        Table, array or saved response set.
    presentations : str, optional
        Table with one line a presentation; columns ``image``, ``session``, ``run``,
        ``repetition``, any of them.
    rois : str or RoiSource, optional
        Table of ROIs, see :func:`neuroattn.data.tables.read_rois`; or, where the responses are an
        image of the brain, an atlas or a folder of masks.
    voxels : VoxelSource, optional
        Names and places of the voxels.
    bootstraps : ArraySource, optional
        (bootstrap, image, voxel) resampled responses, from which the ceiling is estimated.
    ceiling : ArraySource, optional
        (voxel) fraction of the variance of the responses that is signal, if it is known.
    ncsnr : ArraySource, optional
        (voxel) noise-ceiling signal-to-noise ratio of one presentation, if it is known.
    attrs : dict, optional
        ``source``, ``licence``, ``units``, ``tr``, ``space``, ... of the response set.
    folder : str
        Where relative paths start.

    Examples
    --------
    In Python, where a path alone or a mapping of fields is taken for a source too:

    >>> from neuroattn.data import ImageSource, ResponseSource, TableData
    >>> images, responses = ImageSource("stimuli"), ResponseSource("responses.csv")
    >>> data = TableData(images, responses, rois="rois.csv", folder="my_experiment")
    >>> data.image_source.pattern
    '*'

    In YAML::

        class_path: neuroattn.data.TableData
        init_args:
          folder: my_experiment
          images: {path: stimuli}
          responses: {path: responses.csv}
          rois: rois.csv
    """

    def __init__(
        self,
        images: ImageSource,
        responses: ResponseSource,
        presentations: str | None = None,
        rois: str | RoiSource | None = None,
        voxels: VoxelSource | None = None,
        bootstraps: ArraySource | None = None,
        ceiling: ArraySource | None = None,
        ncsnr: ArraySource | None = None,
        attrs: dict[str, Any] | None = None,
        folder: str = ".",
    ) -> None:
        self.image_source = as_source(ImageSource, "images", images)
        self.response_source = as_source(ResponseSource, "responses", responses)
        self.presentations = presentations
        self.rois = rois if rois is None else as_source(RoiSource, "rois", rois)
        self.voxels = None if voxels is None else as_source(VoxelSource, "voxels", voxels)
        self.bootstraps, self.ceiling, self.ncsnr = (
            None if given is None else as_source(ArraySource, name, given)
            for name, given in (
                ("bootstraps", bootstraps),
                ("ceiling", ceiling),
                ("ncsnr", ncsnr),
            )
        )
        self.attrs = attrs
        self.folder = folder

    def images(self) -> Images:
        """Return the images.

        Raises
        ------
        FileError
            If folder, file or dataset is missing.
        """
        return self._shown()[0]

    def _shown(self) -> tuple[Images, list[str]]:
        """Return the images, and the id of the image at each place of the source."""
        images = open_images(self._path(self.image_source.path), self.image_source)
        return merged(images) if self.image_source.merge else (images, list(images.ids))

    def responses(self) -> ResponseSet:
        """Read and label the responses.

        Raises
        ------
        FileError
            If a file is missing, truncated, or cannot be understood; names file and place.
        MismatchError
            If counts of rows, images or voxels differ, or an image or voxel is unknown.
        InputError
            If axes do not fit, or the response set breaks a rule.
        """
        images = self.images()
        brain = self._brain()
        path = self._path(self.response_source.path) if brain is None else brain.path
        if path.suffix in (".zarr", ".nc"):
            return self._saved(path, images)
        columns, names, values = self._values(path) if brain is None else ({}, None, brain.values)
        presentation = self._presentation(columns, len(values), images, path)
        voxel = self._voxel(names, values.shape[1], path)
        if brain is not None:
            voxel |= self._placed(brain, voxel)
        try:
            return response_set(
                values,
                presentation=presentation,
                voxel=voxel,
                roi=self._roi(voxel.get("name"), values.shape[1], brain),
                ncsnr=self._vector("ncsnr", self.ncsnr, values, path, brain),
                ceiling=self._ceiling(values, path, brain),
                attrs=self._attributes(voxel, path, brain),
            )
        except MismatchError:
            raise
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def _path(self, path: str) -> Path:
        return Path(self.folder) / path

    def _brain(self) -> BrainImage | None:
        """Return the responses if they are an image of the brain."""
        source, voxels = self.response_source, self.voxels or VoxelSource()
        sides = {"left": source.left, "right": source.right}
        masks = {"both": voxels.mask, "left": voxels.mask_left, "right": voxels.mask_right}
        places, kept = (
            {side: self._path(path) for side, path in paths.items() if path is not None}
            for paths in (sides, masks)
        )
        if not places and is_volume(source.path):
            places = {"both": self._path(source.path)}
        if not set(kept) <= set(places):
            raise InputError(
                f"voxels has a mask for {', '.join(kept)}, the responses are "
                f"{', '.join(places) or 'no image of the brain'}: give mask where they are a "
                "volume, mask_left and mask_right where they are on the surface."
            )
        if not places:
            return None
        if "both" in places:
            return read_volume_responses(places["both"], kept.get("both"))
        return read_surface_responses(places, kept)

    def _placed(self, brain: BrainImage, voxel: dict[str, Any]) -> dict[str, Any]:
        twice = sorted(set(brain.voxel) & set(voxel) - {"hemisphere"})
        if twice or (self.voxels is not None and self.voxels.reference is not None):
            raise InputError(
                f"voxels gives {', '.join(twice) or 'a reference image'}, which {brain.path} says "
                "itself. Leave it out."
            )
        return brain.voxel

    def _saved(self, path: Path, images: Images) -> ResponseSet:
        names = ("presentations", "rois", "voxels", "bootstraps", "ceiling", "ncsnr", "attrs")
        given = [name for name in names if getattr(self, name) is not None]
        if given:
            raise InputError(
                f"{', '.join(given)} cannot be given with {path}: a saved response set has its "
                "labels in it. Leave them out."
            )
        dataset = open_responses(path)
        images.find(np.unique(dataset["image"].values).tolist())
        return dataset

    def _values(
        self, path: Path
    ) -> tuple[dict[str, list[str]], list[str] | None, NDArray[np.float32]]:
        """Return the presentation columns, the voxel names and the responses of the file."""
        if path.suffix in (".csv", ".tsv"):
            table = read_table(path)
            columns = {name: table.pop(name) for name in _PRESENTATION if name in table}
            if not table:
                raise InputError(f"table {path} has the columns {list(columns)} and no response.")
            cells = [numbers(cells, name, path) for name, cells in table.items()]
            return columns, list(table), np.column_stack(cells).astype(np.float32)
        axes = self.response_source.axes.replace("presentation", "image")
        values = read_array(path, self.response_source.dataset, axes, ("image", "voxel"))
        return {}, None, np.asarray(values, dtype=np.float32)

    def _presentation(
        self, columns: dict[str, list[str]], rows: int, images: Images, path: Path
    ) -> dict[str, Any]:
        source = path
        if self.presentations is not None:
            source = self._path(self.presentations)
            table = read_table(source)
            for name in table:
                check_name(f"column of {source}", name, _PRESENTATION)
            lines = len(next(iter(table.values())))
            if lines != rows:
                raise MismatchError(
                    f"{source} has {lines} presentations, {path} has {rows}; one line each."
                )
            columns = {**columns, **table}
        labels: dict[str, Any] = {
            name: numbers(cells, name, source, int)
            for name, cells in columns.items()
            if name != "image"
        }
        if "image" in columns:
            return {**labels, "image": _match(columns["image"], images)}
        shown = self._shown()[1] if self.image_source.merge else list(images.ids)
        if len(shown) != rows:
            raise MismatchError(
                f"{path} has {rows} rows, {self._path(self.image_source.path)} has {len(shown)} "
                "images; without a column 'image' each row belongs to the image at the same "
                "place. Give presentations: a table that names the image of each row."
            )
        return {**labels, "image": shown}

    def _voxel(self, names: list[str] | None, count: int, path: Path) -> dict[str, Any]:
        source = self.voxels or VoxelSource()
        voxel: dict[str, Any] = {"subject": source.subject, "hemisphere": source.hemisphere}
        if names is not None:
            voxel["name"] = names
        if source.names is not None:
            voxel["name"] = [str(name) for name in source.names]
        if source.path is not None:
            place = self._path(source.path)
            for name, cells in read_table(place).items():
                check_name(f"column of {place}", name, (*_VOXEL_TEXT, *_VOXEL_WHOLE))
                whole = name in _VOXEL_WHOLE
                voxel[name] = numbers(cells, name, place, int) if whole else cells
        for name, column in voxel.items():
            if not isinstance(column, str) and len(column) != count:
                raise MismatchError(
                    f"voxels has {len(column)} values of {name!r}, {path} has {count} voxels; "
                    "give one a voxel (or name the axes the other way round)."
                )
        return voxel

    def _roi(
        self, names: list[str] | None, count: int, brain: BrainImage | None
    ) -> dict[str, NDArray[np.bool_]]:
        masks: dict[str, NDArray[np.bool_]] = {}
        if self.voxels is not None and self.voxels.as_rois:
            if names is None:
                raise InputError("voxels.as_rois is true but voxels have no names; give names.")
            labels = np.array(names)
            masks = {name: labels == name for name in dict.fromkeys(names)}
        if self.rois is not None:
            for name, mask in self._given_rois(self.rois, names, count, brain).items():
                if name in masks:
                    raise InputError(f"roi {name!r} of {self.rois} is also a voxel name as ROI.")
                masks[name] = mask
        return masks

    def _given_rois(
        self, source: RoiSource, names: list[str] | None, count: int, brain: BrainImage | None
    ) -> dict[str, NDArray[np.bool_]]:
        sides = {"both": source.path, "left": source.left, "right": source.right}
        places = {side: self._path(path) for side, path in sides.items() if path is not None}
        table = places.get("both")
        if table is not None and table.suffix in (".csv", ".tsv"):
            return read_rois(table, names, count)
        if brain is None:
            raise InputError(
                f"rois={source} must be a table (.csv, .tsv): the responses are no image of the "
                "brain, so masks and atlases have no place in them."
            )
        labels = None if source.labels is None else self._path(source.labels)
        return read_brain_rois(places, labels, brain)

    def _vector(
        self,
        what: str,
        source: ArraySource | None,
        values: NDArray[np.float32],
        path: Path,
        brain: BrainImage | None,
    ) -> NDArray[np.float64] | None:
        if source is None:
            return None
        place = self._path(source.path)
        if brain is not None and is_volume(place):
            return brain.at(place)
        vector = read_array(place, source.dataset, source.axes or "voxel", ("voxel",))
        if len(vector) != values.shape[1]:
            raise MismatchError(
                f"{what} of {place} has {len(vector)} voxels, {path} has {values.shape[1]}."
            )
        return np.asarray(vector, dtype=np.float64)

    def _ceiling(
        self, values: NDArray[np.float32], path: Path, brain: BrainImage | None
    ) -> NDArray[np.float64] | None:
        if self.bootstraps is None:
            return self._vector("ceiling", self.ceiling, values, path, brain)
        if self.ceiling is not None:
            raise InputError("ceiling and bootstraps are both given; a voxel has one ceiling.")
        from neuroattn.metrics import bootstrap_ceiling

        place = self._path(self.bootstraps.path)
        axes = (self.bootstraps.axes or "bootstrap image voxel").replace("presentation", "image")
        order = ("bootstrap", "image", "voxel")
        samples = read_array(place, self.bootstraps.dataset, axes, order)
        if samples.shape[1:] != values.shape:
            raise MismatchError(
                f"bootstraps of {place} are of {samples.shape[1]} images and {samples.shape[2]} "
                f"voxels, the responses of {path} of {values.shape[0]} and {values.shape[1]}."
            )
        return np.asarray(bootstrap_ceiling(values, samples), dtype=np.float64)

    def _attributes(
        self, voxel: dict[str, Any], path: Path, brain: BrainImage | None
    ) -> dict[str, Any]:
        located = "vertex" in voxel or "i" in voxel
        attrs: dict[str, Any] = {"space": "native" if located else "none", "source": path.name}
        if self.voxels is not None and self.voxels.reference is not None:
            attrs |= grid_of(self._path(self.voxels.reference)).attrs()
        if brain is not None:
            attrs |= brain.attrs
        return {**attrs, **(self.attrs or {})}


def _match(cells: list[str], images: Images) -> list[str]:
    """Return the image id of each cell, which may also be a file name with its ending."""
    known = set(images.ids)
    named = [cell if cell in known else Path(cell).stem for cell in cells]
    found = [name if name in known else cell for name, cell in zip(named, cells, strict=True)]
    images.find(dict.fromkeys(found))
    return found
