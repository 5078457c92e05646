"""Features of any transformers vision model: tokens of its blocks, or one vector an image."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroattn.errors import InputError
from neuroattn.features.base import FeatureBasis
from neuroattn.features.preprocess import preprocessing
from neuroattn.features.towers import (
    blocks,
    check_complete,
    find_file,
    load_model,
    query_layer,
    reading,
    transformers_for,
    used,
    weights_hash,
)
from neuroattn.features.whole_image import (
    JOINT,
    WITH_PROJECTION,
    embed,
    used_for,
    whole_image,
    without_text,
)
from neuroattn.names import check_name

if TYPE_CHECKING:
    import torch

    from neuroattn.features.text import TextTower

# Entries of a configuration that say how it was saved, not what it computes.
VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
SOURCES = ("hidden", "queries", "output", "embedding")


class HuggingFaceVision(FeatureBasis):
    """Tokens of a frozen vision transformer: DINOv2, DINOv3, CLIP, SigLIP, ViT, ViT-MAE, ...

    Of a model with a text tower only the vision tower is kept. ViT-MAE runs without masking. The
    class token, where there is one, is kept apart as ``"class_token"``; register tokens are
    dropped. Weights are loaded when they are first needed.

    Parameters
    ----------
    name : str
        Name on the hub, or a local folder.
    layers : sequence of int
        Blocks, 0 to depth - 1 or from the end (-1 the last); their channels are concatenated.
    source : {"hidden", "queries", "output", "embedding"}
        ``hidden``: what a block gives on, before any later normalisation. ``queries``: the
        query projection of its attention, heads side by side, before any rotary code.
        ``output``: the model's last hidden state behind its final norm, where it has one
        (``layers`` stays (-1,)). ``embedding``: one token, the vector of the whole image, not
        normalised: of CLIP and SigLIP the image embedding in the space that texts share (of a
        CLIP tower saved without its text tower, too, if its projection is there), of DINOv2,
        DINOv3 and ViT the class token behind the final norm.
    image_size : int, optional
        Resize the whole image to this square (stretched if it is not square). By default what
        the model's preprocessor file says, a centre crop included; without a file see
        :func:`neuroattn.features.preprocess.preprocessing`.
    revision : str, optional
        Branch, tag or commit on the hub.
    device : str
        Where the model runs, e.g. ``"cuda"``.
    dtype : {"float32", "float16", "bfloat16"}
        In which numbers it runs; the result is float32.
    local_files_only : bool
        Never ask the hub.

    Raises
    ------
    MissingExtraError
        Without transformers.
    FileError
        If the name, folder or weights are not found, damaged or incomplete.
    InputError
        If an argument is not allowed or the model is no vision transformer.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[int] = (-1,),
        source: str = "hidden",
        image_size: int | None = None,
        revision: str | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        local_files_only: bool = False,
    ) -> None:
        self.source = check_name("source", source, SOURCES)
        self.dtype = check_name("dtype", dtype, ("float32", "float16", "bfloat16"))
        self.model_name, self.device = str(name), device
        self._where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        self._full_config, processor = self._read_configs()
        config = getattr(self._full_config, "vision_config", self._full_config)
        sizes = [getattr(config, key, None) for key in ("patch_size", "hidden_size", "image_size")]
        depth = getattr(config, "num_hidden_layers", None)
        if None in sizes or not isinstance(depth, int) or not isinstance(sizes[1], int):
            raise InputError(
                f"name={name!r} is a {config.model_type!r}, which has no single grid of tokens; "
                "take a vision transformer such as DINOv2, CLIP, SigLIP, ViT or ViT-MAE."
            )
        patch, native = _side(sizes[0]), _side(sizes[2])
        if image_size is not None and image_size < patch:
            raise InputError(f"image_size={image_size} is less than one patch of {patch} pixels.")
        self._config, self._native = config, native
        self.layers = self._check_layers(layers, depth)
        self._prepare = preprocessing(processor, config.model_type, native, image_size)
        self.grid = (self._prepare.shape[0] // patch, self._prepare.shape[1] // patch)
        self._patches = self.grid[0] * self.grid[1]
        self.channels = sizes[1] * len(self.layers)
        self.name = f"huggingface-{config.model_type.replace('_', '-')}"
        self._kind = ""
        if source == "embedding":
            self._kind, self.channels = whole_image(self._full_config, config)
            self.grid, self.name = (1, 1), f"{self.name}-{self._kind}"
        self._loaded: torch.nn.Module | None = None
        self._weights = ""

    def extract(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return tokens, float32 of shape (image, token, channel)."""
        return self.extract_all(images)["tokens"]

    def extract_all(self, images: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.float32]]:
        """Return ``tokens`` (image, token, channel) and ``class_token`` (image, channel)."""
        import torch

        tower, patches = self._tower(), self.grid[0] * self.grid[1]
        if not len(images):
            return {"tokens": np.zeros((0, patches, self.channels), np.float32)}
        pixels = torch.from_numpy(np.stack([self._prepare(image) for image in images]))
        pixels = pixels.to(self.device, getattr(torch, self.dtype))
        with torch.inference_mode():
            values = self._run(tower, pixels).float().cpu().numpy()
        extra = values.shape[1] - patches
        if extra < 0 or values.shape[-1] != self.channels:
            raise InputError(
                f"{self.model_name} gave {values.shape[1]} tokens of {values.shape[-1]} channels; "
                f"at least {patches} of {self.channels} were expected from its configuration. "
                "This model's tokens are no plain grid."
            )
        outputs = {"tokens": np.ascontiguousarray(values[:, extra:])}
        if extra:
            outputs["class_token"] = np.ascontiguousarray(values[:, 0])
        return outputs

    def _run(self, tower: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        """Return the tokens (image, token, channel) of prepared images, special ones first."""
        import torch

        if self._kind:
            run = getattr(tower, "get_image_features", tower.forward)
            return embed(tower, pixels, self._options(run, len(pixels)), self._kind)[:, None]
        caught: dict[int, torch.Tensor] = {}
        with self._hooks(tower, caught):
            final = tower(pixel_values=pixels, **self._options(tower.forward, len(pixels)))
        if self.source == "output":
            return final.last_hidden_state  # type: ignore[no-any-return]
        return torch.cat([caught[layer] for layer in self.layers], dim=-1)

    def spec(self) -> dict[str, Any]:
        """Return source, layers, dtype, preprocessing, configuration and a hash of the weights."""
        tower, config = self._tower(), self._config.to_dict()
        self._weights = self._weights or weights_hash(tower, self._counts)
        return {
            "version": 1,
            "source": self.source,
            "layers": list(self.layers),
            "dtype": self.dtype,
            "preprocessing": json.loads(json.dumps(asdict(self._prepare))),
            "config": json.loads(
                json.dumps({k: v for k, v in config.items() if k not in VOLATILE}, default=str)
            ),
            "weights": self._weights,
        }

    def text_tower(self) -> TextTower:
        """Return the tower that puts texts into the space of these image vectors.

        It is read from the same place and remembers the :meth:`key` of this basis, so that
        vectors of another model are told apart.

        Raises
        ------
        InputError
            If ``source`` is not "embedding", or the model was saved without its text tower.
        """
        from neuroattn.features.text import TextTower

        if self._kind != JOINT:
            raise InputError(
                f"the source={self.source!r} of {self.model_name} shares no space with texts; "
                "take source='embedding' of a model with a text tower (CLIP, SigLIP)."
            )
        tower = TextTower(self.model_name, device=self.device, dtype=self.dtype, **self._where)
        tower.image_key = self.key()
        return tower

    def _check_layers(self, layers: Sequence[int], depth: int) -> tuple[int, ...]:
        wrong = [layer for layer in layers if not -depth <= layer < depth]
        whole = tuple(layer % depth for layer in layers)
        if wrong or not whole or len(set(whole)) != len(whole):
            raise InputError(
                f"layers={tuple(layers)} of {self.model_name}: give different blocks from "
                f"{-depth} to {depth - 1}."
            )
        if self.source in ("output", "embedding") and whole != (depth - 1,):
            raise InputError(
                f"source={self.source!r} is the last layer; layers={tuple(layers)} is not."
            )
        return whole

    def _read_configs(self) -> tuple[Any, dict[str, Any]]:
        transformers = transformers_for("HuggingFaceVision")
        with reading(self.model_name, "configuration"):
            config = transformers.AutoConfig.from_pretrained(self.model_name, **self._where)
            for file, key in (
                ("preprocessor_config.json", ""),
                ("processor_config.json", "image_processor"),
            ):
                found = find_file(self.model_name, file, self._where)
                if found:
                    with open(found, encoding="utf-8") as stream:
                        content = json.load(stream)
                    return config, content.get(key, {}) if key else content
        return config, {}

    def _tower(self) -> torch.nn.Module:
        if self._loaded is not None:
            return self._loaded
        if hasattr(self._config, "mask_ratio"):
            self._config.mask_ratio = 0.0
        kind = WITH_PROJECTION.get(self._full_config.model_type, "") if self._kind else ""
        model, missing = load_model(
            self.model_name, self._full_config, self.dtype, self._where, kind or "AutoModel"
        )
        tower: torch.nn.Module = model
        if self._kind:
            tower = without_text(model)
        elif hasattr(model, "vision_model"):
            tower = model.get_submodule("vision_model")
            missing = {key.removeprefix("vision_model.") for key in missing}
        absent = {key for key in missing & set(tower.state_dict()) if self._counts(key)}
        check_complete(self.model_name, absent, "vision tower")
        self._loaded = tower.to(self.device).eval().requires_grad_(False)
        return self._loaded

    def _counts(self, key: str) -> bool:
        return used_for(self._kind, key) if self._kind else used(key)

    def _options(self, run: Callable[..., Any], count: int) -> dict[str, Any]:
        import torch

        known = inspect.signature(run).parameters
        options: dict[str, Any] = {}
        if self._prepare.shape != (self._native, self._native) and (
            "interpolate_pos_encoding" in known
        ):
            options["interpolate_pos_encoding"] = True
        if "noise" in known:
            # ViT-MAE sorts tokens by this noise: rising noise leaves them where they are.
            order = torch.arange(self._patches, device=self.device)
            options["noise"] = order.float().expand(count, -1)
        return options

    @contextmanager
    def _hooks(self, tower: torch.nn.Module, caught: dict[int, torch.Tensor]) -> Iterator[None]:
        with ExitStack() as stack:
            for layer in self.layers if self.source != "output" else ():
                block = blocks(tower, self._config.num_hidden_layers, self.model_name)[layer]
                module, fused = (block, False) if self.source == "hidden" else query_layer(block)

                def keep(
                    _module: Any, _inputs: Any, output: Any, layer: int = layer, fused: bool = fused
                ) -> None:
                    value = output[0] if isinstance(output, tuple) else output
                    caught[layer] = value[..., : value.shape[-1] // 3] if fused else value

                stack.callback(module.register_forward_hook(keep).remove)
            yield


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size[-1])
