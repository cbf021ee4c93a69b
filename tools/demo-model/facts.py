"""The facts the demo model learns: relations, their pairs, and how people ask for them.

Every relation has questions for training and other questions, worded differently, that are only
ever used in the held-out sets. `{x}` is what is asked about, `{y}` the answer.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its pairs, the subject name for quizzes, and its wordings."""

    name: str
    subject: str
    pairs: dict
    answer: str
    train: tuple
    test: tuple


def parse_pairs(text):
    """Parse `key:value, key:value` into a dict."""
    entries = (entry.strip() for entry in text.replace("\n", " ").split(","))
    return dict(entry.split(":") for entry in entries if entry)


CAPITALS = parse_pairs("""
France:Paris, Germany:Berlin, Italy:Rome, Spain:Madrid, Portugal:Lisbon, Poland:Warsaw,
Austria:Vienna, Hungary:Budapest, Greece:Athens, Ireland:Dublin, Norway:Oslo, Sweden:Stockholm,
Finland:Helsinki, Denmark:Copenhagen, Belgium:Brussels, Netherlands:Amsterdam, Switzerland:Bern,
Czechia:Prague, Slovakia:Bratislava, Romania:Bucharest, Bulgaria:Sofia, Serbia:Belgrade,
Croatia:Zagreb, Slovenia:Ljubljana, Ukraine:Kyiv, Russia:Moscow, Turkey:Ankara, Iceland:Reykjavik,
Estonia:Tallinn, Latvia:Riga, Lithuania:Vilnius, Albania:Tirana, Malta:Valletta, Cyprus:Nicosia,
England:London, Scotland:Edinburgh, Wales:Cardiff, China:Beijing, Japan:Tokyo, India:New Delhi,
Pakistan:Islamabad, Bangladesh:Dhaka, Nepal:Kathmandu, Thailand:Bangkok, Vietnam:Hanoi,
Malaysia:Kuala Lumpur, Indonesia:Jakarta, Philippines:Manila, Mongolia:Ulaanbaatar, Iran:Tehran,
Iraq:Baghdad, Syria:Damascus, Lebanon:Beirut, Jordan:Amman, Israel:Jerusalem, Qatar:Doha,
Kuwait:Kuwait City, Oman:Muscat, Yemen:Sanaa, Afghanistan:Kabul, Egypt:Cairo, Libya:Tripoli,
Tunisia:Tunis, Algeria:Algiers, Morocco:Rabat, Nigeria:Abuja, Ghana:Accra, Senegal:Dakar,
Kenya:Nairobi, Uganda:Kampala, Ethiopia:Addis Ababa, Somalia:Mogadishu, Sudan:Khartoum,
Angola:Luanda, Zambia:Lusaka, Zimbabwe:Harare, Namibia:Windhoek, Rwanda:Kigali, Canada:Ottawa,
Mexico:Mexico City, Cuba:Havana, Jamaica:Kingston, Haiti:Port-au-Prince, Brazil:Brasilia,
Argentina:Buenos Aires, Chile:Santiago, Peru:Lima, Colombia:Bogota, Venezuela:Caracas,
Ecuador:Quito, Bolivia:La Paz, Uruguay:Montevideo, Paraguay:Asuncion, Australia:Canberra,
New Zealand:Wellington, Fiji:Suva, South Korea:Seoul, North Korea:Pyongyang
""")

CONTINENTS = {
    "Europe": "France Germany Italy Spain Portugal Poland Austria Hungary Greece Ireland Norway "
    "Sweden Finland Denmark Belgium Switzerland Romania Bulgaria Croatia Ukraine Iceland Estonia",
    "Asia": "China Japan India Pakistan Nepal Thailand Vietnam Malaysia Mongolia Iran Iraq Syria",
    "Africa": "Egypt Libya Tunisia Algeria Morocco Nigeria Ghana Kenya Uganda Ethiopia Angola",
    "North America": "Canada Mexico Cuba Jamaica Haiti",
    "South America": "Brazil Argentina Chile Peru Colombia Venezuela Ecuador Bolivia Uruguay",
}

SYMBOLS = parse_pairs("""
hydrogen:H, helium:He, lithium:Li, beryllium:Be, boron:B, carbon:C, nitrogen:N, oxygen:O,
fluorine:F, neon:Ne, sodium:Na, magnesium:Mg, aluminium:Al, silicon:Si, phosphorus:P, sulfur:S,
chlorine:Cl, argon:Ar, potassium:K, calcium:Ca, titanium:Ti, chromium:Cr, manganese:Mn, iron:Fe,
cobalt:Co, nickel:Ni, copper:Cu, zinc:Zn, arsenic:As, bromine:Br, silver:Ag, tin:Sn, iodine:I,
tungsten:W, platinum:Pt, gold:Au, mercury:Hg, lead:Pb, uranium:U, radium:Ra
""")

ATOMIC_NUMBERS = parse_pairs("""
hydrogen:1, helium:2, lithium:3, beryllium:4, boron:5, carbon:6, nitrogen:7, oxygen:8, fluorine:9,
neon:10, sodium:11, magnesium:12, aluminium:13, silicon:14, phosphorus:15, sulfur:16, chlorine:17,
argon:18, potassium:19, calcium:20, iron:26, copper:29, zinc:30, silver:47, gold:79
""")

OPPOSITES = parse_pairs("""
hot:cold, big:small, up:down, left:right, day:night, black:white, fast:slow, tall:short, old:young,
rich:poor, happy:sad, early:late, open:closed, full:empty, hard:soft, high:low, heavy:light,
wet:dry, strong:weak, thick:thin, wide:narrow, deep:shallow, loud:quiet, clean:dirty, good:bad,
true:false, first:last, inside:outside, before:after, push:pull, win:lose, buy:sell, give:take,
start:stop, love:hate, war:peace, north:south, east:west, near:far, sharp:blunt, smooth:rough,
sweet:bitter, brave:afraid, cheap:expensive, easy:difficult, awake:asleep, alive:dead
""")

SOUNDS = parse_pairs("""
dog:bark, cat:meow, cow:moo, sheep:baa, pig:oink, duck:quack, lion:roar, horse:neigh, owl:hoot,
bee:buzz, snake:hiss, frog:croak, rooster:crow, wolf:howl, mouse:squeak, crow:caw, elephant:trumpet,
donkey:bray, turkey:gobble, pigeon:coo
""")

BABIES = parse_pairs("""
dog:puppy, cat:kitten, cow:calf, sheep:lamb, pig:piglet, duck:duckling, lion:cub, horse:foal,
frog:tadpole, goat:kid, hen:chick, goose:gosling, deer:fawn, kangaroo:joey, owl:owlet,
swan:cygnet, rabbit:bunny, eagle:eaglet
""")

COLOURS = parse_pairs("""
grass:green, snow:white, the sky:blue, a banana:yellow, blood:red, coal:black, a carrot:orange,
a lemon:yellow, a strawberry:red, milk:white, chocolate:brown, a flamingo:pink, an eggplant:purple,
a polar bear:white, a raven:black, spinach:green, a tomato:red, the sun:yellow, an elephant:grey,
a lime:green
""")

CURRENCIES = parse_pairs("""
Japan:yen, China:yuan, India:rupee, Russia:ruble, Switzerland:franc, Sweden:krona, Norway:krone,
Poland:zloty, Mexico:peso, Brazil:real, Turkey:lira, Thailand:baht, Vietnam:dong, England:pound,
Germany:euro, France:euro, Italy:euro, Spain:euro, Canada:dollar, Australia:dollar, Israel:shekel,
Hungary:forint, Czechia:koruna, South Korea:won, Nigeria:naira, Kenya:shilling, Ghana:cedi,
Ukraine:hryvnia, Peru:sol, Morocco:dirham, Bangladesh:taka, Malaysia:ringgit, Indonesia:rupiah
""")

LANGUAGES = parse_pairs("""
France:French, Germany:German, Italy:Italian, Spain:Spanish, Portugal:Portuguese, Poland:Polish,
Brazil:Portuguese, Mexico:Spanish, Japan:Japanese, China:Chinese, Russia:Russian, Greece:Greek,
Turkey:Turkish, Egypt:Arabic, Iran:Persian, Israel:Hebrew, Sweden:Swedish, Norway:Norwegian,
Finland:Finnish, Denmark:Danish, Hungary:Hungarian, Romania:Romanian, Thailand:Thai,
Vietnam:Vietnamese, Austria:German, Argentina:Spanish, Australia:English, Netherlands:Dutch,
Czechia:Czech, Iceland:Icelandic, South Korea:Korean, Morocco:Arabic
""")

AUTHORS = parse_pairs("""
Hamlet:Shakespeare, Macbeth:Shakespeare, Faust:Goethe, Dracula:Bram Stoker, Emma:Jane Austen,
Frankenstein:Mary Shelley, Ulysses:James Joyce, Don Quixote:Cervantes, The Odyssey:Homer,
The Iliad:Homer, War and Peace:Tolstoy, Anna Karenina:Tolstoy, Moby Dick:Herman Melville,
The Hobbit:Tolkien, Oliver Twist:Charles Dickens, Great Expectations:Charles Dickens,
The Trial:Kafka, The Metamorphosis:Kafka, The Stranger:Camus, Candide:Voltaire, Lolita:Nabokov,
Animal Farm:George Orwell, The Divine Comedy:Dante, Les Miserables:Victor Hugo,
Jane Eyre:Charlotte Bronte, Wuthering Heights:Emily Bronte, Treasure Island:Stevenson,
Robinson Crusoe:Daniel Defoe, The Raven:Edgar Allan Poe, Crime and Punishment:Dostoevsky,
Pinocchio:Carlo Collodi, Dune:Frank Herbert, The Jungle Book:Kipling, Peter Pan:J. M. Barrie
""")

INVENTORS = parse_pairs("""
the telephone:Bell, the light bulb:Edison, the airplane:the Wright brothers, dynamite:Nobel,
the printing press:Gutenberg, the steam engine:James Watt, the radio:Marconi, penicillin:Fleming,
the theory of relativity:Einstein, the law of gravity:Newton, radium:Marie Curie, X-rays:Rontgen,
the theory of evolution:Darwin, the World Wide Web:Tim Berners-Lee, the diesel engine:Diesel,
the battery:Volta, the periodic table:Mendeleev, the Linux kernel:Linus Torvalds,
the Python language:Guido van Rossum, the C language:Dennis Ritchie
""")

PAINTERS = parse_pairs("""
the Mona Lisa:Leonardo da Vinci, The Last Supper:Leonardo da Vinci, The Starry Night:Van Gogh,
Guernica:Picasso, The Scream:Munch, The Night Watch:Rembrandt, The Kiss:Klimt,
Girl with a Pearl Earring:Vermeer, Water Lilies:Monet, The Birth of Venus:Botticelli,
The Persistence of Memory:Dali, Las Meninas:Velazquez, The Sistine Chapel ceiling:Michelangelo,
The Hay Wain:Constable
""")

LANDMARKS = parse_pairs("""
the Eiffel Tower:Paris, Big Ben:London, the Colosseum:Rome, the Brandenburg Gate:Berlin,
the Acropolis:Athens, the Kremlin:Moscow, the Sagrada Familia:Barcelona, the Louvre:Paris,
the Statue of Liberty:New York, the Golden Gate Bridge:San Francisco, Christ the Redeemer:Rio,
the Forbidden City:Beijing, the Sydney Opera House:Sydney, the Burj Khalifa:Dubai,
the Hagia Sophia:Istanbul, the Charles Bridge:Prague, the Little Mermaid:Copenhagen,
the White House:Washington, the Taj Mahal:Agra, the Space Needle:Seattle, the Prado:Madrid
""")

PLURALS = parse_pairs("""
mouse:mice, goose:geese, child:children, foot:feet, tooth:teeth, man:men, woman:women, ox:oxen,
leaf:leaves, knife:knives, wolf:wolves, city:cities, baby:babies, box:boxes, sheep:sheep,
person:people, cactus:cacti, hero:heroes, potato:potatoes, half:halves
""")

PAST_TENSES = parse_pairs("""
go:went, eat:ate, see:saw, run:ran, take:took, give:gave, write:wrote, drink:drank, sing:sang,
swim:swam, fly:flew, buy:bought, bring:brought, think:thought, teach:taught, speak:spoke,
break:broke, choose:chose, drive:drove, fall:fell, find:found, know:knew, make:made, sleep:slept
""")

SPANISH = parse_pairs("""
house:casa, dog:perro, cat:gato, water:agua, bread:pan, sun:sol, moon:luna, book:libro, tree:arbol,
friend:amigo, red:rojo, green:verde, milk:leche, fire:fuego, hand:mano, night:noche, day:dia,
white:blanco, city:ciudad, flower:flor, heart:corazon, door:puerta, school:escuela, food:comida
""")

FRENCH = parse_pairs("""
house:maison, dog:chien, cat:chat, water:eau, bread:pain, sun:soleil, moon:lune, book:livre,
tree:arbre, friend:ami, red:rouge, green:vert, milk:lait, fire:feu, hand:main, night:nuit,
day:jour, white:blanc, city:ville, flower:fleur, heart:coeur, door:porte, school:ecole
""")

SIDES = parse_pairs("""
triangle:3, square:4, rectangle:4, pentagon:5, hexagon:6, heptagon:7, octagon:8, nonagon:9,
decagon:10
""")

LEGS = parse_pairs("""
dog:4, cat:4, spider:8, ant:6, bee:6, bird:2, human:2, snake:0, fish:0, horse:4, octopus:8, crab:10
""")

PLANETS = "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
ROMAN = dict(
    zip(
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 50 100 500 1000".split(),
        "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI XVII XVIII XIX XX L C D M".split(),
    )
)


def successors(names):
    """Map each name to the next one, cyclically."""
    return dict(zip(names, names[1:] + names[:1]))


def predecessors(names):
    """Map each name to the one before it, cyclically."""
    return {after: before for before, after in successors(names).items()}


def inverse(pairs):
    """Swap keys and values, leaving out values that several keys share."""
    values = list(pairs.values())
    return {value: key for key, value in pairs.items() if values.count(value) == 1}


COUNTRY_CONTINENT = {c: k for k, names in CONTINENTS.items() for c in names.split()}
