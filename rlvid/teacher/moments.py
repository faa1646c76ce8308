"""Every moment that a hint names, whatever it counts in: seconds, clock times, bare numbers, shares of the video, frames, lengths that start or end at another
moment. English, German, French, Spanish, Chinese. Rules, no model [D]. The leak guard asks what they mark together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rlvid.reading.mentions import Mention, normalised, times, value_of
from rlvid.teacher import lexicon, phrases


@dataclass(frozen=True)
class Moments:
    """`points_s` seconds. `lengths_s` stretches of time that are named as such. `unplaced`: moments that only the length of the video or its frame rate would
    place in time, where it is not known here."""

    points_s: tuple[float, ...] = ()
    lengths_s: tuple[float, ...] = ()
    unplaced: int = 0

    def with_points(self, more_s: Sequence[float]) -> Moments:
        return Moments((*self.points_s, *more_s), self.lengths_s, self.unplaced)

    def reached_s(self) -> list[float]:
        """All moments that a reader can reckon: those named, and those a named length away from them, one length after the other."""
        steps = {0.0}
        for length in self.lengths_s[:MOST_LENGTHS]:
            steps |= {round(step + length * part, 6) for step in steps for part in (1.0, 0.5, -0.5, -1.0)}
        return sorted({round(point + step, 6) for point in self.points_s for step in steps})


MOST_LENGTHS = 3
"""A hint of more lengths than these is a riddle; the guard looks at the first ones."""


def named_moments(hint: str, duration_s: float | None = None) -> Moments:
    """What a hint names, `duration_s` being the length of what the student is shown. Numbers without a unit count as seconds."""
    text = normalised(hint)
    shares, parts, text = _shares(text)
    frames = sum(_frames(match) for match in phrases.FRAME.finditer(text)) + sum(1 for _ in _ORDINAL_FRAME.finditer(text))
    text = _ORDINAL_FRAME.sub(" ", phrases.FRAME.sub(" ", phrases.COORDINATES.sub(" ", text)))
    said = times(text)
    lengths = [mention for mention in said if _is_length(text, mention)]
    points = [mention.seconds for mention in said if mention not in lengths]
    points += bare_numbers(without(text, said))
    placed = [share * duration_s for share in shares] if duration_s is not None else []
    return Moments((*points, *placed), tuple(mention.seconds for mention in lengths), frames + (parts if duration_s is None else 0))


def without(text: str, said: Sequence[Mention]) -> str:
    """The text without these mentions."""
    for mention in sorted(said, key=lambda mention: -mention.start):
        text = text[: mention.start] + " " + text[mention.end :]
    return text


def bare_numbers(text: str) -> list[float]:
    return [float(token[1:]) for token in lexicon.tokens(text) if token.startswith("#")]


# ---- shares of the video

_VIDEO = r"(?:video|clip|film|movie|recording|footage|scene|vidéo|vídeo|película|aufnahme|videos|films|clips)"
_PERCENT = re.compile(
    r"(\d{1,3}(?:[.,]\d+)?)\s*(?:%|percent\b|per cent\b|prozent\b|pour ?cent\b|por ciento\b)(?!\s*(?:of the )?(?:width|height|frame|breite|höhe|largeur|ancho))"
    r"|百分之([零一二三四五六七八九十]{1,3}|\d{1,3})",
    re.IGNORECASE,
)
_PARTS = {
    "half": 2, "halves": 2, "hälfte": 2, "moitié": 2, "mitad": 2,
    "third": 3, "thirds": 3, "drittel": 3, "tiers": 3, "tercio": 3, "tercios": 3,
    "quarter": 4, "quarters": 4, "fourth": 4, "viertel": 4, "quart": 4, "quarts": 4, "cuarto": 4, "cuartos": 4,
    "fifth": 5, "fifths": 5, "fünftel": 5, "cinquième": 5, "cinquièmes": 5, "quinto": 5, "quintos": 5,
    "tenth": 10, "tenths": 10, "zehntel": 10, "dixième": 10, "dixièmes": 10, "décimo": 10, "décimos": 10,
}  # fmt: skip
_PART = "|".join(_PARTS)
_WHICH = {
    1: "first|erste[nrms]?|premi(?:er|ère)|primer[oa]?|opening",
    2: "second|zweite[nrms]?|deuxième|seconde?|segund[oa]",
    3: "third|dritte[nrms]?|troisième|tercer[oa]?",
    4: "fourth|vierte[nrms]?|quatrième|cuart[oa]",
    -1: "last|final|letzte[nrms]?|dernière?|dernier|últim[oa]|closing",
}
_COUNT = r"(?:a|an|one|ein|eine[nrm]?|une?|un[oa]?|two|zwei|deux|dos|three|drei|trois|tres|four|vier|quatre|cuatro|\d)"
_NO_PICTURE = r"(?!\s+(?:of|in|des|der|de la|de l'|du|del) ?(?:the |this )?(?:frame|picture|image|screen|view|bilde?s?|écran|pantalla|imagen))"
_NTH_PART = re.compile(rf"\b(?:({')|('.join(_WHICH.values())}))\s+({_PART})\b{_NO_PICTURE}", re.IGNORECASE)
_WAY = (
    rf"(?:of the way|of the (?:running )?time|of (?:the|this) {_VIDEO}|(?:into|through|in)\b(?! (?:the|this) (?:frame|picture|image|screen|view))"
    rf"|(?:des weges|der zeit|du chemin|del camino)|(?:des|der|de la|du|del) {_VIDEO})"
)
_PARTS_IN = re.compile(rf"\b(?:({_COUNT})[\s-]+)?({_PART})\s+(?:{_WAY})", re.IGNORECASE)
_RATIO = re.compile(r"(?<![\d/.])(\d{1,2})\s*/\s*(\d{1,2})(?![\d/])")
_CHINESE_RATIO = re.compile(r"([二三四五六七八九十])分之([一二三四五六七八九])")
_HALFWAY = re.compile(
    rf"\b(?:half[ -]?way|mid[ -]?way|mid[ -]?point|(?:middle|centre|center|half) (?:of|through) (?:the|this) {_VIDEO}"
    rf"|mitte des {_VIDEO}|in der mitte der aufnahme"
    rf"|zur hälfte|auf halbem wege?|à mi-(?:chemin|parcours|temps)|milieu (?:de la|du) {_VIDEO}|a mitad|(?:mitad|medio) del? {_VIDEO})\b"
    r"|视频(?:的)?(?:正)?中间|视频(?:的)?一半|过半",
    re.IGNORECASE,
)
_BEGINNING = re.compile(
    rf"\b(?:(?:beginning|start|outset) of (?:the|this) {_VIDEO}|from the (?:very )?(?:start|beginning|first frame)|(?:von|vom) anfang|anfang des {_VIDEO}"
    rf"|(?:dès|depuis|au) (?:le )?début|desde el (?:principio|inicio|comienzo)|al (?:principio|inicio|comienzo))\b|视频(?:的)?(?:开头|开始)|从头",
    re.IGNORECASE,
)
_ENDING = re.compile(
    rf"\b(?:end of (?:the|this) {_VIDEO}|(?:to|until|till) the (?:very )?(?:end|last frame)|bis (?:zum|ans) (?:ende|schluss)|ende des {_VIDEO}"
    rf"|jusqu'(?:à la fin|au bout)|à la fin|hasta el (?:final|fin)|al final)\b|视频(?:的)?(?:结尾|最后|末尾)|到最后|直到结束",
    re.IGNORECASE,
)


def _shares(text: str) -> tuple[list[float], int, str]:
    """Every share of the video's length that is named, 0..1, in how many mentions, and the text without them. A part (the last third) has two shares."""
    found: list[float] = []
    mentions = 0
    for pattern, shares in (
        (_PERCENT, _percent),
        (_NTH_PART, _nth_part),
        (_PARTS_IN, _parts_in),
        (_RATIO, _ratio),
        (_CHINESE_RATIO, _chinese_ratio),
        (_HALFWAY, lambda match: (0.5,)),
        (_BEGINNING, lambda match: (0.0,)),
        (_ENDING, lambda match: (1.0,)),
    ):
        for match in pattern.finditer(text):
            here = [share for share in shares(match) if 0 <= share <= 1]
            mentions += bool(here)
            found += here
        text = pattern.sub(" ", text)
    return found, mentions, text


def _percent(match: re.Match[str]) -> tuple[float, ...]:
    return ((value_of(match[1] or match[2]) or 0.0) / 100,)


def _nth_part(match: re.Match[str]) -> tuple[float, ...]:
    *which, part = match.groups()
    parts, nth = _PARTS[part.casefold()], list(_WHICH)[next(at for at, found in enumerate(which) if found)]
    nth = parts if nth == -1 else nth
    return ((nth - 1) / parts, nth / parts) if nth <= parts else ()


def _parts_in(match: re.Match[str]) -> tuple[float, ...]:
    count = value_of(match[1] or "one") if (match[1] or "one").casefold() not in ("a", "an") else 1.0
    return ((count or 1.0) / _PARTS[match[2].casefold()],)


def _ratio(match: re.Match[str]) -> tuple[float, ...]:
    return (int(match[1]) / int(match[2]),) if int(match[2]) else ()


def _chinese_ratio(match: re.Match[str]) -> tuple[float, ...]:
    return ((value_of(match[2]) or 0.0) / (value_of(match[1]) or 1.0),)


# ---- frames, lengths

_NTH = rf"(?:{lexicon.ORDINAL}|\d+(?:st|nd|rd|th))"
_ORDINAL_FRAME = re.compile(rf"\b{_NTH}\s+(?:shown\s+)?(?:frames?|pictures?|images?|bild(?:er)?|fotogramas?)\b", re.IGNORECASE)
_ROUGHLY = r"(?:about|around|roughly|some|another|further|the next|the following|etwa|ungefähr|rund|weitere|environ|encore|unos|unas|otros|大约|约|再)?\s*"
_LENGTH_BEFORE = re.compile(
    rf"(?:\b(?:for|lasts?|lasting|lasted|during|within|over|takes?|took|taking|spans?|spanning|plus or minus|give or take|für|dauert|während|innerhalb von"
    rf"|pendant|durant|dure|durante|dura)|±|\+/-|\+-|持续|历时|长达)\s*{_ROUGHLY}\Z",
    re.IGNORECASE,
)
_LENGTH_AFTER = re.compile(
    r"\s*-?(?:long\b|later\b|earlier\b|after(?:wards)?\b|before\b|on (?:either|each) side\b|either side\b|each way\b"
    r"|lang\b|später\b|früher\b|danach\b|zuvor\b|nach\b|vor\b|plus tard\b|plus tôt\b|après\b|avant\b|de long\b|de durée\b"
    r"|después\b|más tarde\b|antes\b|de duración\b|之?后|之?前|以后|以前|长)",
    re.IGNORECASE,
)
_ABSOLUTE_BEFORE = re.compile(r"\b(?:at|until|till|by|from|between|bei|um|bis|von|à|vers|a las|hasta|desde)\s+\Z", re.IGNORECASE)


def _is_length(text: str, mention: Mention) -> bool:
    """`for 5 s`, `5 s later`, `± 3 s`: a stretch of time, not a moment. (`before 5 s` is a moment: the word stands before it.)"""
    if _ABSOLUTE_BEFORE.search(text, max(0, mention.start - 20), mention.start):
        return False
    before = _LENGTH_BEFORE.search(text, max(0, mention.start - 40), mention.start)
    return bool(before or _LENGTH_AFTER.match(text, mention.end))


def _frames(match: re.Match[str]) -> int:
    return max(1, len(re.findall(r"\d+", match[0])))
