"""A run's networks, from the files that ``agents.save_model`` wrote, without an agent.

Data are read, and a rule is made from them only if whoever asks has said that it may be: by default one of ours. A name
in a file imports nothing.
"""

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from bio_rl.analysis.runs import Run, Unreadable
from bio_rl.layers import Dense
from bio_rl.network import Network
from bio_rl.rule import Rule
from bio_rl.rules import rule_class, rule_names

FindRule = Callable[[str], type[Rule]]
"""The class of a rule by the name under which a model was saved; a ValueError for one that is not to be used."""
WEIGHT = re.compile(r"mlp_extractor\.(actor|critic|shared)\.layers\.([0-9]+)\.weight")


def shipped_rule(name: str) -> type[Rule]:
    """One of our own rules.

    Raises:
        ValueError: any other.
    """
    if name not in rule_names():
        raise ValueError(f"the rule {name!r} is none of bio_rl's")
    return rule_class(name)


class Model:
    """One of the models in a run's folder.

    Args:
        run: whose it is.
        place: its folder in the run's, as ``Run.trained``.
        find_rule: decides which rules may be made.

    Everything raises ``Unreadable`` where a file is missing or spoilt, or files do not fit together.
    """

    def __init__(self, run: Run, place: str, find_rule: FindRule = shipped_rule):
        self.run = run
        self.place = place
        self.find_rule = find_rule

    @cached_property
    def weights(self) -> dict[str, list[Tensor]]:
        """The forward weights of each network's layers, ``(out, in)`` each, from the input's to the output's."""
        numbered: dict[str, dict[int, Tensor]] = {}
        for name, tensor in self._tensors.items():
            if found := WEIGHT.fullmatch(name):
                numbered.setdefault(found[1], {})[int(found[2])] = tensor
        weights = {
            network: [layers[number] for number in sorted(layers)] for network, layers in sorted(numbered.items())
        }
        for own in weights.values():
            if any(each.dim() != 2 for each in own) or any(a.shape[0] != b.shape[1] for a, b in pairwise(own)):
                raise self._unreadable("does not hold layers that fit together")
        return weights

    @cached_property
    def rules(self) -> dict[str, Callable[[], Rule]]:
        """What makes each network's rule anew, with the settings that it had.

        Raises:
            ValueError: a rule that may not be made; from the maker, one that has other settings today.
        """
        shared, critics = (self._maker(self._policy.get(name)) for name in ("rule", "critic_rule"))
        if shared is None:
            raise self._unreadable("describes no rule")
        return {name: critics if name == "critic" and critics is not None else shared for name in self.weights}

    @cached_property
    def networks(self) -> dict[str, Network]:
        """The networks by their names: ``actor`` and ``critic``, or ``shared``.

        Raises:
            ValueError: a rule that may not be made.
        """
        return {name: self._network(name, self.rules[name]()) for name in self.weights}

    def _network(self, name: str, rule: Rule) -> Network:
        prefix, weights = f"mlp_extractor.{name}.", self.weights[name]
        state = {key.removeprefix(prefix): each for key, each in self._tensors.items() if key.startswith(prefix)}
        activations = [str(self._policy.get("activation"))] * (len(weights) - 1) + ["identity"]
        try:
            with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
                layers = [
                    Dense(weight.shape[1], weight.shape[0], activation, f"layers.{number}.bias" in state).to(weight)
                    for number, (weight, activation) in enumerate(zip(weights, activations, strict=True))
                ]
                network = Network(layers, rule, [0])
            network.load_state_dict(state)
        except (ValueError, RuntimeError, TypeError) as error:
            raise self._unreadable(f"does not fit together: {_line(error)}") from None
        return network

    def _maker(self, saved: Any) -> Callable[[], Rule] | None:
        """What makes a rule from what is saved of it; ``None`` where it says that there is none."""
        if saved is None:
            return None
        if not (isinstance(saved, Mapping) and isinstance(saved.get("settings"), Mapping)):
            raise self._unreadable("does not describe a rule")
        name, settings = str(saved.get("name")), dict(saved["settings"])
        kind = self.find_rule(name)
        # A rule around a rule imports the other by its name.
        for inner in settings.values():
            if isinstance(inner, str) and ":" in inner:
                self.find_rule(inner)

        def make() -> Rule:
            try:
                return kind(**settings)
            except (TypeError, ValueError) as error:
                raise ValueError(f"the rule {name!r} has other settings today: {_line(error)}") from None

        return make

    @cached_property
    def _policy(self) -> Mapping[str, Any]:
        description = self.run.read_yaml(f"{self.place}/policy.yaml")
        policy = description.get("policy") if isinstance(description, Mapping) else None
        if not isinstance(policy, Mapping):
            raise self._unreadable("describes no policy")
        return policy

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        tensors = self.run.read_tensors(f"{self.place}/policy.safetensors")
        if tensors is None:
            raise self._unreadable("holds no weights")
        return tensors

    def _unreadable(self, what: str) -> Unreadable:
        return Unreadable(f"the model in {self.run.folder / self.place} {what}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
