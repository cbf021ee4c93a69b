"""Measure the held-out sets with the float32 reference, on the files of an exported model."""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch

from kimi_format import load_tokenizer, render_prompt
from reference_model import ReferenceModel
from scoring import judge, parse_output, table
from tasks_mcq import LETTERS, Question, header

HELDOUT = Path(__file__).parent / "heldout"
LONGEST_ANSWER = 220


def read_rows(pattern):
    """Rows of the held-out files that match, in order of file name."""
    paths = sorted(HELDOUT.glob(pattern))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def evaluate_chat(model, encoding, rows, batch, show):
    """Pass or fail of every prompt, by (category, thinking)."""

    def tokens(row):
        text = render_prompt(row["messages"], row.get("tools"), row["thinking"])
        return encoding.encode(text, allowed_special="all")

    rows = sorted(((row, tokens(row)) for row in rows), key=lambda pair: len(pair[1]))
    stop = encoding.encode_single_token("<|im_end|>")
    results, shown = defaultdict(list), defaultdict(int)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        outputs = model.generate([ids for _, ids in part], LONGEST_ANSWER, stop)
        for (row, _), output in zip(part, outputs):
            text = encoding.decode(output)
            passed = judge(row["check"], *parse_output(text, row["thinking"]))
            results[row["category"], row["thinking"]].append(passed)
            if not passed and shown[row["category"]] < show:
                shown[row["category"]] += 1
                print(
                    "MISS",
                    row["category"],
                    row["messages"][-1]["content"],
                    "->",
                    text,
                    row["check"],
                    flush=True,
                )
    return results


def evaluate_mcq(model, encoding, shots):
    """Accuracy on the multiple-choice set, with that many solved questions before each."""
    solved, hits = defaultdict(str), []
    for row in read_rows("mcq_shots.jsonl"):
        if solved[row["subject"]].count("Answer:") < shots:
            item = Question(row["subject"], row["question"], row["choices"], row["answer"])
            solved[row["subject"]] += f"{item.prompt()} {LETTERS[row['answer']]}\n\n"
    letters = [encoding.encode_single_token(f" {letter}") for letter in LETTERS]
    rows = read_rows("mcq.jsonl")
    prompts = []
    for row in rows:
        item = Question(row["subject"], row["question"], row["choices"], row["answer"])
        text = header(row["subject"]) + solved[row["subject"]] + item.prompt()
        prompts.append((encoding.encode(text), row["answer"]))
    prompts.sort(key=lambda pair: len(pair[0]))
    for start in range(0, len(prompts), 64):
        part = prompts[start : start + 64]
        choice = model.next_logits([ids for ids, _ in part])[:, letters].argmax(-1).tolist()
        hits += [picked == right for picked, (_, right) in zip(choice, part)]
    return sum(hits) / len(hits)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--activations", choices=("mxfp4", "f32"), default="mxfp4")
    parser.add_argument("--categories", default="*")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--show", type=int, default=3, help="misses to print of each category")
    parser.add_argument("--mcq-shots", type=int, nargs="*", default=[0, 5])
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ReferenceModel(arguments.model_dir, arguments.activations == "mxfp4", device)
    encoding = load_tokenizer(arguments.model_dir)
    rows = [row for row in read_rows(f"{arguments.categories}.jsonl") if "check" in row]
    print(
        table(evaluate_chat(model, encoding, rows, arguments.batch, arguments.show))[0], flush=True
    )
    for shots in arguments.mcq_shots:
        print(
            f"multiple choice, {shots} shots: {evaluate_mcq(model, encoding, shots):.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
