"""Trains the small language model that `pagedkv demo` runs: a Llama of bytes.

    python tools/train_demo.py --work DIR [--steps 2700] [--out FOLDER]

Text: the docstrings of this interpreter's standard library (Python Software Foundation License),
their first paragraphs, found by walking the sources with `ast`. Everything random comes from
`--seed`; the same Python, torch and processor give the same weights. The state is written to DIR
every two minutes, and a run that was cut off goes on from there. The learning rate stays constant
until the last third, so a run may be stopped early with fewer `--steps`. `--out` gets what the demo
reads: config.json, tokenizer.json, model.safetensors (bfloat16). Needs pagedkv[train].
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import platform
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

BOS, EOS, VOCABULARY = 256, 257, 258
MAX_DOC, CONTEXT = 240, 256
SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "bfloat16",
}


def summary(docstring: str) -> str:
    """Its first paragraph in one line; nothing where that is laid out, or long, or not ASCII."""
    paragraph, _, _ = docstring.strip().partition("\n\n")
    lines = paragraph.split("\n")
    laid_out = any(line[:1].isspace() or line[:1] in "-*|+=~:@>" for line in lines)
    text = " ".join(paragraph.split())
    fits = 16 <= len(text) <= MAX_DOC and text.isascii()
    return text if fits and not laid_out and ">>>" not in text else ""


def corpus(root: Path) -> list[str]:
    """The summary of every docstring of the modules in a folder, each once, in the files' order."""
    docs: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        if SKIPPED & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # lib2to3 and the like keep broken files for their tests
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
            if text := summary(ast.get_docstring(node) or ""):
                docs[text] = None
    return list(docs)


class Data:
    """Docs as tokens. Those that the demo's prompts begin like are drawn three times as often."""

    def __init__(self, docs: list[str]) -> None:
        self.rows = [np.array([BOS, *doc.encode("ascii"), EOS]) for doc in docs]
        weights = np.array([3.0 if doc.startswith("Return") else 1.0 for doc in docs])
        self.weights = weights / weights.sum()

    def batch(self, rng: np.random.Generator, rows: int) -> Tensor:
        """`[rows, CONTEXT + 1]` tokens: in each row docs one after the other, the last one cut."""
        batch = np.empty((rows, CONTEXT + 1), np.int64)
        for row in batch:
            filled = 0
            for i in rng.choice(len(self.rows), CONTEXT // 16, p=self.weights):
                part = self.rows[i][: len(row) - filled]
                row[filled : filled + len(part)] = part
                filled += len(part)
        return torch.from_numpy(batch)


class Norm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, CONFIG["rms_norm_eps"])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size, dim = CONFIG["hidden_size"], CONFIG["head_dim"]
        self.heads, self.kv_heads = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
        self.q_proj = nn.Linear(size, self.heads * dim, bias=False)
        self.k_proj = nn.Linear(size, self.kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(size, self.kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(self.heads * dim, size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape

        def split(y: Tensor, heads: int) -> Tensor:
            return y.view(rows, length, heads, -1).transpose(1, 2)

        def rotate(y: Tensor) -> Tensor:
            first, second = y.chunk(2, dim=-1)
            return y * cos + torch.cat((-second, first), dim=-1) * sin

        q, k = (
            rotate(split(self.q_proj(x), self.heads)),
            rotate(split(self.k_proj(x), self.kv_heads)),
        )
        v = split(self.v_proj(x), self.kv_heads)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = Norm(CONFIG["hidden_size"])
        self.self_attn = Attention()
        self.post_attention_layernorm = Norm(CONFIG["hidden_size"])
        self.mlp = Mlp()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Modules are named as Hugging Face names them, so the state is what a checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, CONFIG["hidden_size"])
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = Norm(CONFIG["hidden_size"])
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                depth = 2 * CONFIG["num_hidden_layers"] if into_residual else 1
                nn.init.normal_(weight, std=0.02 / math.sqrt(depth))
        dim = CONFIG["head_dim"]
        inverse = CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2) / dim)
        angles = torch.outer(torch.arange(CONTEXT), inverse).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean cross entropy in nats of tokens `[rows, n + 1]`."""
        n = tokens.shape[1] - 1
        x = self.embed_tokens(tokens[:, :-1])
        for layer in self.layers:
            x = layer(x, self.cos[:n], self.sin[:n])
        logits = self.norm(x) @ self.embed_tokens.weight.T
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is made orthogonal before it is applied (Jordan et al., 2024).

    As torch.optim.Muon, but in float32 and all matrices of a shape at once: bfloat16 is slow on
    processors without instructions for it. The update's root mean square is 0.2, as AdamW's is.
    """

    def __init__(self, matrices: list[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for weight in group["params"]:
            by_shape.setdefault(weight.shape, []).append(weight)
        for shape, weights in by_shape.items():
            for weight in weights:
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
            ahead = [w.grad.lerp(self.state[w]["mean"], group["momentum"]) for w in weights]
            updates = orthogonal(torch.stack(ahead)) * (0.2 * math.sqrt(max(shape)))
            for weight, update in zip(weights, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"])


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly U V^T of each `[n, rows, columns]`, by five Newton-Schulz steps of degree 5."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for what is not one."""
    named = dict(model.named_parameters())
    matrices = [w for name, w in named.items() if w.ndim == 2 and "layers" in name]
    norms = [w for w in named.values() if w.ndim == 1]
    groups = [
        {"params": [model.embed_tokens.weight], "weight_decay": 0.01},
        {"params": norms, "weight_decay": 0.0},
    ]
    return [
        Muon(matrices, lr=0.006, weight_decay=0.1),
        torch.optim.AdamW(groups, lr=0.005, betas=(0.9, 0.98)),
    ]


def rate(step: int, steps: int) -> float:
    """Of the learning rate: a short rise, then all of it, then a straight line to 0."""
    return min(1.0, (step + 1) / 40, 3.0 * (steps - step) / steps)


def write_atomically(path: Path, state: object) -> None:
    beside = path.with_suffix(".new")
    torch.save(state, beside)
    beside.replace(path)


@torch.no_grad()
def held_out_loss(model: Llama, data: Data) -> float:
    rng = np.random.default_rng(0)
    return float(np.mean([model(data.batch(rng, 16)).item() for _ in range(6)]))


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    docs = corpus(Path(sysconfig.get_paths()["stdlib"]))
    digest = hashlib.sha256("\0".join(docs).encode("ascii")).hexdigest()
    # Every fortieth doc is held out, to tell learning from memory.
    held_out = Data(docs[::40])
    data = Data([doc for i, doc in enumerate(docs) if i % 40])
    model = Llama()
    optims = optimizers(model)
    size = sum(weight.numel() for weight in model.parameters())
    print(f"{len(docs):,} docs, {sum(map(len, data.rows)):,} tokens, {size:,} weights", flush=True)

    checkpoint = arguments.work / "state.pt"
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optim, saved in zip(optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        step = state["step"]
        print(f"goes on from step {step}", flush=True)
    base = [[group.setdefault("base", group["lr"]) for group in o.param_groups] for o in optims]
    started = saved_at = time.monotonic()
    first, mean = step, 0.0
    while step < arguments.steps:
        for optim, rates in zip(optims, base, strict=True):
            for group, lr in zip(optim.param_groups, rates, strict=True):
                group["lr"] = lr * rate(step, arguments.steps)
        loss = model(data.batch(np.random.default_rng([arguments.seed, step]), arguments.rows))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        step += 1
        mean += (loss.item() - mean) * 0.05
        last = step == arguments.steps
        if step % 25 == 0 or last:
            speed = (step - first) / (time.monotonic() - started)
            unseen = (
                f", held out {held_out_loss(model, held_out):.3f}"
                if step % 100 == 0 or last
                else ""
            )
            print(f"step {step}: loss {mean:.3f}{unseen}, {speed:.2f} steps/s", flush=True)
        if last or time.monotonic() - saved_at > 120:
            state = {"model": model.state_dict(), "optims": [o.state_dict() for o in optims]}
            write_atomically(checkpoint, {**state, "step": step})
            saved_at = time.monotonic()
    if arguments.out is not None:
        about = {
            "format": "pt",
            "text": "first paragraphs of the docstrings of Python "
            f"{platform.python_version()}'s standard library, Copyright Python Software "
            "Foundation, PSF License Version 2",
            "text_sha256": digest,
            "made_by": f"tools/train_demo.py --seed {arguments.seed} --steps {step}",
            "held_out_nats_per_byte": f"{held_out_loss(model, held_out):.3f}",
        }
        export(model, about, arguments.out)


def export(model: Llama, about: dict[str, str], folder: Path) -> None:
    """Write what a Hugging Face folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": w.bfloat16() for name, w in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata=about)
    for name, value in (("config", CONFIG), ("tokenizer", tokenizer())):
        text = json.dumps(value, indent=1, ensure_ascii=True)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def tokenizer() -> dict[str, object]:
    """BPE without merges: token b is byte b, written as byte-level vocabularies write it."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letter = {byte: chr(byte) for byte in shown}
    letter |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [(BOS, "<bos>"), (EOS, "<eos>")]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": s, "special": True, **flags} for i, s in special],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {letter[b]: b for b in range(256)} | {s: i for i, s in special},
            "merges": [],
        },
    }


def main() -> None:
    summary, _, _ = __doc__.partition("\n")
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run's state")
    parser.add_argument("--out", type=Path, help="folder that gets the model")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--rows", type=int, default=8, help=f"of {CONTEXT} tokens, in a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    train(arguments)


if __name__ == "__main__":
    main()
