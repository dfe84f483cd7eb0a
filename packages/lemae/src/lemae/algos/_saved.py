"""Networks and the state of Adam, saved together, and loaded only if all of it fits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lemae._values import alike


def networks_state(adam: torch.optim.Adam, **networks: nn.Module) -> dict[str, Any]:
    """Weights by the names of the networks, and what Adam knows of them by their numbers.

    Its options are not saved: whoever makes it anew gives them.
    """
    weights = {name: network.state_dict() for name, network in networks.items()}
    return {**weights, "optimizer": adam.state_dict()["state"]}


def check_networks(state: Mapping[str, Any], adam: torch.optim.Adam, **networks: nn.Module) -> None:
    """Refuse what :func:`networks_state` did not return for networks like these.

    Raises:
        ConfigError: if something is missing, or of another type.
        ShapeError: if a weight has another shape.
    """
    for name, network in networks.items():
        alike(name, state[name], network.state_dict())
    weights = [weight.detach() for group in adam.param_groups for weight in group["params"]]
    steps = torch.zeros((), dtype=torch.float32)
    known = {
        number: {"step": steps, "exp_avg": weight, "exp_avg_sq": weight}
        for number, weight in enumerate(weights)
    }
    alike("optimizer", state["optimizer"], known if state["optimizer"] else {})


def load_networks(state: Mapping[str, Any], adam: torch.optim.Adam, **networks: nn.Module) -> None:
    """Take up what :func:`check_networks` let pass."""
    for name, network in networks.items():
        network.load_state_dict(state[name])
    # A copy: Adam goes on in the tensors that it gets.
    saved = copy.deepcopy(dict(state["optimizer"]))
    adam.load_state_dict({"state": saved, "param_groups": adam.state_dict()["param_groups"]})
