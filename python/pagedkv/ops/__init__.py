"""Operations on paged keys and values: pure functions over arrays, on the device where these lie.

NumPy arrays, torch tensors and anything with DLPack go in as they lie in memory: nothing is copied
but block tables, lengths, and the few numbers per head. The elements of the last dimension must be
side by side; other dimensions may have any stride of 0 or more. Results go to ``out``, or to a new
array of the kind of the first argument (a NumPy array for libraries other than torch).

bfloat16 and float8 come as torch tensors, as arrays of ``ml_dtypes``, or as raw integers:
``uint16`` is bfloat16 unless ``dtype`` says float16, ``uint8`` is what ``dtype`` names, ``int8`` is
int8 unless ``dtype`` names another 8-bit type. int4 is two elements a byte, the even one in the low
nibble, in ``uint8`` or ``int8`` arrays with ``dtype="int4"``.

All raise ``ShapeError`` for shapes, dtypes, strides and values that do not go together, and for an
``out`` that is read-only or overlaps an input; ``InvalidSlotError`` for a block id or slot outside
a cache; ``UnsupportedError`` for arrays of a device that was not built or that record gradients.
After an error nothing has been written. The GIL is released while they work, on as many threads as
``pagedkv.get_num_threads`` says.

On a CUDA device they run on the stream that the arrays' library is at and return before it is done;
ids, slots and lengths that lie there are never followed out of range, and reported where
PAGEDKV_DEVICE_CHECKS is 1. ``docs/backends.md`` says what each device takes.
"""

from pagedkv.ops.arrays import SupportsDLPack
from pagedkv.ops.attention import mla_decode, paged_attention
from pagedkv.ops.data import (
    copy_blocks,
    gather_kv,
    merge_attention_states,
    mla_write,
    move_slots,
    rope_write_kv,
    swap_blocks,
    write_kv,
)

__all__ = [
    "SupportsDLPack",
    "copy_blocks",
    "gather_kv",
    "merge_attention_states",
    "mla_decode",
    "mla_write",
    "move_slots",
    "paged_attention",
    "rope_write_kv",
    "swap_blocks",
    "write_kv",
]
