"""What the documentation says to type works: each command and each Python block of it is run, with small budgets.

By default the runs of the first pages are composed and checked, and Python is run where it needs no run's folder;
`-m slow` runs everything, a page from its top to its bottom in a folder of its own, as a reader would.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import HERE

from bio_rl import Network
from bio_rl.cli import main
from bio_rl.cli.configs import compose_jobs
from bio_rl.cli.train import parse
from bio_rl.rules import FeedbackAlignment, rule_names

ROOT = HERE.parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "results/README.md",
    "benchmarks/README.md",
    "examples/own_rule/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
]
NOT_RUN = {
    r"python3 -m venv|\. \.venv|pip install|\.venv/bin/pre-commit install": "it installs",
    r"pytest -n auto": "these are its tests",
    r"tensorboard ": "a server, which does not end",
    r".* (--config-dir my_conf|rule=my_rule)": "it needs a file that the page leaves to the reader",
}
"""Commands that no test runs, and why."""
PACKAGES = {
    "minigrid:": "minigrid",
    "minatar_tasks:": "minatar",
    "Hopper-v5": "mujoco",
    "ale_py:": "ale_py",
    "highway_env:": "highway_env",
    "popgym:": "popgym",
    "gymnasium_robotics:": "gymnasium_robotics",
    "neurogym:": "neurogym",
}
"""Environments of other people's packages, and the module without which they are not run."""
BUDGET = ("env.timesteps=512", "evaluation.episodes=2", "evaluation.interval=0")
KEYS = "agent,env,env.id,env.name,tuned,seed,members,study,experiment,overwrite,retry,resume.interval"
SMALL_PYTHON = {"100_000": "64", "10_000": "64", '"seed=0")': '"seed=0", "env.timesteps=512")'}
"""What budgets become in Python blocks."""
FIRST = ("README.md", "CONTRIBUTING.md", "docs/start.md", "docs/tutorial.md")
"""Pages whose runs are composed by default, at 0.7 s each."""
NOT_REPEATED = ("results/README.md",)
"""Pages whose commands make the published results, in days: they are composed only."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that its title names, and its text."""

    language: str
    title: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in re.finditer(r'^```(\w+)(?: title="(.+?)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL):
        yield Block(*(part or "" for part in found.groups()))


def commands(block: Block) -> Iterator[str]:
    """A shell block's commands, without comments, each in one line."""
    if block.language in ("bash", "sh", "console"):
        for line in block.text.replace("\\\n", "").splitlines():
            for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
                if command:
                    yield command


def train_commands(page: str) -> list[list[str]]:
    """The arguments of each ``bio-rl train`` of a page, in its blocks and in its sentences."""
    fenced = [command for block in blocks(page) for command in commands(block)]
    inline = re.findall(r"`(bio-rl train [^`…]*?)`", (ROOT / page).read_text(encoding="utf-8"))
    lines = [*fenced, *(line for line in inline if not re.search(r"[A-Z]{3}|\.\.\.", line))]
    return [shlex.split(line)[2:] for line in lines if line.startswith("bio-rl train ") and why_not(line) is None]


def why_not(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), None)


def lacks(command: str) -> str | None:
    """The module that a command's environment needs and that is not installed."""
    needed = [module for name, module in PACKAGES.items() if name in command]
    return next((module for module in needed if importlib.util.find_spec(module) is None), None)


def small(arguments: list[str]) -> list[str]:
    """A train command with a small budget, whose runs have the folders that they would have."""
    kept = [each for each in arguments if not each.startswith(("env.timesteps=", "evaluation."))]
    kept = ["members=2" if each.startswith("members=") else each for each in kept]
    kept = [re.sub(r"^(seed=\d+,\d+),.*", r"\1", each) for each in kept]
    keys = {each.partition("=")[0] for each in kept}
    if "experiment" in keys:  # which names all rules and seeds
        kept += [setting for setting in ("rule=readout", "seed=0") if setting.partition("=")[0] not in keys]
    ours = [setting.partition("=")[0] for setting in BUDGET]
    return [*kept, *BUDGET, f"hydra.job.config.override_dirname.exclude_keys=[{KEYS},{','.join(ours)}]"]


def lay_out(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader of the page has in the current folder: the files that it shows, or that lie beside it."""
    if page.startswith("examples/"):
        shutil.copytree((ROOT / page).parent, ".", dirs_exist_ok=True)
    shutil.copytree(ROOT / "results", "results")
    for block in blocks(page):
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text, encoding="utf-8")
            monkeypatch.delitem(sys.modules, Path(block.title).stem, raising=False)
    monkeypatch.syspath_prepend(str(Path.cwd()))


def given() -> dict[str, Any]:
    """What fragments of Python take for granted."""
    torch.manual_seed(0)
    mlp = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    return {
        "Network": Network,
        "FeedbackAlignment": FeedbackAlignment,
        "mlp": mlp,
        "loss_function": torch.nn.functional.mse_loss,
        "optimizer": torch.optim.SGD(mlp.parameters(), lr=0.1),
        "x": torch.randn(16, 4),
        "target": torch.randn(16, 2),
        "output_error": torch.randn(16, 2),
        "network": Network.from_sequential(mlp, FeedbackAlignment()),
        "other": Network.from_sequential(mlp, FeedbackAlignment()),
    }


def execute(block: Block) -> None:
    text = block.text
    for budget, small in SMALL_PYTHON.items():
        text = text.replace(budget, small)
    exec(compile(text, "a block of Python", "exec", dont_inherit=True), given())


# -- the default part ---------------------------------------------------------------------


def check_trains(page: str, monkeypatch: pytest.MonkeyPatch, of_sweeps_the_first: bool = False) -> None:
    lay_out(page, monkeypatch)
    for arguments in train_commands(page):
        if of_sweeps_the_first:
            arguments = [re.sub(r"^([\w.]+=\w+),.*", r"\1", each) for each in arguments]
        if "tuned=rule" in arguments:  # which is of files that an earlier command of the page writes
            continue
        assert compose_jobs(parse(small(arguments))), shlex.join(arguments)


@pytest.mark.few(1)
@pytest.mark.parametrize("page", FIRST)
def test_the_train_commands_of_the_first_pages_are_ones_that_bio_rl_takes(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_trains(page, monkeypatch, of_sweeps_the_first=True)


@pytest.mark.few(6)
@pytest.mark.parametrize("page", [page for page in PAGES if any(each.language == "python" for each in blocks(page))])
def test_every_python_block_that_needs_no_runs_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(page, monkeypatch)
    for block in blocks(page):
        needs_runs = '"runs' in block.text
        needs_package = any(f"from {module}" in block.text for module in PACKAGES.values())
        if block.language == "python" and not needs_runs and not needs_package:
            execute(block)


def test_every_target_of_make_is_there() -> None:
    named = {each for page in PAGES for each in re.findall(r"\bmake ([a-z]+)", code_of(page))}
    assert {"demo", "test", "docs"} <= named
    for target in named:
        assert subprocess.run(["make", "-C", ROOT, "-n", target], capture_output=True).returncode == 0, target


def code_of(page: str) -> str:
    """What a page shows as code, in blocks and in sentences."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return "\n".join([*(block.text for block in blocks(page)), *re.findall(r"`([^`\n]+)`", text)])


def test_the_reasons_are_used() -> None:
    every = [command for page in PAGES for block in blocks(page) for command in commands(block)]
    assert [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for command in every)] == []
    assert [name for name in PACKAGES if not any(name in command for command in every)] == []


def test_the_site_leads_to_every_page() -> None:
    def pages(node: Any) -> Iterator[str]:
        children = node.values() if isinstance(node, dict) else node
        for child in children:
            yield from [child] if isinstance(child, str) else pages(child)

    shown = list(pages(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    assert sorted(shown) == sorted([*PAGES, "CHANGELOG.md"])
    assert {Path(page).stem for page in shown if page.startswith("docs/rules/")} == {*rule_names(), "index"}


def test_every_rule_is_in_the_list_of_rules_and_in_the_reference() -> None:
    index, reference = (
        (ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("rules/index.md", "reference.md")
    )
    for name in rule_names():
        assert f"({name}.md)" in index
        assert f"::: bio_rl.rules.{name}." in reference


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    copied = shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(".*", "build", "runs", "tests"))
    zensical = f"{shlex.quote(sys.executable)} -m zensical"
    made = re.search(r"^docs:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made is not None
    folders = re.search(r"^PAGES := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert folders is not None
    script = made[1].replace("$(PAGES)", folders[1]).replace("$(BIN)/zensical", zensical)
    built = subprocess.run(["bash", "-euc", script], cwd=copied, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stdout + built.stderr
    site = copied / "build/site"
    lost = [
        f"{page.relative_to(site)}: {link}"
        for page in site.rglob("*.html")
        for link in re.findall(r'(?:href|src)="([^"#?:]+)[#?"]', page.read_text(encoding="utf-8"))
        if page.name != "404.html" and not (page.parent / link).is_file()
    ]
    assert lost == []
    page = (site / "docs/rules/predictive_coding.html").read_text(encoding="utf-8")
    assert page.count("<math") > 5
    assert not re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css)', page), "the site loads something from elsewhere"


# -- the slow part ------------------------------------------------------------------------


def run(command: str) -> int:
    program, *arguments = shlex.split(command)
    assert program == "bio-rl", f"{command}: run it, or say in NOT_RUN why not"
    match arguments:
        case ["train", *rest]:
            return main(["train", *small(rest)])
        case ["tune", *rest]:
            given = [each for each in rest if not each.startswith(("members=", "env.timesteps="))]
            trials = given.index("--trials") + 1
            given[trials] = "2"
            return main(["tune", *given, "members=2", "env.timesteps=256", "evaluation.episodes=2"])
        case ["play", *rest]:
            return main(["play", *rest, "--video", "played.mp4"])
    return main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in FIRST and train_commands(page)])
def test_every_train_command_is_one_that_bio_rl_takes(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_trains(page, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOT_REPEATED])
def test_a_page_runs_from_its_top_to_its_bottom(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(page, monkeypatch)
    before: set[str] = set()
    for block in blocks(page):
        if block.language == "python" and not any(f"from {module}" in block.text for module in PACKAGES.values()):
            execute(block)
        for command in commands(block):
            if command in before or command.startswith("make ") or why_not(command) or lacks(command):
                continue
            assert run(command) == 0, command
            before.add(command)
