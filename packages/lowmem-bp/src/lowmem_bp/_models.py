"""Models for the command line: a Hugging Face folder or name, or ``module:factory``."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowmem_bp.errors import ConfigError, MissingExtraError

_DTYPES = ("fp32", "bf16", "amp")


@dataclass(frozen=True)
class Loaded:
    """A model in training mode, something to call it with, and its precision."""

    model: nn.Module
    inputs: Any
    dtype: str
    device: str

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the precision."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.dtype == "amp")


def load(
    spec: str, *, batch: int, length: int, dtype: str, device: str, random: bool, download: bool
) -> Loaded:
    """Load or build a model.

    Args:
        spec: Folder, hub name, or ``module:factory``.
        batch: Sequences or images of the made-up input.
        length: Tokens per sequence of it.
        dtype: ``fp32``, ``bf16`` or ``amp``.
        device: torch device.
        random: Build from the config with random weights.
        download: Whether the hub may be asked.

    Raises:
        ConfigError: Something in the arguments cannot be understood or found.
        MissingExtraError: transformers is needed and not installed.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(_DTYPES)}.")
    if ":" in spec and not Path(spec).exists():
        model, inputs = _from_factory(spec)
    else:
        model, inputs = _from_hugging_face(spec, batch, length, random, download)
    try:
        model = model.to(device, torch.bfloat16 if dtype == "bf16" else None).train()
        return Loaded(model, _moved(inputs, model, device), dtype, device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {error}") from error


def _from_factory(spec: str) -> tuple[nn.Module, Any]:
    module_name, _, function = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(module_name), function)
        made = factory()
    except Exception as error:
        raise ConfigError(
            f"{spec} raised {type(error).__name__}: {error}; expected importable_module:function."
        ) from error
    finally:
        sys.path.pop(0)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return made
    raise ConfigError(
        f"{spec} returned {type(made).__name__}; expected a pair (model, example inputs), where "
        "the inputs are a tensor, a tuple of arguments or a mapping of keyword arguments."
    )


def _from_hugging_face(
    spec: str, batch: int, length: int, random: bool, download: bool
) -> tuple[nn.Module, dict[str, Any]]:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError(
            f"loading {spec!r} needs transformers: pip install 'lowmem-bp[hf]'"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": not download}
    try:
        config = transformers.AutoConfig.from_pretrained(spec, **options)
        named = (getattr(config, "architectures", None) or [""])[0]
        cls = getattr(transformers, named, transformers.AutoModel)
        if random:
            build = getattr(cls, "from_config", None) or cls._from_config
            model = build(config)
        else:
            model = cls.from_pretrained(spec, **options)
    except (OSError, ValueError) as error:
        if (Path(spec) / "adapter_config.json").is_file():
            raise ConfigError(
                f"{spec} holds a PEFT adapter, not a model: write a function that puts it onto its "
                "base and returns (model, inputs), and pass it as module:function."
            ) from error
        reason = str(error)
        if not download and isinstance(error, OSError) and not Path(spec).exists():
            first = reason.partition("\n")[0]
            reason = (
                "there is no such folder here, and nothing complete in the cache; nothing is "
                f"downloaded without --download ({first})"
            )
        raise ConfigError(f"no model could be loaded from {spec!r}: {reason}") from error
    return model, example_inputs(model, batch, length)


def example_inputs(model: Any, batch: int, length: int) -> dict[str, Any]:
    """Make up input for a Hugging Face model from its config.

    Raises:
        ConfigError: The model takes neither tokens nor images.
    """
    config, name = model.config, model.main_input_name
    generator = torch.Generator().manual_seed(0)
    if name == "input_ids":
        limit = getattr(config, "max_position_embeddings", None) or length
        most = limit - 2 if limit > 2 else limit
        if length > most:
            warnings.warn(f"{length} tokens are cut to the model's {most}", stacklevel=2)
        shape = (batch, min(length, most))
        ids = torch.randint(5, config.vocab_size, shape, generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        images = torch.randn(batch, config.num_channels, height, width, generator=generator)
        return {"pixel_values": images}
    raise ConfigError(
        f"input {name!r} cannot be made up; write a function that returns (model, inputs) and "
        "pass it as module:function."
    )


def _moved(inputs: Any, model: nn.Module, device: str) -> Any:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device, dtype if value.is_floating_point() else None)
        if isinstance(value, dict):
            return {key: move(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(move(item) for item in value)
        return value

    return move(inputs)
