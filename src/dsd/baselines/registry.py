"""The methods by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

import importlib

from dsd.baselines.protocol import SubjectMethod
from dsd.baselines.setting import Setting
from dsd.config import did_you_mean
from dsd.errors import UserError

METHODS = {
    "student": "dsd_method:student",
    "dreambooth": "dreambooth:dreambooth",
    "dreambooth-lora": "dreambooth:dreambooth_lora",
    "textual-inversion": "textual_inversion:textual_inversion",
    "ip-adapter": "ip_adapter:ip_adapter",
    "ip-adapter-plus": "ip_adapter:ip_adapter_plus",
    "ip-adapter-on-pairs": "ip_adapter:ip_adapter_on_pairs",
    "instantid": "instantid:instantid",
    "controlnet": "controlnet:controlnet",
    "teacher": "text_only:teacher",
    "copy": "copy:copy_reference",
}
"""Name -> file of this folder and the function in it that builds the method of a `Setting`."""


def build(method: str, setting: Setting) -> SubjectMethod:
    """A method, trained where it has to be.

    Args:
        method: of `METHODS`.
        setting: the row that it is built for.

    Raises:
        UserError: there is no such method, or it lacks something in the setting; the message says what.
    """
    if method not in METHODS:
        raise UserError(f'there is no method "{method}"; {did_you_mean(method, METHODS)}')
    module, _, function = METHODS[method].partition(":")
    return getattr(importlib.import_module(f"dsd.baselines.{module}"), function)(setting)
