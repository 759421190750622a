"""How requests come to an engine and leave it before their end. Pure."""

from __future__ import annotations

from simulator.config import EngineConfig
from simulator.scheduler import Scheduler
from simulator.sequence import EngineRequest, Sequence
from simulator.tiers import Offload
from simulator.tokens import BLOCK_TOKENS


class Intake(Scheduler):
    """A scheduler with a door."""

    def __init__(self, config: EngineConfig, offload: Offload | None, ingress_s: float) -> None:
        """Nothing to do; a request takes ``ingress_s`` to get to the queue."""
        super().__init__(config, offload)
        self.ingress_s = ingress_s
        self._submitted = 0

    def _interrupt(self) -> None:
        """What is under way ends with the present step: the batch or the blocks are about to change."""
        raise NotImplementedError

    def _stop_before(self, at_s: float) -> None:
        """What is under way ends with the step in progress at ``at_s``."""
        raise NotImplementedError

    def submit(self, request: EngineRequest, now_s: float) -> Sequence:
        """Accept a request at ``now_s``; calls come in order of time.

        Raises: ValueError for an id in use, lengths that the engine cannot hold, or an adapter where it serves none.
        """
        total = request.prompt_tokens + request.output_tokens
        if request.prompt_tokens < 1 or request.output_tokens < 1 or total > self.config.max_model_len:
            raise ValueError(f"{request.prompt_tokens} + {request.output_tokens} tokens (limit: at least 1 each, "
                             f"{self.config.max_model_len} together)")  # fmt: skip
        if request.request_id in self._known:
            raise ValueError(f"request id {request.request_id!r} is in use")
        if request.adapter and not self.config.lora.max_loras:
            raise ValueError(f"adapter {request.adapter!r} is asked for, and the engine serves none (max_loras 0)")
        full, hashes = request.prompt_tokens // BLOCK_TOKENS, request.block_hashes
        sequence = Sequence(
            request=request,
            arrival_s=now_s,
            queued_s=now_s + self.ingress_s,
            target=request.prompt_tokens,
            serial=self._submitted,
            hashes=hashes if len(hashes) <= full else hashes[:full],
        )
        self._submitted += 1
        self._known[request.request_id] = sequence
        self._arriving.append(sequence)
        if not self._shut:
            self._stop_before(sequence.queued_s)
        return sequence

    def abort(self, request_id: str) -> Sequence | None:
        """Drop a request wherever it is and free its blocks; ``None`` when it is unknown or finished."""
        self._interrupt()
        sequence = self._known.pop(request_id, None)
        if sequence is None:
            return None
        if request_id in self._batch.members:
            self._batch.leave(sequence)
        elif request_id in self._loading:
            del self._loading[request_id]
        elif sequence is self._partial:
            self._partial = None
        elif sequence in self._arriving:
            self._arriving.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._release(sequence)
        self._counters.aborted += 1
        return sequence

    def abort_all(self) -> None:
        """Drop every request."""
        for request_id in list(self._known):
            self.abort(request_id)

    def take_fetches(self) -> list[Sequence]:
        """Admitted since the last call, their prompts in other engines: call :meth:`fetched` when they are here."""
        fetches, self.fetches = self.fetches, []
        return fetches

    def fetched(self, request_id: str) -> None:
        """The prompt's KV is here; nothing happens if the request has gone."""
        self._interrupt()
        if request_id in self._loading:
            self._loaded(self._loading[request_id])

    def free_held(self, request_id: str) -> None:
        """Nobody needs the blocks of a finished request with ``hold`` any more."""
        self._interrupt()
        if (sequence := self._held.pop(request_id, None)) is not None:
            self._release(sequence)
