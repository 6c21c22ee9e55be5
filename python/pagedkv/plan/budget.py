"""How much memory the cache may have: given as such, or what weights leave of a device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagedkv.plan.errors import PlanError
from pagedkv.sizes import format_bytes, parse_bytes

__all__ = ["DEFAULT_UTILIZATION", "Budget", "make_budget", "weights_in"]

# What an engine takes of a device; the rest is for activations, graphs and the driver.
DEFAULT_UTILIZATION = 0.9


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes of one device. `gpu_memory` and `weights` are None where the cache's were given."""

    cache: int
    gpu_memory: int | None = None
    weights: int | None = None
    utilization: float | None = None

    def __str__(self) -> str:
        if self.gpu_memory is None or self.weights is None or self.utilization is None:
            return format_bytes(self.cache)
        return (
            f"{format_bytes(self.cache)} = {100 * self.utilization:g} % of "
            f"{format_bytes(self.gpu_memory)} - {format_bytes(self.weights)} of weights"
        )


def make_budget(
    memory: int | str | None,
    gpu_memory: int | str | None,
    weights: int | str | None,
    utilization: float | None,
    source: Any,
    ranks: int,
) -> Budget:
    """`memory`, or `utilization * gpu_memory - weights`.

    Weights that are not given are counted in the folder of the configuration, and divided by the
    ranks. Raises `PlanError`.
    """
    if memory is not None:
        others = {"gpu_memory": gpu_memory, "weights": weights, "utilization": utilization}
        for name, value in others.items():
            if value is not None:
                raise PlanError(f"[plan.plan] memory and {name}; expected memory alone")
        return Budget(_size("memory", memory))
    if gpu_memory is None:
        raise PlanError("[plan.plan] neither memory nor gpu_memory; expected one of them")
    share: object = DEFAULT_UTILIZATION if utilization is None else utilization
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
        raise PlanError(f"[plan.plan] utilization is {share!r:.40}; expected above 0, up to 1")
    of_device = _size("gpu_memory", gpu_memory)
    if weights is None:
        found = None if not isinstance(source, str | Path) else weights_in(source)
        if found is None:
            raise PlanError(
                "[plan.plan] gpu_memory without weights, and no *.safetensors beside the "
                "configuration; expected the bytes of the weights on one device"
            )
        of_weights = -(-found // ranks)
    else:
        of_weights = _size("weights", weights, least=0)
    left = int(of_device * share) - of_weights
    if left < 1:
        raise PlanError(
            f"[plan.plan] weights of {format_bytes(of_weights)} in {100 * share:g} % of "
            f"{format_bytes(of_device)}; expected room for a cache beside them"
        )
    return Budget(left, of_device, of_weights, share)


def weights_in(source: str | Path) -> int | None:
    """Bytes of the weights beside a config.json: what the index of the safetensors files says,
    else the files themselves; None where there are neither."""
    path = Path(source)
    folder = path if path.is_dir() else path.parent
    index = folder / "model.safetensors.index.json"
    try:
        total = json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"]
        if isinstance(total, int) and not isinstance(total, bool) and total > 0:
            return total
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no index, or one that says nothing: the files are there to be counted
    # Beside the model's own files there may be the same weights in another layout.
    files = [*folder.glob("model*.safetensors")] or [*folder.glob("*.safetensors")]
    return sum(file.stat().st_size for file in files) or None


def _size(name: str, value: int | str, least: int = 1) -> int:
    size = parse_bytes(value) if isinstance(value, str) else value
    if isinstance(size, bool) or not isinstance(size, int) or size < least:
        raise PlanError(
            f"[plan.plan] {name} is {value!r:.40}; expected bytes, {least} or more, or a size "
            "such as '40GiB'"
        )
    return size
