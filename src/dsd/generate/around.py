"""What is done around a pipeline's steps from outside, by name, so that doing it twice does it once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import wraps
from typing import Any


def around(pipeline: Any, method: str, name: str, context: Callable[[], AbstractContextManager[object]]) -> None:
    """Runs a method of one pipeline within a context, made anew for each call.

    Args:
        pipeline: Whose method it is; others of its class are not touched.
        method: Such as "advance".
        name: Of what is done; the same again takes the earlier one's place.
        context: What to be in.
    """
    contexts: dict[str, dict[str, Callable[[], AbstractContextManager[object]]]]
    contexts = pipeline.__dict__.setdefault("_dsd_around", {})
    known = contexts.setdefault(method, {})
    known[name] = context
    if len(known) == 1 and method not in pipeline.__dict__:
        pipeline.__dict__[method] = _within(getattr(pipeline, method), known)


def _within(call: Callable[..., Any], contexts: dict[str, Callable[[], AbstractContextManager[object]]]) -> Any:
    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for context in contexts.values():
                stack.enter_context(context())
            return call(*args, **kwargs)

    return wrapped
