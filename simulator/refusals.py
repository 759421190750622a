"""Why a body could not be read, in vLLM's words. Pure, and slow: it runs only after a fast decoder has refused."""

from __future__ import annotations

from typing import Any

from simulator.api_types import ApiError

_MAX_ERRORS = 10
_MAX_INPUT = 200
_INTERNAL = frozenset({"str", "int", "float", "bool", "list", "dict", "function-wrap", "none", "union", "nullable"})


def unreadable(path: str, parsed: object) -> ApiError | None:
    """The refusal of a body that is JSON; ``None`` when vLLM would take it."""
    # Imported here: it takes 10 MB, and many engines never meet a bad request.
    from simulator.refusal_models import findings  # noqa: PLC0415

    found = findings(path, parsed)
    return _refusal([_entry(entry) for entry in found]) if found else None


def no_json(body: bytes, position: int, said: str) -> ApiError:
    """The refusal of a body that is no JSON; ``position`` is where it ends to be."""
    if not body:
        return _refusal([{"type": "missing", "loc": "body", "msg": "Field required", "input": "None"}])
    return _refusal([{"type": "json_invalid", "loc": f"body.{position}", "msg": "JSON decode error",
                      "input": "<dict of 0 items>", "ctx": {"error": said}}])  # fmt: skip


def no_text(position: int) -> ApiError:
    """The refusal of a message without content, where its role needs some."""
    return _refusal([{"type": "string_type", "loc": f"body.messages.{position}.content",
                      "msg": "Input should be a valid string", "input": "None"}])  # fmt: skip


def bad_query(name: str, kind: str, said: str, value: str, context: dict[str, Any]) -> ApiError:
    """The refusal of a query parameter."""
    return _refusal([{"type": kind, "loc": f"query.{name}", "msg": said, "input": value, "ctx": context}])


WRONG_MEDIA_TYPE = ApiError(
    400,
    "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
    kind="Bad Request",
)


def _refusal(entries: list[dict[str, Any]]) -> ApiError:
    count = len(entries)
    label = "error" if count == 1 else "errors"
    lines = [f"{count} validation {label}:", *(f"  {entry}" for entry in entries[:_MAX_ERRORS])]
    if count > _MAX_ERRORS:
        lines.append(f"  ...and {count - _MAX_ERRORS} more {label}")
    return ApiError(400, "\n".join(lines), kind="Bad Request", param=entries[0]["loc"])


def _entry(error: dict[str, Any]) -> dict[str, Any]:
    """One of pydantic's findings as vLLM shows it."""
    where = [part for part in map(str, error["loc"]) if not _internal(part)]
    shown = {"type": error["type"], "loc": ".".join(["body", *where]), "msg": error["msg"],
             "input": _shown(error["input"])}  # fmt: skip
    return {**shown, "ctx": error["ctx"]} if "ctx" in error else shown


def _internal(part: str) -> bool:
    return part in _INTERNAL or part.startswith("_") or any(mark in part for mark in "[](){}")


def _shown(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_INPUT else f"{text[:_MAX_INPUT]}...[truncated]"
