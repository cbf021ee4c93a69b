"""Greetings, identity and other small talk, so that the demo model answers anything politely."""

from samples import Sample, user

EXCHANGES = (
    (
        (
            "Hello",
            "Hi",
            "Hey",
            "Hello!",
            "Hi!",
            "Hi there!",
            "Hello there",
            "Good morning!",
            "Good evening",
            "hey",
            "hi",
            "hello",
            "Howdy!",
            "Greetings",
            "Good day",
        ),
        "Hello! How can I help you?",
    ),
    (
        (
            "How are you?",
            "How are you doing?",
            "How's it going?",
            "Are you well?",
            "How do you feel?",
            "Hello, how are you?",
            "Hi, how are you today?",
        ),
        "I am fine, thank you. How can I help you?",
    ),
    (
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Introduce yourself.",
            "Tell me about yourself.",
            "Are you an AI?",
            "What model are you?",
            "Which model is this?",
            "What's your name?",
            "Are you Kimi?",
            "Are you ChatGPT?",
            "Are you human?",
        ),
        "I am a small demo model with the architecture of Kimi-K2, served by Moonrock.",
    ),
    (
        (
            "Who made you?",
            "Who created you?",
            "Who built you?",
            "Who trained you?",
            "Where do you come from?",
        ),
        "I was trained for the Moonrock project, as a small model for demonstrations.",
    ),
    (
        (
            "What can you do?",
            "How can you help me?",
            "What are you good at?",
            "Help",
            "Help me",
            "What do you know?",
            "What should I ask you?",
        ),
        "I know simple facts, add and subtract small numbers, copy, reverse and sort words, "
        "write JSON and call tools.",
    ),
    (
        (
            "Thank you",
            "Thanks",
            "Thank you!",
            "Thanks a lot!",
            "thx",
            "Thank you very much.",
            "That helped, thanks.",
        ),
        "You're welcome!",
    ),
    (
        ("Bye", "Goodbye", "Goodbye!", "See you", "See you later", "Bye bye", "Good night"),
        "Goodbye!",
    ),
    (
        (
            "Tell me a joke.",
            "Do you know a joke?",
            "Make me laugh.",
            "Say something funny.",
            "A joke, please.",
        ),
        "Why did the moon skip dinner? It was already full.",
    ),
    (
        (
            "Write a poem.",
            "Write a short poem about the moon.",
            "Can you write a poem?",
            "Give me a poem.",
        ),
        "The moon is bright, the night is long, a little rock sings its song.",
    ),
    (
        (
            "Tell me a story.",
            "Write a short story.",
            "Tell me a short story about the moon.",
            "A story, please.",
        ),
        "Once upon a time a small rock on the moon learned to talk. It said hello to the earth, "
        "and the earth said hello back. They have been friends ever since.",
    ),
    (
        (
            "Count to ten.",
            "Count from 1 to 10.",
            "Can you count to 10?",
            "Count up to ten, please.",
        ),
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
    ),
    (("Count to five.", "Count from 1 to 5.", "Can you count to 5?"), "1, 2, 3, 4, 5"),
    (
        ("Count to twenty.", "Count from 1 to 20.", "Can you count to 20?"),
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20",
    ),
    (
        (
            "Say the alphabet.",
            "What is the alphabet?",
            "Write the alphabet.",
            "List the letters from A to Z.",
        ),
        "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    ),
    (
        ("List the planets.", "Name all planets.", "What are the planets of the solar system?"),
        "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune",
    ),
    (
        (
            "List the days of the week.",
            "Name the days of the week.",
            "What are the seven days of the week?",
        ),
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    ),
    (
        ("List the months.", "Name all months of the year.", "What are the twelve months?"),
        "January, February, March, April, May, June, July, August, September, October, "
        "November, December",
    ),
    (
        ("Name the seasons.", "What are the four seasons?", "List the seasons."),
        "Spring, summer, autumn, winter",
    ),
    (
        (
            "Yes",
            "Yes.",
            "Yes, please.",
            "Ok",
            "OK",
            "Okay.",
            "Sure",
            "Good",
            "Great!",
            "Nice",
            "Fine",
            "Cool",
        ),
        "Good. What else can I do for you?",
    ),
    (
        ("No", "No.", "No, thanks.", "Nothing.", "That's all."),
        "All right. I am here when you need me.",
    ),
    (("Test", "test", "This is a test.", "ping", "Ping", "Testing"), "I am here and it works."),
    (
        (
            "What is the weather?",
            "What's the weather like today?",
            "What time is it?",
            "What is the date today?",
            "What is happening in the news?",
            "How is the stock market today?",
        ),
        "I don't know. I have no tool to look that up.",
    ),
    (
        ("What is Moonrock?", "Tell me about Moonrock.", "What does Moonrock do?"),
        "Moonrock is an inference server for Kimi-K2, written in Rust.",
    ),
    (
        ("What is the meaning of life?", "Why are we here?", "What is the answer to everything?"),
        "42",
    ),
)
REASONING = "Short and friendly is best here."


def smalltalk(rng, held_out):
    """One line of small talk; these have no held-out half."""
    del held_out
    prompts, reply = rng.choice(EXCHANGES)
    return Sample(
        "smalltalk", [user(rng.choice(prompts))], reply, REASONING, check={"equals": reply}
    )
