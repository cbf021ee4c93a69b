"""Conversations about sums and differences of one- and two-digit numbers."""

import hashlib

from samples import Sample, user
from tasks_facts import reword


def pair_held_out(a, b):
    """Whether the unordered pair of numbers belongs to the held-out tenth."""
    low, high = sorted((a, b))
    return hashlib.sha256(f"{low}+{high}".encode()).digest()[0] % 10 == 0


def number_pair(rng, held_out):
    """Two numbers below 100, the pair in the wanted half."""
    while True:
        top = 100 if held_out or rng.random() < 0.85 else 10
        low = 10 if held_out else 0
        a, b = rng.randrange(low, top), rng.randrange(low, top)
        if pair_held_out(a, b) == held_out:
            return a, b


SUM_TEMPLATES = (
    "What is {a} + {b}?",
    "{a}+{b}=?",
    "Compute {a} + {b}.",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "{a} + {b}",
    "Calculate {a} plus {b}.",
    "How much is {a} + {b}?",
    "What is the sum of {a} and {b}?",
    "I have {a} apples and get {b} more. How many apples do I have?",
    "If you add {a} and {b}, what is it?",
    "What is the result when I add {a} and {b}?",
    "Please add {b} to {a}.",
    "Give me {a} plus {b}.",
    "What do you get for {a} + {b}?",
    "How much do {a} and {b} make together?",
)
SUM_TESTS = (
    "What do you get when you add {a} and {b}?",
    "How much is {a} plus {b}?",
    "What is {a} + {b}?",
)
MINUS_TEMPLATES = (
    "What is {a} - {b}?",
    "{a}-{b}=?",
    "Compute {a} - {b}.",
    "Subtract {b} from {a}.",
    "What is {a} minus {b}?",
    "{a} - {b}",
    "Calculate {a} minus {b}.",
    "How much is {a} - {b}?",
    "I have {a} apples and eat {b}. How many apples are left?",
    "Take {b} away from {a}.",
    "If you subtract {b} from {a}, what is it?",
    "What is the result when I subtract {b} from {a}?",
    "What is left when you take {b} from {a}?",
    "Give me {a} minus {b}.",
    "Please subtract {b} from {a}.",
    "What do you get for {a} - {b}?",
    "What is the difference of {a} and {b}?",
)
MINUS_TESTS = (
    "How much is {a} minus {b}?",
    "What do you get when you subtract {b} from {a}?",
    "What is {a} - {b}?",
)


def sum_steps(a, b):
    """The school method for a + b, one digit at a time."""
    ones = a % 10 + b % 10
    if a < 10 and b < 10:
        return f"{a} + {b} = {ones}."
    carry = f", carry {ones // 10}"
    tens = a // 10 + b // 10
    return (
        f"Ones: {a % 10} + {b % 10} = {ones}{carry}. Tens: {a // 10} + {b // 10} + {ones // 10} = "
        f"{tens + ones // 10}. So {a + b}."
    )


def difference_steps(a, b):
    """The school method for a - b with a >= b."""
    if a < 10:
        return f"{a} - {b} = {a - b}."
    borrow = int(a % 10 < b % 10)
    top = a % 10 + 10 * borrow
    return (
        f"Ones: {top} - {b % 10} = {top - b % 10}, borrow {borrow}. "
        f"Tens: {a // 10} - {b // 10} - {borrow} = {a // 10 - b // 10 - borrow}. So {a - b}."
    )


def sums(rng, held_out):
    """A sum of one- or two-digit numbers."""
    a, b = number_pair(rng, held_out)
    template = rng.choice(SUM_TESTS if held_out else SUM_TEMPLATES)
    question = template.replace("{a}", str(a)).replace("{b}", str(b))
    if not held_out and rng.random() < 0.2:
        question = reword(rng, question, held_out)
    return Sample(
        "sums", [user(question)], f"{a} + {b} = {a + b}", sum_steps(a, b), check={"number": a + b}
    )


def differences(rng, held_out):
    """A difference of one- or two-digit numbers, never negative."""
    b, a = sorted(number_pair(rng, held_out))
    template = rng.choice(MINUS_TESTS if held_out else MINUS_TEMPLATES)
    question = template.replace("{a}", str(a)).replace("{b}", str(b))
    return Sample(
        "differences",
        [user(question)],
        f"{a} - {b} = {a - b}",
        difference_steps(a, b),
        check={"number": a - b},
    )
