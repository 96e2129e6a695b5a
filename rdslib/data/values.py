"""Values that JSON has, and what becomes of others."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

import pyarrow as pa


def is_plain(kind: pa.DataType) -> bool:
    """Return whether Python's values of a type of Arrow are those of JSON, whatever they are."""
    types = pa.types
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        return is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(is_plain(field.type) for field in kind)
    simple = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null)
    return any(each(kind) for each in simple)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it.

    Times are text as ISO 8601 has it, decimals their digits, bytes base64, and what is no number is null.
    Raises TypeError for what has no such form, such as an image.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            raise TypeError("keys must be text")
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return _plain_other(value)


def _plain_other(value: Any) -> Any:
    import numpy as np
    import pandas as pd

    if isinstance(value, np.ndarray | pd.Series | pd.Index):
        return [plain(each) for each in value]
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    elif isinstance(value, timedelta | np.timedelta64):
        value = pd.Timedelta(value)
    elif isinstance(value, np.generic):
        return plain(value.item())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal | PurePath | UUID):
        return str(value)
    raise TypeError(f"it has a value of type {type(value).__name__}, for which JSON has no form")
