"""Train the demo model for a given time; write its weights as BF16 checkpoint shards."""

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import words
from kimi_format import load_tokenizer
from mixture import packed_batches
from model import Config, DemoModel
from muon import Muon

MAX_LENGTH = 1024
WARM_UP_STEPS = 3  # steps before the clock starts: compilation happens there
BIAS_RATE = 2e-3


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--seconds", type=float, default=480, help="time for training steps")
    parser.add_argument("--resume", type=Path, help="folder with checkpoint shards to start from")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--batch-tokens", type=int, default=32768)
    parser.add_argument("--matrix-rate", type=float, default=0.02)
    parser.add_argument("--other-rate", type=float, default=3e-3)
    parser.add_argument(
        "--hold", type=float, default=0.3, help="share of the time at the full rate"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def produce(queue, tokenizer_dir, seed, batch_tokens):
    """Worker: put packed batches with their learnt positions into the queue."""
    learnt = batch_tokens * 2 // 5
    encoding = load_tokenizer(tokenizer_dir)
    words.use_pieces(encoding.token_byte_values())
    for ids, learn, positions, documents in packed_batches(
        encoding, seed, batch_tokens, batch_tokens // 64, MAX_LENGTH
    ):
        targets = np.flatnonzero(learn)[:learnt]
        weights = np.zeros(learnt, np.float32)
        weights[: len(targets)] = learn[targets]
        targets = np.pad(targets, (0, learnt - len(targets)), constant_values=1).astype(np.int32)
        queue.put((ids, positions, documents, targets - 1, ids[targets], weights))


def start_workers(arguments):
    """Start the data workers and return their queue."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(maxsize=64)
    for worker in range(arguments.workers):
        seed = arguments.seed * 1000 + worker
        args = (queue, arguments.tokenizer_dir, seed, arguments.batch_tokens)
        context.Process(target=produce, args=args, daemon=True).start()
    return queue


def next_batch(queue, device):
    """The next batch on the device."""
    ids, positions, documents, sources, targets, weights = (
        torch.from_numpy(a) for a in queue.get()
    )
    if device == "cuda":
        moved = [
            t.pin_memory().to(device, non_blocking=True)
            for t in (ids, positions, documents, sources, targets, weights)
        ]
        ids, positions, documents, sources, targets, weights = moved
    return ids.long(), positions.long(), documents, sources.long(), targets.long(), weights


def schedule(progress, step, hold):
    """Warm-up over 100 steps, constant up to `hold`, then linearly to zero."""
    decay = 1.0 if progress < hold else max(0.0, (1 - progress) / (1 - hold))
    return min(1.0, (step + 1) / 100) * decay


def balance(model, loads, factor):
    """Move each router's bias against the experts' load (the noaux_tc rule)."""
    moes = [layer.mlp for layer in model.layers if not layer.dense]
    for moe, load in zip(moes, loads):
        moe.bias += BIAS_RATE * factor * torch.sign(load.mean() - load)


def split_parameters(model):
    """Hidden matrices for Muon; embedding, head, norms and routers for AdamW."""
    special = {"embed_tokens", "lm_head"}
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        hidden = parameter.dim() >= 2 and name not in special and not name.endswith("router")
        (matrices if hidden else others).append(parameter)
    return matrices, others


def load_checkpoint(model, folder):
    """Load checkpoint shards into the model."""
    state = {}
    for path in sorted(folder.glob("checkpoint-*.safetensors")):
        state.update(load_file(path))
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})


def save_checkpoint(model, folder, limit=14 * 2**20):
    """Save BF16 weights and F32 biases in shards below `limit` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, size = [{}], 0
    for name, tensor in model.state_dict().items():
        tensor = tensor.cpu() if name.endswith("mlp.bias") else tensor.bfloat16().cpu()
        if size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    for index, shard in enumerate(shards):
        save_file(shard, folder / f"checkpoint-{index}.safetensors")


def train(model, queue, device, arguments):
    """The training loop, by the clock."""
    matrices, others = split_parameters(model)
    muon = Muon(matrices, arguments.matrix_rate)
    adam = torch.optim.AdamW(
        others,
        lr=arguments.other_rate,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        fused=device == "cuda",
    )
    compiled = torch.compile(model, dynamic=False) if device == "cuda" else model
    start, step, shown = None, 0, 0.0
    while True:
        batch = next_batch(queue, device)
        loss, loads = compiled(*batch)
        loss.backward()
        if step == WARM_UP_STEPS:
            start = time.time()
        progress = (time.time() - start) / arguments.seconds if start else 0.0
        factor = schedule(progress, step, arguments.hold)
        adam.param_groups[0]["lr"] = arguments.other_rate * factor
        adam.step()
        muon.step(factor)
        model.zero_grad(set_to_none=True)
        with torch.no_grad():
            balance(model, loads, factor)
        step += 1
        if step < 4 or time.time() - shown > 5:
            shown = time.time()
            spread = (loads.max(-1).values / loads.mean(-1)).max().item()
            rate = (
                (step - WARM_UP_STEPS) * arguments.batch_tokens / (time.time() - start)
                if start
                else 0
            )
            print(
                f"step {step} {progress:.3f} loss {loss.item():.4f} load max/mean {spread:.2f} "
                f"{rate / 1e3:.0f}k tokens/s queue {queue.qsize()}",
                flush=True,
            )
        if progress >= 1:
            return step


def main():
    """Train and save."""
    arguments = parse_arguments()
    queue = start_workers(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.recompile_limit = 32
    model = DemoModel(Config(), MAX_LENGTH)
    if arguments.resume:
        load_checkpoint(model, arguments.resume)
    model.to(device)
    print(sum(p.numel() for p in model.parameters()), "parameters on", device, flush=True)
    began = time.time()
    steps = train(model, queue, device, arguments)
    save_checkpoint(model, arguments.output_dir)
    print(
        f"{steps} steps, {steps * arguments.batch_tokens / 1e6:.0f} M tokens "
        f"in {time.time() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
