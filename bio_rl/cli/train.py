"""``bio-rl train``: a Hydra app, whose input is checked before Hydra writes anything."""

import os
import sys
import time
import warnings
from argparse import ArgumentError, Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from shlex import join, quote
from signal import SIGTERM, Signals
from statistics import median
from tempfile import TemporaryFile
from typing import Any

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from bio_rl.cli.configs import Job, compose_jobs, plain, resolved, unequal_budgets
from bio_rl.cli.errors import UserError, first_line, nearest
from bio_rl.cli.loader import CONFIG, VERSION_BASE, Loader, config_folder, loader_of
from bio_rl.cli.schema import check_arguments
from bio_rl.cli.watch import SweepWatch
from bio_rl.experiment.folder import FINAL, FolderError, RunFolder
from bio_rl.experiment.interruption import Interrupted, Interruption
from bio_rl.experiment.output import as_return, complain, plain_warnings, say
from bio_rl.experiment.provenance import changed_code, versions
from bio_rl.names import in_full
from bio_rl.trust import code_of_ones_own

FINISHED = ("done", "diverged", "interrupted")
"""Statuses of runs that hold something which is not to be overwritten silently."""
NOT_BUILT = ("seed", "study", "overwrite", "retry", "resume")
"""Settings by which runs may differ whose environment, rule and agent are built alike."""
FULL_ERROR = "HYDRA_FULL_ERROR"
WORST = float("-inf")
ANEW = "overwrite=true replaces it"
APP_NAME = "app_name: bio-rl train"
"""What Hydra's description of a sweep of ours holds."""
PATIENCE = 60.0
"""Seconds that workers have to write what they have before they are killed."""


def train(arguments: Sequence[str]) -> int:
    """Check, then hand over to Hydra.

    Raises:
        UserError: anything wrong with the arguments; nothing has been written then.
        KeyboardInterrupt: a signal ended the command; what it has done so far is written and said.
    """
    args = parse(arguments)
    # Seconds for a sweep of hundreds of runs; nothing where stderr is not a terminal.
    with Console(stderr=True).status("composing the runs"):
        loader = loader_of(args)
        jobs = compose_jobs(args, loader)
    if _only_shows(args):
        _show([*args.flags, *args.overrides])
        return 0
    check_agents()
    if unfair := unequal_budgets(jobs):
        complain(f"warning: {unfair}")
    for job in jobs:
        check_numbers(job)
    runs_of = [job.runs() for job in jobs]
    runs = [run for several in runs_of for run in several]
    finished = check_folders(runs)
    left = [[run for run in several if run.folder not in finished] for several in runs_of]
    if finished:
        complain(
            f"{len(finished)} of {len(runs)} runs are finished already and stay; overwrite=true repeats them, "
            "retry=true those that failed"
        )
    check_builds([job for job, several in zip(jobs, left, strict=True) if several])
    Interruption.received = None
    still = [run.folder for several in left for run in several]
    before = {folder: RunFolder(folder).read_result() for folder in still}
    try:
        with Interruption(first=partial(_end_workers, runs)), SweepWatch(still):
            is_through = _run(args, loader)
    except KeyboardInterrupt:
        if len(runs) > 1:
            _summary(runs, before)
            complain(f"the same command goes on with what is left: bio-rl train {join(arguments)}")
        raise
    return _summary(runs, before) or (0 if is_through else 1)


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
    modes = [args.run, args.multirun, args.cfg, args.info]
    if sum(map(bool, modes)) > 1:
        raise UserError("give one of --run, --multirun, --cfg and --info")
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UserError(f"no option {unknown[0]}{nearest(unknown[0], flags)}")
    args.flags = [each for each in arguments if each not in args.overrides]
    args.overrides = [*map(in_full, args.overrides)]
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


def check_folders(jobs: Sequence[Job]) -> set[Path]:
    """Every run needs a folder of its own, which can be written and holds nothing but a run that may be replaced.

    Returns:
        The folders whose runs are finished and stay.

    Raises:
        UserError: a folder that is none of these.
    """
    seen: set[Path] = set()
    finished: set[Path] = set()
    for job in jobs:
        folder = RunFolder(job.folder)
        path = Path(os.path.abspath(job.folder))
        if path in seen:
            raise UserError(
                f"two runs of this sweep would share the folder {job.folder}; swept twice, or set in hydra.sweep"
            )
        seen.add(path)
        existing = next(each for each in (path, *path.parents) if os.path.lexists(each))
        try:
            TemporaryFile(dir=existing).close()
            folder.refuse_foreign()
            if stays(folder, job):
                finished.add(job.folder)
        except OSError as error:
            raise UserError(f"the folder {job.folder} cannot be written: {existing}: {error.strerror}") from error
        except FolderError as error:
            raise UserError(str(error)) from error
        if not job.is_one_of_several and (owner := folder.owner()) is not None:
            raise UserError(f"{job.folder} is in use by {owner}")
    for path in seen:
        if outer := seen.intersection(path.parents):
            raise UserError(f"a run's folder would lie in another's of this sweep: {path} in {outer.pop()}")
    for sweep_folder in {job.sweep_folder for job in jobs if job.sweep_folder is not None}:
        _check_sweep_file(sweep_folder / "multirun.yaml")
    return finished


def _check_sweep_file(file: Path) -> None:
    """Hydra replaces the file that describes a sweep, be it another program's."""
    if os.path.lexists(file):
        is_ours = file.is_file() and not file.is_symlink() and APP_NAME.encode() in file.read_bytes()
        if not is_ours:
            raise UserError(f"{file} is no sweep's of bio-rl, and would be replaced; set another hydra.sweep.dir")


def stays(folder: RunFolder, run: Job) -> bool:
    """Whether a run in the folder stays, and a command for several goes on with the next one.

    It does if it had the same config and ran on the same code. What was cut off goes on; what failed stays, in such a
    command, unless ``retry`` says otherwise.

    Raises:
        FolderError: there is another finished run, and it may not be overwritten.
    """
    result = folder.read_result()
    if result is None or run.config.overwrite:
        return False
    if (way := folder.goes_on(run.config)) is not None:
        if way == FINAL and (changed := changed_code(result, run.config, versions())):
            raise FolderError(f"{folder.path} holds a finished run of {changed}, which cannot go on; {ANEW}")
        return False
    several = run.is_one_of_several
    if result["status"] == "failed":
        return several and not run.config.retry and folder.is_run_of(run.config)
    if result["status"] not in FINISHED or (several and result["status"] == "interrupted"):
        return False
    if several and folder.is_run_of(run.config):
        if changed := changed_code(result, run.config):
            raise FolderError(f"{folder.path} holds this run, of {changed}; {ANEW}")
        return True
    other = " of other settings" if several else ""
    ended = "finished" if result["status"] == "done" else result["status"]
    raise FolderError(f"{folder.path} holds a run{other} that is {ended}; {ANEW}")


def check_builds(jobs: Sequence[Job]) -> None:
    """Build what each job will build, but once only for those that differ in what nothing built depends on."""
    different: dict[str, Job] = {}
    for job in jobs:
        settings = plain(job.config)
        different.setdefault(repr({key: value for key, value in settings.items() if key not in NOT_BUILT}), job)
    console = Console(stderr=True)
    described = f"checking {len(jobs)} runs before the first"
    for job in track(different.values(), described, console=console, transient=True, disable=not console.is_terminal):
        check_build(job)


def check_numbers(job: Job) -> None:
    """Refuse a setting that is out of its range, of the job's or of its last member's, whose seed is the highest."""
    from bio_rl.experiment.settings import check_settings

    try:
        check_settings(job.config)
        if job.config.members > 1:
            check_settings(job.runs()[-1].config)
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
        if os.environ.get(FULL_ERROR) == "1":
            raise
        cause = error
        while isinstance(cause, InstantiationException) and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        raise UserError(first_line(cause)) from error


@plain_warnings()
def run_job(config: DictConfig) -> float:
    """Hydra's task function: one run, in the folder that Hydra made for it, or several that learn together.

    Returns:
        The final return, by which a sweeper may choose its next jobs, of several their median; that of a run
        which is not done is the worst.
    """
    from bio_rl.experiment.run import run

    if Interruption.received is not None:
        raise Interrupted(Interruption.received)
    context = HydraConfig.get()
    chosen = context.runtime.choices
    choices = {
        "agent": chosen["agent"],
        "rule": chosen["rule"],
        "critic_rule": chosen.get("rule@critic_rule") or chosen["rule"],
    }
    launch = {"hydra": OmegaConf.create({"hydra": context}), "overrides": context.overrides.task}
    sweep_folder = Path(context.sweep.dir) if context.mode == RunMode.MULTIRUN else None
    job = Job(resolved(config), Path(context.runtime.output_dir), dict(chosen), sweep_folder)
    with ExitStack() as claimed:
        finished, claims = _claim(job.runs(), claimed)
        results = []
        if claims:
            try:
                results = run([each.config for each, _ in claims], [folder for _, folder in claims], choices, launch)
            except OSError as error:  # of files that say how a run went
                complain(f"failed in {job.folder}: {error}")
                return WORST
    for result, (each, _) in zip(results, claims, strict=True):
        if not (each.is_member and result["status"] == "done"):  # members are summed up in the end
            _report(result, each, _relative(each.folder, Path(context.runtime.cwd)))
    for result in results:
        if result["status"] == "interrupted":
            raise Interrupted(Signals[result["signal"]])
    returns = [each["return_mean"] if each["status"] == "done" else WORST for each in [*finished, *results]]
    return median(returns) if returns else WORST


def _claim(runs: Sequence[Job], claimed: ExitStack) -> tuple[list[dict[str, Any]], list[tuple[Job, RunFolder]]]:
    """The results of the runs that are finished already, and those that are left, whose folders are claimed."""
    finished, claims = [], []
    for each in runs:
        try:
            folder = claimed.enter_context(RunFolder(each.folder))
            if stays(folder, each):
                finished.append(folder.read_result() or {})
            else:
                claims.append((each, folder))
        except FolderError as error:
            complain(str(error))
    return finished, claims


def _only_shows(args: Namespace) -> bool:
    return bool(args.help or args.hydra_help or args.cfg or args.info)


def _show(arguments: Sequence[str]) -> None:
    """What Hydra shows of itself or of a config."""
    program, sys.argv = sys.argv, ["bio-rl train", *arguments]
    try:
        hydra.main(version_base=VERSION_BASE, config_path=str(config_folder()), config_name=CONFIG)(run_job)()
    finally:
        sys.argv = program


def _run(args: Namespace, loader: Loader) -> bool:
    """Have Hydra run the jobs, and say whether it came to its end. Its errors are one line."""
    app, name, overrides = Hydra(CONFIG, loader), args.config_name or CONFIG, list(args.overrides)
    GlobalHydra.instance().initialize(app)
    try:
        mode = loader.load_configuration(name, overrides, RunMode.RUN, validate_sweep_overrides=False).hydra.mode
        if args.multirun and mode != RunMode.MULTIRUN:
            overrides.append("hydra.mode=MULTIRUN")
        run = app.multirun if args.multirun or mode == RunMode.MULTIRUN else app.run
        run(config_name=name, task_function=run_job, overrides=overrides)
        return True
    except Exception as error:  # whatever a launcher or a sweeper has, a worker that was killed for its memory say
        if os.environ.get(FULL_ERROR) == "1":
            raise
        complain(f"Hydra broke off: {first_line(error)} ({FULL_ERROR}=1 shows where)")
        return False
    finally:
        GlobalHydra.instance().clear()


def _end_workers(jobs: Sequence[Job]) -> None:
    """Tell the processes that a launcher started to end their runs, and wait until these are written."""
    told: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        workers = {child.pid for child in active_children()}
        # Only those that train: one that waits for work knows no signal, and its end would be an error.
        owners = {pid for job in jobs if (pid := RunFolder(job.folder).owner_pid()) is not None}
        training = owners & workers
        if not training:
            return
        for pid in training - told:
            os.kill(pid, SIGTERM)
        told |= training
        time.sleep(0.1)


def _report(result: dict[str, Any], job: Job, shown: Path) -> None:
    if result["status"] == "done":
        trusted = "".join(f" --trust {module}" for module in code_of_ones_own(plain(job.config)))
        line = (
            f"return {as_return(result['return_mean'])} ± {as_return(result['return_std'])}"
            f" in {result['return_episodes']} episodes"
            f" | bio-rl play {quote(str(shown))}{trusted}"
        )
        if (job.folder / "tensorboard").exists():
            # The folder that this run shares with those that it is compared with: its agent's, or the first below the
            # current one. TensorBoard names runs by their paths from there, and shows only where a name begins.
            runs = shown if shown.is_absolute() else Path(*shown.parts[:1])
            if shown.name == f"seed={result['seed']}" and len(shown.parts) > 2:
                runs = shown.parents[1]
            line += f" | tensorboard --logdir {quote(str(runs))}"
        say(line)
    else:
        why = f": {result['error'].splitlines()[0]} (see traceback.txt there)" if "error" in result else ""
        complain(f"{result['status']} in {shown}{why}")


def _summary(jobs: Sequence[Job], before: Mapping[Path, dict[str, Any] | None]) -> int:
    """The exit code; after a sweep, its returns, and which of its runs are not done.

    Args:
        jobs: all.
        before: the results that were in the folders of those that were left.
    """
    results = {job.folder: _ended(RunFolder(job.folder), before.get(job.folder)) for job in jobs}
    unfinished = {folder: result["status"] for folder, result in results.items() if result["status"] != "done"}
    if len(jobs) > 1:
        _print_returns({folder: result for folder, result in results.items() if folder not in unfinished})
    if unfinished and len(jobs) > 1:
        complain(f"{len(unfinished)} of {len(jobs)} runs are not done:")
        for folder, status in unfinished.items():
            complain(f"  {status}: {folder}")
    if len(jobs) == 1 and RunFolder(jobs[0].folder).owner() is not None:
        return 2
    return 1 if unfinished else 0


def _ended(folder: RunFolder, before: dict[str, Any] | None) -> dict[str, Any]:
    """The result of a run that this command was to make, corrected where its process was killed."""
    result = folder.read_result()
    if result is not None and result["status"] == "running" and (owner := folder.owner()) is not None:
        return {"status": f"in use by {owner}"}
    if result is None or result == before:
        return {"status": "not started"}
    if result["status"] == "running":
        with folder:
            result |= {"status": "failed", "error": "the process was killed", "resumable": True}
            folder.write_result(result)
    return result


def _print_returns(results: dict[Path, dict[str, Any]]) -> None:
    """One line for the runs that differ in their seed only: the median of their returns, and each."""
    returns: dict[Path, list[float]] = {}
    for folder, result in results.items():
        same = folder.parent if folder.name == f"seed={result['seed']}" else folder
        returns.setdefault(same, []).append(result["return_mean"])
    if returns:
        say("\n median  of returns")
    for folder, values in returns.items():
        each = " ".join(map(as_return, values))
        say(f"{as_return(median(values)):>7}  {each}  {_relative(folder, Path.cwd())}")


def _relative(folder: Path, start: Path) -> Path:
    return folder.relative_to(start) if folder.is_relative_to(start) else folder
