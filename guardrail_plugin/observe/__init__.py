"""Tell what the rails decide: metrics, traces, logs and an audit log. Fields and hashes, never text unless asked for.

``guardrail_plugin.observe.prometheus`` and ``guardrail_plugin.observe.telemetry`` need the extra ``observe``.
"""

from guardrail_plugin.observe.audit import AuditLog
from guardrail_plugin.observe.callbacks import ObserverCallback
from guardrail_plugin.observe.chain import ChainReport, verify
from guardrail_plugin.observe.event import Observer, Observers, RailEvent, RequestEvent
from guardrail_plugin.observe.logs import JsonFormatter, LogObserver, log_json

__all__ = [
    "AuditLog",
    "ChainReport",
    "JsonFormatter",
    "LogObserver",
    "Observer",
    "ObserverCallback",
    "Observers",
    "RailEvent",
    "RequestEvent",
    "log_json",
    "verify",
]
