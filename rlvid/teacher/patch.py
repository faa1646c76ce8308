"""The evidence patch as JSON: what a teacher may say, checked strictly against the video, never clipped or repaired in silence.

Error classes and fields follow FFR [R]; names, units and limits are this project's [D].
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar, cast, get_args, get_type_hints

from rlvid.types import Box, EvidencePatch, Region, Span

ERROR_CLASSES: tuple[str, ...] = get_args(get_type_hints(EvidencePatch)["error_class"])
KEYS = ("error_class", "hint", "spans", "frames_s", "regions")
MAX_HINT_CHARS = 400
MAX_ITEMS = 8
"""Spans, frames and regions each: a patch is the smallest evidence that helps."""
MAX_PATCH_CHARS = 20_000
CONTROL_TEXTS = ("<|", "|>", "<think", "</think", "<answer", "</answer", "<tool_call", "</tool_call")
"""Never part of a hint: it becomes part of the student's prompt, where these would be markup."""
SLACK_S = 1e-3
"""Times are written with few digits: a rounded end of the video is still inside it."""

Item = TypeVar("Item")


class PatchError(ValueError):
    """The text is no valid patch. The message is one short line, fit to be shown to the teacher."""


def parse(value: str | dict[str, Any], *, duration_s: float) -> EvidencePatch:
    """A patch from JSON text or an object; PatchError for anything that is not exactly one.

    duration_s: length of the video. Refused are unknown and missing keys, wrong types, numbers that are not finite, times
    outside 0..duration_s, boxes outside 0..1, an empty, too long or unprintable hint, and a patch without any evidence.
    """
    data = _object(value) if isinstance(value, str) else value
    if not isinstance(data, dict):
        raise PatchError("the patch is not a JSON object")
    _exact_keys(data, KEYS, "patch")
    if data["error_class"] not in ERROR_CLASSES:
        raise PatchError(f"error_class is not one of {', '.join(ERROR_CLASSES)}")

    def time_s(value: Any, key: str) -> float:
        return _time(value, key, duration_s)

    patch = EvidencePatch(
        error_class=cast(Any, data["error_class"]),
        hint=_hint(data["hint"]),
        spans=_items(data["spans"], "spans", lambda value: _span(value, time_s)),
        frames_s=_items(data["frames_s"], "frames_s", lambda value: time_s(value, "frames_s")),
        regions=_items(data["regions"], "regions", lambda value: _region(value, time_s)),
    )
    if not (patch.spans or patch.frames_s or patch.regions):
        raise PatchError("the patch names no span, frame or region")
    return patch


def to_json(patch: EvidencePatch) -> dict[str, Any]:
    """What `parse` reads back as the same patch."""
    return {
        "error_class": patch.error_class,
        "hint": patch.hint,
        "spans": [list(span) for span in patch.spans],
        "frames_s": list(patch.frames_s),
        "regions": [{"time_s": region.time_s, "box": list(region.box)} for region in patch.regions],
    }


def schema(duration_s: float) -> dict[str, Any]:
    """The JSON schema given to the model, in the part of that language that hosted models take too. It cannot say that a span ends
    after it starts: `parse` has the last word."""
    time = {"type": "number", "minimum": 0, "maximum": duration_s}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    region = _object_schema({"time_s": time, "box": {"type": "array", "items": share, "minItems": 4, "maxItems": 4}})
    return _object_schema(
        {
            "error_class": {"type": "string", "enum": list(ERROR_CLASSES)},
            "hint": {"type": "string", "minLength": 1, "maxLength": MAX_HINT_CHARS},
            "spans": _list_schema({"type": "array", "items": time, "minItems": 2, "maxItems": 2}),
            "frames_s": _list_schema(time),
            "regions": _list_schema(region),
        }
    )


def _object_schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _list_schema(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "maxItems": MAX_ITEMS}


def _object(text: str) -> Any:
    if len(text) > MAX_PATCH_CHARS:
        raise PatchError(f"the patch has {len(text)} characters, at most {MAX_PATCH_CHARS} are read")
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_without_doubles)
    except PatchError:
        raise
    except json.JSONDecodeError as error:
        raise PatchError(f"the patch is not JSON: {error.msg} at character {error.pos + 1}") from None
    except (RecursionError, ValueError):
        raise PatchError("the patch is not usable JSON") from None


def _no_constant(name: str) -> Any:
    raise PatchError(f"{name} is not a number of JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise PatchError("a key of the patch stands twice")
    return data


def _exact_keys(data: dict[Any, Any], known: tuple[str, ...], what: str) -> None:
    if unknown := [key for key in data if key not in known]:
        raise PatchError(f"{what} has an unknown key {str(unknown[0])[:40]!r}: known are {', '.join(known)}")
    if missing := [key for key in known if key not in data]:
        raise PatchError(f"{what} lacks the key {missing[0]!r}")


def _hint(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise PatchError("hint is not a text")
    if len(value) > MAX_HINT_CHARS:
        raise PatchError(f"hint has {len(value)} characters, at most {MAX_HINT_CHARS} are allowed")
    # Cc, Cs, Co, Cn: control characters, half surrogates, private use, unassigned. Format characters (Cf) may hide letters between letters.
    if any(unicodedata.category(char).startswith("C") and char != "\n" for char in value):
        raise PatchError("hint holds a character that cannot be printed")
    if mark := next((mark for mark in CONTROL_TEXTS if mark in value.lower()), ""):
        raise PatchError(f"hint holds the markup {mark!r}")
    return " ".join(value.split())


def _items(value: Any, key: str, read: Callable[[Any], Item]) -> tuple[Item, ...]:
    if not isinstance(value, list):
        raise PatchError(f"{key} is not a list")
    if len(value) > MAX_ITEMS:
        raise PatchError(f"{key} has {len(value)} entries, at most {MAX_ITEMS} are allowed")
    return tuple(read(item) for item in value)


def _span(value: Any, time_s: Callable[[Any, str], float]) -> Span:
    if not isinstance(value, list) or len(value) != 2:
        raise PatchError("a span is not [start_s, end_s]")
    start_s, end_s = time_s(value[0], "spans"), time_s(value[1], "spans")
    if start_s >= end_s:
        raise PatchError(f"the span {start_s:g}-{end_s:g} s does not end after it starts")
    return start_s, end_s


def _region(value: Any, time_s: Callable[[Any, str], float]) -> Region:
    if not isinstance(value, dict):
        raise PatchError('a region is not {"time_s": seconds, "box": [x1, y1, x2, y2]}')
    _exact_keys(value, ("time_s", "box"), "a region")
    return Region(time_s(value["time_s"], "regions"), box(value["box"]))


def box(value: Any) -> Box:
    """[x1, y1, x2, y2] inside 0..1 with some width and height, or PatchError."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise PatchError("a box has not four numbers [x1, y1, x2, y2]")
    x1, y1, x2, y2 = (_number(edge, "box") for edge in value)
    if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
        raise PatchError(f"the box [{x1:g}, {y1:g}, {x2:g}, {y2:g}] is not inside 0..1 with x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _time(value: Any, key: str, duration_s: float) -> float:
    time_s = _number(value, key)
    if not 0 <= time_s <= duration_s + SLACK_S:
        raise PatchError(f"{key}: {time_s:g} s lies outside the video of {duration_s:g} s")
    return time_s


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise PatchError(f"{key}: a value is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PatchError(f"{key}: a value is not finite")
    return number
