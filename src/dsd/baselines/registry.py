"""The methods by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from dsd.baselines.protocol import SubjectMethod
from dsd.baselines.setting import Setting
from dsd.config import did_you_mean
from dsd.errors import UserError


@dataclass(frozen=True)
class Entry:
    """Where a method is built.

    Attributes:
        builder: file of this folder and the function in it that builds the method of a `Setting`.
        trained: whether it is trained on pairs before it is compared, for which it needs `Setting.data`.
        parts: files of a family's folder that it rests on, which not every family has.
    """

    builder: str
    trained: bool = False
    parts: tuple[str, ...] = ()


METHODS = {
    "student": Entry("dsd_method:student", trained=True),
    "dreambooth": Entry("dreambooth:dreambooth"),
    "dreambooth-lora": Entry("dreambooth:dreambooth_lora"),
    "textual-inversion": Entry("textual_inversion:textual_inversion"),
    "ip-adapter": Entry("ip_adapter:ip_adapter", trained=True, parts=("ip_adapter",)),
    "ip-adapter-plus": Entry("ip_adapter:ip_adapter_plus", trained=True, parts=("ip_adapter",)),
    "ip-adapter-on-pairs": Entry("ip_adapter:ip_adapter_on_pairs", trained=True, parts=("ip_adapter",)),
    "controlnet": Entry("controlnet:controlnet", trained=True, parts=("controlnet",)),
    "instantid": Entry("instantid:instantid", trained=True, parts=("ip_adapter", "controlnet")),
    "sdedit": Entry("sdedit:sdedit"),
    "teacher": Entry("text_only:teacher"),
    "copy": Entry("copy:copy_reference"),
}


def entry_of(method: str) -> Entry:
    """Where a method of this name is built.

    Raises:
        UserError: there is no such method.
    """
    if method not in METHODS:
        raise UserError(f'there is no method "{method}"; {did_you_mean(method, METHODS)}')
    return METHODS[method]


def build(method: str, setting: Setting) -> SubjectMethod:
    """A method, trained where it has to be.

    Args:
        method: of `METHODS`.
        setting: the row that it is built for.

    Raises:
        UserError: there is no such method, or it lacks something in the setting; the message says what.
    """
    module, _, function = entry_of(method).builder.partition(":")
    return getattr(importlib.import_module(f"dsd.baselines.{module}"), function)(setting)
