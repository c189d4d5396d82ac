"""``bio-rl train``: a Hydra app, whose input is checked before Hydra writes anything."""

import os
import sys
import warnings
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from statistics import median
from tempfile import TemporaryFile
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from bio_rl.cli.configs import CONFIG, Job, compose_jobs, config_folder, plain, resolved, shorthand
from bio_rl.cli.errors import UserError, first_line, nearest
from bio_rl.cli.schema import check_arguments
from bio_rl.experiment.result import read_result

FINISHED = ("done", "diverged", "interrupted")
"""Statuses of runs that hold something which is not to be overwritten silently."""
NOT_BUILT = ("seed", "study", "overwrite")
"""Settings by which runs may differ whose environment, rule and agent are built alike."""


def train(arguments: Sequence[str]) -> int:
    """Check, then hand over to Hydra.

    Raises:
        UserError: anything wrong with the arguments; nothing has been written then.
    """
    args = parse(arguments)
    # Seconds for a sweep of hundreds of runs; nothing where stderr is not a terminal.
    with Console(stderr=True).status("composing the runs"):
        jobs = compose_jobs(args)
    if not _only_shows(args):
        check_agents()
        check_folders(jobs)
        check_builds(jobs)
    _hand_over([*args.flags, *args.overrides])
    return 0 if _only_shows(args) else _summary(jobs)


def parse(arguments: Sequence[str]) -> Namespace:
    """The arguments as Hydra understands them: ``overrides``, and as they were the others, ``flags``.

    Raises:
        UserError: an option that there is not, lacks its value, or cannot be used here.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        args, unknown = parser.parse_known_intermixed_args(list(arguments))
    except ArgumentError as error:
        raise UserError(str(error)) from error
    if args.config_path is not None:
        raise UserError("--config-path would take the place of bio-rl's own configs; --config-dir adds yours to them")
    if args.resolve and not (args.cfg or args.help):
        raise UserError("--resolve says how --cfg or --help show the config; give one of them too")
    if args.experimental_rerun is not None:
        raise UserError("--experimental-rerun would run whatever the file says; give the run's overrides again")
    modes = [args.run, args.multirun, args.cfg, args.info, args.shell_completion]
    if sum(map(bool, modes)) > 1:
        raise UserError("give one of --run, --multirun, --cfg, --info and --shell_completion")
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"no option {unknown[0]}{nearest(unknown[0], flags)}")
    args.flags = [each for each in arguments if each not in args.overrides]
    args.overrides = shorthand(args.overrides)
    return args


def check_agents() -> None:
    """Refuse a package ``agents`` that is not ours: another distribution may have brought one."""
    import bio_rl

    remedy = (
        "bio-rl needs its own: use a fresh virtual environment, or "
        "pip uninstall the other distribution and pip install --force-reinstall --no-deps bio-rl"
    )
    try:
        import agents
    except Exception as error:
        raise UserError(f"the package 'agents' cannot be imported ({first_line(error)}); {remedy}") from error
    beside = Path(bio_rl.__file__).parent.parent / "agents" / "__init__.py"
    if agents.__file__ is None or Path(agents.__file__) != beside or not hasattr(agents, "RulePolicy"):
        raise UserError(f"the package 'agents' that Python imports is another one ({agents.__file__}); {remedy}")


def check_folders(jobs: Sequence[Job]) -> None:
    """Every run needs a folder of its own that can be written and holds no finished run."""
    seen: set[Path] = set()
    for job in jobs:
        folder = job.folder
        if folder in seen:
            raise UserError(
                f"two runs of this sweep would share the folder {folder}; swept twice, or set in hydra.sweep"
            )
        seen.add(folder)
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        try:
            TemporaryFile(dir=existing).close()
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be written: {existing}: {error.strerror}") from error
        result = read_result(folder)
        if result is not None and result["status"] in FINISHED and not job.config.overwrite:
            raise UserError(f"{folder} holds a finished run ({result['status']}); overwrite=true replaces it")


def check_builds(jobs: Sequence[Job]) -> None:
    """Build what each job will build, but once only for those that differ in what nothing built depends on."""
    different: dict[str, Job] = {}
    for job in jobs:
        check_numbers(job)
        settings = plain(job.config)
        different.setdefault(repr({key: value for key, value in settings.items() if key not in NOT_BUILT}), job)
    console = Console(stderr=True)
    described = f"checking {len(jobs)} runs before the first"
    for job in track(different.values(), described, console=console, transient=True, disable=not console.is_terminal):
        check_build(job)


def check_numbers(job: Job) -> None:
    """Refuse a setting that is out of its range."""
    from bio_rl.experiment.settings import check_settings

    try:
        check_settings(job.config)
    except ValueError as error:
        raise UserError(first_line(error)) from error


def check_build(job: Job) -> None:
    """Build in memory all that the run will build; what objects to its settings says so now."""
    from gymnasium.error import DependencyNotInstalled
    from hydra.errors import InstantiationException

    from bio_rl.experiment.run import check

    check_arguments(plain(job.config), job.choices)
    extra = job.config.env.extra
    try:
        with warnings.catch_warnings(action="ignore"):
            check(job.config)
    except DependencyNotInstalled as error:
        remedy = f'pip install "bio-rl[{extra}]"' if extra else first_line(error)
        raise UserError(f"{job.config.env.id} needs a simulator that is not installed: {remedy}") from error
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        cause = error
        while isinstance(cause, InstantiationException) and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        message = first_line(cause)
        if message.endswith(":") and cause.__cause__ is not None:
            # As Hydra writes what it cannot import.
            message += f" {first_line(cause.__cause__)}"
        raise UserError(message) from error


def run_job(config: DictConfig) -> None:
    """Hydra's task function: one run, in the folder that Hydra made for it."""
    from bio_rl.experiment.run import run

    context = HydraConfig.get()
    folder = Path(context.runtime.output_dir)
    config = resolved(config)
    if context.output_subdir is not None:
        # Hydra has written what stood in the files; what is recorded is what runs.
        OmegaConf.save(config, folder / context.output_subdir / "config.yaml")
    chosen = context.runtime.choices
    choices = {
        "agent": chosen["agent"],
        "rule": chosen["rule"],
        "critic_rule": chosen.get("rule@critic_rule") or chosen["rule"],
    }
    result = run(config, folder, choices)
    _report(result, _relative(folder))
    if result["status"] == "interrupted":
        raise KeyboardInterrupt


def _only_shows(args: Namespace) -> bool:
    return bool(args.help or args.hydra_help or args.cfg or args.info or args.shell_completion)


def _hand_over(arguments: Sequence[str]) -> None:
    program, sys.argv = sys.argv, ["bio-rl train", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=CONFIG)(run_job)()
    finally:
        sys.argv = program


def _report(result: dict[str, Any], folder: Path) -> None:
    if result["status"] == "done":
        line = (
            f"return {result['return_mean']:.1f} ± {result['return_std']:.1f} in {result['return_episodes']} episodes"
            f" | bio-rl play {quote(str(folder))}"
        )
        if (folder / "tensorboard").exists():
            # The folder that this run shares with those that it is compared with: its agent's, or the first below the
            # current one. TensorBoard names runs by their paths from there, and shows only where a name begins.
            runs = folder if folder.is_absolute() else Path(*folder.parts[:1])
            if folder.name == f"seed={result['seed']}" and len(folder.parts) > 2:
                runs = folder.parents[1]
            line += f" | tensorboard --logdir {quote(str(runs))}"
        print(line)
    else:
        why = f": {result['error'].splitlines()[0]} (see traceback.txt there)" if "error" in result else ""
        print(f"{result['status']} in {folder}{why}", file=sys.stderr)


def _summary(jobs: Sequence[Job]) -> int:
    """The exit code; after a sweep, its returns, and which of its runs are not done."""
    results = {job.folder: read_result(job.folder) or {"status": "not started"} for job in jobs}
    unfinished = {folder: result["status"] for folder, result in results.items() if result["status"] != "done"}
    if len(jobs) > 1:
        _print_returns({folder: result for folder, result in results.items() if folder not in unfinished})
    if unfinished and len(jobs) > 1:
        print(f"{len(unfinished)} of {len(jobs)} runs are not done:", file=sys.stderr)
        for folder, status in unfinished.items():
            print(f"  {status}: {folder}", file=sys.stderr)
    return 1 if unfinished else 0


def _print_returns(results: dict[Path, dict[str, Any]]) -> None:
    """One line for the runs that differ in their seed only: the median of their returns, and each."""
    returns: dict[Path, list[float]] = {}
    for folder, result in results.items():
        same = folder.parent if folder.name == f"seed={result['seed']}" else folder
        returns.setdefault(same, []).append(result["return_mean"])
    if returns:
        print("\n median  of returns")
    for folder, values in returns.items():
        print(f"{median(values):7.1f}  {' '.join(f'{value:.1f}' for value in values)}  {_relative(folder)}")


def _relative(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
