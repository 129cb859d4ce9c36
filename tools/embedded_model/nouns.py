"""Which drawing shows what: the paper's 45 animals and the names the icon sets give them."""

# The order is the order of the judge's classes; the last class of the judge is "other".
ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat",
    "lion", "tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish", "shark",
    "whale", "dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose",
    "bee", "pig", "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)  # fmt: skip

# Names (spaces for hyphens, trailing numbers removed) that mean an animal, beyond "X" and "X face".
_SYNONYMS = {
    "cat": (
        "black cat, catside, grinning cat, grinning cat face, grinning cat with smiling eyes,"
        "grinning cat face with smiling eyes, cat with tears of joy, cat face with tears of joy,"
        "cat with wry smile, cat face with wry smile, crying cat, crying cat face, kissing cat,"
        "kissing cat face, pouting cat, pouting cat face, smiling cat with heart eyes,"
        "smiling cat face with heart eyes, weary cat, weary cat face"
    ),
    "dog": "guide dog, service dog, poodle, dogside, sitting dog, jumping dog, sniffing dog",
    "horse": "horseface",
    "monkey": (
        "monkeyface, hear no evil monkey, see no evil monkey, speak no evil monkey,monkeyhear, monkeysee, monkeyspeak"
    ),
    "rabbit": "bunny, bunnyside",
    "spider": "long legged spider, hanging spider, angular spider",
    "bird": "black bird, egyptian bird",
    "sheep": "ewe, ram",
    "cow": "cowface",
    "tiger": "tigerside",
    "bear": "polar bear",
    "fox": "foxcrying, foxgrin, foxheart, foxkissing, foxpouting, foxsmiling, foxtearofjoy, foxweary, foxwry",
    "wolf": "wolfface, wolf howl",
    "lizard": "lizard tongue",
    "beetle": "lady beetle, ladybeetle, scarab beetle, flying beetle, bug beetle",
    "butterfly": "monarch butterfly",
    "fish": "tropical fish, tropicalfish, blowfish",
    "whale": "spouting whale, spurtingwhale, sperm whale",
    "squirrel": "chipmunk",
    "mouse": "mouseside, seated mouse",
    "turtle": "sea turtle",
    "chicken": (
        "rooster, hatching chick, baby chick, front facing baby chick, babychick, hatchingchick, frontfacingchick"
    ),
    "duck": "plastic duck",
    "goose": "canadian goose",
    "bee": "honeybee",
    "bat": "evil bat, swamp bat",
    "pig": "pigside",
    "camel": "two hump camel, bactriancamel, dromedarycamel",
}
ANIMAL_OF_NAME = {
    name.strip(): animal
    for animal in ANIMALS
    for name in (animal, f"{animal} face", *_SYNONYMS.get(animal, "").split(","))
    if name.strip()
}

# What the sets of silhouettes append to a plain name.
SILHOUETTE_SUFFIXES = (" fill", " duotone", " outline", " simple", " variant", " alt", " head", " side")

# Two sets draw the country's flag, others the computer's mouse.
DROPPED = {
    *(("emojione", "turkey"), ("streamline-emojis", "turkey"), ("mdi", "mouse")),
    *(("mdi", "mouse-variant"), ("ph", "mouse"), ("ph", "mouse-fill"), ("ph", "mouse-duotone"), ("ph", "mouse-simple")),
    *(("ph", "mouse-simple-fill"), ("ph", "mouse-simple-duotone")),
}

# Everything else comes from these chapters of the emoji catalogue (no people, flags, symbols, letters).
OTHER_CHAPTERS = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "Smileys & Emotion",
    "Travel & Places",
)
OTHER_REFUSED_WORDS = frozenset(
    (
        *("flag", "keycap", "button", "oclock", "thirty", "symbol", "sign", "input", "mark", "letter"),
        *("person", "man", "woman", "men", "women", "skin", "tone"),
    )
)


def with_article(noun: str) -> str:
    """ "a cat", "an ant": the prompts of the paper's `simple-animals`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
