"""One sentence out of a parser's page: which key, what was found, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from neuroattn.errors import InputError
from neuroattn.names import did_you_mean

#: Recipes may say ``${oc.env:NAME}`` for an environment variable.
RECIPE_MODE = {"parser_mode": "omegaconf"}

_BOILERPLATE = re.compile(
    r"^(Does not validate against any|Subtypes:|\(?<class|Errors:|Given value|Expected a <class 'NoneType'>)"
)
_KEY = re.compile(r'^Parser key "([^"]+)":\s*')


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


def explain(message: str, known: Sequence[str]) -> str:
    """Return the key path and the innermost reason of a parser's message.

    Parameters
    ----------
    message : str
        jsonargparse's message: nested, one alternative of a union after the other.
    known : sequence of str
        Keys that exist, for the closest match to one that does not.
    """
    path: list[str] = []
    reasons: list[str] = []
    for line in message.splitlines():
        text = line.strip()
        if text.startswith("- ") and reasons:
            break  # the next alternative of the union
        text = text.removeprefix("- ").strip()
        while found := _KEY.match(text):
            path.append(found.group(1))
            text = text[found.end() :]
        if text and not _BOILERPLATE.match(text):
            reasons.append(text)
    reason = _plain(" ".join(reasons)) if reasons else _plain(" ".join(message.split()))
    place = ".".join(key for i, key in enumerate(path) if i == 0 or key != path[i - 1])
    sentence = f"{place}: {reason}" if place else reason
    return sentence + ("" if "did you mean" in sentence else _closest(sentence, known))


def _plain(reason: str) -> str:
    reason = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", reason)
    reason = reason.replace("Problem with given class_path", "class_path")
    return reason if len(reason) < 600 else reason[:600] + " …"


def _closest(sentence: str, known: Sequence[str]) -> str:
    wrong = re.search(
        r"(?:option|key|arguments?:?) ['\"]?-{0,2}([\w.]+)", sentence, flags=re.IGNORECASE
    )
    if not wrong:
        return ""
    # In `data.bassis.class_path` the wrong part stands before a right one.
    parts = wrong.group(1).removeprefix("fit.").split(".")
    for end in range(len(parts), 0, -1):
        same = {".".join(k.split(".")[:end]) for k in known if not k.endswith(".help")}
        if hint := did_you_mean(".".join(parts[:end]), same):
            return hint
    return ""
