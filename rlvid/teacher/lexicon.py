"""Words that give an answer away, by language: colours, directions, yes and no, talk about options. English, German, French, Spanish, Chinese.

`canonical` brings a word of any of them to one form, so that a hint in one language is compared with an answer in another [D].
"""

from __future__ import annotations

import re
import unicodedata
from difflib import SequenceMatcher

from rlvid.reading.mentions import CHINESE_DIGITS, NUMBER_WORDS, WEAK_ONES, value_of


def _set(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


COLOURS = {
    "red": (r"red(?:s|dish|ness)?|crimson|scarlet|ruby|vermilion|rot(?:e[nmrs]?)?|rötlich\w*|rouges?|roj[oa]s?", "红紅"),
    "green": (r"green(?:s|ish)?|emerald|olive|grün\w*|gruen\w*|verte?s?|verdes?", "绿綠"),
    "blue": (r"blu(?:e|es|ish)|navy|azure|turquoise|blau\w*|bleue?s?|azul(?:es)?", "蓝藍"),
    "yellow": (r"yellow\w*|gold|golden|gelb\w*|jaunes?|amarill[oa]s?", "黄黃"),
    "white": (r"whit(?:e|ish)|weiß\w*|weiss\w*|blanc(?:he)?s?|blanc[oa]s?", "白"),
    "black": (r"black\w*|schwarz\w*|noire?s?|negr[oa]s?", "黑"),
    "orange": (r"orange\w*|naranjas?", "橙"),
    "purple": (r"purple|violet\w*|lilac|lila|violett\w*|pourpre|morad[oa]s?|púrpura", "紫"),
    "pink": (r"pink\w*|magenta|rosa\w*", "粉"),
    "brown": (r"brown\w*|braun\w*|marrone?s?|marrón", "棕褐"),
    "grey": (r"gr[ea]y\w*|grau\w*|gris(?:es)?", "灰"),
    "silver": (r"silver\w*|silbern\w*|argentée?s?|platead[oa]s?", "银"),
}
LIKENESSES = {
    "red": "blood tomato tomatoes fire strawberry rose cherry ketchup blut sang sangre 血 火",
    "green": "grass leaf leaves lime frog emerald gras blatt herbe hierba césped 草 树叶",
    "blue": "sky ocean sea himmel meer ciel mer cielo mar 天空 大海",
    "yellow": "sun banana lemon sonne zitrone soleil citron sol limón 太阳 香蕉",
    "white": "snow milk schnee milch neige lait nieve leche 雪 牛奶",
    "black": "coal night kohle nacht charbon nuit carbón noche 煤 夜",
    "orange": "carrot pumpkin",
    "purple": "grape aubergine eggplant",
    "pink": "flamingo",
    "brown": "chocolate coffee",
    "grey": "ash elephant",
    "silver": "coin coins metal chrome steel münze metall",
}
DIRECTIONS = {
    "left": (r"left\w*|west(?:wards?|ern)?|links|linken?|gauche|izquierd[oa]", "左"),
    "right": (r"right(?:wards?)?|east(?:wards?|ern)?|rechts|rechten?|droite?|derech[oa]", "右"),
    "up": (r"up|upwards?|north(?:wards?)?|oben|hoch|aufwärts|haut|arriba", "上"),
    "down": (r"down\w*|south(?:wards?)?|unten|abwärts|runter|bas|abajo", "下"),
}
AFFIRMED = _set("yes yeah yep ja oui sí true affirmative positive indeed really succeeds succeeded manages managed 是的 没错")
DENIED = _set(
    "no nope nein non false negative misses missed miss fails failed fail never unsuccessfully nicht kein keine keinen nie pas jamais nunca 没有 没能",
    "不是",
)
GROUPS = {"twice": 2, "thrice": 3, "double": 2, "triple": 3, "half": 2, "pair": 2, "couple": 2, "duo": 2, "trio": 3, "quartet": 4, "quartett": 4}
GROUPS |= {"quintet": 5, "dozen": 12, "dutzend": 12, "paar": 2, "douzaine": 12, "docena": 12, "par": 2, "mitad": 2, "moitié": 2, "hälfte": 2}
ROMAN = {"II": 2, "III": 3, "IV": 4, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "XI": 11, "XII": 12}
_ORDINALS = {
    1: r"first|1st|erste[nrs]?|première?|premier|primer[oa]?",
    2: r"second|2nd|zweite[nrs]?|deuxième|segund[oa]",
    3: r"third|3rd|dritte[nrs]?|troisième|tercer[oa]?",
    4: r"fourth|4th|vierte[nrs]?|quatrième|cuart[oa]",
    5: r"fifth|5th|fünfte[nrs]?|cinquième|quint[oa]",
    6: r"sixth|6th|sechste[nrs]?|sixième|sext[oa]",
    7: r"seventh|7th|siebte[nrs]?|septième|séptim[oa]",
    8: r"eighth|8th|achte[nrs]?|huitième|octav[oa]",
}
ORDINALS = {value: re.compile(rf"\b(?:{pattern})\b|第{'零一二三四五六七八'[value]}(?![秒帧分])", re.IGNORECASE) for value, pattern in _ORDINALS.items()}
ORDINAL = rf"(?:{'|'.join(_ORDINALS.values())}|last|final|middle|penultimate|letzte[nrs]?|dernière?|dernier|últim[oa]|top|bottom)"

_STOP = _set(
    "a an the of to in on at by for and or is are was were be been it its he she they them him her his their this that these those with from into",
    "out off as do does did done has have had what which who when where how why then than there here after before while during until not der die",
    "das den dem des ein eine einen einem einer eines und oder ist sind war im in am an auf zu mit von bei er sie es was welche wie le la les l",
    "un une des du de d et ou est sont il elle que qui quel quelle dans sur à au avec el los las unos unas y o es son en con su sus que qué cuál",
    "al del por para se",
)
WATCHING = _set(
    "look watch see seen show shown shows visible zoom frame frames video clip scene moment time second seconds region area part side image",
    "picture follow compare check count again closely attention happens thing object person people man woman boy girl one something someone point",
    "start end near clear",
)
"""Words that any hint may hold: they tell options apart only by accident."""
_ENDINGS = ("n", "en", "er", "ly", "ness", "nes", "ier", "t", "nt", "e", "er", "in", "ers")
_IRREGULAR = {
    "fall": "fell fallen", "eat": "ate eaten", "drink": "drank drunk", "take": "took taken", "run": "ran", "go": "went gone", "come": "came", "catch": "caught",
    "throw": "threw thrown", "break": "broke broken", "stand": "stood", "sit": "sat", "hold": "held", "give": "gave given", "get": "got", "make": "made",
    "ride": "rode ridden", "write": "wrote written", "swim": "swam", "fly": "flew flown", "drive": "drove driven", "fight": "fought", "buy": "bought",
    "bring": "brought", "sleep": "slept", "speak": "spoke spoken", "wear": "wore worn", "hide": "hid hidden", "bite": "bit bitten", "shake": "shook shaken",
    "win": "won", "lose": "lost", "find": "found", "build": "built", "draw": "drew drawn", "sing": "sang sung", "feed": "fed", "meet": "met", "pay": "paid",
}  # fmt: skip
PRESENT = {past: present for present, forms in _IRREGULAR.items() for past in forms.split()}
"""Irregular past forms of English verbs that videos are asked about."""
_ORDINAL_OF = {value: re.compile(pattern) for value, pattern in _ORDINALS.items() if value != 2}
"""Without second, which is mostly a unit of time."""
_COLOUR_OF = {name: re.compile(pattern) for name, (pattern, _) in COLOURS.items()}
_DIRECTION_OF = {name: re.compile(pattern) for name, (pattern, _) in DIRECTIONS.items()}
_CHINESE_COLOUR = {char: name for name, (_, chars) in COLOURS.items() for char in chars}
_CHINESE_DIRECTION = {chars: name for name, (_, chars) in DIRECTIONS.items()}
_CHINESE_ACCIDENTS = re.compile(
    r"明白|空白|一下|一起|一些|一样|一直|一旦|一边|一共|一辆|一个|一只|一次|第[一二三四五六七八九十\d]+|[向往朝]?上(?!移)(?=面|方|边|角)|请看|看"
)
_CJK = re.compile(r"[\u3400-\u9fff]+")
_LONG_NUMBER = "|".join(word for word in NUMBER_WORDS if "-" in word or " " in word)
_LATIN = re.compile(rf"(?i:\b(?:{_LONG_NUMBER})\b)|[^\W\d_]+(?:'[^\W\d_]+)?|\d+(?:[.,]\d+)*", re.UNICODE)


_FUNCTION_WORDS = {
    "en": _set("the is are a an at in it he she of to and on his her they what which when where how does"),
    "de": _set("der die das ist sind ein eine einen im am bei er sie es und nicht was wie den dem auf"),
    "fr": _set("le la les est sont un une dans il elle et du de des au que quel à"),
    "es": _set("el la los las es son un una en y su del de qué cuántos se al"),
}


def language(text: str) -> str:
    """en, de, fr, es or zh; "" where the words do not tell."""
    if len("".join(_CJK.findall(text))) * 3 > len(text.replace(" ", "")):
        return "zh"
    words = re.findall(r"[^\W\d_]+", text.casefold())
    ranked = sorted(((sum(word in known for word in words), name) for name, known in _FUNCTION_WORDS.items()), reverse=True)
    return ranked[0][1] if ranked[0][0] >= 2 and ranked[0][0] > ranked[1][0] else ""


def canonical(word: str) -> str:
    """`#3` for three, drei, 3; `^3` for third; `@red` for rote, rouge; `%left` for links; any other word without its ending."""
    word = word.casefold()
    value = value_of(word)
    if value is not None:
        return f"#{value:g}"
    if word.endswith(("mal", "fach")) and word.removesuffix("mal").removesuffix("fach") in NUMBER_WORDS:
        return f"#{NUMBER_WORDS[word.removesuffix('mal').removesuffix('fach')]}"
    for mark, table in (("@", _COLOUR_OF), ("%", _DIRECTION_OF)):
        if found := next((name for name, pattern in table.items() if pattern.fullmatch(word)), ""):
            return mark + found
    if ordinal := next((value for value, pattern in _ORDINAL_OF.items() if pattern.fullmatch(word)), 0):
        return f"^{ordinal}"
    return stem(PRESENT.get(word, word))


def stem(word: str) -> str:
    """A word without accents and its most common ending: eats, eating -> eat; guitares -> guitar."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))
    plain = plain.removesuffix("'s").replace("'", "")
    for ending in ("ing", "es", "ed", "s", "e", "y"):
        if plain.endswith(ending) and len(plain) - len(ending) >= 3:
            return plain[: -len(ending)]
    return plain


def tokens(text: str) -> list[str]:
    """Canonical content words in order; single letters only as capitals. Chinese: known signs and pairs of neighbouring ones."""
    found = []
    latin = _CJK.sub(" ", text)
    for word in _LATIN.findall(latin):
        if len(word) == 1 and word.isalpha():
            if word.isupper() and word not in ("A", "I"):
                found.append(f"&{word}")
        elif word.casefold() not in _STOP and word.casefold() not in WEAK_ONES | {"einmal"}:
            found.append(canonical(word))
    return found + [token for run in _CJK.findall(_CHINESE_ACCIDENTS.sub(" ", text)) for token in _chinese_tokens(run)]


def alike(one: str, other: str) -> bool:
    """The same word, give or take a letter in long ones (guitar, guitare), an ending (cook, cooker), or as part of a compound (shake, handshake)."""
    if one == other:
        return True
    if one[:1] in "#^" and other[:1] in "#^":
        return one[1:] == other[1:]
    short, long = sorted((one, other), key=len)
    if len(short) < 3 or one[0] in "#^@%&" or other[0] in "#^@%&":
        return False
    begins, ends = long.startswith(short), long.endswith(short)
    if (begins and long[len(short) :] in _ENDINGS) or (len(short) >= 4 and len(long) >= 8 and (begins or ends)):
        return True
    return len(short) >= 5 and SequenceMatcher(None, one, other).ratio() >= 0.85


def is_stop(word: str) -> bool:
    return word in _STOP


def _chinese_tokens(run: str) -> list[str]:
    known = [f"@{_CHINESE_COLOUR[char]}" for char in run if char in _CHINESE_COLOUR]
    known += [f"%{_CHINESE_DIRECTION[match[1]]}" for match in re.finditer(r"(?:[向往朝]|^)([左右上下])(?![边侧方角面])", run)]
    known += [f"#{value_of(match[0]):g}" for match in re.finditer("[" + "".join(CHINESE_DIGITS) + "]+", run) if match[0] != "一"]
    plain = "".join(char for char in run if char not in _CHINESE_COLOUR and char not in CHINESE_DIGITS and char not in "的了是在有着过色吗呢吧和与或")
    return known + [plain[at : at + 2] for at in range(len(plain) - 1)]
