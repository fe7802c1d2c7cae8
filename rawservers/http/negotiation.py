"""Content negotiation by Accept and Accept-Encoding: RFC 9110 §8.4.1, §12.5.1 and §12.5.3."""

from __future__ import annotations

import re
from collections.abc import Iterable
from operator import itemgetter

# The part of an Accept or Accept-Encoding field that is parsed. Browsers send a dozen members, in less than 200 characters.
MAX_MEMBERS = 64
MAX_CHARACTERS = 2048

ALIASES = {"gzip": "x-gzip"}  # of content codings (§8.4.1.3)

QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


def prefers_json(accept: str) -> bool:
    """Whether the Accept field prefers application/json to text/html (§12.5.1).

    With equal weights, the one that is named is preferred: programs send "application/json, */*".
    """
    ranges = parse_accept(accept)
    as_json = weight_of(ranges, "application/json", "application/*", "*/*")
    as_html = weight_of(ranges, "text/html", "text/*", "*/*")
    return as_json > as_html or (as_json == as_html > 0 and "application/json" in ranges and "text/html" not in ranges)


def accepts_html(accept: str) -> bool:
    """Whether the Accept field names text/html, as those of browsers do for a page, but not for a script or an image."""
    return parse_accept(accept).get("text/html", 0.0) > 0


def rank_codings(accept_encoding: str, codings: Iterable[str]) -> list[str]:
    """The accepted content codings out of `codings`, best first, without those that weigh less than identity (§12.5.3)."""
    ranges = parse_accept(accept_encoding)
    weights = [(coding, weight_of(ranges, coding, ALIASES.get(coding, coding), "*")) for coding in codings]
    least = ranges.get("identity", 0.0)
    return [coding for coding, weight in sorted(weights, key=itemgetter(1), reverse=True) if weight >= least and weight]


def weight_of(ranges: dict[str, float], *names: str) -> float:
    """The weight of the first of `names`, from a type or coding to its wildcards, that is in `ranges`; 0 if none is."""
    return next((ranges[name] for name in names if name in ranges), 0.0)


def parse_accept(accept: str) -> dict[str, float]:
    """The members of an Accept or Accept-Encoding field with their weights, without those with a malformed weight.

    A member with other parameters (charset, level) counts for its type, unless the type is also given without. Members after
    the first MAX_MEMBERS, or that do not end within the first MAX_CHARACTERS, are ignored.
    """
    ranges: dict[str, float] = {}
    members = QUOTED.sub("", accept[:MAX_CHARACTERS]).lower().split(",", MAX_MEMBERS)
    if len(accept) > MAX_CHARACTERS or len(members) > MAX_MEMBERS:
        del members[-1]
    for member in members:
        name, *parameters = [part.strip(" \t") for part in member.split(";")]
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        if all(map(QUALITY.fullmatch, weights)):
            weight = float(weights[0]) if weights else 1.0
            ranges[name] = weight if len(parameters) == len(weights) else ranges.get(name, weight)
    return ranges
