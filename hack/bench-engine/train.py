"""Trains a model in torch as the engine does, for `make bench-engine`.

usage: train.py DIR THREADS eager|compile|gradient
DIR has case.json, parameters.safetensors and gradient.safetensors. Says its version, then answers lines: a number of
steps with seconds, losses and the peak of its memory in MiB; `compare` with how far the engine's gradient is from its own
in double precision.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn


def rotated(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class LlamaBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, self.heads, self.keys, self.head = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.epsilon = c["rms_norm_eps"]
        self.norm1, self.norm2 = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        # One product for q, k and v, and one for gate and up: what a careful author writes.
        self.qkv = nn.Linear(width, (self.heads + 2 * self.keys) * self.head, bias=False)
        self.o = nn.Linear(self.heads * self.head, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * c["intermediate_size"], bias=False)
        self.down = nn.Linear(c["intermediate_size"], width, bias=False)

    def forward(self, x, cos, sin):
        b, t, width = x.shape
        h = F.rms_norm(x, (width,), self.norm1, self.epsilon)
        qkv = self.qkv(h).view(b, t, self.heads + 2 * self.keys, self.head).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.keys, self.keys], dim=1)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.keys != self.heads)
        x = x + self.o(out.transpose(1, 2).reshape(b, t, -1))
        gate, up = self.gate_up(F.rms_norm(x, (width,), self.norm2, self.epsilon)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Llama(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.blocks = nn.ModuleList(LlamaBlock(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.empty(c["hidden_size"]))
        self.head = self.embedding.weight
        if not c["tie_word_embeddings"]:
            self.head = nn.Parameter(torch.empty(c["vocab_size"], c["hidden_size"]))
        half = c["head_dim"] // 2
        angles = torch.outer(
            torch.arange(c["max_position_embeddings"], dtype=torch.float64),
            c["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half),
        )
        self.register_buffer("cos", angles.cos().float())
        self.register_buffer("sin", angles.sin().float())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        h = F.rms_norm(x, (x.shape[-1],), self.norm, self.c["rms_norm_eps"])
        return F.cross_entropy(F.linear(h, self.head).view(-1, self.c["vocab_size"]), targets.reshape(-1))

    def named(self):
        """Our tensors by name: where each lies in these parameters."""
        c = self.c
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        f = c["intermediate_size"]
        yield "model.embed_tokens.weight", lambda: self.embedding.weight
        for i, block in enumerate(self.blocks):
            at = f"model.layers.{i}."
            parts = [("self_attn.q_proj", "qkv", 0, q), ("self_attn.k_proj", "qkv", q, q + kv)]
            parts += [("self_attn.v_proj", "qkv", q + kv, q + 2 * kv), ("mlp.gate_proj", "gate_up", 0, f), ("mlp.up_proj", "gate_up", f, 2 * f)]
            for name, of, start, end in parts:
                yield f"{at}{name}.weight", (lambda block=block, of=of, start=start, end=end: (getattr(block, of).weight, start, end))
            yield f"{at}self_attn.o_proj.weight", lambda block=block: block.o.weight
            yield f"{at}mlp.down_proj.weight", lambda block=block: block.down.weight
            yield f"{at}input_layernorm.weight", lambda block=block: block.norm1
            yield f"{at}post_attention_layernorm.weight", lambda block=block: block.norm2
        yield "model.norm.weight", lambda: self.norm
        if not c["tie_word_embeddings"]:
            yield "lm_head.weight", lambda: self.head


class Gpt2Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, inner = c["n_embd"], c["n_inner"]
        self.heads, self.epsilon = c["n_head"], c["layer_norm_epsilon"]
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=self.epsilon), nn.LayerNorm(width, eps=self.epsilon)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        b, t, width = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).view(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(out.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wte, self.wpe = nn.Embedding(c["vocab_size"], c["n_embd"]), nn.Embedding(c["n_positions"], c["n_embd"])
        self.blocks = nn.ModuleList(Gpt2Block(c) for _ in range(c["n_layer"]))
        self.ln_f = nn.LayerNorm(c["n_embd"], eps=c["layer_norm_epsilon"])

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, self.c["vocab_size"]), targets.reshape(-1))

    def named(self):
        yield "transformer.wte.weight", lambda: self.wte.weight
        yield "transformer.wpe.weight", lambda: self.wpe.weight
        for i, block in enumerate(self.blocks):
            at = f"transformer.h.{i}."
            layers = [("ln_1", block.ln_1), ("attn.c_attn", block.c_attn), ("attn.c_proj", block.c_proj)]
            layers += [("ln_2", block.ln_2), ("mlp.c_fc", block.c_fc), ("mlp.c_proj", block.down)]
            for name, layer in layers:
                yield f"{at}{name}.weight", lambda layer=layer: layer.weight
                yield f"{at}{name}.bias", lambda layer=layer: layer.bias
        yield "transformer.ln_f.weight", lambda: self.ln_f.weight
        yield "transformer.ln_f.bias", lambda: self.ln_f.bias


def entries(found, of=lambda parameter: parameter.data):
    """The part of a parameter that one of our tensors is."""
    if isinstance(found, tuple):
        parameter, start, end = found
        return of(parameter)[start:end]
    return of(found)


def main() -> None:
    at, threads, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(threads)
    case = json.loads((at / "case.json").read_text())
    config = case["config"]
    gpt2 = config["model_type"] == "gpt2"
    model = Gpt2(config) if gpt2 else Llama(config)
    # The matrices of GPT-2 have one row for each input there, and one for each output here.
    turned = lambda name, x: x.T if gpt2 and x.dim() == 2 and ".h." in name else x
    parameters = load_file(at / "parameters.safetensors")
    for name, found in model.named():
        entries(found()).copy_(turned(name, parameters[name]))
    del parameters
    batches = [torch.tensor(batch) for batch in case["batches"]]
    print(torch.__version__, flush=True)
    if how == "gradient":
        sys.stdin.readline()
        model.double()
        model(batches[0][:, :-1], batches[0][:, 1:]).backward()
        ours = load_file(at / "gradient.safetensors")
        worst = (0.0, 0.0, "")
        cosines = []
        for name, found in model.named():
            a, b = ours[name].double().flatten(), turned(name, entries(found(), lambda p: p.grad)).flatten()
            cosines.append(1 - (torch.dot(a, b) / (a.norm() * b.norm())).item())
            worst = max(worst, (((a - b).norm() / b.norm()).item(), cosines[-1], name))
        print(json.dumps({"oneMinusCos": max(cosines), "relL2": worst[0], "worst": worst[2]}), flush=True)
        return
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=case["learningRate"], betas=[float(b) for b in case["betas"]], eps=1e-8,
        weight_decay=float(case["weightDecay"]), fused=True,
    )
    step = torch.compile(model) if how == "compile" else model
    number = 0
    for line in sys.stdin:
        losses, start = [], time.perf_counter()
        for _ in range(int(line)):
            batch = batches[number]
            loss = step(batch[:, :-1], batch[:, 1:])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), float(case["clip"]))
            optimizer.step()
            losses.append(loss.item())
            number += 1
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"seconds": seconds, "losses": losses, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
