"""What is asked of real engines. Each check gives figures, and says whether what was promised holds."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from fleet import signals
from fleet.signals import Kind, Origin, Signal
from tests.engine.servers import BLOCK, Server, until
from tests.engine.traffic import TIMEOUT_S, ask, cached_tokens, chat, completion, page, path_of, tokens

HITS, QUERIES = signals.PREFIX_HITS.name, signals.PREFIX_QUERIES.name
RUNNING, WAITING = signals.RUNNING.name, signals.WAITING.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check's result."""

    name: str
    promise: str
    ok: bool
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    """When, how long, and how busy the machine was."""


# ---- (a) the router changes nothing


def bodies(seed: int) -> list[dict[str, Any]]:
    """Requests of every kind: ids and text, greedy and sampled, whole and streamed, short and long."""
    rng, text = random.Random(seed), "The fleet serves what it can, and says why when it cannot. "
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    found = [completion(tokens(rng, length), max_tokens=24) for length in (5, 64, 333, 1500)]
    found += [completion(text * 3, max_tokens=24), chat(text, max_tokens=24)]
    found += [completion(tokens(rng, 200), temperature=0.8, top_p=0.9, seed=11, max_tokens=24),
              completion(tokens(rng, 90), n=2, temperature=1.0, seed=5), completion(tokens(rng, 50), logprobs=3),
              completion(text, stop=["e"], max_tokens=64)]  # fmt: skip
    return found + [{**one, **stream} for one in found]


def same_answers(servers: Sequence[Server], ways: Mapping[str, str]) -> Check:
    """Every request, sent directly to each engine and through each way, gives one and the same answer."""
    differing: list[dict[str, Any]] = []
    asked = bodies(seed=1)
    for number, body in enumerate(asked):
        answers = {}
        for name, url in {**{f"engine {n}": one.url for n, one in enumerate(servers)}, **ways}.items():
            for server in servers:  # the same arithmetic each time: nothing is taken from the cache
                server.reset_cache()
            answers[name] = ask(url, body)
        first = answers["engine 0"]
        differing += [{"request": number, "way": name} for name, answer in answers.items() if answer != first]
    return Check(
        name="same_answers", promise="every answer through the router is that of a direct call", ok=not differing,
        figures={"requests": len(asked), "ways": [*ways], "answers_compared": len(asked) * (len(ways) + 1),
                 "differing": differing},
    )  # fmt: skip


# ---- (b) prefix routing


def shared_prompts(seed: int, *, groups: int, each: int, prefix: int, rest: int) -> list[list[int]]:
    """``each`` prompts of every group, shuffled; those of a group begin alike."""
    rng = random.Random(seed)
    prefixes = [tokens(rng, prefix) for _ in range(groups)]
    found = [[*prefixes[group], *tokens(rng, rest)] for group in range(groups) for _ in range(each)]
    rng.shuffle(found)
    return found


def hit_ratio(servers: Sequence[Server], send: Callable[[int, dict[str, Any]], object], prompts: Sequence[list[int]],
              counted: Callable[[], Mapping[str, float]]) -> float:  # fmt: skip
    """Share of prompt tokens that vLLM found in its own prefix caches, by its own counters."""
    for server in servers:
        server.reset_cache()
    before = counted()
    for number, prompt in enumerate(prompts):
        send(number, completion(prompt, max_tokens=2))
    after = counted()
    return (after[HITS] - before[HITS]) / (after[QUERIES] - before[QUERIES])


def prefix_routing(
    servers: Sequence[Server], ways: Mapping[str, str], counted: Callable[[], Mapping[str, float]]
) -> Check:
    """vLLM's own hit counter with the router against taking turns, when all prefixes fill more than one cache."""
    shape = {"groups": 20, "each": 4, "prefix": 40 * BLOCK, "rest": 2 * BLOCK}
    prompts = shared_prompts(2, **shape)
    found = {"round robin": hit_ratio(
        servers, lambda n, body: ask(servers[n % len(servers)].url, body), prompts, counted)}  # fmt: skip
    for name, url in ways.items():
        found[name] = hit_ratio(servers, lambda _n, body, url=url: ask(url, body), prompts, counted)
    best = (shape["each"] - 1) / shape["each"] * shape["prefix"] / (shape["prefix"] + shape["rest"])
    least = found["round robin"] + 0.1
    return Check(
        name="prefix_routing", promise="vLLM's own hit ratio is at least 0.1 above round robin's",
        ok=all(ratio >= least for name, ratio in found.items() if name != "round robin"),
        figures={"hit_ratio": {name: round(ratio, 4) for name, ratio in found.items()},
                 "highest_possible": round(best, 4), **shape},
    )  # fmt: skip


# ---- (c) the index is the cache


def index_is_the_cache(servers: Sequence[Server], indexer: str, *, probes: int, seed: int) -> Check:
    """For prompts that were sent, cut, prolonged or evicted: what the index says is what vLLM then finds."""
    rng, wrong, hits = random.Random(seed), [], 0
    sent: list[tuple[Server, list[int]]] = []
    for number in range(probes):
        server = servers[number % len(servers)]
        prompt = _probe(rng, sent)
        told = _settled(indexer, server, prompt)
        expected = min(told, (len(prompt) - 1) // BLOCK * BLOCK)  # vLLM computes a prompt's last token anew
        found = cached_tokens(ask(server.url, completion(prompt, max_tokens=1)))
        hits += found > 0
        if found != expected:
            wrong.append({"probe": number, "index": expected, "vllm": found, "prompt_tokens": len(prompt)})
        sent.append((server, prompt))
    return Check(
        name="index_is_the_cache", promise="the index's look-up equals vLLM's cached_tokens for every prompt",
        ok=not wrong and hits > probes // 10, figures={"prompts": probes, "found_in_cache": hits, "wrong": wrong},
    )  # fmt: skip


def _probe(rng: random.Random, sent: Sequence[tuple[Server, list[int]]]) -> list[int]:
    """A new prompt, or an earlier one: whole, cut, prolonged, or changed inside."""
    if not sent or rng.random() < 0.4:
        return tokens(rng, rng.randint(1, 60) * BLOCK + rng.randint(1, BLOCK))
    # Mostly a recent one; an old one may have been evicted.
    _, old = sent[-1 - min(int(rng.expovariate(0.1)), len(sent) - 1)]
    match rng.randrange(4):
        case 0:
            return old
        case 1:
            return old[: max(1, rng.randint(1, len(old)))]
        case 2:
            return [*old, *tokens(rng, 50)][:4000]
        case _:
            at = rng.randrange(len(old))
            return [*old[:at], *tokens(rng, len(old) - at)]


def _settled(indexer: str, server: Server, prompt: Sequence[int]) -> int:
    """What the index knows, once it has heard everything: two looks apart say the same."""
    before = -1
    for _ in range(100):
        now = look_up(indexer, server, prompt)
        if now == before:
            return now
        before = now
        time.sleep(0.06)
    raise TimeoutError("the index does not settle")


def look_up(indexer: str, server: Server, prompt: Sequence[int]) -> int:
    """Tokens of the prompt's beginning that the index knows at ``server``."""
    pod = server.url.removeprefix("http://")
    reply = httpx.post(f"{indexer}/query", json={"token_ids": list(prompt), "pods": [pod]}, timeout=TIMEOUT_S)
    reply.raise_for_status()
    return int(reply.json()["matched_tokens"][pod])


# ---- (d) cancellation


def cancellation(servers: Sequence[Server], ways: Mapping[str, str], *, at_once: int = 6, length: int = 3000) -> Check:
    """Clients that leave in the middle of an answer give the engines' slots back."""
    figures: dict[str, Any] = {}
    for name, url in ways.items():
        before = _made(servers)
        with httpx.Client(
            timeout=TIMEOUT_S
        ) as client:  # made before anything runs: that takes a while on a busy machine
            threads = [threading.Thread(target=_leave, args=(client, url, seed, length)) for seed in range(at_once)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        freed_s = until(_Rest(servers), "the slots are free", every_s=0.1)
        made = _made(servers) - before
        figures[name] = {"requests": at_once, "free_after_s": round(freed_s, 3), "tokens_made": int(made),
                         "tokens_asked": at_once * length}  # fmt: skip
    return Check(
        name="cancellation", promise="slots are free within 2 s of the clients' leaving, most tokens are never made",
        ok=all(one["free_after_s"] < 2 and one["tokens_made"] < one["tokens_asked"] / 2 for one in figures.values()),
        figures=figures,
    )  # fmt: skip


class _Rest:
    """Whether no request is left and, as pages may be late, no token was made since the last look."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers, self._made = servers, -1.0

    def __call__(self) -> bool:
        before, self._made = self._made, _made(self._servers)
        return before == self._made and not any(
            page(one.url)[RUNNING] + page(one.url)[WAITING] for one in self._servers
        )


def _made(servers: Sequence[Server]) -> float:
    return sum(page(one.url)[signals.GENERATION_TOKENS.name] for one in servers)


def _leave(client: httpx.Client, url: str, seed: int, length: int) -> None:
    """A client that reads a few chunks of a long answer, so that an engine is at work on it, and goes."""
    body = completion(tokens(random.Random(seed), 40), max_tokens=length, ignore_eos=True, stream=True)
    with client.stream("POST", url + path_of(body), json=body) as reply:
        reply.raise_for_status()
        for number, _ in enumerate(reply.iter_raw()):
            if number == 5:
                return


# ---- (e) every metric

ABSENT: Final[Mapping[str, str]] = {
    signals.LORA_INFO.name: "only with --enable-lora",
    signals.NIXL_FAILED.name: "only with the NixlConnector",
    signals.NIXL_EXPIRED.name: "only with the NixlConnector",
}
"""Names of the catalogue that this configuration of vLLM does not show, each with the reason."""


def series_of(signal: Signal) -> str:
    """The name of one of its series on a page."""
    return f"{signal.name}_count" if signal.kind is Kind.HISTOGRAM else signal.name


def metric_names(shown: Iterable[str], *, absent: Mapping[str, str] = ABSENT) -> Check:
    """Every engine series of the catalogue is on the page (as real Prometheus read it), or known to be absent."""
    page_has = set(shown)
    wanted = [one for one in vars(signals).values() if isinstance(one, Signal) and one.origin is Origin.ENGINE]
    missing = sorted(one.name for one in wanted if series_of(one) not in page_has)
    unexplained = [name for name in missing if name not in absent]
    stale = [name for name in absent if name not in missing]
    return Check(
        name="metric_names", promise="each engine series of the catalogue is on vLLM's page, or known to be absent",
        ok=not unexplained and not stale,
        figures={"in_catalogue": len(wanted), "found": len(wanted) - len(missing), "unexplained": unexplained,
                 "absent": {name: absent[name] for name in missing if name in absent}, "listed_but_there": stale},
    )  # fmt: skip
