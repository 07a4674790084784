"""Chat models by name."""

from __future__ import annotations

from pathlib import Path

from dsd.chat.protocol import ChatModel


def load_chat(name: str, *, batch_size: int = 64) -> ChatModel:
    """Returns the model of this name.

    Args:
        name: ``openai:MODEL@BASE_URL`` (add ``#VARIABLE`` to name the environment variable that holds the key, which
            ``OPENAI_API_KEY`` is at its own host alone), ``replay:FILE``, ``embedded:NAME``, a folder, or a hub id.
        batch_size: questions asked at once, in a batch or side by side.

    Raises:
        UserError: the name cannot be understood, or there is no such model.
    """
    kind, _, rest = name.partition(":")
    if kind == "replay":
        from dsd.chat.replay import ReplayChat

        return ReplayChat(Path(rest))
    if kind == "openai":
        from dsd.chat.openai.address import split_name
        from dsd.chat.openai.client import OpenAIChat

        model, address, variable = split_name(name)
        return OpenAIChat(model, address.url, key_variable=variable, concurrency=batch_size)
    from dsd.chat.local import LocalChat

    return LocalChat(name, batch_size=batch_size)


def claimed_name(name: str) -> str:
    """The name that data is claimed by: ``openai:MODEL`` without where it is served and by which key, others as given.

    A server that moved goes on with its data.

    Raises:
        UserError: the address in the name holds a key.
    """
    from dsd.chat.openai.address import model_of

    return model_of(name) if name.startswith("openai:") else name


def require_connection(chat: ChatModel) -> None:
    """Tries a model that is behind a server, before anything is made that counts on it.

    Raises:
        UserError: the server is away.
    """
    from dsd.chat.openai.client import OpenAIChat

    if isinstance(chat, OpenAIChat):
        chat.require_connection()
