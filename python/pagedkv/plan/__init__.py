"""How many tokens and sequences fit: a model's configuration and a memory budget, planned.

`plan(config, memory)` tells; `allocate(plan)` makes the very pool. `docs/guides/plan.md` has the
formulas.
"""

from pagedkv.plan.architectures import known_model_types, read_architecture
from pagedkv.plan.budget import Budget
from pagedkv.plan.errors import PlanError
from pagedkv.plan.fit import LengthFit, Pool
from pagedkv.plan.groups import Group, Layout, StateGroup
from pagedkv.plan.job import DEFAULT_LENGTHS, Plan, plan
from pagedkv.plan.layers import Architecture, Attention, Latent, State
from pagedkv.plan.pool import LayerArrays, PlannedPool, allocate
from pagedkv.plan.trace_fit import Batch, TraceFit

__all__ = [
    "DEFAULT_LENGTHS",
    "Architecture",
    "Attention",
    "Batch",
    "Budget",
    "Group",
    "Latent",
    "LayerArrays",
    "Layout",
    "LengthFit",
    "Plan",
    "PlanError",
    "PlannedPool",
    "Pool",
    "State",
    "StateGroup",
    "TraceFit",
    "allocate",
    "known_model_types",
    "plan",
    "read_architecture",
]
