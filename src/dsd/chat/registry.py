"""Chat models by name."""

from __future__ import annotations

from pathlib import Path

from dsd.chat.protocol import ChatModel
from dsd.errors import UserError


def load_chat(name: str, *, batch_size: int = 64) -> ChatModel:
    """Returns the model of this name.

    Args:
        name: ``openai:MODEL@BASE_URL`` (add ``#VARIABLE`` to name the environment variable that holds the key),
            ``replay:FILE``, ``embedded:NAME``, a folder, or a hub id.
        batch_size: questions asked at once, in a batch or side by side.

    Raises:
        UserError: the name cannot be understood, or there is no such model.
    """
    kind, _, rest = name.partition(":")
    if kind == "replay":
        from dsd.chat.replay import ReplayChat

        return ReplayChat(Path(rest))
    if kind == "openai":
        from dsd.chat.openai import OpenAIChat

        model, _, address = rest.rpartition("@")
        url, _, variable = address.partition("#")
        if not model or not url.startswith(("http://", "https://")):
            raise UserError(f'"{name}" names no server; write openai:MODEL@http://HOST:PORT/v1')
        return OpenAIChat(model, url, key_variable=variable or None, concurrency=batch_size)
    from dsd.chat.local import LocalChat

    return LocalChat(name, batch_size=batch_size)


def claimed_name(name: str) -> str:
    """A model's name without where it is served: ``openai:MODEL@BASE_URL#VARIABLE`` becomes ``openai:MODEL``."""
    kind, _, rest = name.partition(":")
    if kind != "openai":
        return name
    model, at, _ = rest.rpartition("@")
    return f"openai:{model}" if at else name


def require_connection(chat: ChatModel) -> None:
    """Tries a model that is behind a server, before anything is made that counts on it.

    Raises:
        UserError: the server is away.
    """
    from dsd.chat.openai import OpenAIChat

    if isinstance(chat, OpenAIChat):
        chat.require_connection()
