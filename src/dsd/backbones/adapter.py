"""Adapter folders: what training writes and generation loads.

A folder holds `adapter.json` (`AdapterMetadata`) and one of
- `adapter.safetensors`: low-rank changes of the base's linear layers in diffusers' control-LoRA format, so that stock
  `FluxControlPipeline.load_lora_weights(folder, weight_name="adapter.safetensors")` reads it too. The widened patch
  embedding is a full-rank change whose input features are doubled;
- `transformer/`: a complete fine-tuned transformer, as diffusers saves it.

The format has no separate scale: a LoRA's ``alpha / rank`` is multiplied into `LowRank.up` before saving.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsd.backbones.published import no_adapter
from dsd.backbones.registry import FAMILIES, layers_of
from dsd.backbones.stock import StockBackbone
from dsd.config import did_you_mean, from_json, to_json
from dsd.errors import UserError, cut, reason_of
from dsd.files import atomic_folder, digest_of, sha256_of_parts, write_atomic
from dsd.frames import Film
from dsd.limits import MOST_TEXT_TOKENS, require_frame, require_within
from dsd.log import console
from dsd.models import is_revision, revision_or_name
from dsd.sampling import Sampling
from dsd.weights import all_finite, load

SCHEMA = 1
WEIGHTS_FILE = "adapter.safetensors"
METADATA_FILE = "adapter.json"
FULL_FOLDER = "transformer"
_PREFIX = "transformer."
_FACTORS = (".lora_A.weight", ".lora_B.weight", ".lora_B.bias")


@dataclass(frozen=True, kw_only=True)
class AdapterMetadata:
    """What an adapter was trained for.

    Attributes:
        family: The backbone's family, such as "flux".
        base: Name of the model it changes.
        base_revision: Revision of that model.
        rank: Of the LoRA; 0 for a full fine-tune.
        base_precision: In which the base was kept while it was trained on; it serves the base in any.
        film: The frames it was trained on, and in which flavour it is shown those that are given.
        max_sequence_length: Text tokens it was trained with; generation pads to the same.
        frame_size: (height, width) in pixels of a training frame, the default size of pictures.
        guidance: Embedded guidance it was trained with, None for models without.
        steps: Optimizer steps it was trained for; 0 where that is not known.
        sampling: How it is to be drawn with.
        encodes: What the autoencoder saw as one picture of what is given: each of the "frames", or the whole "canvas"
            of frames side by side, as the published model.
        run: A digest of the settings, base and data that it was trained by; empty where that is not known.
        sha256: A digest of the files of its weights; empty in adapters of earlier versions.
        schema: Version of the folder's format.
    """

    family: str
    base: str
    base_revision: str
    rank: int
    base_precision: str = "full"
    max_sequence_length: int
    film: Film = field(default_factory=Film.two_frame)
    frame_size: tuple[int, int] | None = None
    guidance: float | None = None
    steps: int = 0
    sampling: Sampling = Sampling()
    encodes: Literal["frames", "canvas"] = "frames"
    run: str = ""
    sha256: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        require_within("rank", self.rank, 0)
        require_within("max_sequence_length", self.max_sequence_length, 1, MOST_TEXT_TOKENS)
        require_within("steps", self.steps, 0)
        if self.frame_size is not None:
            require_frame("frame_size", self.frame_size)
        if self.film.is_cached and self.encodes == "canvas":
            raise ValueError('encodes is "canvas", but a cached film has none: its frames are encoded one by one')
        if self.guidance is not None and not isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}, but must be a finite number")


@dataclass(frozen=True)
class LowRank:
    """A change of one layer: ``weight += up @ down``, ``bias += bias``; any scale is already in `up`.

    Attributes:
        down: Of a convolution's kernel, as one row for each of its input features at each place.
        up: See above.
        bias: None for no change.
        kernel: (height, width) of a convolution; None for a linear layer.
    """

    down: Float[Tensor, "rank inputs"]
    up: Float[Tensor, "outputs rank"]
    bias: Float[Tensor, " outputs"] | None = None
    kernel: tuple[int, int] | None = None

    @classmethod
    def exact(cls, change: Float[Tensor, "outputs ..."], bias: Float[Tensor, " outputs"] | None = None) -> LowRank:
        """Any change of a weight, at full rank: one factor is the identity."""
        kernel = (change.shape[2], change.shape[3]) if change.ndim == 4 else None
        change = change.flatten(1)
        outputs, inputs = change.shape
        if inputs <= outputs:
            return cls(torch.eye(inputs, dtype=change.dtype, device=change.device), change, bias, kernel)
        return cls(change, torch.eye(outputs, dtype=change.dtype, device=change.device), bias, kernel)

    def to(self, dtype: torch.dtype) -> LowRank:
        """The same change in other numbers."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return LowRank(self.down.to(dtype), self.up.to(dtype), bias, self.kernel)

    def stored(self) -> tuple[Tensor, Tensor]:
        """Both factors in the shapes that diffusers' and peft's files have."""
        if self.kernel is None:
            return self.down, self.up
        return self.down.unflatten(1, (-1, *self.kernel)), self.up[:, :, None, None]


def save_adapter(folder: Path | str, updates: Mapping[str, LowRank], metadata: AdapterMetadata) -> None:
    """Writes an adapter folder, whole or not at all.

    Args:
        folder: Where; an adapter that is there already is replaced.
        updates: For each changed linear layer, by its name in the transformer (such as
            "transformer_blocks.0.attn.to_q"), its change. The patch embedding is one of them:
            ``LowRank.exact(trained.weight - widened.weight, trained.bias - widened.bias)``, where ``widened`` is what
            `StockBackbone.widen` made before training.
        metadata: What it was trained for.

    Raises:
        UserError: A change has values that are no finite numbers, or the place cannot be written to.
    """
    from safetensors.torch import save_file

    has_bias = any(update.bias is not None for update in updates.values())
    tensors: dict[str, Tensor] = {}
    for name, update in updates.items():
        down, up = update.stored()
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = down
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = up
        if has_bias:  # readers expect biases on all layers or on none
            bias = torch.zeros_like(update.up[:, 0]) if update.bias is None else update.bias
            tensors[f"{_PREFIX}{name}.lora_B.bias"] = bias
    _require_finite(tensors, folder)
    with atomic_folder(folder, known_by=METADATA_FILE) as temporary:
        save_file({key: _on_disk(tensor) for key, tensor in tensors.items()}, temporary / WEIGHTS_FILE)
        _describe(temporary, metadata)


def save_full(folder: Path | str, transformer: Any, metadata: AdapterMetadata) -> None:
    """Writes a complete fine-tuned transformer (a diffusers model) as an adapter folder, whole or not at all.

    Raises:
        UserError: It has weights that are no finite numbers, or the place cannot be written to.
    """
    _require_finite(transformer.state_dict(), folder)
    with atomic_folder(folder, known_by=METADATA_FILE) as temporary:
        transformer.save_pretrained(temporary / FULL_FOLDER)
        _describe(temporary, metadata)


def describe_anew(folder: Path | str, metadata: AdapterMetadata) -> None:
    """Replaces what an adapter folder says of itself, all but the digest of its weights, which stay.

    Raises:
        UserError: The place cannot be written to.
    """
    write_atomic(Path(folder) / METADATA_FILE, to_json(metadata))


def require_whole(folder: Path | str, metadata: AdapterMetadata) -> None:
    """Makes sure that the weights in an adapter folder are those that were written, where it says what those were.

    Raises:
        UserError: They are not.
    """
    try:
        if metadata.sha256 in ("", _digest(Path(folder))):
            return
        reason = "they have other bytes than were written"
    except OSError as error:
        reason = reason_of(error)
    raise UserError(
        f'the weights of the adapter "{folder}" are damaged ({reason}); train again or copy it again, whole'
    )


def _describe(folder: Path, metadata: AdapterMetadata) -> None:
    text = to_json(replace(metadata, sha256=_digest(folder)))
    (folder / METADATA_FILE).write_text(text, encoding="utf-8")


def _digest(folder: Path) -> str:
    """Of the files of weights: their names and the digests of their parts."""
    files = [path for path in (folder / WEIGHTS_FILE, *sorted((folder / FULL_FOLDER).glob("*"))) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): sha256_of_parts(path) for path in files}
    return digest_of(found)


def load_metadata(folder: Path | str) -> AdapterMetadata:
    """Reads what an adapter was trained for.

    Raises:
        UserError: Not an adapter folder, or one of another schema.
    """
    path = Path(folder) / METADATA_FILE
    try:
        if not path.is_file():
            raise UserError(no_adapter(folder, METADATA_FILE))
    except OSError as error:
        raise UserError(f'cannot read "{path}" ({error.strerror}); give a folder that you may read') from error
    try:
        text = path.read_text(encoding="utf-8").replace('"canvas":', '"film":', 1)  # its name until frames had an axis
        metadata = from_json(AdapterMetadata, text)
    except (OSError, ValueError, RecursionError, UserError) as error:
        raise UserError(
            f'"{path}" does not say what the adapter was trained for ({reason_of(error)}); copy it or train again'
        ) from error
    if metadata.schema != SCHEMA:
        raise UserError(
            f'the adapter "{folder}" has schema {metadata.schema}, but this version reads {SCHEMA}; train it again'
        )
    return metadata


def is_full(folder: Path | str) -> bool:
    """Whether the folder holds a complete transformer rather than low-rank changes."""
    return os.path.isdir(Path(folder) / FULL_FOLDER)  # one that may not be read is none


def load_adapter(folder: Path | str) -> tuple[dict[str, LowRank], AdapterMetadata]:
    """Reads the low-rank changes of an adapter folder, by layer name.

    Raises:
        UserError: Not an adapter folder, a damaged one, one that leaves the patch embedding as it is, or one with a
            complete transformer instead.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    metadata = load_metadata(folder)
    path = Path(folder) / WEIGHTS_FILE
    if metadata.rank < 1:
        raise UserError(
            f'the adapter "{folder}" says rank {metadata.rank}, which is that of a whole transformer, but has none; '
            "train it again or copy it again, whole"
        )
    if not path.is_file():
        raise UserError(f'the adapter "{folder}" has no {WEIGHTS_FILE}; give the folder that training wrote')
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        reason = reason_of(error)
        raise UserError(f'"{path}" cannot be read ({reason}); train again or copy the file again') from error
    unknown = [key for key in tensors if not key.startswith(_PREFIX) or not key.endswith(_FACTORS)]
    if unknown or not tensors:
        what = f"the tensor {cut(repr(min(unknown)))}, which is no part of a LoRA" if unknown else "no tensors"
        raise UserError(f'"{path}" holds {what}; train again or copy the file again')
    updates = {}
    for name in sorted({key.removeprefix(_PREFIX).rpartition(".lora_")[0] for key in tensors}):
        key = f"{_PREFIX}{name}.lora_"
        if f"{key}A.weight" not in tensors or f"{key}B.weight" not in tensors:
            raise UserError(f'"{path}" has one factor only of the layer {name or "(no name)"}; train it again')
        down, up, bias = tensors[f"{key}A.weight"], tensors[f"{key}B.weight"], tensors.get(f"{key}B.bias")
        if not _are_factors(down, up, bias):
            shapes = " and ".join(f"{tuple(part.shape)} of {part.dtype}" for part in (down, up))
            raise UserError(f'"{path}" holds no factors of the layer {name}, but {shapes}; train it again')
        if not all(all_finite(part) for part in (down, up, bias) if part is not None):
            raise UserError(f'"{path}" holds no finite numbers in {name}; train it again')
        kernel = (down.shape[2], down.shape[3]) if down.ndim == 4 else None
        updates[name] = LowRank(down.flatten(1), up.flatten(1), bias, kernel)
    _require_sight(updates, metadata, path)
    ranks = {u.down.shape[0] for u in updates.values() if u.down.shape[0] < min(u.down.shape[1], u.up.shape[0])}
    if ranks and metadata.rank not in ranks:  # layers no wider than the rank are trained whole
        found = ", ".join(map(str, sorted(ranks)))
        raise UserError(
            f'the adapter "{folder}" says rank {metadata.rank}, but its layers have {found}; copy it again, whole, or '
            "train it again"
        )
    require_whole(folder, metadata)
    return updates, metadata


def apply_adapter(backbone: StockBackbone, folder: Path | str) -> AdapterMetadata:
    """Prepares a backbone and adds an adapter to its weights in place (fused: sampling costs nothing extra).

    Args:
        backbone: The base that the adapter was trained on, or one of the same shape.
        folder: Low-rank changes or a complete transformer.

    Raises:
        UserError: Another family, layers or shapes that this base does not have, or a two-frame model as the base.
    """
    metadata = load_metadata(folder)
    require_family(metadata, backbone.family, folder)
    if not is_full(folder):
        require_plain(backbone)
    backbone.prepare(metadata.film.flavour)
    if is_full(folder):
        require_whole(folder, metadata)
        _load_full(backbone.transformer, Path(folder) / FULL_FOLDER)
    else:
        fuse(backbone.transformer, load_adapter(folder)[0], folder)
    return metadata


def require_family(metadata: AdapterMetadata, family: str, folder: Path | str) -> None:
    """Makes sure that an adapter belongs to a family.

    Raises:
        UserError: It does not.
    """
    if metadata.family != family:
        raise UserError(
            f'the adapter "{folder}" is for models of the family "{metadata.family}" (trained on {metadata.base}), but '
            f'the base is of the family "{family}"; give the base that it was trained on'
        )


def require_plain(backbone: StockBackbone) -> None:
    """Makes sure that an adapter is not added to a model that has one in its weights.

    Raises:
        UserError: The model takes a reference picture already.
    """
    if backbone.takes_references:
        raise UserError(
            "the base takes a reference picture already, and an adapter would be added to it a second time; leave out "
            "the adapter, or give the text-to-image model that it was trained on"
        )


def is_of_another_base(metadata: AdapterMetadata, base: str) -> bool:
    """Whether a base is known not to be the one that an adapter was trained on: its files have other contents.

    What was trained on a model of the hub names it, and a copy of it in a folder cannot be told from another model.

    Args:
        metadata: of the adapter.
        base: `embedded:NAME`, a folder or a hub id.
    """
    return _other_revision(metadata, base) is not None


def _other_revision(metadata: AdapterMetadata, base: str) -> str | None:
    """The revision of a base that is known not to be the adapter's; nothing is read for an adapter of a hub's model."""
    if not is_revision(metadata.base_revision):
        return None
    found = revision_or_name(base)
    comparable = is_revision(found) and len(found) == len(metadata.base_revision)  # a hash of contents, or a commit
    return found if comparable and found != metadata.base_revision else None


def warn_of_another_base(metadata: AdapterMetadata, base: str, folder: Path | str) -> None:
    """Says when a base `is_of_another_base`: an adapter draws what it learnt only on the weights it was trained on."""
    other = _other_revision(metadata, base)
    if other is not None:
        console.print(
            f'warning: the adapter "{folder}" was trained on other weights ({metadata.base}, revision '
            f'{metadata.base_revision}) than those of "{base}" (revision {other}); give the base that it was '
            "trained on, or train it again",
        )


def _require_sight(updates: Mapping[str, LowRank], metadata: AdapterMetadata, path: Path) -> None:
    """Refuses an adapter without the layer that sees the reference: it would draw, whatever the reference."""
    family = metadata.family
    if family not in FAMILIES:
        raise UserError(f'"{path.parent}" is for models of the family "{family}"; {did_you_mean(family, FAMILIES)}')
    layer = layers_of(family).patch_embedding
    if layer not in updates and not metadata.film.is_cached:
        raise UserError(
            f'"{path}" cannot see a reference: it has no change of the patch embedding {layer}; copy the file again, '
            "whole, or train it again"
        )


def fuse(transformer: nn.Module, updates: Mapping[str, LowRank], folder: Path | str) -> None:
    """Adds low-rank changes to the weights of a transformer in place.

    Args:
        transformer: A widened one.
        updates: By the names of its layers.
        folder: The adapter's, for the message.

    Raises:
        UserError: Layers or shapes that this transformer does not have, or changes that are no finite numbers.
    """
    layers = dict(transformer.named_modules())
    for name, update in updates.items():
        layer = layers.get(name)
        shape = (update.up.shape[0], update.down.shape[1])
        fits = isinstance(layer, (nn.Linear, nn.Conv2d))
        if not fits or tuple(layer.weight.flatten(1).shape) != shape:
            found = tuple(layer.weight.flatten(1).shape) if fits else "no such layer"
            raise UserError(
                f'the adapter "{folder}" does not fit this base: {name} should be {shape}, but the base has {found}; '
                "give the base that it was trained on"
            )
        if layer.bias is None and update.bias is not None and bool(update.bias.any()):
            raise UserError(
                f'the adapter "{folder}" does not fit this base: it changes a bias of {name}, which the base does not '
                "have; give the base that it was trained on"
            )
    with torch.no_grad():
        for name, update in updates.items():
            layer = layers[name]
            assert isinstance(layer, (nn.Linear, nn.Conv2d))
            device = layer.weight.device
            change = update.up.to(device).float() @ update.down.to(device).float()
            _add(layer.weight, change.view_as(layer.weight))
            if update.bias is not None and layer.bias is not None:
                _add(layer.bias, update.bias)
            parts = (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)
            if not all(map(all_finite, parts)):  # finite factors may multiply to more than there are numbers for
                raise UserError(
                    f'with the adapter "{folder}" the weights of {name} are no finite numbers; train it again, at a '
                    "lower learning rate"
                )


def _add(parameter: Tensor, change: Tensor) -> None:
    parameter.copy_(parameter.float() + change.to(device=parameter.device, dtype=torch.float32))


def _load_full(transformer: Any, folder: Path) -> None:
    loaded = load(type(transformer), str(folder), use_safetensors=True)
    ours, theirs = transformer.state_dict(), loaded.state_dict()
    different = [name for name in ours.keys() | theirs.keys() if _shape(ours, name) != _shape(theirs, name)]
    if different:
        raise UserError(
            f'the transformer in "{folder}" does not fit this base, {min(different)} differs in shape; give the '
            "base that it was trained on"
        )
    transformer.load_state_dict(theirs)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _are_factors(down: Tensor, up: Tensor, bias: Tensor | None) -> bool:
    """Whether two tensors, as a file holds them, multiply to a change of a weight, and a third is one of its bias."""
    fit = down.ndim in (2, 4) and up.ndim == down.ndim and up.shape[1] == down.shape[0] > 0
    fit = fit and up.shape[2:] in ((), (1, 1))
    bias_fits = bias is None or bias.shape == up.shape[:1]
    return fit and bias_fits and all(part.is_floating_point() for part in (down, up, bias) if part is not None)


def _require_finite(tensors: Mapping[str, Tensor], folder: Path | str) -> None:
    for name, tensor in tensors.items():
        if not all_finite(tensor):
            raise UserError(
                f'{name} holds values that are no finite numbers, so "{folder}" is not written; train again in float32 '
                "or at a lower learning rate"
            )


def _on_disk(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
