"""Conversations that ask for one fact, or for one that does not exist."""

import words
from relations import RELATIONS
from samples import Sample, user
from wording import FRAMES, NOUN_PHRASES

WRAPPERS = (
    "{q}",
    "{q}",
    "{q}",
    "{q}",
    "{q}",
    "{q}",
    "Please answer: {q}",
    "Quick question: {q}",
    "{q} Thanks!",
    "Hi! {q}",
    "I have a question. {q}",
    "Can you help me? {q}",
    "Tell me: {q}",
    "{q} Please be brief.",
    "I forgot. {q}",
    "Hello, {q}",
    "One more thing: {q}",
    "Question: {q}",
    "Hey, {q}",
    "So, {q}",
)
TEST_WRAPPERS = (
    "{q}",
    "{q}",
    "{q}",
    "Please tell me this: {q}",
    "Just a question: {q}",
    "Hello! {q}",
)


def reword(rng, question, held_out):
    """Put a question into a wrapper, sometimes in sloppy spelling."""
    wrapper = rng.choice(TEST_WRAPPERS if held_out else WRAPPERS)
    text = wrapper.replace("{q}", question)
    if not held_out:
        if rng.random() < 0.08:
            text = text.rstrip("?.!")
        if rng.random() < 0.06:
            text = text[0].lower() + text[1:]
    return text


def capitalized(text):
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def fact_template(rng, held_out, relation):
    """A wording of a relation's question."""
    if held_out:
        return rng.choice(relation.test)
    if rng.random() < 0.35:
        return rng.choice(FRAMES).replace("{n}", rng.choice(NOUN_PHRASES[relation.name]))
    return rng.choice(relation.train)


def fact_parts(rng, held_out, relation=None):
    """A question with its full answer sentence and its key word."""
    relation = relation or rng.choices(RELATIONS, [len(r.pairs) ** 0.7 for r in RELATIONS])[0]
    key = rng.choice(list(relation.pairs))
    value = relation.pairs[key]
    question = capitalized(fact_template(rng, held_out, relation).replace("{x}", key))
    sentence = relation.answer.replace("{x}", key).replace("{y}", value)
    return question, capitalized(sentence), value


def facts(rng, held_out):
    """One fact asked in some wording."""
    question, sentence, value = fact_parts(rng, held_out)
    question = reword(rng, question, held_out)
    if not held_out and rng.random() < 0.08:
        wish = rng.choice(
            (
                "Answer in one word.",
                "Answer with one word.",
                "Only the answer, please.",
                "One word only.",
            )
        )
        question, sentence = f"{question} {wish}", value
    reasoning = f"I know this one: {value}."
    return Sample("facts", [user(question)], sentence, reasoning, check={"contains": value})


def unknown(rng, held_out):
    """Questions about things that do not exist are answered with "I don't know."."""
    relation = rng.choice(
        [
            r
            for r in RELATIONS
            if r.name
            in ("capital", "currency", "language", "continent", "author", "symbol", "painter")
        ]
    )
    thing = words.invented(rng, held_out, rng.choice((2, 3))).capitalize()
    question = reword(rng, fact_template(rng, held_out, relation).replace("{x}", thing), held_out)
    return Sample(
        "unknown",
        [user(question)],
        "I don't know.",
        f"I have never heard of {thing}.",
        check={"contains": "don't know"},
    )
