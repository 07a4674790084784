"""Reading weights: what does not fit a network is refused, where libraries would start it at random and go on."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from dsd.errors import UserError, reason_of
from dsd.models import require_reachable

_NAMED = 3
_CONFIG, _GGUF = "config.json", "gguf_file"
_WHICH_FILES = (
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "token", "use_safetensors", "variant",
)  # fmt: skip
_OF_WEIGHTS = ("use_safetensors", "variant")
_WHOLE = "give the folder or hub id of a whole model"


def load(cls: Any, name: str, *, optional: Collection[str] = (), strict: bool = True, **kwargs: Any) -> Any:
    """Reads a network of diffusers or transformers, all of it.

    Args:
        cls: With a `from_pretrained` that gives the library's loading info.
        name: A folder or a hub id.
        optional: Parts of the network that are left out (None) when their weights are missing.
        strict: Whether weights that the network has no place for are refused too.
        **kwargs: Passed on, such as `subfolder` and `dtype`.

    Raises:
        UserError: Weights are missing, have other shapes, are of another network, or are no finite numbers.
    """
    require_reachable(name)
    where = _where(name, kwargs.get("subfolder"))
    alone = _GGUF in kwargs  # such a file holds its config and its tokenizer
    if Path(name).is_dir() and not alone and not (Path(where) / _CONFIG).is_file():  # else it makes its largest model
        raise UserError(f'"{where}" cannot be loaded (it has no {_CONFIG}); {_WHOLE}')
    with _told(where):
        network, info = cls.from_pretrained(name, output_loading_info=True, **kwargs)
    missing = set(info["missing_keys"])
    for part in optional:
        if lost := {key for key in missing if key.startswith(f"{part}.")}:
            missing -= lost
            setattr(network, part, None)
    faults = {"lacks": missing, "has other shapes of": info["mismatched_keys"]}
    if strict:
        faults["has no place for"] = info["unexpected_keys"]
    for fault, keys in faults.items():
        if keys:
            raise UserError(
                f'the weights in "{where}" are not those of a {type(network).__name__}: it {fault} {_some(keys)}; '
                f"{_WHOLE}"
            )
    require_finite(network, where)
    return network


def load_pipeline(
    cls: Any,
    name: str,
    assemble: Any = None,
    *,
    dtype: torch.dtype | Mapping[str, torch.dtype],
    absent: Collection[str] = (),
    **given: Any,
) -> Any:
    """Reads a diffusers pipeline, each of its networks by `load`.

    Args:
        cls: The pipeline's class.
        name: A folder in its layout, or a hub id.
        assemble: Makes the pipeline of its components; the class's `from_pretrained` by default.
        dtype: Of all weights; or by component, the others' under "default".
        absent: Components to leave out.
        **given: Components that are there already, and what else the pipeline's `from_pretrained` takes.

    Raises:
        UserError: The model cannot be found, or a part of it is missing or damaged; see `load`.
    """
    files = {option: given[option] for option in _WHICH_FILES if option in given}
    found = {option: value for option, value in files.items() if option not in _OF_WEIGHTS}
    for component, (library, kind) in _components(cls, name, found).items():
        if component in absent:
            given[component] = None
        if component in given:
            continue
        where = _where(name, component)
        with _told(where):
            of = getattr(importlib.import_module(library), kind, None)
        if isinstance(of, type) and issubclass(of, nn.Module):
            given[component] = load(of, name, subfolder=component, dtype=dtype_of(component, dtype), **files)
        elif hasattr(of, "from_pretrained"):
            given[component] = load_processor(of, name, subfolder=component, **found)
    with _told(name):
        return (assemble or cls.from_pretrained)(name, dtype=dtype, **given)


def load_processor(cls: Any, name: str, **kwargs: Any) -> Any:
    """Reads what stands beside networks and has no weights: a tokenizer, a processor, a scheduler.

    Args:
        cls: With a `from_pretrained`.
        name: A folder or a hub id.
        **kwargs: Passed on, such as `subfolder`.

    Raises:
        UserError: It is missing or damaged; of a tokenizer, libraries would make an empty one and go on.
    """
    require_reachable(name)
    where = _where(name, kwargs.get("subfolder"))
    with _told(where):
        found = cls.from_pretrained(name, **kwargs)
    tokenizer = getattr(found, "tokenizer", found)
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        lost = Path(name).is_dir() and _GGUF not in kwargs and not (Path(where) / TOKENIZER_CONFIG_FILE).is_file()
        words = tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens)
        if lost or len(words) <= 1:  # an empty T5 knows the space
            fault = f"no {TOKENIZER_CONFIG_FILE}" if lost else "no vocabulary"
            raise UserError(f'the tokenizer in "{where}" has {fault}; {_WHOLE}')
    return found


def config_of(cls: Any, name: str, **kwargs: Any) -> dict[str, Any]:
    """The config of something of diffusers.

    Args:
        cls: With a `load_config`.
        name: A folder or a hub id.
        **kwargs: Passed on, such as `subfolder`.

    Raises:
        UserError: It is missing or damaged.
    """
    with _told(_where(name, kwargs.get("subfolder"))):
        return dict(cls.load_config(name, **kwargs))


def all_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers; by their least and greatest, for which they are read once and nothing is made."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    least, greatest = torch.aminmax(tensor.float() if tensor.itemsize == 1 else tensor)
    return bool(least.isfinite() & greatest.isfinite())


def require_finite(network: nn.Module, where: str) -> None:
    """Makes sure that all weights, and the statistics that are stored with them, are numbers.

    Raises:
        UserError: One is not.
    """
    stored = network.state_dict(keep_vars=True)  # what a network makes for itself, such as a mask of -inf, is none
    wrong = [
        name for name, t in stored.items()
        if isinstance(t, Tensor) and t.device.type != "meta" and not all_finite(t)
    ]  # fmt: skip
    if wrong:
        raise UserError(f'the weights in "{where}" are no finite numbers in {_some(wrong)}; copy or train them again')


def dtype_of(component: str, dtype: torch.dtype | Mapping[str, torch.dtype]) -> torch.dtype:
    """The precision of a component; see `load_pipeline`."""
    if not isinstance(dtype, Mapping):
        return dtype
    return dtype.get(component, dtype.get("default", torch.float32))


def _components(cls: Any, name: str, found: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Library and class of each component that a pipeline's folder names."""
    index = config_of(cls, name, **found)
    entries = {part: entry for part, entry in index.items() if isinstance(entry, (list, tuple))}
    for part in cls._get_signature_keys(cls)[0] & entries.keys():
        if len(entries[part]) != 2:
            raise UserError(f'"{name}" names {list(entries[part])!r} for its {part}, no library and class; {_WHOLE}')
    return {part: (entry[0], entry[1]) for part, entry in entries.items() if len(entry) == 2 and entry[0]}


def _where(name: str, part: str | None) -> str:
    return f"{name}/{part}" if part else name


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Tells in a sentence what a library stumbles over: on damaged files it may be anything."""
    try:
        yield
    except Exception as error:
        raise UserError(f'"{where}" cannot be loaded ({reason_of(error)}); {_WHOLE}') from error


def _some(keys: Collection[Any]) -> str:
    names = sorted(key if isinstance(key, str) else str(key[0]) for key in keys)
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
