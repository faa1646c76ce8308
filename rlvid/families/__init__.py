"""Model families: one file says all that a family is, and here they are listed.

`named(model_type)` for what holds a configuration, `family_of(path)` for what holds a folder or a hub id (rlvid/families/checkpoint.py).
A new family is a file beside these and a line in the list; tests/integration/test_families.py then runs over it.
"""

from __future__ import annotations

from rlvid.families.base import Family
from rlvid.families.glm4v import Glm4v
from rlvid.families.qwen2_5_vl import Qwen25VL
from rlvid.families.qwen3_5 import Qwen35
from rlvid.families.qwen3_5_moe import Qwen35Moe
from rlvid.families.qwen3_vl import Qwen3VL
from rlvid.families.qwen3_vl_moe import Qwen3VLMoe

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Qwen25VL(),
        Qwen3VL(),
        Qwen3VLMoe(),
        Qwen35(),
        Qwen35Moe(),
        Glm4v(),
    )
}


def named(model_type: str) -> Family:
    """The family of a `model_type`. KeyError: a checkpoint of no listed family is refused long before (rlvid/families/checkpoint.py)."""
    return FAMILIES[model_type]
