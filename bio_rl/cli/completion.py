"""Tab completion in a shell: the commands, and behind ``train`` and ``tune`` what Hydra knows of their settings."""

import contextlib
import os
import sys
from argparse import ArgumentError
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bio_rl.cli.errors import UserError
from bio_rl.cli.loader import CONFIG, loader_of

SHELLS = ("bash", "zsh", "fish")
SETTINGS = ("train", "tune")
"""The commands that take settings of Hydra's."""


def complete(arguments: Sequence[str], commands: Iterable[str]) -> int:
    """Print what a shell asks for, as ``install=bash`` and ``query=bash`` say it.

    Args:
        arguments: those beside the flag.
        commands: of ``bio-rl``.

    Raises:
        UserError: anything else is asked for.
    """
    verb, _, shell = (arguments[0] if len(arguments) == 1 else "").partition("=")
    if verb not in ("install", "uninstall", "query") or shell not in SHELLS:
        raise UserError(f"-sc takes install=SHELL or uninstall=SHELL, of {', '.join(SHELLS)}")
    if verb != "query":
        _ask_hydra(arguments, [])
        return 0
    # Of a line that is not finished, or wrong, there may be nothing to say.
    with contextlib.suppress(UserError, HydraException, OmegaConfBaseException, ArgumentError):
        _answer(arguments, os.environ.get("COMP_LINE", ""), commands)
    return 0


def _answer(arguments: Sequence[str], line: str, commands: Iterable[str]) -> None:
    """Print how the last word of a command line may go on."""
    words = line.split()[1:]
    begun = words.pop() if words and not line.endswith(" ") else ""
    if not words:
        print(" ".join(each for each in commands if each.startswith(begun)))
    elif words[0] in SETTINGS and not begun.startswith("-"):
        _ask_hydra(arguments, words[1:], begun)


def _ask_hydra(arguments: Sequence[str], before: Sequence[str], begun: str = "") -> None:
    parser = get_args_parser()
    parser.exit_on_error = False
    args, _ = parser.parse_known_intermixed_args(list(before))
    settings = [each for each in args.overrides if "=" in each]
    # Hydra knows no commands.
    program = Path(sys.argv[0]).name
    os.environ["COMP_LINE"] = " ".join([program, *(["-m"] if args.multirun else []), *settings, begun])
    Hydra(CONFIG, loader_of(args)).shell_completion(CONFIG, list(arguments))
