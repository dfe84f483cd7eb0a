"""Fit step tables to the inputs that a model's activations really get."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowmem_bp.activations import identify
from lowmem_bp.errors import ConfigError
from lowmem_bp.fit.arguments import check_choice, workspace
from lowmem_bp.fit.stepwise import fit_stepwise
from lowmem_bp.memory import call, preserved
from lowmem_bp.steps import StepTable


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    bits: int = 2,
    objective: Literal["derivative", "function"] = "derivative",
    max_samples: int = 65536,
    forward: Callable[[nn.Module, Any], object] = call,
    seed: int = 0,
) -> dict[str, StepTable]:
    """Fit one step table per activation module to the inputs that real batches bring.

    The batches run without gradients in the model's current mode (call ``model.eval()`` first if
    dropout should be off). Buffers, such as running statistics, and the global random state are
    put back afterwards. Each module keeps a uniform random sample of the inputs it saw.

    Args:
        model: The model; activations that :func:`lowmem_bp.activations.identify` knows are fitted.
        batches: Tensors, tuples or lists (passed as ``model(*batch)``) or mappings (passed as
            ``model(**batch)``), already on the model's device.
        bits: 1, 2 or 4.
        objective: As in :func:`fit_stepwise`.
        max_samples: How many inputs are kept per module (8 bytes each on the CPU).
        forward: How to run a batch, ``forward(model, batch)``, where the default does not fit.
        seed: Seeds the choice of samples.

    Returns:
        Step tables by module name, as in ``model.named_modules()``.

    Raises:
        ConfigError: There is no batch, no known activation module, or one saw too few inputs.
    """
    check_choice("bits", bits, (1, 2, 4))
    check_choice("objective", objective, ("derivative", "function"))
    activations = {
        name: (module, activation)
        for name, module in model.named_modules()
        if (activation := identify(module)) is not None
    }
    if not activations:
        raise ConfigError(
            f"{type(model).__name__} has no activation module that the registry knows; expected "
            "at least one such as nn.GELU or nn.SiLU. Functional calls (F.gelu) cannot be seen: "
            "fit those with fit_stepwise(samples=...)."
        )
    if max_samples < 2**bits:
        raise ConfigError(
            f"max_samples={max_samples} was given; expected at least 2**bits = {2**bits}."
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    reservoirs = {name: Reservoir(max_samples, generator) for name in activations}
    handles = [
        module.register_forward_pre_hook(_collector(reservoirs[name]), with_kwargs=True)
        for name, (module, _activation) in activations.items()
    ]
    count = 0
    try:
        with torch.no_grad(), preserved(model):
            for count, batch in enumerate(batches, start=1):  # noqa: B007  used after the loop
                forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if count == 0:
        raise ConfigError(
            "batches was empty; expected at least one batch: a used-up generator yields none."
        )
    seen = {name: r.values for name, r in reservoirs.items() if r.values.numel()}
    if not seen:
        raise ConfigError(
            f"{count} batches ran but none of the activation modules {sorted(activations)} was "
            "called; expected at least one call. Pass forward= if the model is run another way."
        )
    tables = {}
    for name, samples in seen.items():
        _module, activation = activations[name]
        fn, derivative = activation.forward, activation.derivative
        try:
            fit = fit_stepwise(fn, derivative, bits=bits, objective=objective, samples=samples)
        except ConfigError as error:
            raise ConfigError(f"module {name!r}: {error}") from error
        tables[name] = fit.table
    return tables


class Reservoir:
    """A uniform random sample of a stream of values."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.values = torch.empty(0, dtype=torch.float64)
        self._keys = torch.empty(0, dtype=torch.float64)
        self._generator = generator

    @workspace()
    def add(self, x: Tensor) -> None:
        """Offer all values of ``x`` to the sample."""
        flat = x.detach().flatten()
        count = flat.numel()
        kept = min(count, self.size)
        # Every input gets a uniform random key and the largest keys stay. Only the largest `kept`
        # of a chunk have a chance, and these can be drawn directly, as order statistics.
        shares = torch.rand(kept, generator=self._generator, dtype=torch.float64).log()
        keys = (shares / (count - torch.arange(kept))).cumsum(0)
        if count <= 4 * self.size:
            index = torch.randperm(count, generator=self._generator)[:kept]
        else:  # a permutation of millions would be slow, and repetitions are few
            index = torch.randint(count, (kept,), generator=self._generator)
        chosen = flat[index.to(flat.device)].to("cpu", torch.float64)
        self._keys, self.values = torch.cat([self._keys, keys]), torch.cat([self.values, chosen])
        if self._keys.numel() > self.size:
            self._keys, best = self._keys.topk(self.size)
            self.values = self.values[best]


def _collector(reservoir: Reservoir) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        if x is not None:
            reservoir.add(x)

    return hook
