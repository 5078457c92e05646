"""Words for names: metrics and ROI groups, without loading a plotting library."""

from __future__ import annotations

import re

#: How a metric is written in tables and on axes.
METRIC_LABELS = {"explained_variance": "explained variance", "pearson": "Pearson r", "r2": "R²"}

#: Group of a ROI by its name, first match; the names are those of NSD, Algonauts and fLoc.
_GROUPS = (
    ("early visual", r"h?V[1-4]([vdab]|ab)?|early"),
    ("faces", r"(FFA|OFA|STS|ATL).*|.*faces?"),
    ("bodies", r"(EBA|FBA).*|.*bod(y|ies)"),
    ("places", r"(PPA|OPA|TOS|RSC).*|.*places?"),
    ("words", r"(VWFA|OWFA).*|.*words?"),
    ("food", r".*food.*"),
)
OTHER = "other"
GROUPS = (*(name for name, _ in _GROUPS), OTHER)


def roi_group(name: str) -> str:
    """Return the functional group of a ROI.

    Parameters
    ----------
    name : str
        Such as "V1d", "FFA-1" or "floc-words"; capitals do not matter.

    Returns
    -------
    str
        "early visual", "faces", "bodies", "places", "words", "food" or "other".

    Examples
    --------
    >>> roi_group("V3v"), roi_group("FFA-1"), roi_group("midventral")
    ('early visual', 'faces', 'other')
    """
    matches = (group for group, rule in _GROUPS if re.fullmatch(rule, name, re.IGNORECASE))
    return next(matches, OTHER)
