"""LoRA adapters of one engine by name: loaded and unloaded at run time, with vLLM's answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from simulator import tokens
from simulator.api_types import ApiError, LoadAdapterBody, UnloadAdapterBody

MISSING_MARK = "nonexistent"
"""A path with this in it cannot be loaded, so that the refusal can be tried: nobody looks for files."""


class Adapters:
    """Those that requests may name as their model."""

    def __init__(self, model: str, modules: Iterable[tuple[str, str]] = ()) -> None:
        """With ``modules``, name and path, loaded from the start (vLLM's ``--lora-modules``)."""
        self._model = model
        self.roots: dict[str, int] = {}
        """What the hashes of an adapter's blocks begin with, by name."""
        self.ids: dict[str, int] = {}
        """vLLM's numbers, by name; they are not used twice."""
        self.paths: dict[str, str] = {}
        self._numbers = 0
        for name, path in modules:
            self.load(LoadAdapterBody(lora_name=name, lora_path=path))

    def load(self, body: LoadAdapterBody) -> str:
        """Load one; what vLLM answers.

        Raises: ApiError 400 or 404.
        """
        name, path = body.lora_name, body.lora_path
        if not name or not path:
            raise _refused("Both 'lora_name' and 'lora_path' must be provided.")
        if name == self._model:
            raise _refused(f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.paths and not body.load_inplace:
            raise _refused(f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                           "place, set 'load_inplace' to True.")  # fmt: skip
        if MISSING_MARK in path:
            raise ApiError(404, f"Loading lora {name} failed: No adapter found for {path}", kind="NotFoundError")
        if name not in self.ids:
            self._numbers += 1
            self.ids[name] = self._numbers
        self.paths[name], self.roots[name] = path, tokens.salted(name)
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: UnloadAdapterBody) -> str:
        """Unload one; what vLLM answers. Requests under way go on.

        Raises: ApiError 400 or 404.
        """
        name = body.lora_name
        if not name:
            raise _refused("'lora_name' needs to be provided to unload a LoRA adapter.")
        if name not in self.paths:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.", kind="NotFoundError")
        del self.paths[name], self.roots[name]
        return f"Success: LoRA adapter '{name}' removed successfully."


def _refused(message: str) -> ApiError:
    return ApiError(400, message, kind="InvalidUserInput")
