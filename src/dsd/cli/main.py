"""The command `dsd`: finds the verb, lets tyro read its typed config, and turns mistakes into one sentence.

A verb is a module of this folder, or of another package that adds it. It is imported only when it is called, so that
`dsd --help` stays instant.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from dsd.cli.parse import Verb, parse
from dsd.config import did_you_mean, to_json
from dsd.errors import UserError
from dsd.plugins import added, summary_of

VERBS = {
    "curate": "captions -> grid prompts -> grids -> judged pairs",
    "data": "check, show, merge, filter and split datasets",
    "train": "a dataset of pairs -> a two-frame adapter",
    "generate": "a reference picture and a sentence -> pictures",
    "evaluate": "measure identity, prompt following, diversity and copying",
    "serve": "an HTTP server that speaks the OpenAI images API",
    "export": "an adapter -> a plain diffusers transformer, a control LoRA, or ComfyUI's layout",
    "convert": "the published weights, or a control LoRA -> an adapter",
    "plan": "what a recipe, or the curation before it, needs in memory, time and disk",
}

INTERRUPTED = 130
"""The exit status after Ctrl-C."""

HELP = """usage: dsd VERB [RECIPE] [OPTIONS]

Diffusion Self-Distillation: one picture of a character and a sentence; the same one, drawn in the new scene.

{verbs}

dsd VERB --help says more; --dry-run on any verb prints the resolved config and the plan, and does nothing.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Words after `dsd`; those of the process when None.

    Returns:
        The exit status: 0, 2 for a mistake in what was given, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(words)
    except UserError as error:
        print("dsd: error:", str(error).replace("\n", "\\n"), file=sys.stderr)  # names of files may hold any character
        return 2
    except KeyboardInterrupt:
        print("dsd: interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 2
    return 0


def command() -> NoReturn:
    """The program `dsd`: runs the command of the process, and ends it.

    An interrupt reaches the main thread alone. What others still compute, up to a whole unit of sheets, is not waited
    for: all files are complete at any moment.
    """
    status = main()
    others = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    if status == INTERRUPTED and not all(thread.daemon for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        verbs = VERBS | {name: summary_of(point) for name, point in added("verbs").items()}
        print(HELP.format(verbs="\n".join(f"  {verb:<9} {summary}" for verb, summary in verbs.items())), end="")
        return
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"dsd {version('dsd')}")
        return
    from dsd.log import quiet_imports

    quiet_imports()
    name, rest = words[0], words[1:]
    more = added("verbs")
    if name not in VERBS and name not in more:
        raise UserError(f'there is no verb "{name}"; {did_you_mean(name, [*VERBS, *more])}')
    verb: Any = importlib.import_module(f"dsd.cli.{name}") if name in VERBS else more[name].load()
    command = parse(name, verb, rest)
    if command.dry_run:
        _show(verb, command)
    else:
        verb.run(command)


def _show(verb: Verb, command: Any) -> None:
    """The config alone goes to stdout, so that it can be piped; the plan goes to stderr."""
    print(to_json(command), end="", flush=True)
    for sentence in verb.plan(command):
        print(f"plan: {sentence}", file=sys.stderr)
