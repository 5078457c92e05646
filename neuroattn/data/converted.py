"""What ``neuroattn convert`` wrote, read again: responses stay on disk, images at their source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from neuroattn.data.conversion import RECORD, RESPONSES, SPLITS, STIMULI
from neuroattn.data.reader import Reader
from neuroattn.data.schema import ResponseSet
from neuroattn.data.split import Split
from neuroattn.data.stimulus_index import stimulus_rows
from neuroattn.data.storage import open_responses
from neuroattn.errors import FileError
from neuroattn.images import ImageFiles, ImageHDF5, Images, JoinedImages, NamedStimuli
from neuroattn.io import existing, read_json


class Converted(Reader):
    """A data set that ``neuroattn convert`` wrote.

    Parameters
    ----------
    path : str
        The folder that was given as OUT.
    source : str, optional
        Where the images are now, if the published data were moved since.
    """

    def __init__(self, path: str, source: str | None = None) -> None:
        self.path = path
        self.source = source

    def responses(self) -> ResponseSet:
        """Open the responses; they stay on disk until they are used.

        Raises
        ------
        FileError
            If the conversion is not finished or damaged.
        """
        self._record()
        return open_responses(Path(self.path) / RESPONSES)

    def images(self) -> Images:
        """Return the images of the stimulus index, read from the source when they are used.

        Raises
        ------
        FileError
            If the conversion is not finished, or files of the source are gone.
        """
        source = Path(self.source or str(self._record()["options"]["path"]))
        groups: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for line in stimulus_rows(Path(self.path) / STIMULI):
            bundle = (line["file"], line["dataset"]) if line["dataset"] else ("*", "")
            bundle = bundle if line["file"] else ("", "")
            place = int(line["index"]) if line["dataset"] else len(groups.get(bundle, ()))
            groups.setdefault(bundle, []).append((line["image"], place))
        files = {
            line["image"]: self._inside(source, line["file"])
            for line in stimulus_rows(Path(self.path) / STIMULI)
            if line["file"]
        }
        parts: list[Images] = []
        for (file, dataset), listed in groups.items():
            ids = [image for image, _ in listed]
            if dataset:
                brick = ImageHDF5(self._inside(source, file), dataset)
                parts.append(brick.subset([place for _, place in listed], ids))
            elif file:
                parts.append(ImageFiles([files[image] for image in ids], ids))
            else:
                parts.append(NamedStimuli(ids, f"{source} ships no stimulus files for it."))
        return parts[0] if len(parts) == 1 else JoinedImages(parts)

    def splits(self) -> Mapping[str, Split]:
        """Return the published splits by name."""
        folder = Path(self.path) / SPLITS
        return {file.stem: Split.load(file) for file in sorted(folder.glob("*.json"))}

    def _record(self) -> dict[str, dict[str, str]]:
        folder = existing(self.path, "converted data set")
        if not (folder / RECORD).is_file():
            raise FileError(
                f"{folder} has no {RECORD}: the conversion is not finished. Run the same "
                "`neuroattn convert` again; it goes on where it was."
            )
        record: dict[str, dict[str, str]] = read_json(folder / RECORD)
        return record

    def _inside(self, source: Path, name: str) -> Path:
        """Return a file of the source; a name that leads out of it is refused."""
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise FileError(
                f"{Path(self.path) / STIMULI} names {name!r}, which leads out of {source}."
            )
        return source / name
