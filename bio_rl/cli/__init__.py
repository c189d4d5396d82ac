"""The command ``bio-rl``. Heavy imports wait until a subcommand needs them, so that help is instant."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import bio_rl
from bio_rl.cli.errors import UserError, nearest
from bio_rl.experiment.interruption import signal_of
from bio_rl.experiment.output import complain, silence, take_any_character

USAGE = """\
usage: bio-rl COMMAND ...

Reinforcement-learning agents that learn by biologically plausible credit assignment.

commands:
  train   train an agent, as in: bio-rl train rule=feedback_alignment env=cartpole
  tune    find settings for rules, the same budget for each: bio-rl tune rule=backprop,readout env=digits [--trials N]
  play    watch a trained agent: bio-rl play RUN_FOLDER [--video FILE.mp4]
  rules   the credit-assignment rules, their properties or costs [--cost] [--json] [--config-dir DIR]
  audit   what their updates depend on, measured: bio-rl audit [RULE ...] [--json] [--config-dir DIR]
  inspect how a run learnt, in pictures: bio-rl inspect RUN_FOLDER [--html FILE] [--config-dir DIR]
  compare which rules learn better, beyond chance: bio-rl compare FOLDER ... [--html FILE] [--csv FILE] [--png DIR]

bio-rl COMMAND --help says more, bio-rl --version which this is.
eval "$(bio-rl -sc install=bash)" has Tab complete all of them.
"""


LOOKS = ("play", "inspect", "compare")
"""Commands that read a folder which may be somebody else's."""
SHELL_COMPLETION = ("-sc", "--shell_completion")
"""Hydra's flag, by which a shell asks how a line may go on: of ``train``, but also of the command itself."""
OWN_CODE = ("--trust", "--config-dir")
"""Options of theirs by which the user names code to be used."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code: 0, 1 (a run is not done), 2 (bad input, or a folder that is in use), or 128
        and the signal's number where one ended it (130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP).
    """
    command, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if command == "--version":
        print(f"bio-rl {bio_rl.__version__}")
        return 0
    if command in SHELL_COMPLETION:
        command, arguments = "train", [command, *arguments]
    _hold_plugins()
    # A user's own rules and environments, beside what is installed and never in front of it; but what only looks at a
    # folder, in which one may well be, takes nothing from there unless the user names code of their own.
    if os.getcwd() not in sys.path and (command not in LOOKS or any(each.startswith(OWN_CODE) for each in arguments)):
        sys.path.append(os.getcwd())
    take_any_character(sys.stdout)
    try:
        exit_code = _command(command)(arguments)
        sys.stdout.flush()
        return exit_code
    except UserError as error:
        complain(f"bio-rl {command}: {error}" if command in COMMANDS else f"bio-rl: {error}")
        return 2
    except KeyboardInterrupt as told:
        return 128 + signal_of(told)
    except OSError as error:
        # Who read our output has seen enough, as `| head` has; or its device is full.
        silence(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            complain(f"bio-rl {command}: {error}")
        return 1


def _hold_plugins() -> None:
    """Let Hydra load the plugins that are installed, and none that lies in the current folder."""
    try:
        import hydra_plugins
    except ImportError:
        hydra_plugins = ModuleType("hydra_plugins")
        sys.modules[hydra_plugins.__name__] = hydra_plugins
    hydra_plugins.__path__ = list(getattr(hydra_plugins, "__path__", ()))


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}{nearest(name, COMMANDS)} (commands: {', '.join(COMMANDS)})")
    return COMMANDS[name]


def _train(arguments: list[str]) -> int:
    asked = [each for each in arguments if each not in SHELL_COMPLETION]
    if len(asked) < len(arguments):
        from bio_rl.cli.completion import complete

        return complete(asked, COMMANDS)
    from bio_rl.cli.train import train

    return train(arguments)


class _Parser(argparse.ArgumentParser):
    """One whose mistakes are one line, as everywhere here; ``--help`` shows the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)

    def options(self, arguments: list[str]) -> argparse.Namespace:
        """What these say; options may stand among the others."""
        options, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            name = unknown[0].partition("=")[0]
            if not name.startswith("-"):
                raise UserError(f"{unknown[0]} is one too many")
            raise UserError(f"no option {name}{nearest(name, self._option_string_actions)}")
        return options


def _play(arguments: list[str]) -> int:
    parser = _Parser(prog="bio-rl play", description="Watch a trained agent act.")
    parser.add_argument(
        "run_folder", type=Path, help="the folder of a finished run, or of one of its models, as RUN/checkpoints/best"
    )
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="write a video instead of opening a window")
    parser.add_argument("--episodes", type=partial(_whole, least=1), default=1, help="how many (default: 1)")
    parser.add_argument("--seed", type=partial(_whole, least=0), default=0, help="of the first episode (default: 0)")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="let the folder name code of this module, as your own rule's or environment's; may be repeated",
    )
    options = parser.options(arguments)

    from bio_rl.cli.play import play

    return play(options.run_folder, options.video, options.episodes, options.seed, options.trust)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _rules(arguments: list[str]) -> int:
    parser = _Parser(prog="bio-rl rules", description="The rules and their properties, or what an update costs.")
    parser.add_argument("--json", action="store_true", help="as data")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own rules too, by their files in DIR/rule/"
    )
    parser.add_argument("--cost", action="store_true", help="what one update costs, counted")
    parser.add_argument("--network", type=_sizes, metavar="SIZES", help="its network, with --cost (default: 8-64-64-4)")
    parser.add_argument("--batch", type=partial(_whole, least=1), help="its samples, with --cost (default: 256)")
    options = parser.options(arguments)
    if not options.cost and (options.network or options.batch):
        raise UserError("--network and --batch belong to --cost")

    from bio_rl.cli.rules import print_table, properties

    rows = properties(options.config_dir)
    if options.cost:
        from bio_rl.cli.cost import NETWORK, costs, print_costs
        from bio_rl.diagnostics.cost import BATCH

        sizes, batch = options.network or NETWORK, options.batch or BATCH
        found = costs(sizes, batch, options.config_dir)
        rows = [row | {"cost": {"network": sizes, "batch": batch} | found[row["name"]]} for row in rows]
        if not options.json:
            print_costs(found, sizes, batch)
            return 0
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print_table(rows)
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    sizes = text.split("-")
    if len(sizes) < 2 or not all(each.isdecimal() and 1 <= int(each) <= 100_000 for each in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} are no sizes of layers, such as 8-64-64-4")
    return tuple(map(int, sizes))


def _audit(arguments: list[str]) -> int:
    parser = _Parser(
        prog="bio-rl audit",
        description="What the updates of rules depend on, measured by intervention; 1 if a rule declares otherwise.",
    )
    parser.add_argument("rules", nargs="*", metavar="RULE", help="a name, or module:Class (default: all rules)")
    parser.add_argument("--json", action="store_true", help="as data")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own rules too, by their files in DIR/rule/"
    )
    options = parser.options(arguments)

    from bio_rl.cli.audit import audits, print_table, say_contradictions

    rows = audits(options.rules, options.config_dir)
    if options.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print_table(rows)
    return 1 if say_contradictions(rows) else 0


def _inspect(arguments: list[str]) -> int:
    parser = _Parser(prog="bio-rl inspect", description="How a run learnt: its returns and what happened on the way.")
    parser.add_argument("run_folder", type=Path, help="the folder of a run, finished or not")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens in any browser")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own rules, by their files in DIR/rule/, are run to be seen"
    )
    options = parser.options(arguments)

    from bio_rl.cli.inspect import inspect

    return inspect(options.run_folder, options.html, options.config_dir)


def _tune(arguments: list[str]) -> int:
    parser = _Parser(
        prog="bio-rl tune",
        description="Learning rates and settings for rules, found with the same trials, steps and seeds for each.",
        epilog="members=8 is how many seeds a trial has, seed=1000000 the first, study=tuning the folder under runs/;"
        " tuned=rule has bio-rl train take what was found. docs/tuning.md says more.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as of bio-rl train; rule=a,b tunes both")
    parser.add_argument("--trials", type=partial(_whole, least=1), default=20, help="of each rule (default: 20)")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, where the values found go (default: conf/)"
    )
    options = parser.options(arguments)

    from bio_rl.cli.tune import tune

    return tune(options.overrides, options.trials, options.config_dir)


def _compare(arguments: list[str]) -> int:
    parser = _Parser(prog="bio-rl compare", description="Which rules learn better, and whether by chance.")
    parser.add_argument(
        "places", nargs="+", type=Path, metavar="FOLDER", help="with run folders at any depth, or a CSV file of --csv"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page that opens in any browser")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each run, and scores, pairs, curves")
    parser.add_argument("--png", type=Path, metavar="DIR", help="write the page's pictures, a file each")
    parser.add_argument("--seed", type=partial(_whole, least=0), default=0, help="of the bootstrap (default: 0)")
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own rules, by their files in DIR/rule/, are run to be seen"
    )
    options = parser.options(arguments)

    from bio_rl.cli.compare import compare

    return compare(options.places, options.html, options.csv, options.png, options.seed, options.config_dir)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "tune": _tune,
    "play": _play,
    "rules": _rules,
    "audit": _audit,
    "inspect": _inspect,
    "compare": _compare,
}
