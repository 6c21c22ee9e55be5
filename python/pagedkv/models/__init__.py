"""Language models of the Llama architecture over paged caches, on NumPy alone.

`Llama.load(folder)` reads a Hugging Face folder; `PagedCache` keeps its keys and values in blocks
of a `KVCacheManager`, `DenseCache` is the plain one it is compared with. `DOCSTRINGS` is the folder
of a small model that comes with the package. `docs/demo.md` shows them at work.
"""

from pathlib import Path

from pagedkv.models.checkpoint import Checkpoint
from pagedkv.models.config import LlamaConfig, read_config
from pagedkv.models.dense_cache import DenseCache
from pagedkv.models.errors import ModelError
from pagedkv.models.llama import Cache, Llama
from pagedkv.models.paged_cache import KV_DTYPES, PagedCache
from pagedkv.models.rope import RopeScaling, cos_sin_table
from pagedkv.models.safetensors import SafetensorsFile, TensorInfo
from pagedkv.models.sampling import Sampler
from pagedkv.models.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "DOCSTRINGS",
    "KV_DTYPES",
    "ByteTokenizer",
    "Cache",
    "Checkpoint",
    "DenseCache",
    "Llama",
    "LlamaConfig",
    "ModelError",
    "PagedCache",
    "RopeScaling",
    "SafetensorsFile",
    "Sampler",
    "TensorInfo",
    "Tokenizer",
    "cos_sin_table",
    "load_tokenizer",
    "read_config",
]

DOCSTRINGS = Path(__file__).parent / "docstrings"
"""A Llama of bytes that learned the docstrings of Python's standard library."""
