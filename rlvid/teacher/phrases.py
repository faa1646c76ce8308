"""Turns of phrase that the leak guard looks for, as patterns over normalised text. English, German, French, Spanish, Chinese where it matters [D]."""

from __future__ import annotations

import re

from rlvid.reading.mentions import NUMBER_WORDS
from rlvid.teacher.lexicon import ORDINAL


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


# ---- evidence: may stand

COORDINATES = _any(r"[(\[]\s*[01]?\.?\d*\s*(?:,\s*[01]?\.?\d*\s*){1,3}[)\]]")
FRAME = _any(r"\b(?:frames?|bild(?:er)?|images?|fotogramas?)\s+(?:number\s+)?\d+(?:\s*(?:-|to|and)\s*\d+)?", r"第\s*\d+\s*帧")
_SIDE = r"(?:left|right|upper|lower|top|bottom)"
_PART = r"(?:side|part|half|third|corner|edge|quarter|area|region|section|border|foreground|background|hand|arm|foot|leg)"
PLACE = _any(
    rf"(?<!towards the )(?<!toward the )(?<!to the )\b{_SIDE}(?:[ -](?:hand|most|{_SIDE}))*[ -]{_PART}s?\b",
    rf"\b(?:on|at|from|near) the {_SIDE}\b(?! to)",
    r"\b(?:linke|rechte|obere|untere)[nmrs]? (?:bild)?(?:rand|ecke|teil|hälfte|hand|seite|drittel)\b",
    r"\ben (?:haut|bas)(?: à (?:gauche|droite))?",
    r"\b(?:bord|partie|moitié|côté|coin|main) (?:gauche|droite|supérieure?|inférieure?)",
    r"\bde la (?:derecha|izquierda)\b",
    r"\b(?:esquina|parte|lado|borde|mitad|mano) (?:izquierd[oa]|derech[oa]|superior|inferior)",
    r"[左右][上下]角|[左右上下][边侧方角]",
)
COORDINATE = _any(
    r"\b[xy]\s*(?:=|≈|is|of|about|around)\s*\d*\.?\d",
    r"\d\s*(?:%|percent|per cent|prozent|pour ?cent|por ciento)\s*(?:of |der |de la |del? )?(?:the )?"
    r"(?:width|height|frame|breite|höhe|largeur|hauteur|ancho|altura)",
    r"\d\s*(?:%|percent|per cent|prozent|px|pixels?)\s*(?:in )?from the (?:left|right|top|bottom)\b",
    r"\bo'clock\b",
)
"""A place told by numbers outside brackets, or by the face of a clock."""
ASKS_WHERE = _any(r"\b(?:where|which side|which part|which corner|wo|où|dónde)\b", r"哪里|哪边|哪儿")

OTHER_WAY = _any(
    r"\bopposite\b|\b(?:the |an)other (?:side|way|direction|end|edge)\b|\b[xy][ -]?(?:axis|coordinate)s?\b|\b(?:smaller|larger|bigger|\w+creasing) [xy]\b",
    r"\b(?:andere (?:seite|richtung)|gegenüber|entgegengesetzt\w*|l'autre (?:côté|sens)|otro lado|contrari[oa])\b",
)
"""A direction told by another one."""

# ---- talk about options, answers and words

_ANSWER = r"(?:answer|antwort|réponse|respuesta)"
_OPTION = r"(?:option|choice|alternative|candidate|antwortmöglichkeit|opción)"
OPTION = _any(
    rf"(?<!\beach )(?<!\bevery )\b{_OPTION}\b",
    r"\boptions? [a-h]\b",
    rf"\b(?:the|right|correct|true|final|best|wrong|richtige|korrekte|bonne) {_ANSWER}\b",
    rf"\b{_ANSWER}\s*(?::|=|is\b|ist\b|lautet\b|est\b|es\b|[a-h]\b)",
    rf"\b{ORDINAL}(?: \w+)? (?:{_OPTION}|{_ANSWER})\b",
    r"\b(?:correct|right) (?:one|response|reply)\b",
    r"\b(?:in|on|of|from) the list\b",
    r"\brule(?:d|s)? out\b|\beliminat\w+|\bexclude the\b",
    r"选项|选择?[a-h第]|答案|正确",
)
PICK = _any(
    r"\b(?:pick|choose|select|take|tick|mark|go (?:with|for)|wähle?|nimm|choisis\w*|prends|elige|escoge)\b "
    rf"(?:the |die |das |den |la |le |el |for )?(?:{ORDINAL}\b|one\b|\w+ one\b)"
)
_NUMERAL = rf"(?:\d+|{'|'.join(word for word, value in NUMBER_WORDS.items() if value <= 10)})"
POSITION = _any(rf"\b(?:position|number|entry|item|nummer|numéro|número)\s+{_NUMERAL}\b")
SPELLING = _any(
    r"\brhym\w+|\breimt\b|\brime\b|\brima\b|押韵",
    r"\banagram|\bspel(?:led|ls|t|ling)\b|\bsyllable|\binitials?\b|\bletters?\b|\bbuchstabe\w*|\blettre\b|\bletra\b|字母",
    r"\bsynonym|\bantonym|\bhomophone|\bsounds like\b|\bopposite of\b|\bgegenteil\b|\bcontraire\b|\bcontrario\b|反义",
    r"\bshares? (?:its|the|a) name\b|\bnamed after\b|\bthe word for\b",
    r"\b(?:starts?|begins?|beginning|starting|ends?|ending) (?:with|in) (?:an? |the )?['\"]?[a-z]['\"]?(?![\w'])",
)
COMMAND = _any(
    r"\b(?:ignore|disregard|forget|override)\b[^.]{0,40}\b(?:instruction|prompt|rule|previous|above)",
    r"\bsystem prompt\b|^\s*(?:system|assistant|user)\s*:",
    r"\b(?:answer|reply|respond|output|say|write|print)\b (?:only |exactly |simply )?(?:with )?['\"(]",
    r"忽略.{0,10}(?:指令|提示)",
)

# ---- the answer's content

NEGATION = _any(
    r"\b(?:not|nor|neither|never|no|none|without|except|other than)\b|n't\b",
    r"\b(?:nicht|weder|kein\w*|ni|pas|jamais|nunca|tampoco)\b|^no es\b",
    r"不是|没有|既不|非",
)
SEQUENCE = _any(
    rf"\b(?:{ORDINAL}|then|next|before|after|afterwards|earlier|later|finally|followed|precedes?)\b",
    r"\b(?:zuerst|dann|danach|zuletzt|vor|nach|d'abord|puis|ensuite|avant|après|primero|luego|después|antes)\b|先|然后|最后|再|之前|之后",
)
WHETHER = _any(r"\b(?:whether|if|ob|si)\b", r"是否")
DENIED = _any(r"\b(?:does|did|is|was|has|can|could|will|would)(?:n't| not)\b")
STATE = _any(r"\b(?:is|are|was|were|stays?|stayed|remains?|remained|keeps?|kept|becomes?|became|gets?|got) (?:still |now |already |again )?(\w+)")
ASKS_HOW_MANY = _any(r"\bhow (?:many|much|often)\b|\bnumber of\b|\bwie ?(?:viele?|oft)\b|\bcombien\b|\bcuánt[oa]s?\b", r"几|多少")
ASKS_HOW_LONG = _any(
    r"\bhow (?:long|many (?:seconds|minutes))\b|\bduration\b",
    r"\bwie (?:lange|viele (?:sekunden|minuten))\b|\bcombien de (?:temps|secondes)\b|\bcuánto tiempo\b|\bcuántos segundos\b",
    r"多久|多长时间|几秒|多少秒",
)
ASKS_WHEN = _any(
    r"(?:^|[,;:.?]\s*|\band )when\b|\b(?:what|which) (?:seconds?|minutes?|times?|moments?|timestamps?|point in time)\b",
    r"\bhow many (?:seconds|minutes) (?:in|into|after|before|from|until|have passed)\b",
    r"(?:^|[,;:.?]\s*|\bund )wann\b|\bin welcher (?:sekunde|minute)\b|\bzu welche\w+ zeit\w*\b",
    r"(?:^|[,;:.?]\s*|\bet )quand\b|\bà quel(?:le)?s? (?:moment|seconde|minute|instant)\b",
    r"\bcuándo\b|\ben qué (?:segundo|momento|minuto|instante)\b|什么时候|何时|第几秒|几分几秒|哪一?秒",
)
ROUGHLY_WHEN = _any(
    r"\b(?:early|earlier|earliest|late|later|latest|soon|halfway|midway|shortly|throughout)\b",
    r"\b(?:near|towards?|at|in|around|close to|from|before|after|until|by) (?:the|its) (?:very )?(?:beginning|start|end|opening|close|middle)\b"
    r"(?! of (?:the|this) (?:frame|picture|image|screen|view))",
    r"\b(?:first|second|third|last|final|opening|closing|middle|earlier|later) "
    r"(?:part|half|third|quarter|moments?|seconds?|minutes?|frames?|stretch|section)\b",
    r"\b(?:früh|spät)\w*\b|\bbald\b",
    r"\b(?:anfangs|zuerst|zuletzt|schließlich)\b|\b(?:am|zum|gegen|vom|nach dem|vor dem) (?:anfang|beginn|ende|schluss)\b|\bin der mitte\b(?! des bild)",
    r"\b(?:tôt|tard)\b|\b(?:au|vers le|dès le) (?:début|milieu)\b(?! de l'(?:image|écran))|\b(?:à|vers) la fin\b|\bbientôt\b",
    r"\b(?:temprano|tarde|pronto)\b|\b(?:al|hacia el|desde el) (?:principio|inicio|comienzo|final|medio)\b|\ba mitad\b",
    r"开头|开始|结尾|结束|末尾|最后|最初|前半|后半|前段|后段|较早|较晚|早些|晚些|很早|很晚|中段|中间",
)
"""A moment of a video, without a number."""
ARITHMETIC = _any(
    r"\b(?:only|just|exactly|a single|nur|seulement|sólo|solo) (?:one|once|einmal|eine?[nrms]?|une?|un[oa])\b",
    r"\bone (?:more|less|fewer|too|plus|before|after)\b|\b(?:plus|minus) one\b",
    r"\bnumber of (?:legs|wheels|fingers|days|sides|seasons|letters|corners)\b",
    r"只有一|多一|少一",
)
COLOUR_CODES = {"red": "ff0000", "green": "00(?:ff|80)00", "blue": "0000ff", "yellow": "ffff00", "black": "000000", "white": "ffffff"}
LIKE = r"(?:like|as|resembl\w+|colou?r (?:of|as)|hue of|shade of|same as|wie|farbe von|comme|couleur (?:de|du)|como|color (?:de|del)|像|和|与|如同?)"
