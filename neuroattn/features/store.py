"""The feature store: what a basis says about images, computed once and kept on disk."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import FileError, InputError, MismatchError
from neuroattn.features.arrays import allocate, load_array
from neuroattn.features.base import FeatureBasis
from neuroattn.features.entry import SIDECAR, append, entry_name, identify, read_state, remedy
from neuroattn.images import Images
from neuroattn.io import atomic_path, read_json
from neuroattn.progress import ticker

if TYPE_CHECKING:
    import xarray as xr

DIMENSIONS = {"tokens": ("image", "token", "channel"), "class_token": ("image", "channel")}
log = logging.getLogger(__name__)


class FeatureStore:
    """A folder with one entry for each pair of a basis and a collection of images.

    An entry is a folder: one ``.npy`` file an output (``tokens``, ``class_token``), which is
    memory-mapped and never read whole, and a JSON sidecar. Its name carries a hash of the basis's
    key, the ids and contents of the images and the dtype, so that a change of any of them leads
    to another entry. The sidecar counts the images that are safely on disk: a fill that was
    killed goes on where it stopped, and an entry that is not complete is never served.

    Parameters
    ----------
    path : str or Path
        The folder; made by the first :meth:`fill`.

    Examples
    --------
    >>> import tempfile
    >>> from neuroattn.features import Pixels
    >>> from neuroattn.images import ImageArray
    >>> images = ImageArray(np.zeros((2, 8, 8, 3), np.uint8), ids=["a", "b"])
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> store.fill(Pixels(size=8, grid=2), images).tokens.shape
    (2, 4, 3)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def fill(
        self,
        basis: FeatureBasis,
        images: Images,
        dtype: str = "float16",
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> xr.Dataset:
        """Compute what is missing and return the entry as :meth:`open` does.

        Parameters
        ----------
        basis : FeatureBasis
            What to compute.
        images : Images
            What to compute it of.
        dtype : {"float16", "float32"}
            How values are stored.
        batch_size : int
            Images a call of the basis; at most this many are lost by a kill.
        progress : bool, optional
            Show a progress bar on stderr; by default where stderr is a terminal.

        Raises
        ------
        InputError
            If a feature is NaN or infinite, or beyond float16; the message names the image.
        FileError
            If the disk is full, or an entry that is there is damaged.
        """
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size}; it is at least 1.")
        facts = identify(basis, images, dtype)
        folder = self.path / entry_name(facts)
        with self._locked(folder.name):
            state = read_state(folder, facts) if folder.exists() else None
            start = state["done"] if state else 0
            with ticker(len(images), f"features {basis.name}", progress, start) as tick:
                while start < len(images):
                    stop = min(start + batch_size, len(images))
                    outputs = basis.extract_images(images, range(start, stop))
                    ids = images.ids[start:stop]
                    rows = {
                        name: _checked(name, values, ids, basis, dtype)
                        for name, values in outputs.items()
                    }
                    if state is None:
                        state = self._create(folder, facts, basis.spec(), rows)
                    else:
                        append(folder, state, rows)
                    tick(stop - start)
                    start = stop
        return _serve(folder, facts, images)

    def open(self, basis: FeatureBasis, images: Images, dtype: str = "float16") -> xr.Dataset:
        """Return the features of ``images``, memory-mapped.

        Returns
        -------
        xarray.Dataset
            ``tokens (image, token, channel)`` and, where the basis has one, ``class_token (image,
            channel)``; coordinate ``image``; attributes ``rows``, ``columns`` (token = row *
            columns + column), ``key`` and ``basis``.

        Raises
        ------
        FileError
            If there is no entry, or it is incomplete or damaged.
        MismatchError
            If the store holds this basis only with other settings, images or dtype, or the
            sidecar belongs to another entry.
        """
        facts = identify(basis, images, dtype)
        folder = self.path / entry_name(facts)
        if not folder.exists():
            raise self._absent(facts)
        return _serve(folder, facts, images)

    def _create(
        self, folder: Path, facts: dict[str, Any], spec: dict[str, Any], rows: dict[str, Any]
    ) -> dict[str, Any]:
        shapes = {name: (facts["images"], *values.shape[1:]) for name, values in rows.items()}
        itemsize = np.dtype(facts["dtype"]).itemsize
        need = sum(int(np.prod(shape)) for shape in shapes.values()) * itemsize
        free = shutil.disk_usage(self.path).free
        if need > free:
            raise FileError(
                f"{folder} needs {need / 1e9:.3g} GB and {self.path} has {free / 1e9:.3g} GB free. "
                "Free space, choose another folder, fewer images or dtype='float16'."
            )
        state = {
            **facts,
            "spec": spec,
            "outputs": {name: list(shape) for name, shape in shapes.items()},
            "done": 0,
            "samples": {},
        }
        with atomic_path(folder) as beside:
            beside.mkdir()
            for name, shape in shapes.items():
                allocate(beside / f"{name}.npy", shape, facts["dtype"])
            append(beside, state, rows)
        return state

    def _absent(self, facts: dict[str, Any]) -> FileError | MismatchError:
        step = "Fill it with FeatureStore.fill or `neuroattn features`."
        differences: dict[str, list[str]] = {}
        for sidecar in sorted(self.path.glob(f"{facts['basis']}-*/{SIDECAR}")):
            found = read_json(sidecar)
            if isinstance(found, dict):
                differs = [name for name, value in facts.items() if found.get(name) != value]
                differences[sidecar.parent.name] = differs
        if differences:
            closest = min(differences, key=lambda name: len(differences[name]))
            return MismatchError(
                f"store {self.path} holds {facts['basis']!r} features ({closest}), but not these: "
                f"other {', '.join(differences[closest])} "
                "(key: settings or weights of the basis; content: ids or pixels of the images). "
                + step
            )
        return FileError(f"store {self.path} has no {facts['basis']!r} features. {step}")

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold the entry's lock, which the system lets go when the process dies."""
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / f".{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("another process fills %s; waiting for it", self.path / name)
                lock.acquire()
        except OSError as error:
            raise FileError(
                f"store {self.path} cannot be written: {error.strerror or error}. "
                "Choose another folder."
            ) from error
        try:
            for orphan in self.path.glob(f".{name}.*.part"):
                shutil.rmtree(orphan, ignore_errors=True)
            yield
        finally:
            lock.release()


def _checked(
    name: str,
    values: NDArray[np.float32],
    ids: tuple[str, ...],
    basis: FeatureBasis,
    dtype: str,
) -> NDArray[Any]:
    tokens = basis.grid[0] * basis.grid[1]
    expected = (
        (len(ids), tokens, basis.channels) if name == "tokens" else (len(ids), values.shape[-1])
    )
    if name not in DIMENSIONS or values.shape != expected:
        raise MismatchError(
            f"{basis.name} gave {name!r} of shape {values.shape}; {expected} was expected from its "
            f"grid {basis.grid} and channels {basis.channels} (outputs: {', '.join(DIMENSIONS)})."
        )
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    for kind, bad in (("as given by the basis", values), (f"as {dtype}", stored)):
        whole = np.isfinite(bad).reshape(len(ids), -1).all(axis=1)
        if not whole.all():
            image = int(np.argmin(whole))
            largest = float(np.nanmax(np.abs(values[image])))
            step = "Look at this image." if bad is values else "Use dtype='float32'."
            raise InputError(
                f"{name} of image {ids[image]!r} are not finite {kind} (largest magnitude "
                f"{largest:g}, float16 ends at 65504). {step} Nothing of this batch was stored."
            )
    return stored


def _serve(folder: Path, facts: dict[str, Any], images: Images) -> xr.Dataset:
    import xarray as xr

    state = read_state(folder, facts)
    if state["done"] < facts["images"]:
        raise FileError(
            f"{folder} holds {state['done']} of {facts['images']} images: a fill was cut short. "
            "Run the same fill again, it goes on from there."
        )
    arrays = {
        name: load_array(folder / f"{name}.npy", tuple(shape), facts["dtype"], remedy(folder))
        for name, shape in state["outputs"].items()
    }
    return xr.Dataset(
        {name: (DIMENSIONS[name], array) for name, array in arrays.items()},
        coords={"image": list(images.ids)},
        attrs={name: facts[name] for name in ("rows", "columns", "key", "basis")},
    )
