"""One sentence out of a parser's page: which key, what was found, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from neuroattn.errors import InputError, NeuroattnError
from neuroattn.io import read_yaml
from neuroattn.names import did_you_mean

#: Recipes may say ``${oc.env:NAME}`` for an environment variable.
RECIPE_MODE: dict[str, Any] = {"parser_mode": "omegaconf"}

_BOILERPLATE = re.compile(
    r"^(Does not validate against any|Subtypes:|\(?<class|Errors:|Given value"
    r"|Expected a <class 'NoneType'>)"
)
_KEY = re.compile(r'^Parser key "([^"]+)":\s*')


@contextmanager
def constructor_errors() -> Iterator[None]:
    """Turn what jsonargparse makes of a constructor's refusal into the refusal itself.

    Raises
    ------
    InputError
        With the message of the constructor, or of the parser where no constructor spoke.
    """
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, NeuroattnError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, NeuroattnError):
            raise
        raise InputError(explain(str(cause or error), [])) from error


@contextmanager
def recipe_errors() -> Iterator[None]:
    """Turn what OmegaConf says of a recipe into an :class:`InputError`.

    Raises
    ------
    InputError
        If a recipe is no YAML, or names an environment variable that is not set.
    """
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        yield
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = str(error.msg if hasattr(error, "msg") else error).splitlines()[0]
        reason = reason.removeprefix("KeyError raised while resolving interpolation: ")
        hint = (
            " Set it before the command: NAME=value neuroattn …" if "nvironment" in reason else ""
        )
        raise InputError(f"recipe, key {key}: {reason.strip(chr(34))}.{hint}") from error
    except YAMLError as error:
        raise InputError(f"recipe is not valid YAML: {' '.join(str(error).split())}") from error


def check_recipes(arguments: Sequence[str]) -> None:
    """Check that every ``--config`` of a command is a file with a YAML mapping.

    Raises
    ------
    FileError
        If it is missing or no YAML; names file, line and column.
    InputError
        If it is no mapping.
    """
    following = [*arguments[1:], ""]
    for name, value in zip(arguments, following, strict=True):
        flag, _, joined = name.partition("=")
        path = joined or value
        if flag in ("-c", "--config") and path:
            found = read_yaml(path, "recipe")
            if not isinstance(found, dict):
                raise InputError(
                    f"recipe {path} holds {'nothing' if found is None else repr(found)[:60]}, not "
                    "keys and values; see the recipes in encoders/."
                )


def explain(message: str, known: Sequence[str]) -> str:
    """Return the key path and the reason that helps most of a parser's message.

    Parameters
    ----------
    message : str
        jsonargparse's message: nested, one alternative of a union after the other.
    known : sequence of str
        Keys that exist, for the closest match to one that does not.
    """
    path: list[str] = []
    reasons: list[tuple[list[str], str]] = []
    given = ""
    for line in message.splitlines():
        bare = line.strip()
        text = bare.removeprefix("- ").strip()
        while found := _KEY.match(text):
            path.append(found.group(1))
            text = text[found.end() :]
        given = given or text.partition("Given value: ")[2]
        if not text or _BOILERPLATE.match(text):
            continue
        if bare.startswith("- ") or not reasons:
            reasons.append((list(path), text))
        else:
            reasons[-1] = (reasons[-1][0], f"{reasons[-1][1]} {text}")
    if not reasons:
        return _plain(" ".join(message.split()))
    best = min(_rank(reason) for _, reason in reasons)
    chosen = [(keys, reason) for keys, reason in reasons if _rank(reason) == best]
    keys, reason = chosen[0]
    if len(chosen) > 1 and best == 1 and all(each.startswith("Expected a ") for _, each in chosen):
        kinds = [each.removeprefix("Expected a ") for _, each in chosen]
        reason = f"Expected {' or '.join(kinds)}. Got value: {given}"
    place = ".".join(key for i, key in enumerate(keys) if i == 0 or key != keys[i - 1])
    sentence = f"{place}: {_plain(reason)}" if place else _plain(reason)
    return sentence + ("" if "did you mean" in sentence else _closest(sentence, known))


def _rank(reason: str) -> int:
    """Return how little an alternative's reason helps; 0 helps most."""
    if re.search("did you mean|not accepted|has no attribute|not correspond to a sub", reason):
        return 0
    if reason.startswith(("Expected a path", "Expected a dot import")) or reason.endswith(":"):
        return 2
    return 1


def _plain(reason: str) -> str:
    reason = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", reason)
    reason = re.sub(r"\b(?:typing\.)?Literal\[(.*?)\]", r"one of \1", reason)
    reason = reason.replace("Problem with given class_path", "class_path")
    reason = re.sub(r"^Expected a (?!path|dot)", "Expected ", reason)
    return reason if len(reason) < 600 else reason[:600] + " …"


def _closest(sentence: str, known: Sequence[str]) -> str:
    wrong = re.search(
        r"(?:ption |[Kk]ey |unrecognized arguments: (?=-))['\"]?-{0,2}([\w.]+)", sentence
    )
    if not wrong:
        return ""
    # In `data.bassis.class_path` the wrong part stands before a right one.
    parts = wrong.group(1).removeprefix("fit.").split(".")
    for end in range(len(parts), 0, -1):
        same = {".".join(k.split(".")[:end]) for k in known if not k.endswith(".help")}
        wrong_part = ".".join(parts[:end])
        if wrong_part not in same and (hint := did_you_mean(wrong_part, same)):
            return hint
    return ""
