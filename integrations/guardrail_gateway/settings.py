"""What a gateway is started with. Checked once, at construction."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, TypeAlias, get_args

from guardrail_plugin import ConfigError
from guardrail_plugin.core.errors import did_you_mean
from guardrail_plugin.core.policy import OnFailure
from guardrail_plugin.flow import Release, Window, WindowSetting
from guardrail_plugin.runnables.construction import check_word

GatewayRail: TypeAlias = Literal["input", "output", "tool_output"]
"""``output`` judges answers and their tool calls; ``tool_output`` what tools returned, before the model reads it."""

HistoryScope: TypeAlias = Literal["all", "latest"]
"""``all``: earlier user turns and tool outputs are judged with every request; ``latest``: what is new is judged."""

GATEWAY_RAILS: tuple[GatewayRail, ...] = get_args(GatewayRail)

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MIN_KEY_CHARS = 16
_TIMEOUTS = (
    "header_timeout_s", "body_timeout_s", "write_timeout_s", "upstream_timeout_s", "request_timeout_s", "drain_s"
)  # fmt: skip
_ALLOWED_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f:.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A bearer key and the name that logs, metrics and limits know it by. Only the key's hash is kept.

    Attributes:
        sha256: of the key; hashes of one length make comparison take one time.
    """

    name: str
    sha256: bytes = field(repr=False)

    @classmethod
    def parse(cls, line: str) -> ApiKey:
        """Read ``name:key``, or a key alone, whose name is the first digits of its hash.

        Raises:
            ConfigError: the name is not letters, digits, ``_ . -``, or the key is shorter than 16 characters.
        """
        name, colon, key = line.strip().rpartition(":")
        if colon and not _NAME.fullmatch(name):
            raise ConfigError("a key's name may hold letters, digits, '_', '.' and '-' (name:key)")
        if len(key) < _MIN_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"a key is at least {_MIN_KEY_CHARS} plain ASCII characters without spaces")
        digest = sha256(key.encode()).digest()
        return cls(name if colon else digest.hex()[:8], digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """How a gateway behaves.

    Attributes:
        upstream: base URL of an OpenAI-compatible API, ``/v1`` included; ``None``: the embedded model answers.
        upstream_key: bearer key for it. Without one, and without ``keys``, the client's own is passed on.
        keys: who may call; empty: anyone who can connect, which only a loopback address allows.
        rails: where text is judged.
        window, release: how streamed answers are held back; see ``guardrail_plugin.guard``.
        context_turns: earlier turns that the guardian sees.
        history: whether earlier user turns and tool outputs, which the client sends anew with every request and could
            have made up, are judged each time. What does not pass is withheld from the model; the rest goes on.
        trust_system: take system and developer messages for the operator's own, and do not judge them. Only where no
            user can write them. By default a blocked one is an error that names this setting.
        on_uncheckable: what happens to a turn without text, and to images and files, which no rail can read, in
            questions and answers. In tool outputs images, audio and video go on.
        cached_verdicts: verdicts that are remembered, so that what comes again costs nothing; 0: none.
        max_body_bytes: larger requests are refused (413).
        max_answer_bytes: longer answers of the upstream are cut off as errors.
        header_timeout_s, body_timeout_s: how long a client may take to send its request.
        write_timeout_s: how long a client may take to catch up with what it is sent.
        upstream_timeout_s: longest silence of the upstream.
        request_timeout_s: longest that a request may take in all, streaming included.
        max_concurrent, max_concurrent_per_key: requests in progress; one more is refused (429).
        requests_per_minute: per key, with a burst of as many; ``None``: no limit.
        max_connections: open connections to the upstream.
        cors_origins: origins whose pages may call; empty: none.
        allowed_hosts: host names that requests may ask for, ``*.example.org`` and ``*`` too, without ports. Those of
            this machine may be asked for always. Empty: nothing else on a loopback address, anything on others.
        trust_network: allow a public address without keys.
    """

    upstream: str | None = None
    upstream_key: str | None = field(default=None, repr=False)
    keys: tuple[ApiKey, ...] = ()
    rails: tuple[GatewayRail, ...] = GATEWAY_RAILS
    window: WindowSetting = "sentence"
    release: Release = "checked"
    context_turns: int = 6
    history: HistoryScope = "all"
    trust_system: bool = False
    on_uncheckable: OnFailure = "block"
    cached_verdicts: int = 10_000
    host: str = "127.0.0.1"
    port: int = 8100
    max_body_bytes: int = 4_194_304
    max_answer_bytes: int = 16_777_216
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    write_timeout_s: float = 60.0
    upstream_timeout_s: float = 120.0
    request_timeout_s: float = 600.0
    drain_s: float = 10.0
    max_concurrent: int = 512
    max_concurrent_per_key: int = 256
    requests_per_minute: int | None = None
    max_connections: int = 512
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    trust_network: bool = False

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigError: one is out of range, unknown, or would leave an open gateway on a network.
        """
        Window(self.window)
        _words("rails", self.rails, GATEWAY_RAILS)
        if self.release not in get_args(Release):
            raise ConfigError(f"release must be one of {', '.join(get_args(Release))}, got {self.release!r}")
        history_named(self.history)
        check_word("on_uncheckable", self.on_uncheckable, get_args(OnFailure))
        if not isinstance(self.trust_system, bool):
            raise ConfigError(f"trust_system must be True or False, got {self.trust_system!r}")
        if self.cached_verdicts:
            _positive("cached_verdicts", self.cached_verdicts)
        for name in ("max_body_bytes", "max_answer_bytes", "max_concurrent", "max_concurrent_per_key"):
            _positive(name, getattr(self, name))
        _positive("max_connections", self.max_connections)
        if self.requests_per_minute is not None:
            _positive("requests_per_minute", self.requests_per_minute)
        for name in _TIMEOUTS:
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be more than 0 seconds, got {value!r}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be 0..65535, got {self.port}")
        if self.context_turns < 0:
            raise ConfigError(f"context_turns must be 0 or more, got {self.context_turns}")
        if self.upstream is not None and not re.match(r"https?://[^/\s]+", self.upstream):
            raise ConfigError(f"upstream must be the base URL of an API (http://host:port/v1), got {self.upstream!r}")
        if self.upstream_key is not None and not re.fullmatch(r"[!-~]+", self.upstream_key):
            raise ConfigError("upstream_key must be plain ASCII characters without spaces or line ends")
        _host_names("allowed_hosts", self.allowed_hosts)
        if len({key.name for key in self.keys}) != len(self.keys):
            raise ConfigError("two keys have the same name")
        if not self.keys and not self.trust_network and not is_loopback(self.host):
            how = "give keys (on the command line: --keys FILE), or set trust_network"
            raise ConfigError(f"{self.host} can be reached from elsewhere: {how}")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(lines: Iterable[str]) -> tuple[ApiKey, ...]:
    """Read keys, one a line; empty lines and ``#`` comments are passed over.

    Raises:
        ConfigError: a line is no key; the message never quotes it.
    """
    return tuple(ApiKey.parse(line) for line in lines if line.strip() and not line.lstrip().startswith("#"))


def rails_named(words: Iterable[str]) -> tuple[GatewayRail, ...]:
    """Return the rails of these names.

    Raises:
        ConfigError: there is no such rail.
    """
    named = [word.strip() for word in words]
    _words("rails", named, GATEWAY_RAILS)
    return tuple(rail for rail in GATEWAY_RAILS if rail in named)


def history_named(word: str) -> HistoryScope:
    """Return the scope of this name.

    Raises:
        ConfigError: there is no such scope.
    """
    scopes: tuple[HistoryScope, ...] = get_args(HistoryScope)
    for scope in scopes:
        if word == scope:
            return scope
    raise ConfigError(f"history must be one of {', '.join(scopes)}, got {word!r}")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")


def _host_names(name: str, given: Sequence[str]) -> None:
    if isinstance(given, str) or not all(_ALLOWED_HOST.fullmatch(host) for host in given):
        raise ConfigError(f"{name} must be a list of host names, without ports or paths, got {given!r}")


def _words(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(given, str) or not given:
        raise ConfigError(f"{name} must be some of {', '.join(known)}, got {given!r}")
    for word in given:
        if word not in known:
            raise ConfigError(f"{name}: {word!r} is none of {', '.join(known)}{did_you_mean(word, known)}")
