"""What every section is made of: number types, and the error that a user's wrong input raises."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Resources = dict[str, Annotated[float, Field(gt=0)]]


def written_out(value: Any) -> Any:
    """A path as a shell reads it: `~`, `~user`, `$NAME` and `${NAME}` written out. Where one of them means nothing it is refused: a folder of that name would
    be made, or looked for, in silence."""
    if not isinstance(value, str):
        return value
    text = os.path.expanduser(os.path.expandvars(value))
    if unset := re.search(r"\$(?:\w+|\{[^}]*\})", text):
        raise PydanticCustomError("path", "{value} holds {name}, which is not set (set it, or write the path out)", {"value": value, "name": unset[0]})
    if text.startswith("~"):
        raise PydanticCustomError("path", "{value} names the home of a user that is not known here (write the path out)", {"value": value})
    return text


FilePath = Annotated[Path, BeforeValidator(written_out)]
"""Every setting that names a file or folder."""
PathOrId = Annotated[str, BeforeValidator(written_out)]
"""Every setting that names a file or folder or something else: a hub id, an address, a model of an endpoint."""


class ConfigError(ValueError):
    """The user's input is wrong. The message is one line that names file, key and cure; the command exits with 2."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def suggest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"


def check_endpoint(section: str, base_url: str | None, api_key_env: str | None) -> None:
    """Address of an OpenAI-compatible endpoint and the name of the variable with its key, where they are given. Raises ValueError."""
    if base_url and not re.match(r"https?://[^/@\s]+(/\S*)?$", base_url):
        raise ValueError(f"{section}.base_url must be http://HOST:PORT/v1 or https://HOST/v1, without user or password")
    if api_key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        raise ValueError(f"{section}.api_key_env must be the name of an environment variable, not the key")
