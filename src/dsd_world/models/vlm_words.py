"""Words that captions of people use for things of the world, so that tiny-vlm can take them as an inspiration."""

from __future__ import annotations

SYNONYMS = {
    **dict.fromkeys(("cats", "kitten", "kittens", "kitty", "tiger", "lion", "dog", "dogs", "puppy", "fox"), "cat"),
    **dict.fromkeys(("bears", "teddy", "panda", "grizzly", "koala", "elephant", "monkey", "horse", "cow"), "bear"),
    **dict.fromkeys(("rabbits", "bunny", "bunnies", "hare", "mouse", "deer", "squirrel"), "rabbit"),
    **dict.fromkeys(("frogs", "toad", "lizard", "turtle", "fish", "snake", "dragon", "crocodile"), "frog"),
    **dict.fromkeys(("robots", "android", "machine", "toy", "game", "man", "men", "boy", "player", "star"), "robot"),
    **dict.fromkeys(("birds", "duck", "owl", "chicken", "eagle", "parrot", "penguin"), "bird"),
    **dict.fromkeys(("butterfly", "dragonfly"), "bird"),
    **dict.fromkeys(("mugs", "cup", "cups", "coffee", "tea", "bottle", "glass", "bowl", "kitchen", "wine"), "mug"),
    **dict.fromkeys(("lamps", "light", "lights", "lantern", "candle", "lighting", "bulb", "chandelier"), "lamp"),
    **dict.fromkeys(("cars", "truck", "vehicle", "bus", "taxi", "van", "auto", "motorcycle", "bike", "train"), "car"),
    **dict.fromkeys(("crimson", "scarlet", "burgundy", "maroon", "ruby", "cherry"), "red"),
    **dict.fromkeys(("amber", "gold", "golden", "brown", "tan", "copper", "beige", "bronze", "chocolate"), "orange"),
    **dict.fromkeys(("lemon", "blonde", "cream", "sunny"), "yellow"),
    **dict.fromkeys(("emerald", "lime", "olive", "mint", "grass"), "green"),
    **dict.fromkeys(("turquoise", "cyan", "jade", "aqua"), "teal"),
    **dict.fromkeys(("navy", "azure", "cobalt", "denim", "indigo"), "blue"),
    **dict.fromkeys(("violet", "plum", "lavender", "lilac"), "purple"),
    **dict.fromkeys(("rose", "magenta", "fuchsia", "peach", "coral"), "pink"),
    **dict.fromkeys(("stripes", "stripe", "striped", "lines", "banded"), "striped"),
    **dict.fromkeys(("spots", "dotted", "dots", "polka", "leopard"), "spotted"),
    **dict.fromkeys(("solid", "simple", "classic"), "plain"),
    **dict.fromkeys(("hats", "cap", "crown", "helmet"), "hat"),
    **dict.fromkeys(("scarves", "shawl", "necklace"), "scarf"),
    **dict.fromkeys(("bows", "tie", "ribbon", "bowtie"), "bow"),
    **dict.fromkeys(("happy", "smile", "smiles", "fun"), "smiling"),
    **dict.fromkeys(("crying", "lonely", "unhappy"), "sad"),
    **dict.fromkeys(("amazed", "shocked", "wow"), "surprised"),
    **dict.fromkeys(("sand", "coast", "island", "summer"), "beach"),
    **dict.fromkeys(("woods", "trees", "tree", "garden", "park", "nature"), "forest"),
    **dict.fromkeys(("winter", "ice", "christmas", "mountain", "mountains"), "snow"),
    **dict.fromkeys(("moon", "stars", "dark", "evening"), "night"),
    **dict.fromkeys(("house", "home", "living", "bedroom", "interior", "office"), "room"),
    **dict.fromkeys(("dunes", "canyon"), "desert"),
    **dict.fromkeys(("street", "town", "york", "london", "building"), "city"),
    **dict.fromkeys(("ocean", "water", "lake", "boat", "ship", "river"), "sea"),
}
"""Word in a caption -> the world's nearest word (of a subject, a mood or a place)."""

_COMMON = (
    "the of and for by from to is this that an your new with best free art photo picture image stock design home set "
    "black white vintage woman women girl baby two one three first at in on 2 1 3"
)
COMMON_WORDS = tuple(_COMMON.split())
"""Words that real captions are full of and that mean nothing here."""
