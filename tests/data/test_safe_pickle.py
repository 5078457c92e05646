"""Label maps are read, and nothing in them is ever executed."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from neuroattn.data.safe_pickle import MAX_BYTES, read_label_map
from neuroattn.errors import FileError

NAMES = {0: "Unknown", 1: "V1v", 7: "hV4", -2: "ünï"}


def _npy(path, payload: bytes) -> None:
    stream = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(stream, header)
    path.write_bytes(stream.getvalue() + payload)


class _Runs:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("core", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_a_map_of_every_protocol_and_numpy_is_read(tmp_path, protocol, core) -> None:
    # Catches a reader that knows the numpy of today only, or one spelling of bytes.
    payload = pickle.dumps(np.array(NAMES, dtype=object), protocol=protocol)
    if protocol < 4:
        payload = payload.replace(b"numpy._core.multiarray", core)
    else:
        old = b"numpy._core.multiarray"
        payload = payload.replace(bytes([len(old)]) + old, bytes([len(core)]) + core)
        frame = payload.index(b"\x95") + 1
        length = struct.pack("<Q", len(payload) - frame - 8)
        payload = payload[:frame] + length + payload[frame + 8 :]
    _npy(tmp_path / "map.npy", payload)
    assert read_label_map(tmp_path / "map.npy") == NAMES


def test_what_numpy_saves_is_read_with_labels_and_names_of_numpy_types(tmp_path) -> None:
    # Catches numpy integers as keys and numpy text as names, in both byte orders.
    names = {np.int64(100): np.str_("roi-é"), np.uint16(101): "b"}
    # numpy makes scalars native: only a pickle made elsewhere has the other byte order.
    other = _Runs(np.int64(0).__reduce__()[0], np.dtype(">i4"), b"\xff\xff\xff\xfe")
    _npy(tmp_path / "map.npy", pickle.dumps(np.array({**names, other: "c"}, dtype=object)))
    result = read_label_map(tmp_path / "map.npy")
    assert result == {100: "roi-é", 101: "b", -2: "c"}
    assert {type(key) for key in result} == {int}
    assert {type(name) for name in result.values()} == {str}


MARKER = "import os; os.mkdir({!r})"
ATTACKS = {
    "os.system": lambda marker: _Runs(os.system, f"mkdir {marker}"),
    "builtins.eval": lambda marker: _Runs(eval, f"__import__('os').mkdir({marker!r})"),
    "builtins.exec": lambda marker: _Runs(exec, MARKER.format(marker)),
    "subprocess.Popen": lambda marker: _Runs(subprocess.Popen, ["mkdir", marker]),
    "numpy.load": lambda marker: _Runs(np.load, marker),
    "numpy.lib.format.open_memmap": lambda marker: _Runs(np.lib.format.open_memmap, marker, "w+"),
    "builtins.getattr": lambda marker: _Runs(getattr, os, "mkdir"),
    "os.mkdir": lambda marker: _Runs(os.mkdir, marker),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["whole", "in the array", "as a name"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_does_not_run_and_its_wish_is_named(
    tmp_path, attack, place, protocol
) -> None:
    # Catches an unpickler that executes: the marker would be there.
    marker = tmp_path / "marker"
    evil = ATTACKS[attack](str(marker))
    if attack == "builtins.getattr":
        # A module does not pickle: the call itself is what is refused here.
        evil = _Runs(getattr, "text", "upper")
    wholes = {"whole": evil, "in the array": np.array([evil], dtype=object)}
    content = wholes.get(place, np.array({0: "Unknown", 1: evil}, dtype=object))
    _npy(tmp_path / "map.npy", pickle.dumps(content, protocol=protocol))
    with pytest.raises(FileError, match=r"map\.npy asks for .*nothing was executed"):
        read_label_map(tmp_path / "map.npy")
    assert not marker.exists()


def test_the_same_pickle_does_run_when_numpy_loads_it(tmp_path) -> None:
    # Catches an attack of these tests that would not work anyway.
    marker = tmp_path / "marker"
    evil = np.array({0: ATTACKS["os.mkdir"](str(marker))}, dtype=object)
    _npy(tmp_path / "map.npy", pickle.dumps(evil))
    code = f"import numpy; numpy.load({str(tmp_path / 'map.npy')!r}, allow_pickle=True)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert marker.exists()


GLOBAL = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
SCALAR = b"cnumpy._core.multiarray\nscalar\n"
DTYPE = b"cnumpy\ndtype\n"
TRICKS = {
    "calling the array type": GLOBAL + b"(I99999999999\ntR.",
    "setting the state of a function": RECONSTRUCT + b"(S'__code__'\nI1\ndb.",
    "setting attributes by a slot state": RECONSTRUCT + b"(N(S'function'\nI1\ndtb.",
    "setting the state of a type": DTYPE + b"(S'function'\nI1\ndb.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x14ndarray.__subclasses__\x93.",
    "an object behind a scalar": SCALAR + b"(" + DTYPE + b"(S'O8'\ntRC\x08AAAAAAAAtR.",
    "a scalar of no type": SCALAR + b"(I1\nC\x01AtR.",
    "a reference to outside": b"Pnumpy\n.",
    "an extension code": b"\x82\x01.",
    "an empty stack": b"0.",
    "no end": b"(dp0\n",
    "a huge memo": b"\x80\x02r\xff\xff\xff\x7f.",
    "another codec": b"c_codecs\nencode\n(S'aa'\nS'rot13'\ntR.",
    "a plain dictionary": b"(I0\nS'V1'\nd.",
    "an array without state": RECONSTRUCT + b"(tR.",
    "a state of another kind": RECONSTRUCT + b"(tR(I1\ntb.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_within_the_allowed_names_end_in_an_error(tmp_path, trick) -> None:
    # Catches stand-ins that can be changed, called to allocate, or read as pointers.
    _npy(tmp_path / "map.npy", TRICKS[trick])
    with pytest.raises(FileError, match=r"map\.npy"):
        read_label_map(tmp_path / "map.npy")
    np.save(tmp_path / "sound.npy", NAMES)
    assert read_label_map(tmp_path / "sound.npy") == NAMES


def test_a_stand_in_cannot_be_changed_before_a_sound_map(tmp_path) -> None:
    # Catches stand-ins that take attributes: what follows would be read through them.
    change = RECONSTRUCT + b"(N(S'what'\nI1\ndtb0"
    sound = pickle.dumps(np.array(NAMES, dtype=object), protocol=0)
    _npy(tmp_path / "sound.npy", RECONSTRUCT + b"0" + sound)
    assert read_label_map(tmp_path / "sound.npy") == NAMES
    _npy(tmp_path / "map.npy", change + sound)
    with pytest.raises(FileError, match="it sets 'what'"):
        read_label_map(tmp_path / "map.npy")


@pytest.mark.parametrize(
    "content",
    [
        {0: 1},
        {"0": "V1"},
        {0: b"V1"},
        {True: "V1"},
        {0: ["V1"]},
        {0.0: "V1"},
        {(0,): "V1"},
        ["V1"],
        "V1",
        None,
    ],
)
def test_maps_of_other_types_are_refused(tmp_path, content) -> None:
    # Catches a map that would match no label, or every.
    _npy(tmp_path / "map.npy", pickle.dumps(np.array(content, dtype=object)))
    with pytest.raises(FileError, match=r"map\.npy (maps|holds)"):
        read_label_map(tmp_path / "map.npy")


def test_a_value_that_doubles_itself_is_not_printed(tmp_path) -> None:
    # Catches an error message that takes hours to write.
    value: object = "lol"
    for _ in range(60):
        value = [value, value]
    _npy(tmp_path / "map.npy", pickle.dumps(np.array({0: value}, dtype=object)))
    with pytest.raises(FileError, match="maps int to list"):
        read_label_map(tmp_path / "map.npy")


def test_a_truncated_file_is_named_at_every_length(tmp_path) -> None:
    # Catches an error that is not ours, or half a map.
    np.save(tmp_path / "whole.npy", NAMES)
    content = (tmp_path / "whole.npy").read_bytes()
    path = tmp_path / "map.npy"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileError, match=r"map\.npy"):
            read_label_map(path)


def test_files_of_another_kind_are_named(tmp_path) -> None:
    # Catches numbers, lists of objects, large and missing files.
    path = tmp_path / "map.npy"
    np.save(path, np.arange(3))
    with pytest.raises(FileError, match=r"map\.npy is int64 of shape \(3,\)"):
        read_label_map(path)
    np.save(path, np.array([{0: "a"}], dtype=object))
    with pytest.raises(FileError, match=r"shape \(1,\)"):
        read_label_map(path)
    path.write_bytes(b"\0" * (MAX_BYTES + 1))
    with pytest.raises(FileError, match="This is another file"):
        read_label_map(path)
    path.write_bytes(b"\x93NUMPY\x03\x00" + b"\0" * 90)
    with pytest.raises(FileError, match=r"npy version \(3, 0\)"):
        read_label_map(path)
    with pytest.raises(FileError, match="does not exist"):
        read_label_map(tmp_path / "none.npy")
    with pytest.raises(FileError, match="cannot be read"):
        read_label_map(tmp_path)
