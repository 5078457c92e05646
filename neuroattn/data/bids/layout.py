"""Queries of a BIDS folder, raw or derivative, by the entities in its file names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuroattn.errors import FileError, InputError
from neuroattn.io import existing, read_json
from neuroattn.names import did_you_mean

IMAGE_EXTENSIONS = (".nii.gz", ".nii", ".func.gii")
# Entities that only derivatives have: raw files (events, metadata) apply whatever they are.
_DERIVATIVE = ("space", "res", "den", "desc", "hemi", "cohort", "label")


@dataclass(frozen=True)
class BidsFile:
    """One file with what its name says.

    Parameters
    ----------
    path : Path
        The file.
    entities : mapping of str to str
        Short entity ("sub", "ses", "task", "run", "space", ...) to label.
    suffix : str
        "bold", "events", "mask", ...
    extension : str
        With its dots: ".nii.gz".
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str


@dataclass(frozen=True)
class BoldRun:
    """One functional run: its images, and the files that describe it.

    Parameters
    ----------
    name : str
        What tells it from the others of the subject and task: "ses-test_run-1"; the task if
        there is nothing else.
    entities : mapping of str to str
        Of the images, without the hemisphere.
    images : tuple of Path
        One volume, or the left and the right hemisphere's GIFTI file.
    events : Path or None
        The nearest events file that applies to the run.
    metadata : mapping
        The JSON files that apply, nearer ones overriding.
    mask : Path or None
        The brain mask of the same space and resolution beside the images.
    """

    name: str
    entities: Mapping[str, str]
    images: tuple[Path, ...]
    events: Path | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None

    @property
    def surface(self) -> bool:
        """Whether the images are of the two hemispheres' vertices."""
        return self.images[0].name.endswith(".gii")


class Layout:
    """A BIDS folder.

    Parameters
    ----------
    root : str or Path
        The folder that holds ``sub-*``.

    Raises
    ------
    FileError
        If it does not exist or holds no subject.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = existing(root, "BIDS folder")
        if not self.subjects():
            raise FileError(
                f"BIDS folder {self.root} has no folder sub-*; it holds "
                f"{sorted(p.name for p in self.root.iterdir())[:8]}. Give the folder of the data "
                "set, or of one pipeline's derivatives."
            )

    def subjects(self) -> list[str]:
        """Return the labels of the subjects, sorted."""
        return sorted(p.name[4:] for p in self.root.glob("sub-*") if p.is_dir())

    def subject(self, wanted: str | int) -> str:
        """Return the label of a subject given as 1, "1", "01" or "sub-01".

        Raises
        ------
        FileError
            If there is none; the message lists the subjects.
        """
        label, known = str(wanted).removeprefix("sub-"), self.subjects()
        same = [s for s in known if s.isdigit() and label.isdigit() and int(s) == int(label)]
        if label in known or len(same) == 1:
            return label if label in known else same[0]
        raise FileError(
            f"{self.root} has no subject {wanted!r}{did_you_mean(label, known)}; it has "
            f"{', '.join(known)}."
        )

    def find(
        self,
        suffix: str,
        extensions: Sequence[str],
        subject: str = "*",
        folder: str = "func",
        **entities: str | None,
    ) -> list[BidsFile]:
        """Return the files of subjects that fit, sorted by path.

        Parameters
        ----------
        suffix : str
            "bold", "events", ...
        extensions : sequence of str
            Allowed endings, with their dots.
        subject : str
            Label of the subject; "*" for all.
        folder : str
            "func", "anat", ...
        **entities : str or None
            Entity to label (numbers fit with and without leading zeros), or to None for files
            without that entity.
        """
        from nilearn.interfaces.bids import get_bids_files

        paths = get_bids_files(
            self.root, file_tag=suffix, sub_label=subject, modality_folder=folder
        )
        files = [parsed(path) for path in paths]
        return [
            file
            for file in files
            if file.extension in extensions
            and file.suffix == suffix
            and all(_same(file.entities.get(key), label) for key, label in entities.items())
        ]

    def inherited(
        self, folder: Path, entities: Mapping[str, str], suffix: str, extension: str
    ) -> list[Path]:
        """Return the files that apply to a file by BIDS's inheritance, from the farthest.

        A file applies if it stands in the folder or above it, up to the root, and each of its
        entities is one of ``entities`` with the same label.

        Parameters
        ----------
        folder : Path
            Where the described file stands (or its place in this data set).
        entities : mapping of str to str
            Of the described file.
        suffix, extension : str
            Of the files wanted.

        Raises
        ------
        FileError
            If two files of one folder apply with the same entities counted.
        """
        levels = [self.root]
        for part in folder.relative_to(self.root).parts:
            levels.append(levels[-1] / part)
        found: list[Path] = []
        for level in levels:
            here = [parsed(path) for path in level.glob(f"*{suffix}{extension}")]
            here = [
                file
                for file in here
                if file.suffix == suffix
                and all(entities.get(key) == label for key, label in file.entities.items())
            ]
            here.sort(key=lambda file: len(file.entities))
            for one, other in itertools.pairwise(here):
                if len(one.entities) == len(other.entities):
                    raise FileError(
                        f"{one.path} and {other.path} both apply to the same run "
                        f"({described(entities)}); BIDS allows one a folder. Remove one."
                    )
            found += [file.path for file in here]
        return found

    def metadata(self, folder: Path, entities: Mapping[str, str], suffix: str) -> dict[str, Any]:
        """Return the JSON metadata that apply, nearer files overriding.

        Parameters
        ----------
        folder, entities, suffix
            As for :meth:`inherited`.

        Raises
        ------
        FileError
            If a file holds no JSON object.
        """
        result: dict[str, Any] = {}
        for path in self.inherited(folder, entities, suffix, ".json"):
            content = read_json(check_filled(path, "metadata"))
            if not isinstance(content, dict):
                raise FileError(f"metadata {path} is {type(content).__name__}, needed: an object.")
            result |= content
        return result


@dataclass(frozen=True)
class Query:
    """Which runs are wanted.

    Parameters
    ----------
    subject : str or int
        1, "01" or "sub-01".
    task : str, optional
        May be left out where there is one.
    session : str, optional
        Left out: all sessions.
    space : str, optional
        "MNI152NLin2009cAsym", "MNI152NLin2009cAsym:res-2", "T1w", "fsnative", "fsaverage5", ...;
        left out: files without a space.
    entities : mapping of str to str, optional
        Further entities with their labels: ``{"acq": "highres", "run": "1"}``.
    desc : str
        Of derivative volumes.
    """

    subject: str | int
    task: str | None = None
    session: str | None = None
    space: str | None = None
    entities: Mapping[str, str] | None = None
    desc: str = "preproc"


def bold_runs(raw: Layout, query: Query, derivatives: Layout | None = None) -> list[BoldRun]:
    """Return the runs that a query wants, by session and number.

    Parameters
    ----------
    raw : Layout
        Where the events are, and the images without ``derivatives``.
    query : Query
        What is wanted.
    derivatives : Layout, optional
        fMRIPrep's folder: where the preprocessed images are.

    Raises
    ------
    FileError
        If nothing fits; the message says which entities there are.
    InputError
        If ``task`` or ``space`` must be given, or several files fit one run.
    """
    source = derivatives or raw
    subject = source.subject(query.subject)
    files = source.find("bold", IMAGE_EXTENSIONS, subject)
    if not files:
        raise FileError(
            f"{source.root / f'sub-{subject}'} has no *_bold image ({', '.join(IMAGE_EXTENSIONS)}) "
            "in a folder func. Give the folder that has them as path or derivatives."
        )
    files = _kept(files, "ses", _label(query.session, "ses"), source.root)
    files = _only(files, "task", query.task, source.root)
    for key, label in (query.entities or {}).items():
        files = _kept(files, key, str(label), source.root)
    if query.space is not None or any("space" in f.entities for f in files) or derivatives:
        files = _in_space(files, query, source.root)
    groups: dict[tuple[tuple[str, str], ...], list[BidsFile]] = {}
    for file in files:
        same = tuple((k, v) for k, v in file.entities.items() if k in ("ses", "task", "run"))
        groups.setdefault(same, []).append(file)
    runs = [_bold_run(group, raw, derivatives) for group in groups.values()]
    return sorted(runs, key=lambda run: _natural(run.name))


def parsed(path: str | Path) -> BidsFile:
    """Return a file with the entities, suffix and extension of its name."""
    from nilearn.interfaces.bids import parse_bids_filename

    known = parse_bids_filename(str(path))
    name = str(known["suffix"] or "")
    extension = "." + str(known["extension"] or "").lstrip(".")
    return BidsFile(Path(path), dict(known["entities"]), name, extension)


def check_filled(path: Path, what: str) -> Path:
    """Return ``path`` if it has content.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it is, for the message.

    Raises
    ------
    FileError
        If it is missing, a link to nowhere, or empty.
    """
    advice = (
        "the layout was downloaded without its data (git-annex or DataLad: run `datalad get "
        f"{path}`; else download the file itself)"
    )
    if path.is_symlink() and not path.exists():
        raise FileError(f"{what} {path} is a link to a file that is not here: {advice}.")
    if existing(path, what).stat().st_size == 0:
        raise FileError(f"{what} {path} is empty (0 bytes): {advice}.")
    return path


def described(entities: Mapping[str, str]) -> str:
    """Return entities as in a file name: "sub-01_task-faces"."""
    return "_".join(f"{key}-{label}" for key, label in entities.items())


def _bold_run(files: list[BidsFile], raw: Layout, derivatives: Layout | None) -> BoldRun:
    surface = files[0].extension == ".func.gii"
    sides = sorted(files, key=lambda file: file.entities.get("hemi", ""))
    entities = {k: v for k, v in sides[0].entities.items() if k != "hemi"}
    if [file.entities.get("hemi") for file in sides] != (["L", "R"] if surface else [None]):
        differing = sorted({k for f in files for k in f.entities if len(_labels(files, k)) > 1})
        what = {key: sorted(map(str, _labels(files, key))) for key in differing}
        needed = "one file of hemi-L and one of hemi-R" if surface else "one volume"
        raise InputError(
            f"the run {described(entities)} has {len(files)} files ({files[0].path.name}, ...); "
            f"needed: {needed}. They differ in {what or 'nothing'}: say which is meant with "
            "entities, such as {'acq': 'high'}."
        )
    own = {k: v for k, v in entities.items() if k not in _DERIVATIVE}
    folder = sides[0].path.parent
    source = derivatives or raw
    beside = raw.root / folder.relative_to(source.root)
    metadata = raw.metadata(beside, own, "bold")
    metadata |= source.metadata(folder, sides[0].entities, "bold")
    place = {**entities, "desc": "brain"}
    masks = [] if surface else source.inherited(folder, place, "mask", ".nii.gz")
    events = raw.inherited(beside, own, "events", ".tsv")
    names = {k: v for k, v in own.items() if k in ("ses", "run")}
    return BoldRun(
        name=described(names) or f"task-{own.get('task', '')}",
        entities=entities,
        images=tuple(file.path for file in sides),
        events=events[-1] if events else None,
        metadata=metadata,
        mask=masks[-1] if masks else None,
    )


def _in_space(files: list[BidsFile], query: Query, root: Path) -> list[BidsFile]:
    """Keep the files of the space (and resolution), volumes of the preparation ``desc`` alone."""
    name, _, further = (query.space or "").partition(":")
    spaces = [file for file in files if file.extension == ".func.gii" or _is_desc(file, query.desc)]
    kept = [file for file in spaces if file.entities.get("space", "") == name]
    if not kept:
        found = sorted({file.entities.get("space", "(none)") for file in spaces})
        descs = sorted({file.entities.get("desc", "(none)") for file in files})
        raise FileError(
            f"{root}: no bold image of {described({'sub': str(query.subject)})} has "
            f"space={query.space!r}{did_you_mean(name, found)}; there are the spaces "
            f"{', '.join(found) or '(none)'} with desc={query.desc!r} (desc there: "
            f"{', '.join(descs)}). Give space=, one of them."
        )
    for part in filter(None, further.split(":")):
        key, _, label = part.partition("-")
        kept = _kept(kept, key, label, root)
    return kept


def _is_desc(file: BidsFile, desc: str) -> bool:
    return file.entities.get("desc") == desc


def _only(files: list[BidsFile], key: str, label: str | None, root: Path) -> list[BidsFile]:
    found = sorted(map(str, _labels(files, key) - {None}))
    if label is None and len(found) > 1:
        raise InputError(
            f"{key} is not given and {root} has several: {', '.join(found)}. Give one of them."
        )
    return files if label is None else _kept(files, key, _label(label, key), root)


def _kept(files: list[BidsFile], key: str, label: str | None, root: Path) -> list[BidsFile]:
    if label is None:
        return files
    kept = [file for file in files if _same(file.entities.get(key), label)]
    if not kept:
        found = sorted(str(known) for known in _labels(files, key) - {None})
        raise FileError(
            f"{root} has no bold image with {key}-{label}{did_you_mean(label, found)}; "
            f"there are {key}: {', '.join(found) or '(none in any name)'}."
        )
    return kept


def _labels(files: Sequence[BidsFile], key: str) -> set[str | None]:
    return {file.entities.get(key) for file in files}


def _label(wanted: str | None, key: str) -> str | None:
    return None if wanted is None else str(wanted).removeprefix(f"{key}-")


def _same(found: str | None, wanted: str | None) -> bool:
    if found is None or wanted is None:
        return found is wanted
    numbers = found.isdigit() and wanted.isdigit()
    return int(found) == int(wanted) if numbers else found == wanted


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which run-10 comes after run-9."""
    return [(int(p), "") if p.isdigit() else (0, p) for p in re.split(r"(\d+)", name)]
