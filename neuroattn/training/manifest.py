"""What a run was made with: versions, revision, seed, data, device, time, memory."""

from __future__ import annotations

import hashlib
import platform
import resource
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from neuroattn import __version__

_PACKAGES = (
    "torch",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "scikit-learn",
    "himalaya",
    "xarray",
    "nilearn",
    "nibabel",
    "transformers",
)


class Manifest:
    """Collects the facts of a run from its start to its end.

    Parameters
    ----------
    command : str
        What was run.
    seed : int
        The seed that everything derives from.
    """

    def __init__(self, command: str, seed: int) -> None:
        self.command, self.seed = command, seed
        self.started = time.time()

    def facts(self, responses: xr.Dataset, features_key: str, **more: Any) -> dict[str, Any]:
        """Return the manifest as plain data.

        Parameters
        ----------
        responses : xarray.Dataset
            The prepared responses; their content is hashed.
        features_key : str
            Key of the feature basis.
        **more
            Further entries, plain data.
        """
        import torch

        cuda = torch.cuda.is_available()
        return {
            "command": self.command,
            "neuroattn": __version__,
            "revision": git_revision(),
            "seed": self.seed,
            "data": {
                "source": str(responses.attrs.get("source", "")),
                "licence": str(responses.attrs.get("licence", "")),
                "responses_sha256": response_hash(responses),
                "dropped_nan_voxels": int(responses.attrs.get("dropped_nan_voxels", 0)),
                "dropped_constant_voxels": int(responses.attrs.get("dropped_constant_voxels", 0)),
                "features_key": features_key,
            },
            "versions": package_versions(),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "threads": torch.get_num_threads(),
            "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
            "machine": platform.machine(),
            "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 1),
            "peak_memory_gib": round(peak_memory(), 2),
            **more,
        }


def package_versions() -> dict[str, str]:
    """Return the installed versions of Python and of what a run stands on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_revision() -> str:
    """Return the revision of the source tree that neuroattn was imported from, or ``"unknown"``."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return revision + ("-modified" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def response_hash(responses: xr.Dataset) -> str:
    """Return the SHA-256 of images and responses in their order."""
    digest = hashlib.sha256()
    digest.update("\n".join(responses["image"].values.astype(str)).encode())
    values = responses["response"].values
    for start in range(0, len(values), 256):
        digest.update(np.ascontiguousarray(values[start : start + 256]).tobytes())
    return digest.hexdigest()


def peak_memory() -> float:
    """Return the largest resident memory of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
