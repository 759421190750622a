"""Scheduling profiles from configuration text. Pure: reading the file is :mod:`router.config_file`.

Two forms are read. The short one:

    filters:
      - {type: queue-depth, parameters: {maxQueueLength: 50}}
    scorers:
      - {type: prefix-aware, weight: 100, parameters: {hashBlockSize: 64}}
    selection: {topK: 3, margin: 0.1}

where what is left out comes from a built-in profile (``profile: default``; ``documents`` where none is named),
``selection`` may name another picker (``{type: max-score}``), and ``staleAfterSeconds`` sets the age at which a scrape
is no longer believed. And upstream's ``EndpointPickerConfig``; several scheduling profiles are read where a plugin is
declared that works with several (``Profile.others``). In both, a scorer without
a weight weighs 1, and the model-compatibility filter is put first where none is named.

What cannot be used is refused with its line and the nearest right word. What other routers' files carry and has no
effect here is accepted and said in ``Profile.notes``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from router.config_words import BUILT_IN, OTHERWISE, SECTIONS, SEVERAL_PROFILES
from router.filters import FILTERS, Filter, ModelCompatibility
from router.located import Located, locate, nearest, shown
from router.parameters import Plugin, parameters
from router.pickers import PICKERS, MaxScore, Picker
from router.prefix import AUTO_BLOCK
from router.profile import PROFILES, AdaptiveWeights, Profile, WeightedScorer
from router.scorers import SCORERS, LoadAware, PrefixAware, QueueThreshold, Scorer
from router.sieve import NamedFilter
from router.traffic import START_PROMPT_TOKENS

T = TypeVar("T")

API_VERSIONS: Final = ("llm-d.ai/v1alpha1", "llm-d.ai/v1", "inference.networking.x-k8s.io/v1alpha1")
KIND: Final = "EndpointPickerConfig"

MAX_WEIGHT: Final = 1e6

_PRODUCERS: Final[Mapping[str, Plugin[PrefixAware]]] = {
    "approx-prefix-cache-producer": Plugin(kind=PrefixAware, idle=SCORERS["prefix-cache-scorer"].idle)
}


def parse_profile(text: str, where: str = "router.yaml") -> Profile:
    """A profile from a YAML (or JSON) document in either form.

    Args:
        text: the document.
        where: the file's name, for error lines.
    Raises: ConfigError with file, line and the nearest right word.

    >>> profile = parse_profile("scorers: [{type: load-aware, weight: 2}]")
    >>> [(scorer.name, scorer.weight) for scorer in profile.scorers]
    [('load-aware', 2.0)]
    """
    document = locate(text, where=where)
    keys = document.mapping("the document")
    notes = _Notes()
    if keys.keys() & {"apiVersion", "kind", "plugins", "schedulingProfiles"}:
        profile = _upstream(document, notes)
    else:
        profile = _short(document, notes)
    return dataclasses.replace(_guarded(profile), notes=tuple(notes.lines))


@dataclass(slots=True)
class _Notes:
    """What a document asks for that has no effect."""

    lines: list[str] = field(default_factory=list)

    def add(self, at: Located, what: str, why: str) -> None:
        self.lines.append(f"{at.at}: {what} has no effect: {why}")

    def sections(self, entries: Mapping[str, Located]) -> None:
        for key, entry in entries.items():
            if key in SECTIONS:
                self.add(entry, key, SECTIONS[key])


def _guarded(profile: Profile) -> Profile:
    """The profile with a model filter: a request must never reach an engine that is known not to serve its model."""
    if any(isinstance(entry.filter, ModelCompatibility) for entry in profile.filters):
        return profile
    model = NamedFilter(name="model-compatibility", filter=ModelCompatibility())
    return dataclasses.replace(profile, filters=(model, *profile.filters))


def _bind(plugin: Plugin[T], name: str, given: Mapping[str, Located], notes: _Notes) -> T:
    """The filter, scorer or picker with its parameters."""
    accepted = {key: entry for key, entry in parameters(plugin.kind).items() if entry[0] not in plugin.preset}
    values: dict[str, object] = dict(plugin.preset)
    for key, entry in given.items():
        if key in plugin.idle:
            notes.add(entry, f"{key} of {name}", plugin.idle[key])
        elif key not in accepted:
            known = (*accepted, *plugin.idle)
            step = nearest(key, known) if known else "It takes no parameters."
            raise entry.refuse(f"{name} has no parameter {key!r}", next_step=step)
        else:
            field_name, parameter = accepted[key]
            try:
                values[field_name] = parameter.accept(entry.plain())
            except ValueError as error:
                raise entry.refuse(
                    f"{key} of {name} is {shown(entry.value)}", limit=str(error), next_step="Change the value."
                ) from error
    return plugin.kind(**values)


def _weight(entry: Located | None, name: str) -> float:
    """A scorer's weight, 1 where none is given."""
    if entry is None:
        return 1.0
    value = entry.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_WEIGHT:
        raise entry.refuse(
            f"weight of {name} is {shown(value)}", limit=f"0 to {MAX_WEIGHT:g}", next_step="Give it a number."
        )
    return float(value)


def _typed(entry: Located, what: str, keys: Sequence[str], known: Mapping[str, Plugin[T]]) -> tuple[str, Plugin[T]]:
    """The type name of a short-form entry and what it stands for."""
    entries = entry.only(f"a {what}", keys)
    if "type" not in entries:
        raise entry.refuse(f"a {what} has no type", next_step=f"Known: {', '.join(known)}.")
    name = entries["type"].word("type")
    if name not in known:
        raise entries["type"].refuse(f"unknown {what} {name!r}", next_step=nearest(name, known))
    return name, known[name]


def _settings(entry: Located) -> Mapping[str, Located]:
    given = entry.mapping("an entry").get("parameters")
    return {} if given is None else given.mapping("parameters")


# The short form.

_SHORT_KEYS: Final = (
    "profile", "filters", "scorers", "selection", "staleAfterSeconds", "adaptiveWeights", "kvcacheIndexer",
)  # fmt: skip


def _short(document: Located, notes: _Notes) -> Profile:
    entries = document.only("the document", _SHORT_KEYS)
    notes.sections(entries)
    base = _base(entries.get("profile"))
    scorers = _short_scorers(entries["scorers"], notes) if "scorers" in entries else base.scorers
    return Profile(
        name=base.name if entries.keys() == {"profile"} else "file",
        filters=_short_filters(entries["filters"], notes) if "filters" in entries else base.filters,
        scorers=scorers,
        picker=_selection(entries["selection"], notes) if "selection" in entries else base.picker,
        stale_after_s=_stale_after(entries.get("staleAfterSeconds"), base.stale_after_s),
        prefix=_prefix(scorers, None),
        adaptive=_adaptive(entries["adaptiveWeights"], scorers) if "adaptiveWeights" in entries else base.adaptive,
    )


def _adaptive(node: Located, scorers: Sequence[WeightedScorer]) -> AdaptiveWeights | None:
    """``adaptiveWeights: true``, ``false`` or ``{highHitRate: 0.7, lowHitRate: 0.2}``."""
    if node.value is False:
        return None
    prefix = next((entry.name for entry in scorers if isinstance(entry.scorer, PrefixAware)), "")
    load = next((entry.name for entry in scorers if isinstance(entry.scorer, LoadAware | QueueThreshold)), "")
    if not prefix or not load:
        raise node.refuse("adaptiveWeights needs a prefix and a load scorer",
                          next_step="List prefix-aware and load-aware under scorers.")  # fmt: skip
    entries = {} if node.value is True else node.only("adaptiveWeights", ("highHitRate", "lowHitRate"))
    high, low = (_share(entries.get(key), key, default) for key, default in (("highHitRate", 0.7), ("lowHitRate", 0.2)))
    if low > high:
        raise node.refuse(f"lowHitRate {low:g} is above highHitRate {high:g}", next_step="Swap them.")
    return AdaptiveWeights(prefix=prefix, load=load, high=high, low=low)


def _share(entry: Located | None, key: str, default: float) -> float:
    if entry is None:
        return default
    if isinstance(entry.value, bool) or not isinstance(entry.value, int | float) or not 0 <= entry.value <= 1:
        raise entry.refuse(f"{key} is {shown(entry.value)}", limit="0 to 1", next_step="Give a share.")
    return float(entry.value)


def _base(entry: Located | None) -> Profile:
    """The built-in profile that fills what the document leaves out."""
    name = "documents" if entry is None else entry.word("profile")
    if entry is not None and name not in PROFILES:
        raise entry.refuse(f"there is no profile {name!r}", next_step=nearest(name, PROFILES))
    return PROFILES[name]


def _short_filters(node: Located, notes: _Notes) -> tuple[NamedFilter, ...]:
    found: dict[str, NamedFilter] = {}
    for entry in node.sequence("filters"):
        name, plugin = _typed(entry, "filter", ("type", "parameters"), FILTERS)
        _once(entry, name, found)
        found[name] = NamedFilter(name=name, filter=_bind(plugin, name, _settings(entry), notes))
    return tuple(found.values())


def _short_scorers(node: Located, notes: _Notes) -> tuple[WeightedScorer, ...]:
    found: dict[str, WeightedScorer] = {}
    for entry in node.sequence("scorers"):
        name, plugin = _typed(entry, "scorer", ("type", "weight", "parameters"), SCORERS)
        _once(entry, name, found)
        weight = _weight(entry.mapping("a scorer").get("weight"), name)
        scorer = _bind(plugin, name, _settings(entry), notes)
        found[name] = WeightedScorer(name=name, weight=weight, scorer=scorer)
    return tuple(found.values())


def _once(entry: Located, name: str, found: Mapping[str, object]) -> None:
    if name in found:
        raise entry.refuse(f"{name!r} is listed twice", next_step="Keep one.")


def _selection(node: Located, notes: _Notes) -> Picker:
    entries = dict(node.mapping("selection"))
    kind = entries.pop("type", None)
    name = "top-k-random" if kind is None else kind.word("type")
    if name not in PICKERS:
        raise node.refuse(f"unknown picker {name!r}", next_step=nearest(name, PICKERS))
    return _bind(PICKERS[name], "selection" if kind is None else name, entries, notes)


def _stale_after(entry: Located | None, default: float) -> float:
    if entry is None:
        return default
    value = entry.value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 86_400:
        raise entry.refuse(
            f"staleAfterSeconds is {shown(value)}", limit="above 0, at most 86400", next_step="Give seconds."
        )
    return float(value)


def _prefix(scorers: Sequence[WeightedScorer], producer: PrefixAware | None) -> PrefixAware:
    """The settings for hashing: the producer's, else the prefix scorer's, else the defaults."""
    found = [entry.scorer for entry in scorers if isinstance(entry.scorer, PrefixAware)]
    settings = producer or (found[0] if found else PrefixAware())
    return settings.sized(START_PROMPT_TOKENS) if settings.block_tokens == AUTO_BLOCK else settings


# Upstream's form.


@dataclass(slots=True)
class _Declared:
    """What the ``plugins`` section declares, by name."""

    lines: dict[str, Located] = field(default_factory=dict)
    filters: dict[str, Filter] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)
    pickers: dict[str, Picker] = field(default_factory=dict)
    producer: PrefixAware | None = None
    several: bool = False
    """A plugin that works with more than one scheduling profile is among them."""


def _upstream(document: Located, notes: _Notes) -> Profile:
    entries = document.only("the document", ("apiVersion", "kind", "plugins", "schedulingProfiles", *SECTIONS))
    _check_header(entries)
    notes.sections(entries)
    declared = _Declared()
    for entry in entries["plugins"].sequence("plugins") if "plugins" in entries else ():
        _declare(entry, declared, notes)
    profiles = entries.get("schedulingProfiles")
    if profiles is None:
        return _assemble("default", dict.fromkeys(declared.lines), declared)
    listed = profiles.sequence("schedulingProfiles")
    if len(listed) != 1 and not (listed and declared.several):
        raise profiles.refuse(
            f"{len(listed)} scheduling profiles", limit="exactly 1", next_step="Keep the one that serves requests."
        )
    found = [_scheduling_profile(entry, declared, notes) for entry in listed]
    _unused(declared, listed, notes)
    return _several(found, profiles)


def _several(found: Sequence[Profile], node: Located) -> Profile:
    """The profile that serves whole requests and decoding, with the others beside it."""
    by_name = {profile.name: profile for profile in found}
    if len(by_name) < len(found):
        raise node.refuse("two scheduling profiles have the same name", next_step="Rename one.")
    main = by_name.get("decode", by_name.get("default", found[0]))
    others = {name: _guarded(profile) for name, profile in by_name.items() if profile is not main}
    return dataclasses.replace(main, others=others)


def _unused(declared: _Declared, listed: Sequence[Located], notes: _Notes) -> None:
    """Say what is declared and in no profile."""
    used = {part["pluginRef"].value for entry in listed for part in _parts(entry) if "pluginRef" in part}
    for name in declared.filters | declared.scorers | declared.pickers:
        if name not in used:
            notes.add(declared.lines[name], name, "no scheduling profile refers to it")


def _parts(profile: Located) -> Iterator[Mapping[str, Located]]:
    """The plugin references of a scheduling profile."""
    entries = profile.only("a scheduling profile", ("name", "plugins"))
    for entry in entries["plugins"].sequence("plugins") if "plugins" in entries else ():
        yield entry.only("a profile's plugin", ("pluginRef", "weight"))


def _check_header(entries: Mapping[str, Located]) -> None:
    for key, accepted in (("apiVersion", API_VERSIONS), ("kind", (KIND,))):
        if key in entries and entries[key].value not in accepted:
            raise entries[key].refuse(
                f"{key} is {shown(entries[key].value)}", limit=" or ".join(accepted), next_step="Change it."
            )


def _declare(entry: Located, declared: _Declared, notes: _Notes) -> None:
    entries = entry.only("a plugin", ("name", "type", "parameters"))
    known = (*FILTERS, *SCORERS, *PICKERS, *_PRODUCERS, *BUILT_IN, *OTHERWISE)
    if "type" not in entries:
        raise entry.refuse("a plugin has no type", next_step="Write - type: queue-scorer, for example.")
    kind = entries["type"].word("type")
    name = entries["name"].word("name") if "name" in entries else kind
    _once(entry, name, declared.lines)
    declared.lines[name] = entry
    given = _settings(entry)
    if kind in FILTERS:
        declared.filters[name] = _bind(FILTERS[kind], kind, given, notes)
    elif kind in SCORERS:
        declared.scorers[name] = _bind(SCORERS[kind], kind, given, notes)
    elif kind in PICKERS:
        declared.pickers[name] = _bind(PICKERS[kind], kind, given, notes)
    elif kind in _PRODUCERS:
        declared.producer = _bind(_PRODUCERS[kind], kind, given, notes)
    elif kind in OTHERWISE:
        notes.add(entries["type"], kind, OTHERWISE[kind])
    elif kind not in BUILT_IN:
        raise entries["type"].refuse(f"unknown plugin {kind!r}", next_step=nearest(kind, known))
    else:
        declared.several |= kind in SEVERAL_PROFILES
        for key, value in given.items():
            notes.add(value, f"{key} of {kind}", "the router does this its own way")


def _scheduling_profile(node: Located, declared: _Declared, notes: _Notes) -> Profile:
    entries = node.only("a scheduling profile", ("name", "plugins"))
    weights: dict[str, Located | None] = {}
    for parts in _parts(node):
        if "pluginRef" not in parts:
            raise node.refuse("a profile's plugin has no pluginRef", next_step="Name a declared plugin.")
        name = parts["pluginRef"].word("pluginRef")
        if name not in declared.lines:
            raise parts["pluginRef"].refuse(
                f"pluginRef {name!r} is not declared", next_step=nearest(name, declared.lines)
            )
        _once(parts["pluginRef"], name, weights)
        weights[name] = parts.get("weight")
        if "weight" in parts and name not in declared.scorers:
            notes.add(parts["weight"], f"weight of {name}", "only scorers are weighed")
    return _assemble(entries["name"].word("name") if "name" in entries else "default", weights, declared)


def _assemble(name: str, weights: Mapping[str, Located | None], declared: _Declared) -> Profile:
    """The profile of the plugins in ``weights``, in that order."""
    scorers = tuple(
        WeightedScorer(name=entry, weight=_weight(weight, entry), scorer=declared.scorers[entry])
        for entry, weight in weights.items()
        if entry in declared.scorers
    )
    pickers = [entry for entry in weights if entry in declared.pickers]
    if len(pickers) > 1:
        raise declared.lines[pickers[1]].refuse(
            f"two pickers, {pickers[0]} and {pickers[1]}", limit="1", next_step="Keep one."
        )
    return Profile(
        name=name,
        filters=tuple(
            NamedFilter(name=entry, filter=declared.filters[entry]) for entry in weights if entry in declared.filters
        ),
        scorers=scorers,
        picker=declared.pickers[pickers[0]] if pickers else MaxScore(),
        prefix=_prefix(scorers, declared.producer),
    )
