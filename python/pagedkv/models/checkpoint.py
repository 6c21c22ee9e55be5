"""The tensors of a Hugging Face folder: one safetensors file, or several and their index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pagedkv.models.config import read_json
from pagedkv.models.errors import ModelError
from pagedkv.models.safetensors import SafetensorsFile

__all__ = ["Checkpoint"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Checkpoint:
    """Tensors by name, whichever file they lie in. Files are mapped, not read, until asked for.

    Raises:
        ModelError: there are no safetensors, a file is broken, or index and files disagree.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if (self.folder / SINGLE).is_file():
            file = SafetensorsFile(self.folder / SINGLE)
            self._files = dict.fromkeys(file.tensors, file)
        elif (self.folder / INDEX).is_file():
            self._files = self._sharded()
        else:
            pickled = any(self.folder.glob("pytorch_model*.bin"))
            found = "only pickled weights, which are never read" if pickled else "no weights"
            raise ModelError(
                f"[models.Checkpoint] '{folder}' has {found}; expected {SINGLE}, or {INDEX} and "
                "the files that it names"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def float32(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A float32 copy of a tensor that must be there and have this shape."""
        if name not in self._files:
            raise ModelError(f"[models.Checkpoint] '{self.folder}' has no {name}; expected one")
        file = self._files[name]
        if file.tensors[name].shape != shape:
            raise ModelError(
                f"[models.Checkpoint] {name} has shape {list(file.tensors[name].shape)}; expected "
                f"{list(shape)}, as config.json says"
            )
        return file.float32(name)

    def _sharded(self) -> dict[str, SafetensorsFile]:
        names = read_json(self.folder / INDEX).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise ModelError(
                f"[models.Checkpoint] the weight_map of '{self.folder / INDEX}' is malformed; "
                "expected the name of a file for each tensor"
            )
        shards: dict[str, SafetensorsFile] = {}
        for shard in sorted(set(names.values())):
            # A name that leads out of the folder reads what its owner did not mean to hand over.
            if Path(shard).name != shard or not (self.folder / shard).is_file():
                raise ModelError(
                    f"[models.Checkpoint] '{self.folder / INDEX}' names '{shard:.80}'; expected a "
                    "file beside it"
                )
            shards[shard] = SafetensorsFile(self.folder / shard)
        for name, shard in names.items():
            if name not in shards[shard].tensors:
                raise ModelError(
                    f"[models.Checkpoint] '{shard}' has no {name:.80}; expected it there, as "
                    f"{INDEX} says"
                )
        return {name: shards[shard] for name, shard in names.items()}
