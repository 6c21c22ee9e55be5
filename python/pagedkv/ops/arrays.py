"""What operations take as arrays."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = ["Array", "Integers", "Numbers", "Scale", "SupportsDLPack"]


class SupportsDLPack(Protocol):
    """An array that other libraries can look at: NumPy's, torch's, JAX's."""

    def __dlpack__(self) -> Any: ...
    def __dlpack_device__(self) -> tuple[Any, Any]: ...


Array = TypeVar("Array", bound=SupportsDLPack)
Integers: TypeAlias = SupportsDLPack | Sequence[int] | Sequence[Sequence[int]]
Numbers: TypeAlias = SupportsDLPack | Sequence[float]
Scale: TypeAlias = SupportsDLPack | float
