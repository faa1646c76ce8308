"""Options as files write them: `A. red`, `(b) green`, `C - blue`, `4) grey`, or without letters. The letter that an option carries is its name, wherever it
stands in the list; the stored texts have none, because the prompt writes its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlvid.data.prompts import LETTERS

MOVED, ORDERED, EMPTY, EQUAL = (
    "options: letters moved",
    "options: put in the order of their letters",
    "options: an empty one left out",
    "options: two are equal",
)
FURTHER = 4
"""So many letters may a list leave out. `G. Galilei` and `I. Newton` are no letters of a list of two."""
_MARKED = re.compile(
    r"\s*(?:(?:option|choice) +)?[(\[]?(?P<label>[A-Z]|[1-9]\d?(?=\s*[)\]]|[.:] ))(?:\s*[.)\]:：、]+|\s+[-–—](?=\s))\s*(?P<text>.*)", re.IGNORECASE | re.DOTALL
)
_BARE = re.compile(r"\s*(?P<label>[A-Z])\s+(?P<text>\S.*)", re.DOTALL)
_ANSWER = re.compile(r"\s*[(\[]?(?P<label>[A-Za-z])(?:\s*[.)\]:：、](?P<text>.*)|\s+[-–—]\s+(?P<after>.*))?\s*", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """Texts in the order they are shown in, the letter (A, B, ...) that the file gives each, and what was changed, by kind."""

    texts: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    def by_letter(self, answer: str) -> str | None:
        """The option that `B`, `b`, `(B)` or `B. green` stands for; None if there is none, or if what follows the letter is another option's text."""
        match = _ANSWER.fullmatch(answer)
        if not match or match["label"].upper() not in self.letters:
            return None
        found = self.texts[self.letters.index(match["label"].upper())]
        said = _folded(match["text"] or match["after"] or "")
        return None if said != _folded(found) and said in map(_folded, self.texts) else found

    def by_text(self, answer: str) -> str | None:
        """The option with this text, in any case and with any spaces; None if there is none."""
        wanted = answer.strip()
        return wanted if wanted in self.texts else next((text for text in self.texts if _folded(text) == _folded(wanted)), None)


def read(given: Sequence[str]) -> Options:
    """The options of one question. ValueError, in words for the user, where some carry letters and others do not, or two the same one."""
    labels, texts = _labelled(given)
    if labels is None:
        kept = [text.strip() for text in given if text.strip()]
        letters = list(LETTERS[: len(kept)])
        changes = [EMPTY] if len(kept) < len(given) else []
        if changes and any(not text.strip() for text in given[: len(kept)]):
            letters, changes = [letter for letter, text in zip(LETTERS, given, strict=False) if text.strip()], [EMPTY, MOVED]
    else:
        ordered = sorted((at, text) for at, text in zip(labels, texts, strict=True) if text)
        kept, letters = [text for _, text in ordered], [LETTERS[at] for at, _ in ordered]
        changes = [EMPTY] if len(kept) < len(texts) else []
        changes += [ORDERED] if labels != sorted(labels) else []
        changes += [MOVED] if letters != list(LETTERS[: len(letters)]) else []
    return Options(tuple(kept), tuple(letters), tuple(changes + ([EQUAL] if len({_folded(text) for text in kept}) < len(kept) else [])))


def _labelled(given: Sequence[str]) -> tuple[list[int] | None, list[str]]:
    """Each option's place by its own letter or number and its text without it; None where the options carry none."""
    full = [text for text in given if text.strip()]
    marked, bare = ([form.fullmatch(text) for text in full] for form in (_MARKED, _BARE))
    found = [match for match in marked if match and _place(match["label"]) < len(given) + FURTHER]
    if len(found) < 2 and len(full) > 1 and all(match and match["label"] == letter for match, letter in zip(bare, LETTERS, strict=False)):
        return list(range(len(full))), [match["text"].strip() for match in bare if match]
    if len(found) < 2:
        return None, []
    odd = next((text for text, match in zip(full, marked, strict=True) if match not in found), None)
    if odd is not None:
        raise ValueError(f"{odd.strip()[:40]!r} carries no letter, and {found[0].string.strip()[:40]!r} does: give each its letter, or none")
    label, times = Counter(match["label"].upper() for match in found).most_common(1)[0]
    if times > 1:
        raise ValueError(f"the letter {label} stands {times} times: give each option its own")
    if len({match["label"].isdecimal() for match in found}) > 1:
        raise ValueError("some carry letters and others numbers: give each its letter, or none")
    return [_place(match["label"]) for match in found], [match["text"].strip() for match in found]


def _place(label: str) -> int:
    return int(label) - 1 if label.isdecimal() else LETTERS.index(label.upper())


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
