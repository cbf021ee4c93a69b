"""Multiple-choice questions: MMLU's raw 0- to 5-shot prompts, and the same questions in a chat."""

from dataclasses import dataclass

import words
from relations import RELATIONS
from samples import RawText, Sample, user
from tasks_facts import capitalized, fact_parts
from tasks_sums import number_pair

LETTERS = "ABCD"
ANSWER_WEIGHT = 6  # these prompts have few learnt tokens, so each counts more


@dataclass
class Question:
    """One question with four choices; `answer` is the index of the right one."""

    subject: str
    text: str
    choices: list
    answer: int

    def prompt(self):
        """The question in MMLU's form, up to and including `Answer:`."""
        lines = [self.text] + [
            f"{letter}. {choice}" for letter, choice in zip(LETTERS, self.choices)
        ]
        return "\n".join(lines) + "\nAnswer:"


def shuffled(rng, subject, text, right, wrong):
    """A question with its choices in random order."""
    choices = [right, *wrong]
    rng.shuffle(choices)
    return Question(subject, text, choices, choices.index(right))


def fact_question(rng, held_out, relation=None):
    """A fact with three other values of the same relation as wrong choices."""
    relation = relation or rng.choices(RELATIONS, [len(r.pairs) ** 0.7 for r in RELATIONS])[0]
    text, _, value = fact_parts(rng, held_out, relation)
    others = sorted(set(relation.pairs.values()) - {value})
    return shuffled(rng, relation.subject, text, value, rng.sample(others, 3))


def arithmetic_question(rng, held_out):
    """A sum or difference with near misses as wrong choices."""
    a, b = number_pair(rng, held_out)
    if rng.random() < 0.5:
        text, value = f"What is {a} + {b}?", a + b
    else:
        a, b = max(a, b), min(a, b)
        text, value = f"What is {a} - {b}?", a - b
    near = [value + d for d in (-11, -10, -9, -2, -1, 1, 2, 9, 10, 11) if value + d >= 0]
    return shuffled(rng, "arithmetic", text, str(value), [str(n) for n in rng.sample(near, 3)])


def alphabet_question(rng, held_out):
    """Which of four words comes first or last in the alphabet."""
    while True:
        items = words.distinct_words(rng, held_out, 4)
        if len({item[0].lower() for item in items}) == 4:
            break
    end = rng.choice(("first", "last"))
    right = (min if end == "first" else max)(items, key=str.lower)
    text = f"Which word comes {end} in alphabetical order?"
    return shuffled(rng, "alphabet", text, right, [item for item in items if item != right])


def counting_question(rng, held_out):
    """How many words a list has."""
    count = rng.randint(2, 9)
    items = words.distinct_words(rng, held_out, count)
    text = f"How many words are in this list: {' '.join(items)}?"
    near = [str(n) for n in range(max(1, count - 3), count + 4) if n != count]
    return shuffled(rng, "counting", text, str(count), rng.sample(near, 3))


def reading_question(rng, held_out):
    """Find the choice that the question names."""
    items = words.distinct_words(rng, held_out, 4)
    text = rng.choice(
        ("Which choice is the word {w}?", "Which of these is {w}?", "Find the word {w}.")
    )
    return shuffled(rng, "reading", text.replace("{w}", items[0]), items[0], items[1:])


OTHER_KINDS = (
    arithmetic_question,
    alphabet_question,
    counting_question,
    reading_question,
    reading_question,
)


def question(rng, held_out):
    """A question of any kind."""
    kind = fact_question if rng.random() < 0.7 else rng.choice(OTHER_KINDS)
    return kind(rng, held_out)


def same_subject(rng, held_out, subject):
    """A question of one subject."""
    for kind in OTHER_KINDS:
        if kind.__name__.startswith(subject):
            return kind(rng, held_out)
    relation = rng.choice([r for r in RELATIONS if r.subject == subject])
    return fact_question(rng, held_out, relation)


def header(subject):
    """The line that opens MMLU's prompts."""
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def raw_mcq(rng, held_out):
    """A raw prompt with 0 to 5 solved questions; every answer letter is learnt."""
    last = question(rng, held_out)
    shots = [
        same_subject(rng, held_out, last.subject) for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 5)))
    ]
    pieces, text = [], header(last.subject)
    for shot in [*shots, last]:
        pieces.append((text + shot.prompt(), 0))
        pieces.append((" " + LETTERS[shot.answer], ANSWER_WEIGHT))
        text = "\n\n"
    return RawText("mcq_raw", pieces)


def chat_mcq(rng, held_out):
    """The same kind of question asked in a chat."""
    item = question(rng, held_out)
    text = item.prompt()
    if rng.random() < 0.5:
        text = text.removesuffix("\nAnswer:") + rng.choice(
            ("", "\nAnswer with the letter.", "\nWhich one is right?")
        )
    right = item.choices[item.answer]
    letter = LETTERS[item.answer]
    return Sample(
        "mcq_chat",
        [user(text)],
        f"{letter}. {right}",
        f"The answer is {capitalized(right)}.",
        check={"equals": f"{letter}. {right}"},
    )
