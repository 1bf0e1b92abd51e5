"""How documents are written, so that equal ones are equal to the byte."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def json_text(document: Mapping[str, Any]) -> str:
    """A document as it is written: sorted keys, one space of indent, one newline at the end, no NaN or Infinity."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
