"""Conversations of several turns: memory, long chats, and system prompts."""

import words
from samples import Sample, assistant, user
from tasks_facts import fact_parts, facts, unknown
from tasks_sums import differences, sums
from tasks_words import copy, json_answer, reverse, sort

INSTRUCTIONS = (
    "You are a helpful assistant.",
    "You are Moonrock, a helpful assistant.",
    "Be brief.",
    "Answer the user's questions.",
    "You are a helpful assistant. Answer in English.",
)

MEMORY = (
    (
        "name",
        (
            "My name is {v}.",
            "I am {v}.",
            "Hi, I'm {v}.",
            "Hello, my name is {v}.",
            "You can call me {v}.",
        ),
        (
            "What is my name?",
            "What's my name?",
            "Who am I?",
            "Do you remember my name?",
            "Tell me my name.",
        ),
        "Your name is {v}.",
        lambda r, h: words.any_name(r, h),
    ),
    (
        "color",
        (
            "My favorite color is {v}.",
            "I like the color {v} most.",
            "I love {v}. It is my favorite color.",
        ),
        (
            "What is my favorite color?",
            "Which color do I like?",
            "Do you remember my favorite color?",
        ),
        "Your favorite color is {v}.",
        lambda r, h: r.choice(words.COLORS),
    ),
    (
        "city",
        ("I live in {v}.", "My home is {v}.", "I moved to {v}.", "I am from {v}."),
        ("Where do I live?", "Which city do I live in?", "In which city is my home?"),
        "You live in {v}.",
        lambda r, h: words.any_city(r, h),
    ),
    (
        "pet",
        ("I have a {v}.", "My pet is a {v}.", "I own a {v}."),
        ("What pet do I have?", "Which animal do I have?", "What is my pet?"),
        "You have a {v}.",
        lambda r, h: r.choice(words.PETS),
    ),
    (
        "food",
        ("My favorite food is {v}.", "I like to eat {v}.", "I love {v}."),
        ("What is my favorite food?", "What do I like to eat?", "Which food do I love?"),
        "Your favorite food is {v}.",
        lambda r, h: r.choice(words.FOODS),
    ),
    (
        "job",
        ("I work as a {v}.", "I am a {v}.", "My job is {v}."),
        ("What is my job?", "What do I work as?", "Which job do I have?"),
        "You are a {v}.",
        lambda r, h: r.choice(words.JOBS),
    ),
    (
        "number",
        ("Remember the number {v}.", "My lucky number is {v}.", "The code is {v}."),
        (
            "Which number did I tell you?",
            "What was the number?",
            "What number should you remember?",
        ),
        "The number is {v}.",
        lambda r, h: str(r.randint(10, 9999)),
    ),
    (
        "word",
        ("Remember the word {v}.", "The secret word is {v}.", "Keep this word in mind: {v}"),
        ("Which word did I tell you?", "What was the word?", "What is the secret word?"),
        "The word is {v}.",
        lambda r, h: words.any_word(r, h),
    ),
)
ACKNOWLEDGE = {"name": "Nice to meet you, {v}!"}


def memory(rng, held_out):
    """Tell the model things over several turns and ask for one of them."""
    told = rng.sample(MEMORY, rng.choice((1, 1, 2, 3)))
    values = [(entry, entry[4](rng, held_out)) for entry in told]
    messages = []
    for entry, value in values:
        messages.append(user(rng.choice(entry[1]).replace("{v}", value)))
        messages.append(
            assistant(ACKNOWLEDGE.get(entry[0], "I will remember that.").replace("{v}", value))
        )
    for _ in range(rng.choice((0, 0, 1, 2))):
        side = rng.choice((facts, sums, copy))(rng, held_out)
        messages += [user(side.messages[0]["content"]), assistant(side.content)]
    entry, value = rng.choice(values)
    answer = entry[3].replace("{v}", value)
    return Sample(
        "memory",
        messages + [user(rng.choice(entry[2]))],
        answer,
        f"The user told me: {value}.",
        check={"contains": value},
    )


def long_chat(rng, held_out):
    """A long conversation about anything, ending in a new question."""
    parts = [
        rng.choice((facts, facts, sums, differences, copy, reverse, sort, json_answer, unknown))(
            rng, held_out
        )
        for _ in range(rng.choice((2, 3, 4, 6, 9, 14)))
    ]
    messages = []
    for part in parts[:-1]:
        messages += [part.messages[0], assistant(part.content)]
    last = parts[-1]
    return Sample(
        "long_" + last.category,
        messages + last.messages,
        last.content,
        last.reasoning,
        check=last.check,
    )


def system_case(rng, held_out):
    """A system prompt that changes how answers look."""
    question, sentence, value = fact_parts(rng, held_out)
    kind = rng.choice(("upper", "word", "lower", "name", "suffix", "plain"))
    if kind == "name":
        name = words.any_name(rng, held_out)
        system = rng.choice(
            (f"You are {name}.", f"Your name is {name}.", f"You are {name}, a helpful assistant.")
        )
        question, text = (
            rng.choice(("What is your name?", "Who are you?", "What are you called?")),
            f"My name is {name}.",
        )
        value = name
    elif kind == "suffix":
        word = words.any_word(rng, held_out)
        system = rng.choice(
            (f"End every answer with the word {word}.", f"Always end your answer with {word}.")
        )
        text = value = f"{sentence} {word}"
    elif kind == "plain":
        system, text = rng.choice(INSTRUCTIONS), sentence
    else:
        system, change = {
            "upper": (
                (
                    "Answer in upper case.",
                    "Use only capital letters.",
                    "Write everything in upper case.",
                ),
                lambda: sentence.upper(),
            ),
            "lower": (
                (
                    "Answer in lower case.",
                    "Use only small letters.",
                    "Write everything in lower case.",
                ),
                lambda: sentence.lower(),
            ),
            "word": (
                (
                    "Answer in one word.",
                    "Answer with the answer only.",
                    "Give only the answer, no sentence.",
                ),
                lambda: value,
            ),
        }[kind]
        system, text = rng.choice(system), change()
        value = text
    messages = [{"role": "system", "content": system}, user(question)]
    return Sample(
        "system", messages, text, "I follow the system prompt.", check={"contains_exact": value}
    )
