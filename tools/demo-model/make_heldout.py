"""Write the held-out sets: chat prompts by category, and multiple-choice questions."""

import argparse
import json
import random
from pathlib import Path

import tasks_chat
import tasks_facts
import tasks_mcq
import tasks_sums
import tasks_tools
import tasks_words
from relations import RELATIONS
from wording import FRAMES, NOUN_PHRASES

SETS = {
    "facts": (tasks_facts.facts, 400),
    "unknown": (tasks_facts.unknown, 100),
    "sums": (tasks_sums.sums, 300),
    "differences": (tasks_sums.differences, 200),
    "copy": (tasks_words.copy, 150),
    "reverse": (tasks_words.reverse, 150),
    "sort": (tasks_words.sort, 150),
    "json": (tasks_words.json_answer, 200),
    "memory": (tasks_chat.memory, 200),
    "system": (tasks_chat.system_case, 150),
    "tool_call": (tasks_tools.single_call, 400),
    "tool_parallel": (tasks_tools.parallel_calls, 200),
    "tool_none": (tasks_tools.no_call, 100),
    "tool_result": (tasks_tools.after_result, 150),
    "tool_turns": (tasks_tools.several_turns, 100),
}
MCQ_QUESTIONS = 2400
SHOTS = 5


def prompt_row(rng, category, task, thinking):
    """One held-out prompt with its check."""
    sample = task(rng, True)
    row = {"category": category, "thinking": thinking, "messages": sample.messages}
    if sample.tools:
        row["tools"] = sample.tools
    return {**row, "check": sample.check}


def question_row(question):
    """One multiple-choice question."""
    return {
        "subject": question.subject,
        "question": question.text,
        "choices": question.choices,
        "answer": question.answer,
    }


def write(path, rows):
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def distinct(rows):
    """Rows without repetitions, in order."""
    seen = {}
    for row in rows:
        seen.setdefault(json.dumps(row, sort_keys=True), row)
    return list(seen.values())


def check_wordings():
    """Fail if a held-out wording of a fact could also be asked in training."""
    for relation in RELATIONS:
        framed = {f.replace("{n}", n) for f in FRAMES for n in NOUN_PHRASES[relation.name]}
        shared = set(relation.test) & (framed | set(relation.train))
        if shared:
            raise ValueError(f"relation {relation.name}: in training and held out: {shared}")


def main():
    """Write heldout/*.jsonl."""
    check_wordings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "heldout")
    folder = parser.parse_args().folder
    folder.mkdir(exist_ok=True)
    for category, (task, count) in SETS.items():
        rng = random.Random(f"held-out {category}")
        write(
            folder / f"{category}.jsonl",
            [prompt_row(rng, category, task, i % 2 == 0) for i in range(count)],
        )
    rng = random.Random("held-out mcq")
    rows = distinct(question_row(tasks_mcq.question(rng, True)) for _ in range(2 * MCQ_QUESTIONS))[
        :MCQ_QUESTIONS
    ]
    write(folder / "mcq.jsonl", rows)
    shots = []
    for subject in sorted({row["subject"] for row in rows}):
        items = (
            question_row(tasks_mcq.same_subject(rng, False, subject)) for _ in range(20 * SHOTS)
        )
        shots += distinct(items)[:SHOTS]
    write(folder / "mcq_shots.jsonl", shots)


if __name__ == "__main__":
    main()
