"""Checkpoints: models as they were at evaluations, to look at learning afterwards."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hydra.utils import get_method
from stable_baselines3.common.base_class import BaseAlgorithm

SAVE_MODEL = "agents.save_model"
"""By its name, as Hydra's ``_target_`` names the agent: what runs agents does not depend on them."""
KEPT = ("best_and_last", "all", "none")
"""Which models a run may keep."""


def save_model(agent: BaseAlgorithm, folder: Path) -> None:
    """Save an agent where ``agents.load_model`` finds it; see there for what can go wrong."""
    get_method(SAVE_MODEL)(agent, folder)


class Checkpoints:
    """The folder ``checkpoints/`` of a run: ``last``, ``best`` and, where all are kept, each by its timesteps.

    Beside them lies what is kept whatever is ``kept``: see ``keep``.

    A model is written aside and then renamed: what has one of these names is whole, whenever the
    run may be killed.

    Args:
        folder: of the run.
        kept: one of ``KEPT``.
    """

    def __init__(self, folder: Path, kept: str):
        self.folder = folder / "checkpoints"
        self.kept = kept

    def add(self, agent: BaseAlgorithm, is_best: bool) -> None:
        """Keep the agent's model as it is now.

        Args:
            is_best: whether its return is higher than that of all models before it.
        """
        if self.kept == "none":
            return
        if self.kept == "all":
            self.keep(agent, str(agent.num_timesteps))
        if is_best:
            self.keep(agent, "best")
        self.keep(agent, "last")

    def keep(self, agent: BaseAlgorithm, name: str) -> None:
        """Save the agent's model as it is now, in the place of an earlier one of that name."""
        self.folder.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=self.folder, prefix=".") as aside:
            place, new, old = self.folder / name, Path(aside, "new"), Path(aside, "old")
            save_model(agent, new)
            # No system replaces a folder in one step. In between, the earlier model is aside, whole.
            try:
                if place.exists():
                    place.rename(old)
            finally:
                new.rename(place)
