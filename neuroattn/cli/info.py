"""``neuroattn info``: versions and devices, to paste into an issue."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from neuroattn import __version__
from neuroattn.errors import InputError


def main(command: str, arguments: Sequence[str]) -> None:
    """Print the versions and devices of this installation."""
    if arguments and arguments[0] not in ("-h", "--help"):
        raise InputError(f"neuroattn info takes no arguments, got {list(arguments)}.")
    import torch

    from neuroattn.training.manifest import git_revision, package_versions

    rows = {"neuroattn": __version__, "revision": git_revision(), **package_versions()}
    rows["platform"] = platform.platform()
    rows["threads"] = str(torch.get_num_threads())
    count = torch.cuda.device_count()
    rows["gpu"] = ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "none"
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
