"""The hierarchy of errors: caught by our base class and by the built-in kind alike."""

from __future__ import annotations

import inspect

import pytest

from neuroattn import errors

KINDS = [
    (errors.InputError, ValueError),
    (errors.UnknownNameError, LookupError),
    (errors.FileError, OSError),
    (errors.MismatchError, ValueError),
    (errors.RunExistsError, OSError),
    (errors.MissingExtraError, ImportError),
]


@pytest.mark.parametrize(("ours", "builtin"), KINDS)
def test_each_error_is_caught_as_ours_and_as_the_builtin_kind(
    ours: type[errors.NeuroattnError], builtin: type[Exception]
) -> None:
    """Catches an error that the command line would show as a traceback."""
    for kind in (errors.NeuroattnError, builtin):
        with pytest.raises(kind, match="roi='V9'"):
            raise ours("roi='V9' is unknown")


def test_the_message_is_printed_as_it_was_written() -> None:
    """Catches KeyError's habit of quoting its message, and OSError's of numbering it."""
    for ours, _ in KINDS:
        assert str(ours("x.npy is truncated: 12 bytes")) == "x.npy is truncated: 12 bytes"


def test_no_error_stands_outside_the_hierarchy() -> None:
    """Catches a new class that the command line does not know, or that this table forgets."""
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass)}
    assert classes == {errors.NeuroattnError, *(ours for ours, _ in KINDS)}
    assert all(issubclass(c, errors.NeuroattnError) for c in classes)


def test_an_unknown_name_is_an_input_error_and_an_existing_run_a_file_error() -> None:
    """Catches callers that handle the wider class and miss the narrower one."""
    assert issubclass(errors.UnknownNameError, errors.InputError)
    assert issubclass(errors.MismatchError, errors.InputError)
    assert issubclass(errors.RunExistsError, errors.FileError)
    assert not issubclass(errors.InputError, errors.FileError)
