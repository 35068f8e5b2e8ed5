"""Checks that arrays made without pandas are those that Arrow itself makes."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibrivl.shards.arrays import array_of, numpy_of, text_scalar, texts_of


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_numbers_go_there_and_back(values: list[int]) -> None:
    array = array_of(np.array(values, np.int64))
    assert array.equals(pa.array(values, pa.int64()))
    assert numpy_of(array).tolist() == values
    assert numpy_of(pa.chunked_array([array, array])[1:] if values else array).tolist() == (values + values)[1:]


@given(st.lists(st.booleans()))
def test_truth_values(values: list[bool]) -> None:
    assert array_of(np.array(values, bool)).equals(pa.array(values, pa.bool_()))


@given(st.lists(st.text()))
def test_texts(values: list[str]) -> None:
    texts = [value.encode("utf-8", "replace").decode() for value in values]
    assert texts_of(texts).to_pylist() == texts
    assert all(text_scalar(text).as_py() == text for text in texts)


def test_a_null_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="a value is null"):
        numpy_of(pa.array([1, None]))


def test_pandas_is_not_loaded() -> None:
    code = (
        "import sys, numpy as np; from unibrivl.shards.arrays import *; "
        "array_of(np.arange(3)), texts_of(['a']), text_scalar('b'); print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
