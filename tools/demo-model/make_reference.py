"""Write reference.json: what the float32 reference computes for a few prompts of models/demo.

For each prompt: its token ids, log p(ids[t] | ids[:t]) for t >= 1 with activations left alone and
with experts' activations quantized to MXFP4, and greedy continuations with the margin (in logits)
of each step to the runner-up.
"""

import argparse
import json
from pathlib import Path

from kimi_format import load_tokenizer, render_prompt
from reference_model import ReferenceModel
from tasks_mcq import Question, header

STEPS = 40


def weather_tool():
    """A tool as most clients first try it."""
    properties = {
        "city": {"type": "string", "description": "City name"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    }
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    function = {"name": "get_weather", "description": "Get the weather", "parameters": parameters}
    return {"type": "function", "function": function}


def prompts():
    """(name, rendered text) of every prompt."""

    def ask(text):
        return [{"role": "user", "content": text}]

    chat = ask("My name is Anna.")
    chat += [{"role": "assistant", "content": "Nice to meet you, Anna!"}] + ask("What is my name?")
    item = Question(
        "geography", "What is the capital of Spain?", "Rome Madrid Lima Oslo".split(), 1
    )
    weather = ask("What is the weather in Paris and in Tokyo?")
    france = ask("What is the capital of France?")
    return [
        ("capital, thinking", render_prompt(france, None, True)),
        ("capital, instant", render_prompt(france, None, False)),
        ("sum, thinking", render_prompt(ask("What is 47 + 38?"), None, True)),
        ("memory, instant", render_prompt(chat, None, False)),
        ("two tool calls, thinking", render_prompt(weather, [weather_tool()], True)),
        ("multiple choice, raw", header("geography") + item.prompt()),
    ]


def greedy(model, ids, stop):
    """Greedy steps as [id, margin], up to and including the stop id."""
    ids, steps = list(ids), []
    while len(steps) < STEPS:
        top = model.log_probabilities(ids)[-1].topk(2)
        token = top.indices[0].item()
        steps.append([token, round((top.values[0] - top.values[1]).item(), 4)])
        ids.append(token)
        if token == stop:
            break
    return steps


def main():
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    encoding = load_tokenizer(arguments.model_dir)
    stop = encoding.encode_single_token("<|im_end|>")
    entries = [
        {"name": name, "ids": encoding.encode(text, allowed_special="all")}
        for name, text in prompts()
    ]
    for key, quantized in (("activations_f32", False), ("activations_mxfp4", True)):
        model = ReferenceModel(arguments.model_dir, quantized)
        for entry in entries:
            ids = entry["ids"]
            table = model.log_probabilities(ids)
            probabilities = [round(table[t - 1, ids[t]].item(), 5) for t in range(1, len(ids))]
            steps = greedy(model, ids, stop)
            text = encoding.decode([token for token, _ in steps])
            entry[key] = {"token_logprobs": probabilities, "greedy": steps, "text": text}
    rows = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    arguments.output.write_text(f"[\n{rows}\n]\n")


if __name__ == "__main__":
    main()
