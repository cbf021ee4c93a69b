"""Random tools: names, parameters, values, and the user's words for a call to them."""

import re
from dataclasses import dataclass, field

import words

VERBS = """
get find send create delete update book search open close start stop play order cancel check list
show read write print move copy rename convert translate compute measure count lock unlock add
remove fetch share schedule plan track rate pay publish record scan load save export import
""".split()
PARAMETER_WORDS = """
city name date count limit unit size price title color mode type level status language country
address email phone message text query path file folder user account amount rate code key label
topic group speed width height weight volume duration start finish from target source format
""".split()
CHOICES = """
low medium high small large fast slow red green blue json csv xml north south east west left right
day week month year celsius fahrenheit metric imperial public private draft final asc desc open
closed basic premium first second business economy
""".split()


@dataclass
class Parameter:
    """One parameter: its schema and how a user names it."""

    name: str
    schema: dict
    required: bool
    kind: str


@dataclass
class Tool:
    """One tool with the verb and the noun that describe it."""

    name: str
    verb: str
    noun: str
    description: str
    parameters: list = field(default_factory=list)

    def definition(self):
        """The tool as an OpenAI function definition."""
        schema = {
            "type": "object",
            "properties": {p.name: p.schema for p in self.parameters},
            "required": [p.name for p in self.parameters if p.required],
        }
        function = {"name": self.name, "description": self.description, "parameters": schema}
        return {"type": "function", "function": function}

    def ordered(self):
        """Parameters in the order of the declaration: required first, each half by name."""
        return sorted(self.parameters, key=lambda p: (not p.required, p.name))


def styled(rng, parts):
    """Join words to an identifier in one of the usual styles."""
    style = rng.random()
    if style < 0.5:
        return "_".join(parts)
    if style < 0.7:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    if style < 0.82:
        return "-".join(parts)
    if style < 0.92:
        return ".".join(parts)
    return "".join(part.capitalize() for part in parts)


def readable(identifier):
    """How a user says an identifier: lower-case words."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", identifier)
    return re.sub(r"[_.\-]", " ", spaced).lower()


def parameter_name(rng, held_out):
    """A parameter name; in held-out tools always with a word that training never shows."""
    if not held_out and rng.random() < 0.5:
        return rng.choice(PARAMETER_WORDS)
    parts = [words.any_word(rng, held_out)]
    if rng.random() < 0.3:
        parts.append(rng.choice(PARAMETER_WORDS))
        rng.shuffle(parts)
    return styled(rng, parts) if rng.random() < 0.4 else "_".join(parts)


def make_parameter(rng, held_out, name, required):
    """A parameter of a random type."""
    kind = rng.choices(("string", "integer", "number", "boolean", "enum"), (50, 18, 8, 10, 14))[0]
    schema = {"type": "string" if kind == "enum" else kind}
    if kind == "enum":
        pool = CHOICES if rng.random() < 0.6 else [words.any_word(rng, held_out) for _ in range(6)]
        schema["enum"] = rng.sample(sorted(set(pool)), min(len(set(pool)), rng.choice((2, 3, 4))))
    if rng.random() < 0.55:
        schema["description"] = rng.choice(
            ("The {n}", "{n} of the request", "Value for {n}", "{n}")
        ).replace("{n}", readable(name))
    if kind == "integer" and rng.random() < 0.2:
        schema.update(minimum=0, maximum=1000)
    return Parameter(name, schema, required, kind)


def make_tool(rng, held_out, avoid=()):
    """A random tool whose name and noun differ from those in `avoid`."""
    while True:
        verb = rng.choice(VERBS)
        noun_words = [words.any_word(rng, held_out) for _ in range(rng.choice((1, 1, 2)))]
        noun = " ".join(noun_words)
        parts = noun_words + [verb] if rng.random() < 0.2 else [verb, *noun_words]
        if rng.random() < 0.12:
            parts = [words.invented(rng, held_out)] + (
                [str(rng.randrange(10))] if rng.random() < 0.3 else []
            )
        name = styled(rng, parts)
        if all(noun != other.noun and name != other.name for other in avoid):
            break
    description = rng.choice(
        (
            "{V} the {n}",
            "{V} a {n}.",
            "{V} the {n} of the user.",
            "Use this to {v} the {n}.",
            "{V} {n}",
            "Tool to {v} a {n}",
        )
    ).replace("{V}", verb.capitalize())
    tool = Tool(name, verb, noun, description.replace("{v}", verb).replace("{n}", noun))
    names = set()
    for _ in range(rng.choices((0, 1, 2, 3, 4), (5, 40, 30, 17, 8))[0]):
        names.add(parameter_name(rng, held_out))
    for index, name in enumerate(sorted(names)):
        tool.parameters.append(
            make_parameter(rng, held_out, name, index == 0 or rng.random() < 0.6)
        )
    return tool


def value_for(rng, parameter, held_out):
    """A value of the parameter's type."""
    if parameter.kind == "integer":
        return rng.randrange(rng.choice((10, 100, 1000)))
    if parameter.kind == "number":
        return round(rng.uniform(0, 100), rng.choice((1, 2)))
    if parameter.kind == "boolean":
        return rng.random() < 0.5
    if parameter.kind == "enum":
        return rng.choice(parameter.schema["enum"])
    kind = rng.random()
    if kind < 0.25:
        return words.any_word(rng, held_out)
    if kind < 0.45:
        return words.any_name(rng, held_out)
    if kind < 0.65:
        return words.any_city(rng, held_out)
    if kind < 0.75:
        return " ".join(words.any_word(rng, held_out) for _ in range(rng.choice((2, 3))))
    if kind < 0.83:
        return words.any_email(rng, held_out)
    if kind < 0.9:
        return words.any_date(rng)
    letters = "ABCDEFGHKLMNPRSTUVWXYZ"
    return f"{rng.choice(letters)}{rng.choice(letters)}{rng.randrange(1000)}"


def spoken(value):
    """A value as a user writes it."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


REQUESTS = (
    "Please {a}.",
    "{A}.",
    "Can you {a}?",
    "I need you to {a}.",
    "{A}, please.",
    "I want to {a}.",
    "Could you {a}?",
    "Go and {a}.",
    "Now {a}.",
    "{A}",
    "I'd like you to {a}.",
    "Would you {a}?",
    "You have to {a}.",
    "I would like to {a}.",
    "I want you to {a}.",
    "Would you please {a}?",
)
TEST_REQUESTS = ("Could you please {a}?", "I would like you to {a}.", "Please {a}.", "{A}.")


def phrase_request(rng, actions, held_out):
    """A user's sentence that asks for one or two actions."""
    text = rng.choice(TEST_REQUESTS if held_out else REQUESTS)
    joined = rng.choice((" and ", " and then ", " and also ")).join(actions)
    return text.replace("{a}", joined).replace("{A}", joined[0].upper() + joined[1:])


def phrase_action(rng, tool, arguments):
    """The user's words for one call: verb, noun, and the values."""
    head = f"{tool.verb} {rng.choice(('the', 'the', 'a', 'my'))} {tool.noun}"
    strings = [p for p in tool.parameters if p.name in arguments and p.kind == "string"]
    if len(arguments) == 1 and strings and rng.random() < 0.4:
        return f"{head} {rng.choice(('for', 'of', 'with', 'from'))} {arguments[strings[0].name]}"
    shape = rng.choice(("{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}", "{k} set to {v}"))
    fields = [
        shape.replace("{k}", readable(k)).replace("{v}", spoken(v)) for k, v in arguments.items()
    ]
    if not fields:
        return head
    rng.shuffle(fields)
    listed = ", ".join(fields[:-1]) + " and " + fields[-1] if len(fields) > 1 else fields[0]
    return f"{head} {rng.choice(('with', 'with', 'using', 'for'))} {listed}"


def choose_arguments(rng, tool, held_out):
    """Values for all required and some optional parameters, in declaration order."""
    return {
        p.name: value_for(rng, p, held_out)
        for p in tool.ordered()
        if p.required or rng.random() < 0.4
    }
