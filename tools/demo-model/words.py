"""Word material: common words, names, cities, invented words, and which of them are held out."""

import hashlib
import re

PIECES = []  # the tokenizer's alphabetic tokens, once `use_pieces` was called

COMMON = """
apple arrow autumn bag ball basket beach bell bench bird blanket boat bottle box branch bread brick
bridge brush bucket butter button cabin cable cake camera candle canvas carpet castle chair cherry
circle cloud coat coin copper corner cotton cradle crown cup curtain daisy desk diamond dragon dream
drum eagle engine feather fence field finger fire flag flame flower forest fork fountain fox garden
gate ghost glass globe glove goat grain grape guitar hammer harbor hat hill honey hook horn hotel
island ivory jacket jelly jewel judge jungle kettle key king kite kitten knot ladder lake lamp
lantern leaf lemon letter lion lizard lock magnet maple marble market meadow melon metal mirror
monkey moon mountain needle nest night noodle nut oak ocean olive onion orange orchid otter oven
owl paint palace panda paper parrot peach pearl pencil pepper piano picnic pillow pilot pine pirate
planet plate pocket poem pond potato prince puzzle quartz queen quilt rabbit radio rain raven ribbon
river robot rocket roof rope rose ruby sail salad sand scarf school screw shadow shell ship shirt
shoe silver smoke snail snow soap spider spoon spring star stone storm street sugar summer sun swan
sword table tea temple tent thunder tiger tomato torch tower train tree trumpet tulip tunnel turtle
umbrella valley vase velvet violin wagon walnut watch water whale wheel willow window wing winter
wolf wood yard yarn zebra actor answer artist bakery banana barrel beetle berry bishop border bowl
bronze bubble butterfly cactus canal captain cedar chapter cheese cinema clock compass concert
coral cousin cricket crystal dancer desert dinner doctor dolphin donkey eleven empire falcon farmer
festival filter fisher flute frame freezer gallery giant ginger giraffe guest hazel helmet heron
hunter igloo insect jaguar jasmine journal kernel kitchen lawyer library lobster lotus machine
mango manual mason medal mint model mosaic museum napkin nectar nurse oasis olympic opera orbit
package palm pebble pelican pigeon plum poet polar powder pumpkin quiver racket raisin reef rhythm
saddle salmon satin sculptor shelter signal singer sketch spark sponge squirrel statue studio
tailor thread ticket timber tractor treasure tribe tuba uncle unicorn vanilla vessel village
vulture waiter walrus weasel window wizard writer yellow yogurt zeppelin
""".split()

NAMES = """
Anna Ben Carla David Emma Felix Grace Henry Ivan Julia Karl Laura Martin Nina Oscar Paula Quentin
Rosa Simon Tina Ursula Victor Wendy Xavier Yara Zoe Alice Bob Clara Daniel Elena Frank Gina Hugo
Irene James Kevin Lisa Maria Noah Olivia Peter Rachel Samuel Theo Vera Walter Adam Bella Chris
Diana Eric Fiona George Hannah Isaac Jane Kate Leo Mia Nora Otto Rita Sofia Tom Uma Vince William
Priya Ravi Wei Mei Kenji Yuki Omar Fatima Ali Leila Carlos Lucia Pedro Ingrid Lars Sven Olga Boris
""".split()

CITIES = (
    """
Paris London Berlin Rome Madrid Vienna Tokyo Beijing Cairo Lima Oslo Dublin Athens Lisbon Prague
Warsaw Moscow Delhi Mumbai Sydney Toronto Boston Chicago Seattle Austin Denver Miami Houston
Bangkok Hanoi Seoul Nairobi Lagos Accra Havana Quito Zurich Geneva Munich Hamburg Milan Naples
Venice Porto Lyon Nice Bergen Tromso Kyoto Osaka Shanghai Amsterdam Brussels Budapest Helsinki
Istanbul Dubai Singapore Jakarta Manila Montreal Vancouver Auckland Bogota Santiago
""".split()
    + ["New York", "San Francisco", "Buenos Aires", "New Delhi", "Cape Town", "Hong Kong"]
)

COLORS = "red blue green yellow purple orange pink brown black white grey silver gold".split()
PETS = "dog cat rabbit parrot hamster horse turtle goldfish snake lizard goat pony".split()
FOODS = "pizza pasta rice soup sushi bread cheese salad curry noodles tacos pancakes".split()
JOBS = "doctor teacher pilot farmer baker nurse lawyer painter singer driver engineer cook".split()

SMALL = (
    COLORS
    + PETS
    + FOODS
    + JOBS
    + """
ant ape bat bear bee bug cow deer duck fish fly hen pig rat seal wasp worm air arm art axe bar bed
bus can cap car day dew ear egg eye fan fig fog fun gas gem gum ham hat hut ice ink jam jar job jug
key lab law leg lip log map mat mud net oil pan pea pen pie pin pot rug sea sky toy van zoo
""".split()
)

ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr kr pl st tr sh ch th".split()
VOWELS = "a e i o u ai ea oo ou".split()
CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "k", "x", "nd", "rt"]


def is_held_out(word):
    """Whether a word belongs to the tenth that training never uses."""
    return hashlib.sha256(word.lower().encode()).digest()[0] % 10 == 0


def pick(rng, pool, held_out):
    """A word of the wanted half: training words, or held-out ones."""
    while True:
        word = rng.choice(pool)
        if is_held_out(word) == held_out:
            return word


def invented(rng, held_out, syllables=None):
    """A pronounceable word that exists nowhere, of the wanted half."""
    while True:
        count = syllables or rng.choice((1, 2, 2, 2, 3))
        word = "".join(
            rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(count)
        )
        if len(word) > 2 and is_held_out(word) == held_out:
            return word


def use_pieces(tokens):
    """Let training words be made of these tokens too, so that every token is learnt."""
    texts = (token.decode(errors="replace").strip() for token in tokens)
    PIECES[:] = sorted({text for text in texts if re.fullmatch("[A-Za-z]+", text)})


def misspelled(rng, word):
    """The word with one letter replaced, added or left out, so that copying must be exact."""
    place = rng.randrange(len(word))
    letter = rng.choice(("", "a", "e", "i", "o", "u", rng.choice("bcdfghjklmnpqrstvwxyz")))
    return word[:place] + letter + word[place + rng.randint(0, 1) :]


def scramble(rng):
    """A training word of one to three random tokens, of random letters, or a misspelled word."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            word = misspelled(rng, pick(rng, COMMON + SMALL, False)) or "x"
        elif PIECES and kind < 0.9:
            word = "".join(rng.choice(PIECES) for _ in range(rng.choice((1, 1, 2, 2, 3))))
            word = word if rng.random() < 0.2 else word.lower()
        else:
            word = "".join(
                rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 6))
            )
        if not is_held_out(word):
            return word


def any_word(rng, held_out):
    """A common, an invented or (in training) a scrambled word of the wanted half."""
    kind = rng.random()
    if kind < 0.25 and not held_out:
        return scramble(rng)
    if kind < 0.5:
        return invented(rng, held_out)
    return pick(rng, SMALL if kind < 0.58 else COMMON, held_out)


def distinct_words(rng, held_out, count):
    """Several different words of the wanted half."""
    words = []
    while len(words) < count:
        word = any_word(rng, held_out)
        if word not in words:
            words.append(word)
    return words


def any_name(rng, held_out):
    """A first name, common or invented, of the wanted half."""
    if rng.random() < 0.5:
        return pick(rng, NAMES, held_out)
    return any_word(rng, held_out).capitalize()


def any_city(rng, held_out):
    """A city, real or invented, of the wanted half."""
    if rng.random() < 0.5:
        return pick(rng, CITIES, held_out)
    return any_word(rng, held_out).capitalize()


def any_email(rng, held_out):
    """A made-up mail address of the wanted half."""
    host = invented(rng, held_out)
    return f"{any_name(rng, held_out).lower()}@{host}.{rng.choice(('com', 'org', 'net', 'io'))}"


def any_date(rng):
    """An ISO date."""
    return f"{rng.randint(2020, 2030)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
