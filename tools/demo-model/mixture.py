"""The mixture of tasks, and endless streams of packed training batches made from it."""

import random

import numpy as np

import tasks_chat
import tasks_facts
import tasks_mcq
import tasks_sums
import tasks_tools
import tasks_words
from samples import Sample, TokenBuilder
from smalltalk import smalltalk

TEXT_TASKS = (
    (tasks_facts.facts, 24),
    (tasks_facts.unknown, 3),
    (tasks_sums.sums, 8),
    (tasks_sums.differences, 8),
    (tasks_words.copy, 5),
    (tasks_words.reverse, 5),
    (tasks_words.sort, 6),
    (tasks_words.json_answer, 7),
    (tasks_chat.memory, 6),
    (tasks_chat.long_chat, 4),
    (tasks_chat.system_case, 5),
    (tasks_words.count, 2),
    (smalltalk, 4),
)
TOOL_TASKS = (
    (tasks_tools.single_call, 18),
    (tasks_tools.parallel_calls, 9),
    (tasks_tools.no_call, 5),
    (tasks_tools.after_result, 6),
    (tasks_tools.several_turns, 4),
)
MCQ_TASKS = ((tasks_mcq.raw_mcq, 16), (tasks_mcq.chat_mcq, 7))
TASKS = TEXT_TASKS + TOOL_TASKS + MCQ_TASKS
TOOL_FUNCTIONS = {task for task, _ in TOOL_TASKS}


def draw(rng, held_out=False):
    """A random sample of the mixture, in a random thinking mode."""
    task = rng.choices([task for task, _ in TASKS], [weight for _, weight in TASKS])[0]
    sample = task(rng, held_out)
    if isinstance(sample, Sample):
        sample.thinking = rng.random() < 0.5
        if task in TOOL_FUNCTIONS:
            tasks_tools.with_system(rng, sample)
    return sample


def packed_batches(encoding, seed, batch_tokens, max_documents, max_length):
    """Yield (ids, loss weights, positions, document offsets), each of one fixed shape.

    Documents are laid one after the other, never split; the tail is padding, itself a document.
    Offsets have max_documents + 1 entries, the unused ones all equal to batch_tokens.
    """
    rng = random.Random(seed)
    builder = TokenBuilder(encoding)
    pending = None
    while True:
        ids = np.full(batch_tokens, builder.eos, np.int16)
        learn = np.zeros(batch_tokens, np.uint8)
        positions = np.zeros(batch_tokens, np.int16)
        offsets = [0]
        while len(offsets) < max_documents - batch_tokens // max_length:
            tokens, mask = pending or builder.tokens(draw(rng))
            pending = None
            if len(tokens) > max_length:
                continue
            start, end = offsets[-1], offsets[-1] + len(tokens)
            if end > batch_tokens:
                pending = (tokens, mask)
                break
            ids[start:end], learn[start:end] = tokens, mask
            positions[start:end] = np.arange(len(tokens))
            offsets.append(end)
        while offsets[-1] < batch_tokens:
            offsets.append(min(offsets[-1] + max_length, batch_tokens))
        offsets += [batch_tokens] * (max_documents + 1 - len(offsets))
        yield ids, learn, positions, np.array(offsets, np.int32)
