"""The packed engine: Llama-like models on tokens without padding, with fused projections and only the columns read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guardrail_plugin.models.kept import Ids, Prefix
from guardrail_plugin.models.torch_attention import Attention, Span
from guardrail_plugin.models.torch_packed_rows import Packed, PackedRows
from guardrail_plugin.models.torch_rotary import pin_frequencies

# One block shape: RMSNorm, rotary GQA attention (with or without biases and q/k norms), gated MLP, plain head.
_FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


@dataclass(frozen=True, slots=True)
class _Layer:
    """One block. Fused weights stand row-wise: q over k over v, gate over up."""

    attention_norm: tuple[Tensor, float]
    qkv: tuple[Tensor, Tensor | None]
    qk_norms: tuple[tuple[Tensor, float], tuple[Tensor, float]] | None
    out: tuple[Tensor, Tensor | None]
    mlp_norm: tuple[Tensor, float]
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]


class PackedEngine:
    """Computes rows of a Llama-like model. Its fused weights replace the model's own storage, so nothing is held twice.

    Attributes:
        heads, kv_heads, head_width: of the attention.
        row_tokens: the longest row that the model's frequencies, which are pinned here, are right for.
    """

    name = "packed"
    reuses = True

    def __init__(self, model: Any) -> None:
        config = model.config
        attention = model.model.layers[0].self_attn
        self.head_width: int = attention.head_dim
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = config.num_key_value_heads
        self._embed = model.get_input_embeddings().weight
        self._head = model.get_output_embeddings().weight  # (V, d)
        self._rotary = model.model.rotary_emb
        self.row_tokens = pin_frequencies(model)
        self._activation = model.model.layers[0].mlp.act_fn
        self._norm = _norm(model.model.norm)
        self._layers = [_layer(block) for block in model.model.layers]
        self._q_width = self.heads * self.head_width

    @staticmethod
    def fits(model: Any) -> bool:
        """Tell whether this engine knows the model's architecture."""
        config = model.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        windowed = getattr(config, "sliding_window", None) is not None and (
            kinds != {"full_attention"} or not hasattr(config, "layer_types")
        )
        quantized = getattr(config, "quantization_config", None) is not None
        plain = kinds == {"full_attention"} and not windowed and not quantized
        return type(model).__name__ in _FAMILIES and plain and model.get_input_embeddings().weight.is_floating_point()

    def open(self, prompts: Sequence[Ids], prefixes: Sequence[Prefix], *, room: int = 0) -> PackedRows:
        """Open a batch; see ``Engine.open``."""
        return PackedRows(self, prompts, prefixes, room=room)

    def new_kv(self, rows: int, length: int) -> Tensor:
        """Return an empty store: (layers, 2, rows, length, kv heads, head width)."""
        # Zeros: what masked attention reads in unused places must be finite.
        return self._embed.new_zeros(len(self._layers), 2, rows, length, self.kv_heads, self.head_width)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embed.device

    def run(self, batch: Packed, kv: Tensor) -> Tensor:
        """Run tokens through the model; their keys and values go into ``kv``. Returns final states (R, d)."""
        x = F.embedding(batch.ids, self._embed)  # (T, d)
        cos, sin = (part[0].unsqueeze(1) for part in self._rotary(x.unsqueeze(0), batch.positions.unsqueeze(0)))
        attention = self._attention(batch.spans)
        for number, layer in enumerate(self._layers):
            last = number + 1 == len(self._layers)
            h = _rms(x, layer.attention_norm)
            # Nobody reads the other tokens after the last block: they only leave their keys and values.
            qkv = F.linear(h, *layer.qkv) if not last else self._split_qkv(h, layer, batch.read)
            q, k, v = self._heads_of(qkv, layer)
            store = kv[number].flatten(1, 2)  # (2, rows x length, kv heads, head width)
            store[0].index_copy_(0, batch.slots, _rotate(k, cos, sin))
            store[1].index_copy_(0, batch.slots, v)
            if last:
                x, cos, sin = x[batch.read], cos[batch.read], sin[batch.read]
                if not batch.read_spans:
                    return x
                attention = self._attention(batch.read_spans)
            mixed = attention(_rotate(q, cos, sin), kv[number])  # (T, q width)
            x = x + F.linear(mixed, *layer.out)
            x = x + self._mlp(_rms(x, layer.mlp_norm), layer)
        return _rms(x, self._norm)

    def head(self, final: Tensor, columns: Tensor | slice) -> Tensor:
        """Return the logits (R, K) of some vocabulary columns, in float32."""
        return F.linear(final, self._head[columns]).float()

    def _attention(self, spans: Sequence[Span]) -> Attention:
        return Attention(spans, heads=self.heads, kv_heads=self.kv_heads, like=self._embed)

    def _split_qkv(self, h: Tensor, layer: _Layer, read: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = layer.qkv
        at = self._q_width
        q_bias, kv_bias = (None, None) if bias is None else (bias[:at], bias[at:])
        return F.linear(h[read], weight[:at], q_bias), F.linear(h, weight[at:], kv_bias)

    def _heads_of(self, qkv: Tensor | tuple[Tensor, Tensor], layer: _Layer) -> tuple[Tensor, Tensor, Tensor]:
        q, kv = qkv if isinstance(qkv, tuple) else (qkv[:, : self._q_width], qkv[:, self._q_width :])
        q = q.unflatten(1, (self.heads, self.head_width))
        k, v = kv.unflatten(1, (2, self.kv_heads, self.head_width)).unbind(1)
        if layer.qk_norms is not None:
            q, k = _rms(q, layer.qk_norms[0]), _rms(k, layer.qk_norms[1])
        return q, k, v

    def _mlp(self, h: Tensor, layer: _Layer) -> Tensor:
        gate, up = F.linear(h, *layer.gate_up).chunk(2, dim=-1)
        return F.linear(self._activation(gate).mul_(up), *layer.down)


def _layer(block: Any) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    normed = hasattr(attention, "q_norm")
    return _Layer(
        attention_norm=_norm(block.input_layernorm),
        qkv=_fused(attention.q_proj, attention.k_proj, attention.v_proj),
        qk_norms=(_norm(attention.q_norm), _norm(attention.k_norm)) if normed else None,
        out=(attention.o_proj.weight, attention.o_proj.bias),
        mlp_norm=_norm(block.post_attention_layernorm),
        gate_up=_fused(mlp.gate_proj, mlp.up_proj),
        down=(mlp.down_proj.weight, mlp.down_proj.bias),
    )


def _fused(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """Return the weights of several projections as one; the projections become views of it."""
    weight = torch.cat([linear.weight.data for linear in linears])
    biased = linears[0].bias is not None
    bias = torch.cat([linear.bias.data for linear in linears]) if biased else None
    at = 0
    for linear in linears:
        rows = linear.weight.shape[0]
        linear.weight.data = weight[at : at + rows]
        if bias is not None:
            linear.bias.data = bias[at : at + rows]
        at += rows
    return weight, bias


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight, module.variance_epsilon


def _rms(x: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    weight, epsilon = norm
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn heads (T, H, D) by their positions; cos and sin (T, 1, D). Source: Su et al. 2021, arXiv 2104.09864."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
