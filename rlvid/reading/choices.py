"""Which option a model's answer names: by its text, its letter, or both if they agree [D].

As everywhere in reading answers: `(value, "")` or `(None, reason)`, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice

from rlvid.reading.answers import NOTHING_INSIDE, bare, digits, signed_words, spaced, unwrapped, words

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NEGATED_VERBS = ("isnt", "arent", "wasnt", "werent", "doesnt", "didnt", "dont", "cannot", "cant")
NEGATIONS = frozenset(("not", "no", "never", "neither", "nor", "none", "except", "without", *_NEGATED_VERBS))
HEDGES = frozenset(("or", "either", "maybe", "perhaps", "possibly", "probably", "likely", "might", "could", "may", "alternatively", "unsure"))
_TURNS = HEDGES | {"both", "also", "actually", "wait", "sorry", "rather", "instead", "correction"}
_DENIALS = NEGATIONS | {"wrong", "incorrect", "false", "unlikely"}
_DENIED = re.compile(r"n['’]t\b|\banything but\b", re.IGNORECASE)

_LEAD_IN = re.compile(
    r"(?:(?:so|therefore|thus|hence|i think|i believe)\b[ ,:]*)?(?:it is |it's )?(?:my |the )?(?:(?:correct|final|right|best|most likely) )?"
    r"(?:(?:answer|option|choice|letter|number)\b(?: choice| option| letter)?(?: is| would be| must be| should be)?[ ]*[:=\-]?[ ]*)?"
    r"(?:[故因]?(?:此|而|所以)?,?我?选[项择]? ?|(?:正确)?答案 ?(?:是|为|:)? ?)?",
    re.IGNORECASE,
)
_LONE_LETTER = re.compile(r"(?P<open>[(\[{]?) ?(?P<letter>[A-Za-z]) ?(?P<close>[)\]}.:,;]{0,2})(?: ?(?:这个|这一)?选?项)?[。.]?")
_LETTER_THEN = re.compile(r"(?P<open>[(\[]?)(?P<letter>[A-Za-z])(?P<mark> ?[)\]][.:]?| ?[:,]| ?[-–—=](?= )|\.(?=[ A-Z(])|(?= )) ?(?P<rest>\S.*)", re.DOTALL)
_LETTER_NAMED = re.compile(r"\(([A-Za-z])\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)(?: is)? ?:? ?\(?([A-Z])\b|(?<![\w'’.-])([B-HJ-Z])(?![\w'’.-]*\w)")
_LETTER_LISTED = re.compile(r"(?<![\w'’])([A-Z])(?= ?(?:,|/|&|and|or) ?\(?[A-Z](?![\w'’]))")
_LEADING_MARKS = re.compile(r"^(?:[ ,;:!?\"'`*()\[\]{}“”‘’]|\.(?!\d))+")
_BRACKETED_LETTER = re.compile(r"\(([A-Za-z])\)")
_LONE_CAPITAL = re.compile(r"(?<![\w'’])(?:[B-HJ-Z]|A(?! ))(?![\w'’])")
_ENDS_WITH_LETTER = re.compile(r"(?<![\w'’/&.])([AI])[.!)*\"']{0,3}\Z")
_AFTER_AN_ANSWER = re.compile(r"[,;:.!\n(]| [-–—] | (?:because|since|as) ")
_CLAUSES = re.compile(r"[,;:.!?\n()]+| [-–—] |\b(?:and|or|but)\b")
_TAKEN_BACK = re.compile(r"(?:no|nope|not(?: (?:sure|certain))?|(?:(?:that|this|it)(?: is|['’]s) )?(?:wrong|incorrect|false))", re.IGNORECASE)
_AND = re.compile(r"\s*(?:[,;/&|\n、和]|\b(?:and|und|et|y)\b)\s*")
_A_AS_A_NAME = re.compile(r"(?<![\w'’/&.])(A)(?= (?:is|was|seems|would|fits|matches|because|since|as)\b)")


def choice(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """Index of the option that the answer names, by its text, its letter, or both if they agree.

    A whole answer that is an option's text counts as that before anything is read as a letter; an answer that can be read as two
    different options is none.
    """
    answer = bare(answer)
    if not answer:
        return None, NOTHING_INSIDE
    for reading in (answer, without_lead_in(answer)):
        found, reason = _whole_choice(reading, options)
        if found is not None or reason:
            return found, reason
    reading = without_lead_in(answer)
    for way in (_letter_and_rest, _then_its_reason):
        found, reason = way(reading, options)
        if found is not None or reason:
            return found, reason
    return _named_choice(reading, options)


def chosen(answer: str, options: Sequence[str]) -> tuple[frozenset[int] | None, str]:
    """Indices of all options that an answer to "which of these" names: `A, C`, `AC`, `red and blue`, a line each, ["A", "C"]."""
    answer = unwrapped(answer)
    reading = without_lead_in(bare(answer))
    whole, _ = _whole_choice(reading, options)
    if whole is not None:
        return frozenset((whole,)), ""
    letters, own = re.sub("[^A-Z]", "", reading), set(words(" ".join(options))) | {"both", "also"}
    if re.fullmatch(r"(?:[ ,]?[(\[]?[A-Z][)\]]?){2,26}", reading) and len(set(letters)) == len(letters) and LETTERS.index(max(letters)) < len(options):
        return frozenset(map(LETTERS.index, letters)), ""
    if _DENIED.search(reading) or any(word in _DENIALS | _TURNS and word not in own for word in words(reading)):
        return None, "the answer is a negation or unsure"
    parts = {choice(part, options)[0] for line in answer.splitlines() for part in _AND.split(without_lead_in(line)) if part.strip()}
    if None in parts and any(map(_AND.search, options)):  # texts that hold an "and" themselves
        parts = set(_mentions(reading, options)) or {None}
    return (frozenset(part for part in parts if part is not None), "") if parts and None not in parts else (None, "the answer names no set of options")


def without_lead_in(answer: str) -> str:
    """Without "The answer is", "Option", "I think it is" and the like in front, if anything is left."""
    rest = bare(after_lead_in(answer))
    return rest or answer


def after_lead_in(answer: str) -> str:
    """What stands behind such words, as it stands there; perhaps nothing."""
    match = _LEAD_IN.match(answer)
    return answer[match.end() :] if match else answer


def _whole_choice(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """The answer is nothing but an option's text or nothing but a letter; (None, "") if it is neither."""
    by_text = _by_text(answer, options)
    by_letter, bracketed = _by_letter(answer, options)
    if by_text is None or by_letter is None or by_text == by_letter:
        return (by_letter if by_text is None else by_text), ""
    if bracketed:
        return by_letter, ""
    return None, f"{answer[:20]!r} is one option's letter and another option's text"


def _by_text(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option with this text: the first of ever more forgiving spellings in which exactly one option fits."""
    for spelling in (_exactly, spaced, _trimmed, _joined_words, _without_article, _in_digits):
        wanted = spelling(answer)
        fits = [index for index, option in enumerate(options) if wanted and spelling(option) == wanted]
        if len(fits) == 1:
            return fits[0]
    return None


def _by_letter(answer: str, options: Sequence[str]) -> tuple[int | None, bool]:
    """Index of the option that a lone letter stands for, and whether a bracket or mark shows that a letter is meant."""
    match = _LONE_LETTER.fullmatch(answer)
    if not match:
        return None, False
    index = LETTERS.index(match["letter"].upper())
    return (index if index < len(options) else None), bool(match["open"] or match["close"])


def _letter_and_rest(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """`B. red`, `(B) red`, `b) because ...`; (None, "") where the first letter is only a word ("A red ball")."""
    match = _LETTER_THEN.fullmatch(answer)
    if not match or LETTERS.index(match["letter"].upper()) >= len(options):
        return None, ""
    index = LETTERS.index(match["letter"].upper())
    rest = bare(match["rest"])
    by_rest, reason = _whole_choice(rest, options)
    if index in (by_rest, _by_text(rest, options)) or _own_text_first(rest, index, options):
        return index, ""
    if not match["mark"]:
        return None, ""
    if reason or by_rest is not None or _mentions(rest, options, letters=False) - {index} or _taken_back(rest, index, options):
        return None, f"letter {match['letter'].upper()} and what follows name different options"
    return index, ""


def _own_text_first(rest: str, index: int, options: Sequence[str]) -> bool:
    """`(B) green. The ball beside it is red.`: the letter's own text, and after it an explanation that names no letter and is no option itself."""
    own = spaced(options[index]).rstrip(" .")
    if not own or not spaced(rest).startswith(own):
        return False
    after = spaced(rest)[len(own) :]
    named = {letter.upper() for letter in _letters(rest[len(own) :], options)} - {LETTERS[index]}
    return bool(re.match(r" ?[.;(\n]", after)) and not named and _whole_choice(bare(after.strip(" .;()")), options) == (None, "")


def _then_its_reason(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """`Yes, there is no car.`, `green, not red`, `green. The red ball left first.`: an option, and what follows does not take it back."""
    for match in reversed(list(islice(_AFTER_AN_ANSWER.finditer(answer), 12))):
        index, reason = _whole_choice(bare(answer[: match.start()]), options)
        if index is not None and not reason:
            return (index, "") if not _taken_back(answer[match.end() :], index, options) else (None, "the answer names several options")
    return None, ""


def _taken_back(rest: str, index: int, options: Sequence[str]) -> bool:
    """Whether what follows an answer gives another one, or doubts it: `red, green`, `green. No, red.`, `B. Maybe A.`"""
    for clause in _CLAUSES.split(rest)[:40]:
        said = without_lead_in(re.sub(r"^(?:then|also|next|finally) ", "", bare(clause), flags=re.IGNORECASE))
        if _whole_choice(said, options)[0] not in (None, index):
            return True
        if _TAKEN_BACK.fullmatch(said) and NEGATIONS.isdisjoint(words(options[index])):
            return True
    return not _TURNS.isdisjoint(words(rest)) and bool(_mentions(rest, options) - {index})


def _named_choice(answer: str, options: Sequence[str]) -> tuple[int | None, str]:
    """The one option that a sentence names, if it negates nothing: "the ball is red", "I think it is option B"."""
    first = re.split(r"[,;:.\n(]", answer, maxsplit=1)[0].strip()
    named = _mentions(answer, options)
    if len(named) > 1:
        return None, "the answer names several options"
    if not named:
        return None, "the answer names no option"
    (index,) = named
    own = set(words(options[index]))
    negated = any(word in _DENIALS and word not in own for word in words(answer)) or (_DENIED.search(answer) and not _DENIED.search(options[index]))
    says_no = bool(own & NEGATIONS) and signed_words(answer)[: len(own)] == signed_words(options[index])  # "No he doesn't"
    if negated and not says_no and _by_text(first, options) != index:
        return None, "the answer is a negation"
    return index, ""


def _mentions(answer: str, options: Sequence[str], *, letters: bool = True) -> set[int]:
    """Options whose words or letter occur in the answer; words inside a longer option that also occurs do not count for the shorter."""
    left = f" {_joined_words(answer)} "
    named = set()
    texts = sorted(((_joined_words(option), index) for index, option in enumerate(options)), key=lambda pair: -len(pair[0]))
    forms = [text for text, _ in texts]
    for text, index in texts:
        # A lone letter is no mention: "a" is an article. Letters are looked for below, in the forms that mean a letter.
        if (len(text) > 1 or text.isdigit()) and forms.count(text) == 1 and f" {text} " in left:
            named.add(index)
            left = left.replace(f" {text} ", " | ")
    inside = {word for index in named for word in options[index].split()}
    by_letter = {LETTERS.index(letter.upper()) for letter in _letters(answer, options) if letter not in inside} if letters else set()
    return named | {index for index in by_letter if index < len(options)}


def _letters(answer: str, options: Sequence[str]) -> list[str]:
    """Letters that mean an option rather than a word: (B), option b, a lone B anywhere, a lone A or I in a list or at the end.

    Where options hold lone letters themselves ("vitamin C"), a lone letter in a sentence may be such a word: only (B) counts.
    """
    if any(_LONE_CAPITAL.search(option) for option in options):
        return _BRACKETED_LETTER.findall(answer)
    named = [next(filter(None, groups)) for groups in _LETTER_NAMED.findall(answer)]
    return named + _LETTER_LISTED.findall(answer) + _ENDS_WITH_LETTER.findall(answer) + _A_AS_A_NAME.findall(answer)


def _exactly(text: str) -> str:
    return text.strip()


@lru_cache(2048)
def _trimmed(text: str) -> str:
    """Without brackets, quotes and full stops around it: signs such as -, + and % stay."""
    return _LEADING_MARKS.sub("", spaced(text)).rstrip(" .,;:!?\"'`*()[]{}“”‘’")


@lru_cache(2048)
def _joined_words(text: str) -> str:
    """Words and numbers only, signs kept: "-5" is not "5", but "three" is "3" (and "one" stays what it is: "no one")."""
    return " ".join(signed_words(re.sub(r"\b1\b", "one", digits(text)) if re.search(r"\bone\b", text, re.IGNORECASE) else digits(text)))


@lru_cache(2048)
def _in_digits(text: str) -> str:
    return " ".join(signed_words(digits(text)))


@lru_cache(2048)
def _without_article(text: str) -> str:
    """Words after one leading article. "A red ball" loses its A here and "A. red ball" does not: there it is a letter."""
    return " ".join(words(re.sub(r"^(?:a|an|the) ", "", _trimmed(text))))
