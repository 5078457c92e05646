"""What a training leaves: encoders and their scores, the last being the one that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from neuroattn.cli.in_context import new_subject, write_attention, write_excess, write_scaling
from neuroattn.encoders.base import Encoder
from neuroattn.encoders.incontext.data import InContextData
from neuroattn.encoders.incontext.module import InContextModule
from neuroattn.errors import InputError
from neuroattn.metrics import Score
from neuroattn.training.datamodule import EncodingData
from neuroattn.training.module import EncoderModule, NetworkModule
from neuroattn.training.run_directory import RunDirectory


@dataclass(frozen=True)
class Results:
    """Encoders and their scores on the test images.

    Attributes
    ----------
    encoders : mapping of str to Encoder
        Baselines first.
    scores : mapping of str to Score
        Of the same names.
    """

    encoders: Mapping[str, Encoder]
    scores: Mapping[str, Score]

    @property
    def main(self) -> Encoder:
        """The encoder that was trained."""
        return list(self.encoders.values())[-1]


def finished(
    model: NetworkModule, data: EncodingData | InContextData, run: RunDirectory
) -> Results:
    """Score a trained module on the test images; an in-context one also writes its curves.

    Raises
    ------
    InputError
        If module and data are not of one kind.
    """
    if isinstance(model, EncoderModule) and isinstance(data, EncodingData):
        name = encoder_name(model)
        encoder: Encoder = model.encoder(data.features, data.part("train"), data.seed)
        return Results({name: encoder}, {name: encoder.score(data.features, data.part("test"))})
    if isinstance(model, InContextModule) and isinstance(data, InContextData):
        subject = new_subject(model, data)
        write_scaling(run, subject, data)
        write_excess(run, subject, data)
        write_attention(run, subject, data)
        return Results(subject.encoders, subject.scores())
    raise InputError(f"a {type(model).__name__} cannot be trained on {type(data).__name__}.")


def encoder_name(model: NetworkModule) -> str:
    """Return the class of the encoder that a module trains."""
    return type(model).__name__.replace("Module", "Encoder")
