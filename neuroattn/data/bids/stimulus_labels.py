"""Categories from the stimulus index of a data set, as features."""

from __future__ import annotations

from neuroattn.data.sessions import SessionReader
from neuroattn.errors import InputError
from neuroattn.features.labels import Labels
from neuroattn.names import did_you_mean


class StimulusLabels(Labels):
    """One channel of 0 and 1 for each entry of a column of the stimulus index.

    Parameters
    ----------
    source : SessionReader
        The data set; of a BIDS data set, the columns are those of its events.
    column : str
        "trial_type", a category, a concept, ...; an empty entry is no category.

    Raises
    ------
    InputError
        If the stimulus index has no such column.
    """

    def __init__(self, source: SessionReader, column: str) -> None:
        index = source.stimuli()
        if column not in index:
            raise InputError(
                f"column={column!r} is not in the stimulus index{did_you_mean(column, index)}; it "
                f"has {', '.join(index)}."
            )
        self.source, self.column = source, column
        entries = [str(entry) for entry in index[column]]
        names = [str(image) for image in index["image"]]
        super().__init__(
            {
                name: [entry] if entry and entry != "n/a" else []
                for name, entry in zip(names, entries, strict=True)
            }
        )
