"""Image files under the names that responses have for them."""

from __future__ import annotations

import pytest

from neuroattn.data.named_files import below, files_by_name
from neuroattn.errors import FileError, InputError


def test_files_are_found_in_the_order_of_the_ids_at_any_depth(tmp_path) -> None:
    # Catches files in the order of the folder, and files that are not images.
    for name in ("b/dog.jpg", "a/deep/cat.PNG", "owl.png", "a/owl.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = files_by_name(
        tmp_path, ["dog", "cat", "owl"], lambda name: name.split("/")[-1].split(".")[0]
    )
    assert below(found, tmp_path) == ["b/dog.jpg", "a/deep/cat.PNG", "owl.png"]
    with pytest.raises(FileError, match=r"'ape' has 0 files .*none fits"):
        files_by_name(tmp_path, ["ape"], str)
    (tmp_path / "a/dog.png").touch()
    with pytest.raises(FileError, match=r"'dog' has 2 files .*a/dog\.png, b/dog\.jpg"):
        files_by_name(tmp_path, ["dog"], lambda name: name.split("/")[-1].split(".")[0])
    with pytest.raises(InputError, match="is not below"):
        below(found, tmp_path / "b")
