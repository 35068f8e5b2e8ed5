"""Numbers and texts to Arrow and back without pandas, which `pa.array` imports wherever it is installed."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def array_of(values: np.ndarray) -> pa.Array:
    """Return numbers or truth values as an Arrow array, without a copy where there is one already.

    `pa.array` would do, but it imports pandas wherever that is installed: longer than a list takes to read.
    """
    if values.dtype == bool:
        return pa.BooleanArray.from_buffers(
            pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))]
        )
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def numpy_of(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return numbers as an array that may only be read; like `array_of`, without pandas.

    Raises:
        pa.ArrowInvalid: a value is null.
    """
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if array.null_count:
        raise pa.ArrowInvalid("a value is null")
    kind = np.dtype(str(array.type))
    if not len(array):
        return np.zeros(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


def texts_of(texts: Sequence[str]) -> pa.StringArray:
    """Return texts as an Arrow array; like `array_of`, without pandas."""
    data = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, data)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(data), pa.py_buffer(ends), pa.py_buffer(b"".join(data)))


def text_scalar(text: str) -> pa.StringScalar:
    """Return a text as an Arrow scalar."""
    return texts_of([text])[0]
