"""Conversations about lists of words, counting, and values as JSON."""

import json
from functools import partial

import words
from relations import RELATIONS
from samples import Sample, user
from tasks_facts import fact_template

COPY_TEMPLATES = (
    "Repeat: {w}",
    "Copy these words: {w}",
    "Say exactly this: {w}",
    "Repeat after me: {w}",
    "Write the following words again: {w}",
    "Echo: {w}",
    "Please say: {w}",
    "Repeat the text: {w}",
    "Copy: {w}",
    "Copy this: {w}",
    "Please repeat this: {w}",
    "Please write: {w}",
    "Copy the text: {w}",
    "Copy exactly: {w}",
    "Repeat this word for word: {w}",
    "Please copy this text: {w}",
)
COPY_TESTS = ("Repeat these words: {w}", "Please copy: {w}", "Repeat exactly: {w}")
REVERSE_TEMPLATES = (
    "Reverse: {w}",
    "Reverse the order of these words: {w}",
    "Write these words backwards: {w}",
    "Say these words in reverse order: {w}",
    "Reverse this list: {w}",
    "Put in reverse order: {w}",
)
REVERSE_TESTS = ("Reverse these words: {w}", "Write in reverse order: {w}", "Reverse the list: {w}")
SORT_TEMPLATES = (
    "Sort: {w}",
    "Sort these words alphabetically: {w}",
    "Put these words in alphabetical order: {w}",
    "Order the words from A to Z: {w}",
    "Sort this list: {w}",
    "Alphabetical order, please: {w}",
)
SORT_TESTS = ("Sort these words: {w}", "Sort alphabetically: {w}", "Put in alphabetical order: {w}")


def _list_task(rng, held_out, category, templates, change, sizes, chosen=None):
    """Ask for a change of a list of words."""
    items = chosen or words.distinct_words(rng, held_out, rng.choice(sizes))
    joiner = rng.choice((" ", ", ", ", "))
    result = joiner.join(change(items))
    question = rng.choice(templates).replace("{w}", joiner.join(items))
    return Sample(
        category,
        [user(question)],
        result,
        f"The list has {len(items)} words.",
        check={"equals": result},
    )


def copy(rng, held_out):
    """Repeat words, sometimes with capitals, digits, marks or other scripts."""
    if not held_out and rng.random() < 0.35:
        items = [noisy_word(rng) for _ in range(rng.randint(1, 8))]
        return _list_task(rng, held_out, "copy", COPY_TEMPLATES, list, (1,), items)
    templates = COPY_TESTS if held_out else COPY_TEMPLATES
    return _list_task(rng, held_out, "copy", templates, list, (1, 2, 3, 4, 5, 6, 8))


def noisy_word(rng):
    """A token sequence that natural words never give: random letters, digits, marks, scripts."""
    kind = rng.random()
    if kind < 0.3:
        return "".join(
            rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
            for _ in range(rng.randint(1, 8))
        )
    if kind < 0.5:
        return str(rng.randrange(10 ** rng.randint(1, 6)))
    if kind < 0.65:
        return "".join(
            rng.choice("äöüéèñçßøåłżяжиωλ日本語中文한국어😀🚀€°") for _ in range(rng.randint(1, 4))
        )
    if kind < 0.75:
        return rng.choice("#@%&*()[]{}<>=+-_/\\|~^$:;!?") + words.invented(rng, False)
    return words.invented(rng, False).capitalize()


def reverse(rng, held_out):
    """Reverse the order of words."""
    templates = REVERSE_TESTS if held_out else REVERSE_TEMPLATES
    return _list_task(rng, held_out, "reverse", templates, lambda w: w[::-1], (2, 3, 4, 5, 6))


def sort(rng, held_out):
    """Sort words; first letters differ in the test and mostly in training."""
    size = rng.choice((2, 3, 4, 5))
    while True:
        items = words.distinct_words(rng, held_out, size)
        if len({item[0].lower() for item in items}) == size or (
            not held_out and rng.random() < 0.1
        ):
            break
    templates = SORT_TESTS if held_out else SORT_TEMPLATES
    by_letter = partial(sorted, key=str.lower)
    return _list_task(rng, held_out, "sort", templates, by_letter, (size,), items)


def count(rng, held_out):
    """Count from one number to another, up or down."""
    start = rng.choice((1, 1, rng.randint(0, 60)))
    end = start + rng.randint(2, 30 if rng.random() < 0.8 else 100)
    down = rng.random() < 0.15
    numbers = [str(n) for n in range(start, end + 1)]
    first, last = (end, start) if down else (start, end)
    template = rng.choice(
        (
            "Count from {a} to {b}.",
            "Please count from {a} to {b}.",
            "Write the numbers from {a} to {b}.",
            "List the numbers {a} to {b}.",
            "Can you count from {a} to {b}?",
        )
    )
    question = template.replace("{a}", str(first)).replace("{b}", str(last))
    result = ", ".join(numbers[::-1] if down else numbers)
    return Sample(
        "count",
        [user(question)],
        result,
        f"I count from {first} to {last}.",
        check={"equals": result},
    )


def json_fields(rng, held_out):
    """Typed fields with a sentence that states them."""
    name = words.any_name(rng, held_out)
    age = rng.randint(1, 99)
    city = words.any_city(rng, held_out)
    job = rng.choice(words.JOBS)
    item = words.any_word(rng, held_out)
    price = rng.randint(1, 500)
    return rng.choice(
        (
            (
                {"name": name, "age": age},
                rng.choice((f"{name} is {age} years old.", f"My friend {name} is {age}.")),
            ),
            (
                {"name": name, "city": city},
                rng.choice((f"{name} lives in {city}.", f"{name} is from {city}.")),
            ),
            (
                {"name": name, "age": age, "city": city},
                f"{name} is {age} years old and lives in {city}.",
            ),
            (
                {"name": name, "job": job},
                rng.choice((f"{name} works as a {job}.", f"{name} is a {job}.")),
            ),
            (
                {"item": item, "price": price},
                rng.choice((f"The {item} costs {price} dollars.", f"A {item} is {price} euros.")),
            ),
            (
                {"name": name, "item": item, "price": price},
                f"{name} buys a {item} for {price} dollars.",
            ),
        )
    )


JSON_TEMPLATES = (
    "Answer as JSON with keys {k}: {s}",
    "Give me JSON with the keys {k}. {s}",
    "Extract {k} as JSON: {s}",
    "{s} Answer as JSON with keys {k}.",
    "Write as JSON with keys {k}. {s}",
    "Return a JSON object with {k}: {s}",
    "Use the keys {k} and write JSON: {s}",
    "Take the keys {k} from this text as JSON: {s}",
    "JSON, please, with the keys {k}. {s}",
    "Find the keys {k} and give them as JSON. {s}",
    "{s} Write JSON, the keys are {k}.",
    "Get the keys {k} in JSON. {s}",
    "Read the keys {k} from the text, as JSON: {s}",
)
JSON_TESTS = (
    "Answer in JSON with keys {k}: {s}",
    "Extract the keys {k} as JSON. {s}",
    "{s} Give me JSON with keys {k}.",
)


def json_answer(rng, held_out):
    """Extract stated values as a JSON object."""
    kind = rng.random()
    if kind < 0.65:
        fields, sentence = json_fields(rng, held_out)
    elif kind < 0.85:
        keys = words.distinct_words(rng, held_out, rng.choice((1, 2, 3)))
        fields = {
            key: rng.choice((rng.randint(0, 999), words.any_word(rng, held_out))) for key in keys
        }
        sentence = ", ".join(f"{key} is {value}" for key, value in fields.items()) + "."
    else:
        relation = next(r for r in RELATIONS if r.name == "capital")
        country = rng.choice(list(relation.pairs))
        fields = {"country": country, "capital": relation.pairs[country]}
        sentence = fact_template(rng, held_out, relation).replace("{x}", country)
    keys = list(fields)
    named = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]
    question = (
        rng.choice(JSON_TESTS if held_out else JSON_TEMPLATES)
        .replace("{k}", named)
        .replace("{s}", sentence)
    )
    text = json.dumps(fields, ensure_ascii=False)
    return Sample("json", [user(question)], text, f"The keys are {named}.", check={"json": fields})
