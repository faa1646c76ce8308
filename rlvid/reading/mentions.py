"""Times, numbers and places that a text names, in English, German, French, Spanish and Chinese. Rules, no model [D].

Used where a patch is compared with a rationale (`algo.repair`) and where a hint is searched for leaks (`teacher.guard`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_WORDS = {
    0: "zero null zéro cero",
    1: "one ein eins eine einen einem einer un une uno una",
    2: "two zwei deux dos",
    3: "three drei trois tres",
    4: "four vier quatre cuatro",
    5: "five fünf fuenf cinq cinco",
    6: "six sechs seis",
    7: "seven sieben sept siete",
    8: "eight acht huit ocho",
    9: "nine neun neuf nueve",
    10: "ten zehn dix diez",
    11: "eleven elf onze",
    12: "twelve zwölf zwoelf douze doce",
    13: "thirteen dreizehn treize trece",
    14: "fourteen vierzehn quatorze catorce",
    15: "fifteen fünfzehn quinze quince",
    16: "sixteen sechzehn seize dieciséis",
    17: "seventeen siebzehn diecisiete",
    18: "eighteen achtzehn dieciocho",
    19: "nineteen neunzehn diecinueve",
    20: "twenty zwanzig vingt veinte",
    30: "thirty dreißig trente treinta",
    40: "forty vierzig quarante cuarenta",
    50: "fifty fünfzig cinquante cincuenta",
    60: "soixante sesenta",
    100: "hundred hundert cent cien",
}
_TENS = {20: ("twenty", "zwanzig"), 30: ("thirty", "dreißig"), 40: ("forty", "vierzig"), 50: ("fifty", "fünfzig"), 60: ("sixty", "sechzig")}
_TENS |= {70: ("seventy", "siebzig"), 80: ("eighty", "achtzig"), 90: ("ninety", "neunzig")}
NUMBER_WORDS = {word: value for value, words in _WORDS.items() for word in words.split()} | {word: ten for ten, words in _TENS.items() for word in words}
for _ten, (_english, _german) in _TENS.items():
    for _unit in range(1, 10):
        _one, _eins = _WORDS[_unit].split()[:2]
        NUMBER_WORDS |= {f"{_english}{sign}{_one}": _ten + _unit for sign in "- "} | {f"{_eins}und{_german}": _ten + _unit}
CHINESE_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2, "十": 10}
WEAK_ONES = frozenset(_WORDS[1].split()) | {"一"}
"""Words for 1 that are mostly articles or pronouns."""

_NUMBER = r"\d{1,9}(?:[.,]\d{1,6})?"
_WORD = "|".join(sorted(NUMBER_WORDS, key=len, reverse=True))
_VALUE = rf"(?:{_NUMBER}|(?:{_WORD})(?![^\W\d_])|[零一二三四五六七八九两十]{{1,3}})"
_SECOND = r"(?:s|secs?|seconds?|sek|sekunden?|secondes?|seg|segundos?)(?![^\W\d_])\.?|秒钟?"
_MINUTE = r"(?:mins?|minutes?|minuten?|minutos?)(?![^\W\d_])\.?|分钟?"
_JOIN = r"\s*(?:-|–|—|~|,|to|and|until|till|or|bis|und|à|et|a|y|hasta|到|至|和)\s*"
_START = r"(?<![\w.,:])"
_CLOCK = re.compile(rf"{_START}(\d{{1,3}}):([0-5]\d)(?::([0-5]\d))?(\.\d{{1,6}})?(?![\d:])")
_WITH_UNIT = re.compile(rf"(?<![A-Za-z0-9_.,:])({_VALUE})(?:\s|-)*(?:({_MINUTE})|({_SECOND}))", re.IGNORECASE)
_AFTER_UNIT = re.compile(rf"(?:\b(?:seconds?|sekunden?|secondes?|segundos?)\s+|\bt\s*=\s*|第\s*)({_NUMBER})(?![\d.:])(?!\s*(?:个|项|只|次))", re.IGNORECASE)
_FIRST_OF_RANGE = re.compile(rf"(?<![A-Za-z0-9_.,:])({_VALUE}){_JOIN}\Z", re.IGNORECASE)
_BARE = re.compile(
    rf"(?:between|from|at|around|about|near|until|by|to|and|zwischen|von|bei|um|bis|und|entre|de|à|vers|et|en|a|y)\s+({_NUMBER})"
    # Not a count: `at 3 cups`. A word that can follow a time may stand there: `between 3 and 5 the ball`.
    r"(?![\d:.,]*\d)(?!\s*(?:%|(?!(?:the|an?|it|we|i|he|she|they|you|there|when|where|in|on|and|to|as|is|one|et|und|y|bis|à)\b)[^\W\d_]+))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mention:
    """A time named in a text: seconds, and where it stands."""

    seconds: float
    start: int
    end: int


def normalised(text: str) -> str:
    """One spelling for the same signs: full-width digits, ligatures and minus signs; all positions refer to this form."""
    return unicodedata.normalize("NFKC", text).replace("−", "-").replace("’", "'")


def value_of(text: str) -> float | None:
    """The number that a word or numeral stands for: `3`, `2,5`, `twelve`, `十二`."""
    word = text.casefold()
    if word in NUMBER_WORDS:
        return float(NUMBER_WORDS[word])
    if word and all(char in CHINESE_DIGITS for char in word):
        return _chinese(word)
    try:
        return float(word.replace(",", "."))
    except ValueError:
        return None


def times(text: str, *, bare: bool = False) -> list[Mention]:
    """Every time in a `normalised` text, in order: `3.0 s`, `3-5 s`, `second 3`, `0:05`, `five seconds`, `1 min 5 s`, `第3秒`.

    bare: numbers without a unit count too after words such as between, from, at.
    """
    found = [_clock(match) for match in _CLOCK.finditer(text)]
    for match in _WITH_UNIT.finditer(text):
        found += _with_unit(text, match)
    found += [Mention(_seconds(match[1], ""), match.start(1), match.end()) for match in _AFTER_UNIT.finditer(text)]
    if bare:
        found += [Mention(_seconds(match[1], ""), match.start(1), match.end(1)) for match in _BARE.finditer(text)]
    return _joined(_apart(sorted(found, key=lambda mention: (mention.start, -mention.end))), text)


def places(text: str) -> set[str]:
    """Which of left, right, top, bottom and centre a text names."""
    return {place for place, pattern in _PLACES.items() if pattern.search(text)}


_PLACES = {
    "left": re.compile(r"\bleft|\blinks\b|\blinke[nmrs]?\b|\bgauche|\bizquierd|左", re.IGNORECASE),
    "right": re.compile(r"\bright|\brechts\b|\brechte[nmrs]?\b|\bdroite|\bderech|右", re.IGNORECASE),
    "top": re.compile(r"\btop\b|\bupper|\babove\b|\boben\b|\bobere[nmrs]?\b|\bhaut\b|\bsupérieur|\barriba\b|\bsuperior|上[方面边角部]", re.IGNORECASE),
    "bottom": re.compile(r"\bbottom|\blower|\bbelow\b|\bunten\b|\buntere[nmrs]?\b|\bbas\b|\binférieur|\babajo\b|\binferior|下[方面边角部]", re.IGNORECASE),
    "centre": re.compile(r"\bcent(?:re|er|ral)|\bmiddle\b|\bmitte\b|\bmilieu\b|\bcentro\b|\bmedio\b|中[间央心]", re.IGNORECASE),
}


def _clock(match: re.Match[str]) -> Mention:
    first, second, third, fraction = match.groups()
    whole = int(first) * 60 + int(second) if third is None else int(first) * 3600 + int(second) * 60 + int(third)
    return Mention(whole + float(fraction or 0), match.start(), match.end())


def _with_unit(text: str, match: re.Match[str]) -> list[Mention]:
    """`3 to 5 s` names two times: a number joined to one that has a unit has the same unit."""
    unit = "min" if match[2] else ""
    mentions = [Mention(_seconds(match[1], unit), match.start(), match.end())]
    before = _FIRST_OF_RANGE.search(text, max(0, match.start() - 40), match.start())
    while before:
        mentions.append(Mention(_seconds(before[1], unit), before.start(1), before.end(1)))
        before = _FIRST_OF_RANGE.search(text, max(0, before.start() - 40), before.start())
    return mentions


def _seconds(number: str, unit: str) -> float:
    return (value_of(number) or 0.0) * (60 if unit else 1)


def _apart(found: list[Mention]) -> list[Mention]:
    """Without those that overlap an earlier one."""
    kept: list[Mention] = []
    for mention in found:
        if not kept or mention.start >= kept[-1].end:
            kept.append(mention)
    return kept


def _joined(found: list[Mention], text: str) -> list[Mention]:
    """`1 min 5 s` is one time."""
    kept: list[Mention] = []
    for mention in found:
        last = kept[-1] if kept else None
        minutes = last and re.search(rf"(?:{_MINUTE})\Z", text[last.start : last.end], re.IGNORECASE)
        if last and minutes and not text[last.end : mention.start].strip() and mention.seconds < 60:
            kept[-1] = Mention(last.seconds + mention.seconds, last.start, mention.end)
        else:
            kept.append(mention)
    return kept


def _chinese(word: str) -> float:
    """Up to 99: 三, 十二, 二十, 三十五; digits one by one otherwise."""
    if "十" not in word:
        return float(int("".join(str(CHINESE_DIGITS[char]) for char in word)))
    tens, _, units = word.partition("十")
    return float((CHINESE_DIGITS.get(tens, 1) if tens else 1) * 10 + (CHINESE_DIGITS.get(units, 0) if units else 0))
