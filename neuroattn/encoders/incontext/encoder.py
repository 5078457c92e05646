"""The in-context encoder: a network reads a few pairs of a voxel and writes its encoder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import xarray as xr

from neuroattn.data.split import split_by_image
from neuroattn.data.transforms import average_repetitions
from neuroattn.encoders.adaptive import AdaptiveEncoder, chosen_images
from neuroattn.encoders.config import as_config
from neuroattn.encoders.embedding import EmbeddingConfig, fit_embedding
from neuroattn.encoders.incontext.blocks import voxel_blocks
from neuroattn.encoders.incontext.episode_data import EpisodeData
from neuroattn.encoders.incontext.episodes import EpisodeConfig
from neuroattn.encoders.incontext.module import InContextModule, network_config
from neuroattn.encoders.incontext.network import SetTransformer, SetTransformerConfig
from neuroattn.encoders.incontext.start import check_basis, learned_before
from neuroattn.encoders.inputs import check_finite, describe_features
from neuroattn.encoders.provenance import joined, learned_from
from neuroattn.encoders.voxel_set import VoxelSet, voxel_set
from neuroattn.errors import InputError, MismatchError
from neuroattn.names import check_name
from neuroattn.progress import ticker
from neuroattn.training.datamodule import checked_seed
from neuroattn.training.loop import train_on
from neuroattn.training.optimisation import Optimisation

__all__ = ["InContextEncoder"]

PRECISIONS = ("auto", "float32", "bfloat16")


class InContextEncoder(AdaptiveEncoder):
    """A set transformer, trained on many voxels, writes the encoder of a voxel never seen before.

    Each pair of an image embedding and a response is a token; the network reads the set and its
    first token becomes the weights and the intercept of a linear encoder over the embedding.

    Parameters
    ----------
    network : SetTransformerConfig or mapping, optional
        Width, heads, layers, attention mechanism, logit scaling.
    embedding : EmbeddingConfig or mapping, optional
        One vector an image.
    episodes : EpisodeConfig or mapping, optional
        Context lengths and queries of the meta-training.
    optimisation : Optimisation or mapping, optional
        Optimiser and schedule; ``batch_size`` counts voxels.
    start : str, optional
        First weights: the folder of a saved ``InContextEncoder`` or run, or published weights.
    seed : int
        Seed of first weights, episodes and dropout.
    memory : float
        GiB that ``adapt`` may use for activations, above 0; voxels are written in blocks that fit.
    precision : {"auto", "float32", "bfloat16"}
        Of ``adapt``: "auto" is bfloat16 matrix products on a GPU, float32 elsewhere.
    progress : bool, optional
        Show progress bars; by default where stderr is a terminal.

    Attributes
    ----------
    network_ : SetTransformer
        The trained network, in evaluation mode, on the CPU.

    References
    ----------
    Yu et al. (2025), Meta-learning an in-context transformer model of human higher visual cortex;
    arXiv 2505.15813.
    """

    network_: SetTransformer
    watches_validation = True

    def __init__(
        self,
        network: SetTransformerConfig | Mapping[str, Any] | None = None,
        embedding: EmbeddingConfig | Mapping[str, Any] | None = None,
        episodes: EpisodeConfig | Mapping[str, Any] | None = None,
        optimisation: Optimisation | Mapping[str, Any] | None = None,
        start: str | None = None,
        seed: int = 0,
        memory: float = 1.0,
        precision: str = "auto",
        progress: bool | None = None,
    ) -> None:
        self.network = network
        self.embedding = embedding
        self.episodes = episodes
        self.optimisation = optimisation
        self.start = start
        self.seed = seed
        self.memory = memory
        self.precision = precision
        self.progress = progress

    @classmethod
    def from_published(
        cls,
        path: str | Path,
        features: xr.Dataset,
        embedding: EmbeddingConfig | Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Self:
        """Return an encoder with published weights, ready for :meth:`adapt`.

        Parameters
        ----------
        path : str or Path
            A checkpoint of the reference implementation (``.pth``, ``.ckpt``, ``.safetensors``).
        features : xarray.Dataset
            Of the basis that the weights were trained on, which the file does not say: CLIP
            ViT-B/32's image embedding for 512 channels, for example. Later features must be of it.
        embedding : EmbeddingConfig or mapping, optional
            By default the mean over tokens, L2-normalised; one token an image stays what it is.
        **parameters
            Further parameters of the constructor.

        Raises
        ------
        FileError
            If the file cannot be read without executing anything.
        MismatchError
            If it is of another network, or of embeddings of another width.
        """
        from neuroattn.encoders.incontext.published import load_published

        config, network = load_published(Path(path))
        encoder = cls(network=config, embedding=embedding, **parameters)
        plan = as_config("embedding", embedding, EmbeddingConfig)
        encoder.embedding_ = fit_embedding(plan, features, features["image"].values)
        if encoder.embedding_.width != network.embedding_width:
            raise MismatchError(
                f"{path} reads embeddings of width {network.embedding_width}, but these features "
                f"give {encoder.embedding_.width}. Give features of the model that it was "
                "trained on."
            )
        encoder.features_ = describe_features(features)
        encoder.zscored_ = "session"
        encoder.learned_from_ = learned_from([])  # the file does not say
        encoder._take(network)
        encoder._forget()
        return encoder

    @classmethod
    def from_training(
        cls, module: InContextModule, data: EpisodeData, features: xr.Dataset, **parameters: Any
    ) -> Self:
        """Return the encoder of a trained module, ready for :meth:`adapt`.

        Parameters
        ----------
        module : InContextModule
            Trained; its network is taken over.
        data : EpisodeData
            What it was trained on.
        features : xarray.Dataset
            Of the images of the training.
        **parameters
            Further parameters of the constructor; those of the training are known.
        """
        known = {
            "network": module.config,
            "embedding": data.embedding.config,
            "episodes": data.episodes,
            "optimisation": module.optimisation,
            "start": module.start,
            "seed": data.seed,
        }
        encoder = cls(**{**known, **parameters})
        encoder.features_, encoder.embedding_ = describe_features(features), data.embedding
        encoder.zscored_ = data.zscored
        own = [each for each in (*data.sets, *data.validation) if isinstance(each, VoxelSet)]
        learned = learned_from((each.voxels, each.images) for each in own)
        encoder.learned_from_ = joined(learned, learned_before(module.start))
        encoder._take(module.network)
        encoder._forget()
        return encoder

    def fit(
        self,
        features: xr.Dataset,
        responses: xr.Dataset | Sequence[xr.Dataset],
        validation: xr.Dataset | Sequence[xr.Dataset] | None = None,
    ) -> Self:
        """Learn from many voxels how voxels are, see :meth:`AdaptiveEncoder.fit`.

        Without ``validation`` a share of all images, ``optimisation.validation_fraction``, is held
        out, for all sets alike.

        Raises
        ------
        MismatchError
            Also if ``start`` was trained on features of another basis.
        """
        if self.start is not None:
            check_basis(Path(self.start), describe_features(features)["key"])
        super().fit(features, responses, validation)
        self.learned_from_ = joined(self.learned_from_, learned_before(self.start))
        return self

    def context_attention(
        self,
        features: xr.Dataset,
        responses: xr.Dataset,
        voxels: Sequence[int] | None = None,
        layer: int = -1,
    ) -> xr.DataArray:
        """Return how strongly each context image wrote each voxel.

        Parameters
        ----------
        features : xarray.Dataset
            Features of the basis of the training.
        responses : xarray.Dataset
            The responses that :meth:`adapt` was given; images outside the context are left out.
        voxels : sequence of int, optional
            Positions of the voxels of interest (default: all; the result is held in memory).
        layer : int
            Layer of the network, the last by default.

        Returns
        -------
        xarray.DataArray
            (voxel, head, image), float32: the readout token's weights on the context images; what
            is missing to a sum of 1 lies on the registers.

        Raises
        ------
        InputError
            If the encoder is not adapted, there is no such layer or voxel, responses contain NaN,
            or the mechanism has no explicit weights.
        MismatchError
            If the features are of another basis, context images have no response, or the
            responses are of other voxels or standardised otherwise.
        """
        self._require_adapted()
        self._check_features(features)
        self._check_voxels(responses)
        self._check_scale(responses)
        averaged = average_repetitions(chosen_images(responses, self.context_))
        check_finite(averaged)
        context = voxel_set(self.embedding_, features, averaged)
        chosen = _positions(voxels, context.response.shape[1])
        with torch.inference_mode():
            blocks = [
                self.network_.readout_attention(
                    context.embedded, context.response[:, block].T, layer
                )
                for block in self._blocks(chosen, len(context.images))
            ]
        coords = {
            name: ("voxel", values.values[chosen])
            for name, values in self.voxels_["voxel"].coords.items()
        }
        return xr.DataArray(
            torch.cat(blocks).float().numpy(),
            dims=("voxel", "head", "image"),
            coords={"image": list(context.images), **coords},
            name="attention",
        )

    def _learn(self, sets: list[VoxelSet], validation: list[VoxelSet]) -> None:
        check_name("precision", self.precision, PRECISIONS)
        optimisation = as_config("optimisation", self.optimisation, Optimisation)
        if not validation:
            fraction, seed = optimisation.validation_fraction, checked_seed(self.seed)
            sets, validation = _held_out(sets, fraction, seed)
        episodes = as_config("episodes", self.episodes, EpisodeConfig)
        data = EpisodeData(self.embedding_, sets, validation, episodes, self.seed)
        module = InContextModule(network_config(self.network), optimisation, self.start)
        module.prepare_from(data)
        shown = sys.stderr.isatty() if self.progress is None else self.progress
        train_on(module, data, data.seed, shown)
        self._take(module.network)

    def _take(self, network: SetTransformer) -> None:
        """Take a network over, whatever device and precision it was trained in."""
        self.network_ = network.cpu().float().eval()

    def write(self, context: VoxelSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoders of new voxels, see :meth:`AdaptiveEncoder.write`."""
        check_name("precision", self.precision, PRECISIONS)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        half = self.precision == "bfloat16" or (self.precision == "auto" and device.type == "cuda")
        cast = torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
        voxels, blocks = context.response.shape[1], []
        embedded = context.embedded.to(device)
        try:
            self.network_.to(device)
            with torch.inference_mode(), cast, ticker(voxels, "voxels", self.progress) as tick:
                for block in self._blocks(np.arange(voxels), len(context.images), device.type):
                    response = context.response[:, block].T.to(device)
                    blocks.append(self.network_(embedded, response).float().cpu())
                    tick(len(block))
        finally:
            self.network_.cpu()
        written = torch.cat(blocks)
        return written[:, :-1], written[:, -1]

    def _blocks(self, voxels: np.ndarray, images: int, device: str = "cpu") -> Iterator[np.ndarray]:
        config, width = self.network_.config, self.network_.embedding_width
        return voxel_blocks(voxels, images, config, width, self.memory, device)

    def _prior_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        state = self.network_.state_dict()
        return {f"network.{name}": value.clone() for name, value in state.items()}, {}

    def _restore_prior(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        with torch.random.fork_rng(devices=[]):
            network = SetTransformer(network_config(self.network), self.embedding_.width)
        own = {name.removeprefix("network."): value for name, value in tensors.items()}
        network.load_state_dict(own)
        self._take(network)


def _positions(voxels: Sequence[int] | None, count: int) -> np.ndarray:
    if voxels is None:
        return np.arange(count)
    chosen = np.asarray(voxels)
    if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu":
        raise InputError(f"voxels={voxels!r}; needed are positions of voxels, one at least.")
    wrong = chosen[(chosen < 0) | (chosen >= count)]
    if wrong.size:
        raise InputError(f"voxels names {wrong[0]}, but there are {count} voxels, counted from 0.")
    return chosen


def _held_out(
    sets: list[VoxelSet], fraction: float, seed: int
) -> tuple[list[VoxelSet], list[VoxelSet]]:
    """Divide the images of all sets: a shared image is on one side for everybody.

    ``sets`` is emptied on the way, so that no more than one of them is in memory twice.

    Raises
    ------
    InputError
        If nothing is to be held out.
    """
    if not fraction:
        raise InputError(
            "validation_fraction=0.0 and no validation responses were given: the best epoch could "
            "not be chosen. Give fit(..., validation=...) or a fraction above 0."
        )
    every = sorted({image for each in sets for image in each.images})
    shares = {"train": 1 - fraction, "validation": fraction}
    split = split_by_image(xr.Dataset(coords={"image": ("image", every)}), shares, seed)
    training, validation = [], []
    while sets:
        each = sets.pop(0)
        training.append(_part(each, split["train"]))
        validation.append(_part(each, split["validation"]))
    return training, validation


def _part(each: VoxelSet, images: Sequence[str]) -> VoxelSet:
    rows = np.flatnonzero(np.isin(each.images, list(images)))
    shown = tuple(each.images[row] for row in rows)
    return VoxelSet(shown, each.embedded[rows], each.response[rows], each.voxels)
