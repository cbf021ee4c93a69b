"""Everyday tools (weather, time, mail, …) with the sentences people really use for them."""

import words
from tool_specs import Parameter, Tool, parameter_name, styled

PLACE_NAMES = ("city", "location", "place", "town", "cityName", "city_name", "where")
TEST_PLACE_NAMES = ("city", "location", "area", "spot")


def _string(name, description, required=True):
    """A string parameter."""
    return Parameter(name, {"type": "string", "description": description}, required, "string")


def _enum(name, values, required=False):
    """An optional enum parameter."""
    return Parameter(name, {"type": "string", "enum": list(values)}, required, "enum")


def _name(rng, held_out, known, unseen, noun):
    """A tool name: a usual one, a random one about the noun, or one that only tests use."""
    if held_out:
        return rng.choice(unseen)
    if rng.random() < 0.4:
        return styled(rng, rng.sample([words.any_word(rng, False), noun], 2))
    return rng.choice(known)


def _place(rng, held_out):
    """A place parameter under one of its usual names."""
    name = rng.choice(TEST_PLACE_NAMES if held_out else PLACE_NAMES)
    if not held_out and rng.random() < 0.4:
        name = parameter_name(rng, held_out)
    text = rng.choice(
        (
            "City name",
            "The city",
            "Name of the city",
            "The city and country, e.g. Paris, France",
            "City and country e.g. Bogotá, Colombia",
            "The location",
        )
    )
    return _string(name, text)


def weather(rng, held_out):
    """Weather in a place, sometimes with a unit."""
    name = _name(
        rng,
        held_out,
        (
            "get_weather",
            "get_current_weather",
            "weather",
            "getWeather",
            "fetch_weather",
            "get-weather",
            "weather.get",
        ),
        ("lookup_weather", "weather_report"),
        "weather",
    )
    place = _place(rng, held_out)
    tool = Tool(
        name,
        "get",
        "weather",
        rng.choice(
            (
                "Get the current weather in a given location",
                "Get weather information",
                "Get the weather for a city",
                "Get current temperature for a given location.",
                "Current weather of a place",
            )
        ),
        [place],
    )
    city = words.any_city(rng, held_out)
    arguments = {place.name: city}
    text = rng.choice(
        (
            "What's the weather in {c}?",
            "What is the weather like in {c}?",
            "How is the weather in {c} today?",
            "Weather in {c}?",
            "Is it raining in {c}?",
            "What's the weather like in {c} today?",
            "Tell me the weather in {c}.",
            "How warm is it in {c}?",
            "What is the temperature in {c}?",
            "Please check the weather in {c}.",
        )
    )
    if rng.random() < 0.5:
        tool.parameters.append(_enum(rng.choice(("unit", "units")), ("celsius", "fahrenheit")))
        if rng.random() < 0.5:
            unit = rng.choice(("celsius", "fahrenheit"))
            arguments[tool.parameters[-1].name] = unit
            text = text[:-1] + rng.choice((f" in {unit}", f", in {unit}")) + text[-1]
    return tool, text.replace("{c}", city), arguments


def clock(rng, held_out):
    """The time in a place."""
    name = _name(
        rng,
        held_out,
        ("get_time", "get_current_time", "current_time", "getTime", "time.now"),
        ("lookup_time",),
        "time",
    )
    place = _place(rng, held_out)
    tool = Tool(
        name,
        "get",
        "time",
        rng.choice(("Get the current time in a city", "Current local time")),
        [place],
    )
    city = words.any_city(rng, held_out)
    text = rng.choice(
        (
            "What time is it in {c}?",
            "What's the time in {c}?",
            "Tell me the time in {c}.",
            "Time in {c}?",
            "How late is it in {c}?",
        )
    )
    return tool, text.replace("{c}", city), {place.name: city}


def mail(rng, held_out):
    """Send a mail."""
    name = _name(
        rng,
        held_out,
        ("send_email", "send_mail", "sendEmail", "email.send", "send-email"),
        ("post_mail",),
        "email",
    )
    to = _string(rng.choice(("to", "recipient", "address")), "Mail address")
    body = _string(rng.choice(("body", "message", "text")), "What to write")
    tool = Tool(name, "send", "email", "Send an email", [to, body])
    address = words.any_email(rng, held_out)
    message = " ".join(words.any_word(rng, held_out) for _ in range(rng.choice((1, 2, 3, 4))))
    text = rng.choice(
        (
            'Send an email to {t} that says "{m}".',
            "Write {t} an email: {m}",
            "Mail {t}: {m}",
            "Send a mail to {t} saying {m}",
        )
    )
    values = {to.name: address, body.name: message}
    return (
        tool,
        text.replace("{t}", address).replace("{m}", message),
        {p.name: values[p.name] for p in tool.ordered()},
    )


def calculator(rng, held_out):
    """Compute with two numbers."""
    name = _name(
        rng,
        held_out,
        ("calculate", "calculator", "compute", "math.eval", "calc"),
        ("do_math",),
        "expression",
    )
    parameter = _string(rng.choice(("expression", "formula", "expr")), "The expression to compute")
    tool = Tool(
        name,
        "compute",
        "expression",
        rng.choice(("Compute an expression", "A calculator")),
        [parameter],
    )
    expression = f"{rng.randint(2, 9999)} {rng.choice('+-*/')} {rng.randint(2, 9999)}"
    text = rng.choice(
        (
            "What is {e}?",
            "Compute {e}.",
            "Calculate {e}.",
            "Use the calculator: {e}",
            "How much is {e}?",
        )
    )
    return tool, text.replace("{e}", expression), {parameter.name: expression}


def web_search(rng, held_out):
    """Search for words."""
    name = _name(
        rng,
        held_out,
        ("search", "web_search", "search_web", "google", "webSearch", "search.web"),
        ("find_pages",),
        "web",
    )
    query = _string(rng.choice(("query", "q", "keywords")), "What to search for")
    tool = Tool(
        name,
        "search",
        "web",
        rng.choice(("Search the web", "Search the internet for pages")),
        [query],
    )
    text = " ".join(words.any_word(rng, held_out) for _ in range(rng.choice((1, 2, 3))))
    question = rng.choice(
        (
            "Search the web for {w}.",
            "Search for {w}",
            "Find pages about {w}.",
            "Look up {w} on the web.",
            "Google {w}",
        )
    )
    return tool, question.replace("{w}", text), {query.name: text}


def stock(rng, held_out):
    """The price of a share."""
    name = _name(
        rng,
        held_out,
        ("get_stock_price", "stock_price", "getStockPrice", "stock.price"),
        ("lookup_stock",),
        "stock",
    )
    symbol = _string(rng.choice(("symbol", "ticker")), "Stock symbol, e.g. AMD")
    tool = Tool(name, "get", "stock price", "Get the price of a stock", [symbol])
    ticker = "".join(rng.choice("ABCDEFGHIKLMNOPRSTUVWXYZ") for _ in range(rng.choice((2, 3, 4))))
    text = rng.choice(
        (
            "What is the stock price of {s}?",
            "How much is a share of {s}?",
            "Price of {s} stock?",
            "What's {s} trading at?",
        )
    )
    return tool, text.replace("{s}", ticker), {symbol.name: ticker}


NATURAL = (weather, weather, weather, clock, mail, calculator, web_search, stock)
