"""The models that a gateway can stand in front of."""

from guardrail_gateway.upstream.protocol import Reply, Stream, Upstream, UpstreamError

__all__ = ["Reply", "Stream", "Upstream", "UpstreamError"]
