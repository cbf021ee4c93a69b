"""Conversations without tools: facts, sums, words, JSON, memory, small talk, system prompts."""

import hashlib
import json
from functools import partial

import words
from relations import FRAMES, NOUN_PHRASES, RELATIONS
from samples import Sample, assistant, user

WRAPPERS = (
    "{q}", "{q}", "{q}", "{q}", "{q}", "{q}", "Please answer: {q}", "Quick question: {q}", "{q} Thanks!",
    "Hi! {q}", "I have a question. {q}", "Can you help me? {q}", "Tell me: {q}", "{q} Please be brief.",
    "I forgot. {q}", "Hello, {q}", "One more thing: {q}", "Question: {q}", "Hey, {q}", "So, {q}",
)
TEST_WRAPPERS = ("{q}", "{q}", "{q}", "Please tell me this: {q}", "Just a question: {q}", "Hello! {q}")
INSTRUCTIONS = ("You are a helpful assistant.", "You are Moonrock, a helpful assistant.", "Be brief.",
                "Answer the user's questions.", "You are a helpful assistant. Answer in English.")


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
        wish = rng.choice(("Answer in one word.", "Answer with one word.", "Only the answer, please.", "One word only."))
        question, sentence = f"{question} {wish}", value
    reasoning = f"I know this one: {value}."
    return Sample("facts", [user(question)], sentence, reasoning, check={"contains": value})


def unknown(rng, held_out):
    """Questions about things that do not exist are answered with "I don't know."."""
    relation = rng.choice([r for r in RELATIONS if r.name in
                           ("capital", "currency", "language", "continent", "author", "symbol", "painter")])
    thing = words.invented(rng, held_out, rng.choice((2, 3))).capitalize()
    question = reword(rng, fact_template(rng, held_out, relation).replace("{x}", thing), held_out)
    return Sample("unknown", [user(question)], "I don't know.", f"I have never heard of {thing}.",
                  check={"contains": "don't know"})


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


SUM_TEMPLATES = ("What is {a} + {b}?", "{a}+{b}=?", "Compute {a} + {b}.", "Add {a} and {b}.", "What is {a} plus {b}?",
                 "{a} + {b}", "Calculate {a} plus {b}.", "How much is {a} + {b}?", "What is the sum of {a} and {b}?",
                 "I have {a} apples and get {b} more. How many apples do I have?", "If you add {a} and {b}, what is it?",
                 "What is the result when I add {a} and {b}?", "Please add {b} to {a}.", "Give me {a} plus {b}.",
                 "What do you get for {a} + {b}?", "How much do {a} and {b} make together?")
SUM_TESTS = ("What do you get when you add {a} and {b}?", "How much is {a} plus {b}?", "What is {a} + {b}?")
MINUS_TEMPLATES = ("What is {a} - {b}?", "{a}-{b}=?", "Compute {a} - {b}.", "Subtract {b} from {a}.",
                   "What is {a} minus {b}?", "{a} - {b}", "Calculate {a} minus {b}.", "How much is {a} - {b}?",
                   "I have {a} apples and eat {b}. How many apples are left?", "Take {b} away from {a}.",
                   "If you subtract {b} from {a}, what is it?", "What is the result when I subtract {b} from {a}?",
                   "What is left when you take {b} from {a}?", "Give me {a} minus {b}.", "Please subtract {b} from {a}.",
                   "What do you get for {a} - {b}?", "What is the difference of {a} and {b}?")
MINUS_TESTS = ("How much is {a} minus {b}?", "What do you get when you subtract {b} from {a}?", "What is {a} - {b}?")


def sum_steps(a, b):
    """The school method for a + b, one digit at a time."""
    ones = a % 10 + b % 10
    if a < 10 and b < 10:
        return f"{a} + {b} = {ones}."
    carry = f", carry {ones // 10}"
    tens = a // 10 + b // 10
    return (f"Ones: {a % 10} + {b % 10} = {ones}{carry}. Tens: {a // 10} + {b // 10} + {ones // 10} = "
            f"{tens + ones // 10}. So {a + b}.")


def difference_steps(a, b):
    """The school method for a - b with a >= b."""
    if a < 10:
        return f"{a} - {b} = {a - b}."
    borrow = int(a % 10 < b % 10)
    top = a % 10 + 10 * borrow
    return (f"Ones: {top} - {b % 10} = {top - b % 10}, borrow {borrow}. Tens: {a // 10} - {b // 10} - {borrow} = "
            f"{a // 10 - b // 10 - borrow}. So {a - b}.")


def sums(rng, held_out):
    """A sum of one- or two-digit numbers."""
    a, b = number_pair(rng, held_out)
    template = rng.choice(SUM_TESTS if held_out else SUM_TEMPLATES)
    question = template.replace("{a}", str(a)).replace("{b}", str(b))
    if not held_out and rng.random() < 0.2:
        question = reword(rng, question, held_out)
    return Sample("sums", [user(question)], f"{a} + {b} = {a + b}", sum_steps(a, b), check={"number": a + b})


def differences(rng, held_out):
    """A difference of one- or two-digit numbers, never negative."""
    b, a = sorted(number_pair(rng, held_out))
    template = rng.choice(MINUS_TESTS if held_out else MINUS_TEMPLATES)
    question = template.replace("{a}", str(a)).replace("{b}", str(b))
    return Sample("differences", [user(question)], f"{a} - {b} = {a - b}", difference_steps(a, b),
                  check={"number": a - b})


COPY_TEMPLATES = ("Repeat: {w}", "Copy these words: {w}", "Say exactly this: {w}", "Repeat after me: {w}",
                  "Write the following words again: {w}", "Echo: {w}", "Please say: {w}", "Repeat the text: {w}",
                  "Copy: {w}", "Copy this: {w}", "Please repeat this: {w}", "Please write: {w}", "Copy the text: {w}",
                  "Copy exactly: {w}", "Repeat this word for word: {w}", "Please copy this text: {w}")
COPY_TESTS = ("Repeat these words: {w}", "Please copy: {w}", "Repeat exactly: {w}")
REVERSE_TEMPLATES = ("Reverse: {w}", "Reverse the order of these words: {w}", "Write these words backwards: {w}",
                     "Say these words in reverse order: {w}", "Reverse this list: {w}", "Put in reverse order: {w}")
REVERSE_TESTS = ("Reverse these words: {w}", "Write in reverse order: {w}", "Reverse the list: {w}")
SORT_TEMPLATES = ("Sort: {w}", "Sort these words alphabetically: {w}", "Put these words in alphabetical order: {w}",
                  "Order the words from A to Z: {w}", "Sort this list: {w}", "Alphabetical order, please: {w}")
SORT_TESTS = ("Sort these words: {w}", "Sort alphabetically: {w}", "Put in alphabetical order: {w}")


def _list_task(rng, held_out, category, templates, change, sizes, chosen=None):
    """Ask for a change of a list of words."""
    items = chosen or words.distinct_words(rng, held_out, rng.choice(sizes))
    joiner = rng.choice((" ", ", ", ", "))
    result = joiner.join(change(items))
    question = rng.choice(templates).replace("{w}", joiner.join(items))
    return Sample(category, [user(question)], result, f"The list has {len(items)} words.", check={"equals": result})


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
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(1, 8)))
    if kind < 0.5:
        return str(rng.randrange(10 ** rng.randint(1, 6)))
    if kind < 0.65:
        return "".join(rng.choice("äöüéèñçßøåłżяжиωλ日本語中文한국어😀🚀€°") for _ in range(rng.randint(1, 4)))
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
        if len({item[0].lower() for item in items}) == size or (not held_out and rng.random() < 0.1):
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
    template = rng.choice(("Count from {a} to {b}.", "Please count from {a} to {b}.", "Write the numbers from {a} to {b}.",
                           "List the numbers {a} to {b}.", "Can you count from {a} to {b}?"))
    question = template.replace("{a}", str(first)).replace("{b}", str(last))
    result = ", ".join(numbers[::-1] if down else numbers)
    return Sample("count", [user(question)], result, f"I count from {first} to {last}.", check={"equals": result})


def json_fields(rng, held_out):
    """Typed fields with a sentence that states them."""
    name = words.any_name(rng, held_out)
    age = rng.randint(1, 99)
    city = words.any_city(rng, held_out)
    job = rng.choice(words.JOBS)
    item = words.any_word(rng, held_out)
    price = rng.randint(1, 500)
    return rng.choice((
        ({"name": name, "age": age}, rng.choice((f"{name} is {age} years old.", f"My friend {name} is {age}."))),
        ({"name": name, "city": city}, rng.choice((f"{name} lives in {city}.", f"{name} is from {city}."))),
        ({"name": name, "age": age, "city": city}, f"{name} is {age} years old and lives in {city}."),
        ({"name": name, "job": job}, rng.choice((f"{name} works as a {job}.", f"{name} is a {job}."))),
        ({"item": item, "price": price}, rng.choice((f"The {item} costs {price} dollars.", f"A {item} is {price} euros."))),
        ({"name": name, "item": item, "price": price}, f"{name} buys a {item} for {price} dollars."),
    ))


JSON_TEMPLATES = ("Answer as JSON with keys {k}: {s}", "Give me JSON with the keys {k}. {s}",
                  "Extract {k} as JSON: {s}", "{s} Answer as JSON with keys {k}.", "Write as JSON with keys {k}. {s}",
                  "Return a JSON object with {k}: {s}", "Use the keys {k} and write JSON: {s}",
                  "Take the keys {k} from this text as JSON: {s}", "JSON, please, with the keys {k}. {s}",
                  "Find the keys {k} and give them as JSON. {s}", "{s} Write JSON, the keys are {k}.",
                  "Get the keys {k} in JSON. {s}", "Read the keys {k} from the text, as JSON: {s}")
JSON_TESTS = ("Answer in JSON with keys {k}: {s}", "Extract the keys {k} as JSON. {s}", "{s} Give me JSON with keys {k}.")


def json_answer(rng, held_out):
    """Extract stated values as a JSON object."""
    kind = rng.random()
    if kind < 0.65:
        fields, sentence = json_fields(rng, held_out)
    elif kind < 0.85:
        keys = words.distinct_words(rng, held_out, rng.choice((1, 2, 3)))
        fields = {key: rng.choice((rng.randint(0, 999), words.any_word(rng, held_out))) for key in keys}
        sentence = ", ".join(f"{key} is {value}" for key, value in fields.items()) + "."
    else:
        relation = next(r for r in RELATIONS if r.name == "capital")
        country = rng.choice(list(relation.pairs))
        fields = {"country": country, "capital": relation.pairs[country]}
        sentence = fact_template(rng, held_out, relation).replace("{x}", country)
    keys = list(fields)
    named = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 else keys[0]
    question = rng.choice(JSON_TESTS if held_out else JSON_TEMPLATES).replace("{k}", named).replace("{s}", sentence)
    text = json.dumps(fields, ensure_ascii=False)
    return Sample("json", [user(question)], text, f"The keys are {named}.", check={"json": fields})


MEMORY = (
    ("name", ("My name is {v}.", "I am {v}.", "Hi, I'm {v}.", "Hello, my name is {v}.", "You can call me {v}."),
     ("What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "Tell me my name."),
     "Your name is {v}.", lambda r, h: words.any_name(r, h)),
    ("color", ("My favorite color is {v}.", "I like the color {v} most.", "I love {v}. It is my favorite color."),
     ("What is my favorite color?", "Which color do I like?", "Do you remember my favorite color?"),
     "Your favorite color is {v}.", lambda r, h: r.choice(words.COLORS)),
    ("city", ("I live in {v}.", "My home is {v}.", "I moved to {v}.", "I am from {v}."),
     ("Where do I live?", "Which city do I live in?", "In which city is my home?"),
     "You live in {v}.", lambda r, h: words.any_city(r, h)),
    ("pet", ("I have a {v}.", "My pet is a {v}.", "I own a {v}."),
     ("What pet do I have?", "Which animal do I have?", "What is my pet?"),
     "You have a {v}.", lambda r, h: r.choice(words.PETS)),
    ("food", ("My favorite food is {v}.", "I like to eat {v}.", "I love {v}."),
     ("What is my favorite food?", "What do I like to eat?", "Which food do I love?"),
     "Your favorite food is {v}.", lambda r, h: r.choice(words.FOODS)),
    ("job", ("I work as a {v}.", "I am a {v}.", "My job is {v}."),
     ("What is my job?", "What do I work as?", "Which job do I have?"),
     "You are a {v}.", lambda r, h: r.choice(words.JOBS)),
    ("number", ("Remember the number {v}.", "My lucky number is {v}.", "The code is {v}."),
     ("Which number did I tell you?", "What was the number?", "What number should you remember?"),
     "The number is {v}.", lambda r, h: str(r.randint(10, 9999))),
    ("word", ("Remember the word {v}.", "The secret word is {v}.", "Keep this word in mind: {v}"),
     ("Which word did I tell you?", "What was the word?", "What is the secret word?"),
     "The word is {v}.", lambda r, h: words.any_word(r, h)),
)
ACKNOWLEDGE = {"name": "Nice to meet you, {v}!"}


def memory(rng, held_out):
    """Tell the model things over several turns and ask for one of them."""
    told = rng.sample(MEMORY, rng.choice((1, 1, 2, 3)))
    values = [(entry, entry[4](rng, held_out)) for entry in told]
    messages = []
    for entry, value in values:
        messages.append(user(rng.choice(entry[1]).replace("{v}", value)))
        messages.append(assistant(ACKNOWLEDGE.get(entry[0], "I will remember that.").replace("{v}", value)))
    for _ in range(rng.choice((0, 0, 1, 2))):
        side = rng.choice((facts, sums, copy))(rng, held_out)
        messages += [user(side.messages[0]["content"]), assistant(side.content)]
    entry, value = rng.choice(values)
    answer = entry[3].replace("{v}", value)
    return Sample("memory", messages + [user(rng.choice(entry[2]))], answer, f"The user told me: {value}.",
                  check={"contains": value})


def long_chat(rng, held_out):
    """A long conversation about anything, ending in a new question."""
    parts = [rng.choice((facts, facts, sums, differences, copy, reverse, sort, json_answer, unknown))(rng, held_out)
             for _ in range(rng.choice((2, 3, 4, 6, 9, 14)))]
    messages = []
    for part in parts[:-1]:
        messages += [part.messages[0], assistant(part.content)]
    last = parts[-1]
    return Sample("long_" + last.category, messages + last.messages, last.content, last.reasoning, check=last.check)


def system_case(rng, held_out):
    """A system prompt that changes how answers look."""
    question, sentence, value = fact_parts(rng, held_out)
    kind = rng.choice(("upper", "word", "lower", "name", "suffix", "plain"))
    if kind == "name":
        name = words.any_name(rng, held_out)
        system = rng.choice((f"You are {name}.", f"Your name is {name}.", f"You are {name}, a helpful assistant."))
        question, text = rng.choice(("What is your name?", "Who are you?", "What are you called?")), f"My name is {name}."
        value = name
    elif kind == "suffix":
        word = words.any_word(rng, held_out)
        system = rng.choice((f"End every answer with the word {word}.", f"Always end your answer with {word}."))
        text = value = f"{sentence} {word}"
    elif kind == "plain":
        system, text = rng.choice(INSTRUCTIONS), sentence
    else:
        system, change = {
            "upper": (("Answer in upper case.", "Use only capital letters.", "Write everything in upper case."),
                      lambda: sentence.upper()),
            "lower": (("Answer in lower case.", "Use only small letters.", "Write everything in lower case."),
                      lambda: sentence.lower()),
            "word": (("Answer in one word.", "Answer with the answer only.", "Give only the answer, no sentence."),
                     lambda: value),
        }[kind]
        system, text = rng.choice(system), change()
        value = text
    messages = [{"role": "system", "content": system}, user(question)]
    return Sample("system", messages, text, "I follow the system prompt.", check={"contains_exact": value})
