"""Whether the tests notice a fault: the source is changed in one place, and tests that should fail are run.

For each source file in ``benchmarks/mutants.toml`` a number of small changes ("mutants": a sign, a factor, a transpose,
an index, a comparison, a statement left out; DeMillo, Lipton & Sayward 1978, Hints on test data selection) is drawn by
a seed, so that nobody picks easy ones. Each is made in a copy of the tree, never in this one, and the
file's tests run there until the first that fails. A mutant that no test notices survives: it needs a test, or an entry
in that file that says why it changes nothing.

    python benchmarks/mutants.py                         # all files; goes on where benchmarks/mutants.csv ends
    python benchmarks/mutants.py --only rules/gated.py   # files whose path contains this
    python benchmarks/mutants.py --each 20 --output more.csv

What was killed stays so while its source is as it was; survivors are tried again. Exit code 1: tests fail without a
mutant, or a survivor is not explained.
"""

import argparse
import ast
import contextlib
import csv
import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".venv", "runs", "build", "*.pyc")
OTHER_OPERATOR = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.Pow: "*", ast.FloorDiv: "*"}
OTHER_COMPARISON = {
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"},
}
OTHER_METHOD = {"sum": "mean", "mean": "sum", "amax": "amin", "max": "min", "min": "max", "all": "any", "any": "all"}
# What takes long to import, and is none of what is mutated.
PRELOADED = ["torch", "stable_baselines3", "hydra", "pytest"]
# Messages, types and declarations say what a thing is, and defaults what was chosen; no mutant is made in them.
PASSED_OVER = ("annotation", "returns", "decorator_list", "bases", "type_params", "defaults", "kw_defaults")
Silent = ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom


class Mutant(NamedTuple):
    """A change of ``old``, at a place in the source's bytes, to ``new``."""

    line: int
    start: int
    end: int
    old: str
    new: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.end :]


NO_CHANGE = Mutant(0, 0, 0, "", "")


class Room(NamedTuple):
    """Source files, and the tests that have to notice what happens to them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


class Plan(NamedTuple):
    """What ``mutants.toml`` says; ``equivalent`` has the reason why each (file, old, new) changes nothing."""

    rooms: tuple[Room, ...]
    equivalent: dict[tuple[str, str, str], str]


@dataclass(frozen=True)
class Row:
    """What became of a mutant; ``source`` is the digest of the file that it was made in."""

    file: str
    source: str
    line: int
    old: str
    new: str
    outcome: str


class Job(NamedTuple):
    """A mutant to try: its row, without an outcome as yet, and what it takes; those of lower rank come first."""

    row: Row
    mutant: Mutant
    room: Room
    source: bytes
    rank: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=HERE / "mutants.toml")
    parser.add_argument("--tree", type=Path, default=HERE.parent, help="the root of what is mutated")
    parser.add_argument("--output", type=Path, default=HERE / "mutants.csv")
    parser.add_argument("--each", type=int, default=3, help="mutants of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path contains this")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--seconds", type=int, default=240, help="of the processor: a mutant that takes more hangs, and is noticed so"
    )
    options = parser.parse_args(arguments)
    plan = read_plan(options.plan)
    known = read_rows(options.output)
    jobs = [job for room in plan.rooms for job in jobs_of(room, options) if options.only in job.row.file]
    wanted = {key(job.row) for job in jobs}
    tried_before = {key(row) for row in known if row.outcome not in ("survived", "failed")}
    stays = tried_before & wanted
    kept = [row for row in known if key(row) in stays or options.only not in row.file]
    # The first of each file before the second of any: what is cut off has seen every file.
    todo = sorted((job for job in jobs if key(job.row) not in tried_before), key=lambda job: job.rank)
    with Trees(options.tree, options.workers) as trees, ThreadPoolExecutor(options.workers) as pool:
        outcomes = pool.map(lambda job: outcome(trees, job, options.seconds), todo)
        for done, (job, result) in enumerate(zip(todo, outcomes, strict=True), start=1):
            kept.append(replace(job.row, outcome=result))
            write_rows(options.output, kept)
            print(f"{done}/{len(todo)} {result:8} {described(job.row)}", flush=True)
    return report([row for row in kept if key(row) in wanted], plan)


def jobs_of(room: Room, options: argparse.Namespace) -> list[Job]:
    """The mutants of the room's files, each file's first one no change at all: with that the tests must pass."""
    jobs = []
    for file in room.files:
        source = (options.tree / file).read_bytes()
        mutants = drawn(source, options.each, f"{options.seed} {file}")
        for rank, mutant in enumerate([*([NO_CHANGE] if file == room.files[0] else []), *mutants]):
            # Tests that passed have said nothing of others that the room is given since.
            told_by = " ".join(room.tests).encode() if mutant == NO_CHANGE else b""
            row = Row(file, digest(source + told_by), mutant.line, mutant.old, mutant.new, "")
            jobs.append(Job(row, mutant, room, source, rank))
    return jobs


def read_plan(path: Path) -> Plan:
    """``[[room]]``: ``files``, ``tests``; ``[[equivalent]]``: ``file``, ``old``, ``new``, ``why``."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    rooms = tuple(Room(tuple(room["files"]), tuple(room["tests"])) for room in table["room"])
    equivalent = {(each["file"], each["old"], each["new"]): each["why"] for each in table.get("equivalent", ())}
    return Plan(rooms, equivalent)


def drawn(source: bytes, number: int, seed: str) -> list[Mutant]:
    """So many of the source's mutants; more are the same and others, and an edit elsewhere leaves them as they are."""
    ranked = sorted(all_mutants(source), key=lambda mutant: digest(f"{seed} {mutant.old} {mutant.new}".encode()))
    return ranked[:number]


def all_mutants(source: bytes) -> Iterator[Mutant]:
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node, new in changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        yield Mutant(node.lineno, start, end, " ".join(source[start:end].decode().split()), new)


def changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Every expression or statement that can be changed, and what it becomes."""
    for field, value in ast.iter_fields(tree):
        if field in PASSED_OVER:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, Silent) or is_declaration(tree, child):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield from ((child, new) for new in changed(child))
            yield from changes(child)


def is_declaration(parent: ast.AST, child: ast.AST) -> bool:
    """A docstring, a base class's ``__init__``, ``zip``'s ``strict``, or what a class or module says of itself."""
    if isinstance(child, ast.keyword) and child.arg == "strict":
        return True
    if isinstance(child, ast.Expr) and (
        isinstance(child.value, ast.Constant) or ast.unparse(child).startswith("super().__init__")
    ):
        return True
    return isinstance(parent, ast.ClassDef | ast.Module) and isinstance(child, ast.Assign | ast.AnnAssign | ast.Expr)


def changed(node: ast.expr | ast.stmt) -> Iterator[str]:
    """What the node may become, in Python; in parentheses where what is around it could bind tighter."""
    text = ast.unparse
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OTHER_OPERATOR:
            yield f"({wrapped(left)} {OTHER_OPERATOR[type(operator)]} {wrapped(right)})"
        case ast.AugAssign(target, operator, value) if type(operator) in OTHER_OPERATOR:
            yield f"{text(target)} {OTHER_OPERATOR[type(operator)]}= {text(value)}"
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield wrapped(operand)
        case ast.Compare(left, [operator], [right]):
            yield f"({wrapped(left)} {OTHER_COMPARISON[type(operator)]} {wrapped(right)})"
        case ast.BoolOp(operator, values):
            yield "(" + (" or " if isinstance(operator, ast.And) else " and ").join(map(wrapped, values)) + ")"
        case ast.IfExp(test, body, other):
            yield f"({wrapped(other)} if {wrapped(test)} else {wrapped(body)})"
        case ast.Attribute(value, "mT" | "T"):
            yield wrapped(value)
        case ast.Call(ast.Attribute(value, "transpose" | "swapaxes")):
            yield wrapped(value)
        case ast.Call(ast.Attribute(value, name), positional, keywords) if name in OTHER_METHOD:
            inside = ", ".join(map(text, [*positional, *keywords]))
            yield f"{wrapped(value)}.{OTHER_METHOD[name]}({inside})"
        case ast.Constant(bool(value)):
            yield str(not value)
        case ast.Constant(int(value)):
            yield str(value + 1)
        case ast.Constant(float(value)):
            yield repr(2 * value if value else 1.0)
        case ast.Expr(ast.Call()):
            yield "pass"


def wrapped(node: ast.expr) -> str:
    simple = isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant)
    return ast.unparse(node) if simple else f"({ast.unparse(node)})"


class Trees:
    """Copies of a tree, one for each worker, in which tests can run side by side."""

    def __init__(self, tree: Path, number: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mutants-"))
        self.free: SimpleQueue[Path] = SimpleQueue()
        for n in range(number):
            shutil.copytree(tree, self.folder / str(n), ignore=LEFT_OUT, symlinks=True)
            self.free.put(self.folder / str(n))
        # Tests start in forks of a process that has made its imports.
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(PRELOADED)

    def __enter__(self) -> "Trees":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, tests: Sequence[str], seconds: int, file: str = "", source: bytes = b"") -> int | None:
        """Pytest's exit code, with ``file`` as ``source``; None if it was not done by then.

        The seconds are the processor's, since what else runs must not make a mutant seem to hang. What waits for
        ever takes none, and is ended after ten times as many.
        """
        tree = self.free.get()
        original = (tree / file).read_bytes() if file else b""
        try:
            if file:
                (tree / file).write_bytes(source)
            process = self.processes.Process(target=run_tests, args=(str(tree), tuple(tests), seconds))
            process.start()
            assert process.pid is not None
            process.join(10 * seconds)
            code = process.exitcode
            with contextlib.suppress(ProcessLookupError):  # also what its tests have started
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return None if code == -signal.SIGXCPU else code
        finally:
            if file:
                (tree / file).write_bytes(original)
            self.free.put(tree)


def run_tests(tree: str, tests: Sequence[str], seconds: int) -> None:
    """Run tests in ``tree``, in this process; it ends with pytest's exit code, or when it has used so many seconds."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    os.chdir(tree)
    sys.path.insert(0, tree)
    # A mutant of the same size and second as the one before would pass for it.
    sys.dont_write_bytecode = True
    os.environ.update(
        PYTHONPATH=tree,
        PYTHONDONTWRITEBYTECODE="1",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        OMP_NUM_THREADS="1",
        ALL_CASES="1",
    )
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silence, stream)
    os._exit(pytest.main(["-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *tests]))


def outcome(trees: Trees, job: Job, seconds: int) -> str:
    """What the tests say of a mutant, and of the source as it is: ``passed``, in half of the time, or ``failed``."""
    if job.mutant == NO_CHANGE:
        return "passed" if trees.run(job.room.tests, seconds // 2) == 0 else "failed"
    code = trees.run(job.room.tests, seconds, job.row.file, job.mutant.applied(job.source))
    return {0: "survived", None: "hung"}.get(code, "killed")


def report(rows: Sequence[Row], plan: Plan) -> int:
    """Print the score and what survived; 1 if a survivor has no explanation, or tests fail by themselves."""
    failed = [row for row in rows if row.outcome == "failed"]
    for row in failed:
        room = next(room for room in plan.rooms if row.file in room.files)
        print(f"{' '.join(room.tests)}: fail, or take too long, without a mutant: what they notice says nothing")
    rows = [row for row in rows if row.outcome not in ("passed", "failed")]
    survivors = [row for row in rows if row.outcome == "survived"]
    unexplained = 0
    for row in survivors:
        why = plan.equivalent.get((row.file, row.old, row.new))
        unexplained += why is None
        print(f"survived: {described(row)}\n  {why or 'NOT EXPLAINED'}")
    files = len({row.file for row in rows})
    print(
        f"{len(rows)} mutants of {files} files: {len(rows) - len(survivors)} noticed, "
        f"{len(survivors) - unexplained} change nothing, {unexplained} not noticed"
    )
    return int(unexplained > 0 or bool(failed))


def described(row: Row) -> str:
    return f"{row.file}:{row.line}  {row.old}  ->  {row.new}" if row.line else f"{row.file} as it is"


def key(row: Row) -> tuple[str, str, int, str, str]:
    return row.file, row.source, row.line, row.old, row.new


def digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:12]


def read_rows(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{**row, "line": int(row["line"])}) for row in csv.DictReader(file)]  # type: ignore[arg-type]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=key))


if __name__ == "__main__":
    sys.exit(main())
