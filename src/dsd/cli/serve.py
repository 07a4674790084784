"""`dsd serve`: the model behind the OpenAI images API, and a page to draw with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dsd.cli.drawing import Model
from dsd.errors import UserError, import_extra
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import first_and_named
from dsd.serve.settings import Limits, Settings, Usual

if TYPE_CHECKING:
    from dsd.serve.page import PageSettings

MODULES = ("fastapi", "python_multipart", "uvicorn", "prometheus_client")


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serves OpenAI's images API (POST /v1/images/edits, generations, variations; GET /v1/models), /healthz, /readyz,
    /metrics and a page at /. Where the environment variable DSD_API_KEY is set, requests need one of its keys."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach needs an API key."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    served_name: tuple[str, ...] = ("dsd",)
    """Names under which clients ask for the model."""
    allowed_origins: tuple[str, ...] = ()
    """Sites whose pages may call the API from a browser, as https://host; * is all. This machine's always may."""
    page: bool = True
    """Serve the web page too."""
    dataset: Path | None = None
    """Dataset whose kept and rejected pairs the web page shows."""
    open: bool = False
    """Open the web page in a browser."""
    metadata: bool = True
    """Write model, prompt and seed into the files of pictures."""
    drain_seconds: float = 30
    """Time that running requests have to finish after SIGTERM."""
    limits: Limits = field(default_factory=Limits)
    """What one request may ask for, and how much of all of them is held at once."""
    model: Model
    """The two-frame model."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Serve]]:
    return first_and_named(_of)


def _of(recipe: Recipe) -> Serve:
    return Serve(model=Model(adapter=recipe.adapter))


def plan(command: Serve) -> list[str]:
    return [
        f"load {command.model.words()}",
        f"listen on http://{_address(command.host, command.port)} until interrupted",
    ]


def run(command: Serve) -> None:
    if command.open and not command.page:
        raise UserError("--open opens the web page, which --no-page leaves out; give one of them")
    for module in (*MODULES, *(("gradio",) if command.page else ())):
        import_extra(module, "serve")
    from dsd.generate.engine import Engine
    from dsd.serve.app import create_app
    from dsd.serve.auth import keys_from_environment, require_safe_address
    from dsd.serve.lifecycle import bind, listen

    settings = _settings(command, keys_from_environment())
    require_safe_address(command.host, settings.keys)
    listener = bind(command.host, command.port)
    limits = command.limits
    engine = Engine(command.model.load(), most_at_once=limits.together, most_waiting=limits.waiting)
    app = create_app(engine, settings)
    if command.page:
        from dsd.serve.page import mount

        mount(app, engine, _page_settings(command, settings.keys))
    listen(app, listener, lambda: _tell(command, listener.getsockname()[1]))


def _settings(command: Serve, keys: tuple[str, ...]) -> Settings:
    return Settings(
        names=command.served_name,
        limits=command.limits,
        usual=_usual(command),
        keys=keys,
        origins=command.allowed_origins,
        metadata=command.metadata,
        drain_seconds=command.drain_seconds,
    )


def _usual(command: Serve) -> Usual:
    return Usual(**command.model.sampled)


def _page_settings(command: Serve, keys: tuple[str, ...]) -> PageSettings:
    from dsd.serve.auth import is_loopback, number_of_key
    from dsd.serve.page import PageSettings

    return PageSettings(
        dataset=command.dataset,
        may_type_folder=is_loopback(command.host) and not keys,
        key=(lambda given: number_of_key(given, keys) is not None) if keys else None,
        limits=command.limits,
        usual=_usual(command),
        model=command.served_name[0],
        metadata=command.metadata,
        origins=command.allowed_origins,
    )


def _tell(command: Serve, port: int) -> None:
    """Says where the server is, and shows it."""
    from dsd.log import console

    address = f"http://{_address(command.host, port)}"
    console.print(f"serving {command.model.words()} at {address}; Ctrl+C stops it")
    if command.open:
        import threading
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
