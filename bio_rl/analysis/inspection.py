"""What is to be seen of one run."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from bio_rl.analysis.axes import drawable
from bio_rl.analysis.models import Model
from bio_rl.analysis.report import Chart, Line, Report, Section, Table, figures
from bio_rl.analysis.runs import Evaluations, Run, Series, Unreadable, flat

STEPS = "timesteps"
MOST_SETTINGS = 200
NETWORKS = ("actor", "critic", "shared")
DEGREES, SHARES = (0, 30, 60, 90), (0, 0.25, 0.5, 0.75, 1)
ANGLE_OF_FEEDBACK = "angle to forward, degrees"
LEAST_VALUE = 1e-3
"""Of a singular value, beside the largest."""
LATELY = "rollout/ep_rew_mean"
"""What Stable-Baselines3 calls the mean return of training's last 100 episodes."""


def report(run: Run, more: Sequence[Section] = ()) -> Report:
    """Everything that a run's folder tells.

    Args:
        run: any, finished or not.
        more: sections that come of other sources than its folder, shown before its settings.
    """
    sections = [
        _returns(run),
        _updates(run),
        _feedback(run),
        _representations(run),
        _spectra(run),
        *more,
        _settings(run),
    ]
    title = f"{run.text('rule')} on {run.text('env_id')}, {run.text('agent')}, seed {run.text('seed')}"
    return Report(title, list(_facts(run)), sections, run.problems)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "status", run.status
    if error := run.result.get("error"):
        yield "error", str(error)
    if (mean := run.number("return_mean")) is not None:
        spread = figures(run.number("return_std"))
        yield "final return", f"{figures(mean)} ± {spread} in {figures(run.number('return_episodes'))} episodes"
    for name, words in (
        ("best_return_mean", "best return"),
        ("untrained_return_mean", "untrained"),
        ("training_return_mean", "in training, lately"),
    ):
        yield words, figures(run.number(name))
    yield STEPS, f"{figures(run.number('timesteps'), 9)} of {figures(run.number('timesteps_requested'), 9)}"
    yield "rule of the critic", run.text("critic_rule")
    yield "wall time", _duration(run.number("wall_seconds"))
    yield "folder", str(run.folder)


def _returns(run: Run) -> Section:
    lines = list(_of_evaluations(run.evaluations))
    if (training := run.progress.get(LATELY)) is not None:
        lines.append(Line("in training", *training, colour=1))
    if not lines:
        return Section("Return", _absent(run, "no evaluation is recorded"))
    text = (
        "Mean return of each evaluation's episodes, and from the lowest to the highest of them; in training, where "
        "actions are drawn, the mean of the last episodes."
    )
    return Section("Return", text, [Chart("return", STEPS, lines)])


def _of_evaluations(evaluations: Evaluations) -> Iterator[Line]:
    points = [(when, each.mean(), each.min(), each.max()) for when, each in evaluations.returns_by_time()]
    if points:
        x, mean, low, high = np.array(points, dtype=float).T
        yield Line("evaluated", x, mean, low, high, colour=0)


def _updates(run: Run) -> Section:
    title = "Updates beside backprop's"
    charts = [
        *_by_layer(run, "update_angle", "angle, degrees", DEGREES),
        *_by_layer(run, "update_norm_ratio", "ratio of norms", logarithmic=True),
        *_together(run, "target_alignment", "target alignment, cosine", SHARES),
    ]
    if not charts:
        return Section(title, _no_diagnostics(run))
    text = (
        "The rule's update of each layer's weights and the one that backprop makes of the same minibatch and weights: "
        "the angle between them, 0° being backprop and 90° nothing of it, and the rule's norm over backprop's. Target "
        "alignment is the cosine between where a small step along the updates moves the output, and where the loss "
        "wants it."
    )
    return Section(title, text, charts)


def _feedback(run: Run) -> Section:
    title = "Feedback alignment"
    charts = list(_by_layer(run, "feedback_angle", ANGLE_OF_FEEDBACK, DEGREES))
    charts = charts or list(_logged_angles(run))
    if charts:
        text = (
            "The angle between each layer's feedback weights and its forward weights: 0° is the transpose that "
            "backprop uses; unrelated weights stand at about 90°."
        )
        return Section(title, text, charts)
    if run.diagnostics or run.progress:
        return Section(title, "The rule has no feedback weights that an angle can be taken of.")
    return Section(title, _no_diagnostics(run))


def _logged_angles(run: Run) -> Iterator[Chart]:
    """From progress.csv, where they are logged with every evaluation."""
    for network in NETWORKS:
        prefix = f"feedback_angle/{network}/layer_"
        lines = [
            Line(f"layer {name.removeprefix(prefix)}", *series, colour=_place(name.removeprefix(prefix)))
            for name, series in sorted(run.progress.items())
            if name.startswith(prefix)
        ]
        if lines:
            yield Chart(f"{network}: {ANGLE_OF_FEEDBACK}", STEPS, lines, DEGREES)


def _representations(run: Run) -> Section:
    title = "Representations"
    charts = [
        *_by_layer(run, "cka", "debiased CKA", SHARES),
        *_by_layer(run, "procrustes", "Procrustes distance, radians", (0, 0.5, 1, 1.5)),
        *_by_layer(run, "rsa", "RSA, correlation", SHARES),
        *_by_layer(run, "dimension", "dimensions"),
        *_together(run, "potent_share", "output-potent share", SHARES),
    ]
    if not charts:
        return Section(title, _no_diagnostics(run))
    text = (
        "Each layer's activities for the same probes, beside those of the untrained network: two similarities and a "
        "distance. How many dimensions they fill, and how much of their change since the start the read-out sees."
    )
    return Section(title, text, charts)


def _spectra(run: Run) -> Section:
    title = "Spectra of weights"
    trained, untrained = _weights(run, run.trained), _weights(run, run.untrained)
    if not trained:
        return Section(title, _absent(run, "there is no model whose weights can be read"))
    charts = [
        Chart(
            f"{name}: singular values",
            "number",
            list(_values(weights, untrained.get(name, ()))),
            logarithmic=True,
            tells_last=False,
        )
        for name, weights in trained.items()
    ]
    text = (
        "The singular values of each layer's weights, from the largest; what is below a thousandth of that is left out."
    )
    return Section(title, text + (" Dotted: as they began." if untrained else ""), charts)


def _weights(run: Run, model: str | None) -> dict[str, list[Tensor]]:
    try:
        return {} if model is None else Model(run, model).weights
    except Unreadable as error:
        run.note(str(error))
        return {}


def _values(trained: Sequence[Tensor], untrained: Sequence[Tensor]) -> Iterator[Line]:
    for dashed, weights in ((True, untrained), (False, trained)):
        for number, weight in enumerate(weights):
            if weight.isfinite().all():
                values = torch.linalg.svdvals(weight.double()).numpy()
                values = values[values > LEAST_VALUE * values[0]]
                name = f"layer {number + 1}" + (", untrained" if dashed else "")
                yield Line(name, np.arange(1, len(values) + 1), values, dashed=dashed, colour=number)


def _settings(run: Run) -> Section:
    rows = [(name, "null" if value is None else str(value)) for name, value in islice(flat(run.config), MOST_SETTINGS)]
    versions = run.result.get("versions")
    tables = [Table(("setting", "value"), rows)] if rows else []
    if isinstance(versions, Mapping):
        revision = ("revision", run.text("git_revision"))
        tables.append(Table(("version", ""), [*((str(k), str(v)) for k, v in versions.items()), revision]))
    return Section("Settings", "" if rows else "The run's config is not there.", (), tables, is_appendix=True)


def _by_layer(
    run: Run, name: str, title: str, marks: Sequence[float] = (), logarithmic: bool = False
) -> Iterator[Chart]:
    """A chart for each network with a line for each layer of which something was measured."""
    for network in NETWORKS:
        lines = [
            Line(f"layer {layer}", *series, colour=layer - 1)
            for (measured, of, layer), series in run.diagnostics.items()
            if (measured, of) == (name, network) and layer is not None and _any(series, logarithmic)
        ]
        if lines:
            yield Chart(f"{network}: {title}", STEPS, lines, marks, logarithmic)


def _together(run: Run, name: str, title: str, marks: Sequence[float]) -> Iterator[Chart]:
    """One chart for all networks, of what is measured of them as a whole or of one layer."""
    lines = [
        Line(network, *series, colour=NETWORKS.index(network))
        for (measured, network, _), series in run.diagnostics.items()
        if measured == name and network in NETWORKS
    ]
    if lines:
        yield Chart(title, STEPS, lines, marks)


def _any(series: Series, positive: bool) -> bool:
    return len(drawable(Line("", *series), positive).x) > 0


def _no_diagnostics(run: Run) -> str:
    return _absent(run, "the run was made without diagnostics; diagnostics=light records them")


def _absent(run: Run, why: str) -> str:
    going_on = ", or has not come so far: it is still running" if run.status == "running" else ""
    return f"Nothing to show: {why}{going_on}."


def _place(layer: str) -> int:
    return int(layer) - 1 if layer.isdecimal() else 0


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
