"""An independent float32 forward pass over an exported model directory, either 4-bit layout.

It shares no code with the training model except the number formats; MLA is computed in its
absorbed form.
"""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from quantization import mxfp4_round_trip, mxfp4_unpack

PREFIX = "language_model."


def unpack_int4(words, scale):
    """BF16(q * scale) as float32 of compressed-tensors words."""
    nibbles = (words.long()[..., None] >> (torch.arange(8) * 4)) & 0xF
    values = (nibbles.flatten(-2) - 8).float().unflatten(-1, (-1, 32))
    return (values * scale.float()[..., None]).bfloat16().float().flatten(-2)


def read_weights(folder):
    """All tensors as float32, by module or tensor name without the prefix."""
    raw = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        raw.update({name.removeprefix(PREFIX): tensor for name, tensor in load_file(path).items()})
    weights = {}
    for name, tensor in raw.items():
        if name.endswith(".weight_packed"):
            base = name.removesuffix("_packed")
            weights[base] = unpack_int4(tensor, raw[base + "_scale"])
        elif name.endswith(".weight") and tensor.dtype == torch.uint8:
            weights[name] = mxfp4_unpack(tensor, raw[name + "_scale"])
        elif not name.endswith(("_scale", "_shape")):
            weights[name] = tensor.float()
    return weights


def stack_experts(weights, config):
    """Replace each MoE layer's experts by one matrix for each projection."""
    for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        name = f"model.layers.{layer}.mlp.experts"
        for projection, axis in (("gate", 0), ("up", 0), ("down", 1)):
            parts = [
                weights.pop(f"{name}.{e}.{projection}_proj.weight")
                for e in range(config["n_routed_experts"])
            ]
            weights[f"{name}.{projection}_proj"] = torch.cat(parts, axis)
    return weights


class ReferenceModel:
    """Greedy decoding and log-probabilities in float32."""

    def __init__(self, folder, quantized_activations, device="cpu"):
        self.config = json.loads((Path(folder) / "config.json").read_text())["text_config"]
        weights = stack_experts(read_weights(folder), self.config)
        self.weights = {name: tensor.to(device) for name, tensor in weights.items()}
        self.quantized = quantized_activations
        self.device = device
        self.frequencies, self.scale = self._rope()

    def _rope(self):
        """YaRN frequencies and the softmax scale (model's own formulas)."""
        c, yarn = self.config, self.config["rope_scaling"]
        dim, base = c["qk_rope_head_dim"], c["rope_theta"]
        span = yarn["original_max_position_embeddings"]
        bounds = [
            dim * math.log(span / (beta * 2 * math.pi)) / (2 * math.log(base))
            for beta in (yarn["beta_fast"], yarn["beta_slow"])
        ]
        low, high = max(math.floor(bounds[0]), 0), min(math.ceil(bounds[1]), dim - 1)
        inverse = []
        for i in range(dim // 2):
            ramp = min(max((i - low) / (high - low), 0.0), 1.0)
            plain = base ** (-2 * i / dim)
            inverse.append(plain * (1 - ramp) + plain / yarn["factor"] * ramp)
        m = 0.1 * yarn["mscale_all_dim"] * math.log(yarn["factor"]) + 1
        scale = (c["qk_nope_head_dim"] + dim) ** -0.5 * m * m
        return torch.tensor(inverse, dtype=torch.float64, device=self.device), scale

    def _norm(self, x, name, eps):
        return (
            x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self.weights[name + ".weight"]
        )

    def _linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"])

    def _rotate(self, x, positions):
        """Rotate interleaved pairs; x [batch, tokens, (heads,) dim], positions [batch, tokens]."""
        angles = positions[..., None].double() * self.frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        if x.dim() == 4:
            cos, sin = cos[:, :, None], sin[:, :, None]
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)

    def _attention(self, x, name, positions, visible, cache):
        """Absorbed MLA; the cache holds [latent | rotated key] of all earlier tokens."""
        c = self.config
        heads, nope, rank = c["num_attention_heads"], c["qk_nope_head_dim"], c["kv_lora_rank"]
        q = self._linear(
            self._norm(self._linear(x, name + ".q_a_proj"), name + ".q_a_layernorm", 1e-6),
            name + ".q_b_proj",
        )
        q = q.unflatten(-1, (heads, -1))
        q_nope, q_rope = q[..., :nope], self._rotate(q[..., nope:], positions)
        a = self._linear(x, name + ".kv_a_proj_with_mqa")
        entry = torch.cat(
            (
                self._norm(a[..., :rank], name + ".kv_a_layernorm", 1e-6),
                self._rotate(a[..., rank:], positions),
            ),
            -1,
        )
        cache[name] = torch.cat((cache[name], entry), 1) if name in cache else entry
        up = self.weights[name + ".kv_b_proj.weight"].unflatten(0, (heads, -1))
        query = torch.cat((torch.einsum("bthn,hnr->bthr", q_nope, up[:, :nope]), q_rope), -1)
        scores = torch.einsum("bthr,bsr->bhts", query, cache[name]) * self.scale
        scores = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        latent = torch.einsum("bhts,bsr->bthr", scores, cache[name][..., :rank])
        return self._linear(
            torch.einsum("bthr,hvr->bthv", latent, up[:, nope:]).flatten(-2), name + ".o_proj"
        )

    def _swiglu(self, x, name):
        """A feed-forward block that is not routed."""
        inner = F.silu(self._linear(x, name + ".gate_proj")) * self._linear(x, name + ".up_proj")
        return self._linear(inner, name + ".down_proj")

    def _moe(self, x, name):
        """Routed experts plus the shared one; unchosen experts are computed and weighted zero."""
        c = self.config
        scores = torch.sigmoid(self._linear(x, name + ".gate"))
        chosen = (
            (scores + self.weights[name + ".gate.e_score_correction_bias"])
            .topk(c["num_experts_per_tok"], -1)
            .indices
        )
        weights = torch.zeros_like(scores).scatter(-1, chosen, scores.gather(-1, chosen))
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * c["routed_scaling_factor"]
        stacked = {p: self.weights[f"{name}.experts.{p}_proj"] for p in ("gate", "up", "down")}
        entry = mxfp4_round_trip(x) if self.quantized else x
        inner = F.silu(F.linear(entry, stacked["gate"])) * F.linear(entry, stacked["up"])
        inner = mxfp4_round_trip(inner) if self.quantized else inner
        inner = inner.unflatten(-1, (c["n_routed_experts"], -1)) * weights[..., None]
        return F.linear(inner.flatten(-2), stacked["down"]) + self._swiglu(
            x, name + ".shared_experts"
        )

    @torch.no_grad()
    def forward(self, ids, positions, visible, cache):
        """Logits [batch, tokens, vocab]; visible [batch, tokens, cached + tokens]."""
        c = self.config
        h = self.weights["model.embed_tokens.weight"][ids]
        for index in range(c["num_hidden_layers"]):
            name = f"model.layers.{index}"
            x = self._norm(h, name + ".input_layernorm", c["rms_norm_eps"])
            h = h + self._attention(x, name + ".self_attn", positions, visible, cache)
            x = self._norm(h, name + ".post_attention_layernorm", c["rms_norm_eps"])
            dense = index < c["first_k_dense_replace"]
            h = h + (self._swiglu(x, name + ".mlp") if dense else self._moe(x, name + ".mlp"))
        return self._linear(self._norm(h, "model.norm", c["rms_norm_eps"]), "lm_head")

    def log_probabilities(self, ids):
        """log p(next token) after every token of one sequence: [tokens, vocab]."""
        tokens = torch.tensor([ids], device=self.device)
        positions = torch.arange(len(ids), device=self.device)[None]
        visible = torch.ones(1, len(ids), len(ids), dtype=torch.bool, device=self.device).tril()
        return self.forward(tokens, positions, visible, {})[0].log_softmax(-1)

    def _padded(self, prompts):
        """Prompts padded on the left: ids, positions, which are real, and what each token sees."""
        width = max(map(len, prompts))
        pad = torch.tensor([width - len(p) for p in prompts], device=self.device)
        tokens = torch.tensor(
            [[0] * (width - len(p)) + list(p) for p in prompts], device=self.device
        )
        index = torch.arange(width, device=self.device)
        positions = (index[None] - pad[:, None]).clamp(min=0)
        real = index[None] >= pad[:, None]
        visible = (
            real[:, None] & torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        )
        visible |= torch.eye(width, dtype=torch.bool, device=self.device)
        return tokens, positions, real, visible

    def next_logits(self, prompts):
        """Logits of the token after each prompt: [batch, vocab]."""
        tokens, positions, _, visible = self._padded(prompts)
        return self.forward(tokens, positions, visible, {})[:, -1]

    def generate(self, prompts, limit, stop):
        """Greedy continuations (without the stop id) of a batch of prompts."""
        tokens, positions, real, visible = self._padded(prompts)
        cache, out = {}, [[] for _ in prompts]
        running = [True] * len(prompts)
        for _ in range(limit):
            logits = self.forward(tokens, positions, visible, cache)[:, -1]
            tokens = logits.argmax(-1, keepdim=True)
            for row, token in enumerate(tokens[:, 0].tolist()):
                running[row] = running[row] and token != stop
                if running[row]:
                    out[row].append(token)
            if not any(running):
                break
            positions = positions[:, -1:] + 1
            real = torch.cat((real, torch.ones_like(real[:, :1])), 1)
            visible = real[:, None]
        return out
