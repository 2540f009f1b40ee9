"""Penn Treebank tokens as coco-caption gets them from Java, in pure Python: what caption figures count.

coco-caption runs the PTBTokenizer of Stanford CoreNLP 3.4.1 with lower-casing, and drops punctuation. The
rules come from watching what that program makes of text, and are tested against it where Java is present.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
DROPPED = frozenset("'’\"`.?!,:;-")
"""Tokens that don't count, beside runs of dots or hyphens. Brackets do: coco-caption has -LRB- on its list of
punctuation, but looks for it among lower-case tokens."""


def tokenize(text: str) -> list[str]:
    """The tokens of one caption, lower case, without punctuation; [] where nothing else is in it.

    As coco-caption: contractions are split (do n't, dog 's, can not), words with hyphens are not; brackets
    survive as -lrb- -rrb- and so on, and so do symbols (%, &, $, #) and runs of marks (?!, !!). Emoji and
    other signs that its program does not know are left out.

    Known differences: where that program joins words by a no-break space (a telephone number, `1 1/2`, a tag
    with attributes) they stay apart here, which is how BLEU and CIDEr, but not ROUGE-L, take them there too.
    """
    if not text.isascii():
        text = "".join(map(_plain, text))
    if "&" in text:
        text = _ENTITY.sub(lambda entity: _ENTITIES[entity[0]], text)
    tokens: list[str] = []
    for match in _TOKEN.finditer(text.strip()):
        kind = match.lastgroup
        assert kind is not None  # every alternative has a name
        token = match[kind]
        if kind in ("plain", "word"):
            if token.endswith(".") and not _abbreviation(token):
                token = token[:-1]
            token = token.lower()
            if token.endswith(("n't", "n’t")) and len(token) > 3:
                tokens += (token[:-3], "n't")
            elif token in _FUSED:
                tokens += _FUSED[token]
            else:
                tokens.append(token)
        elif token in DROPPED or token.startswith(("..", "--")):
            continue
        elif kind == "face":
            tokens.append(token.lower().replace("(", "-lrb-").replace(")", "-rrb-"))
        elif kind == "clitic":
            tokens.append(token.lower().replace("’", "'"))
        elif kind == "tag":
            tokens += token.lower().split()
        else:
            tokens.append(BRACKETS.get(token, token.lower()))
    return tokens


def _abbreviation(word: str) -> bool:
    """Whether the full stop at its end belongs to the word."""
    return bool(_ABBREVIATED(word) or (word[0].isupper() and _STATE(word)))


@cache
def _plain(character: str) -> str:
    """What the pattern is to see of one character."""
    if character.isascii():
        return character
    if character in _SPELLED:
        return _SPELLED[character]
    point, category = ord(character), unicodedata.category(character)
    if category[0] in "LM" or category == "Nd":
        return character if point < (0x2C00 if category[0] == "M" else 0x10000) else " "
    symbol = category == "No" or category[0] in "PS"
    known = point < 0x2C00 and not any(first <= point <= last for first, last in _UNKNOWN)
    return f" {character} " if symbol and (known or character in "、。！（），：；？｀＇＂") else " "


_SPELLED = (
    dict.fromkeys("’›\x92", "’")
    | dict.fromkeys("“”«»\x93\x94", '"')
    | dict.fromkeys("‘‛‹–—―…\x91\x85\x96\x97", " ")  # none of these counts, in whatever form
    | dict.fromkeys("€¤₠\x80", " $ ")
    | {"£": " # ", "¢": " cents ", "¼": " 1/4 ", "½": " 1/2 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 "}
    | {"\u00ad": "", "\u2010": "\u2010", "\u2011": "\u2011"}  # the soft hyphen goes, the others join words
)
_UNKNOWN = (
    *((0x0482, 0x0489), (0x2012, 0x2012), (0x2024, 0x2025), (0x2027, 0x202F), (0x203C, 0x203D)),
    *((0x2043, 0x2043), (0x2045, 0x206F), (0x20A1, 0x20A3), (0x20A5, 0x20AB), (0x20AD, 0x20F0)),
    *((0x2150, 0x2152), (0x215F, 0x218B)),
)
"""Symbols that are left out, below U+2C00; above it almost all are."""
_ENTITIES = {"&amp;": "&", "&lt;": " < ", "&gt;": " > ", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES))
_FUSED = {
    "cannot": ("can", "not"),
    "gimme": ("gim", "me"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "wanna": ("wan", "na"),
}
_ABBREVIATED = re.compile(
    r"(?i:adj|adm|adv|al|ala|alex|apr|ariz|assn|assoc|asst|atty|aug|ave|bancorp|bhd|bldg|blvd|brig|bros|calif|"
    r"capt|cf|cie|cmdr|co|col|colo|comdr|conn|corp|cos|cpl|ct|dak|dec|dept|det|dr|drs|elec|ens|esq|est|etc|ext|"
    r"feb|fla|fri|ft|ga|gen|gov|hon|inc|ind|insp|intl|invt|jan|jos|jr|jul|jun|kan|kans|ky|lieut|lt|ltd|maj|mar|"
    r"md|messrs|mfg|mich|minn|mlle|mme|mo|mon|mont|mr|mrs|ms|mt|natl|neb|nev|nov|oct|okla|penn|ph|plc|pres|prof|"
    r"profs|pte|pty|pvt|rd|rep|reps|rev|sen|sens|sep|sept|sgt|sq|sr|st|ste|supt|tel|tenn|thu|thurs|tue|tues|"
    r"univ|va|vs|vt|wed|wis|wm|wyo)\."
).fullmatch
_STATE = re.compile(r"(?i:ark|del|ill|la|mass|miss|ore|pa|tex|wash)\.").fullmatch
"""`Wash.` keeps its full stop, `a car wash.` does not."""
_STARTERS = (
    "A|About|After|An|As|At|But|He|Her|However|If|In|It|Many|More|Once|One|Other|Our|She|So|Some|That|The|"
    "Their|There|These|They|This|We|What|When|While|You"
)
"""`B. The` is the end of one sentence and the start of another; before other words `B.` is an initial."""


def _token() -> re.Pattern[str]:
    """A token and the space before it; the group's name says what it is."""
    # To `re`, vowel signs and combining accents are no word characters.
    points = range(0x300, 0x2000)
    marks = "".join(chr(point) for point in points if unicodedata.category(chr(point))[0] == "M")
    w = rf"(?:[^\W_]|[{marks}])"
    letter = rf"(?:[^\W\d_]|[{marks}])"
    vowel = "[AEIOUaeiou]"
    simple = rf"{w}+(?:[-\u2010\u2011]{w}+)*"
    compound = rf"{w}+(?:[-_\u2010\u2011]{w}+)*"
    address = r"[^\s\"'<>()\[\]{}|`]*[^\s\"'<>()\[\]{}|`.,:;!?]"
    return re.compile(
        rf"""\s*+(?:
        (?P<plain>[A-Za-z]+(?=\s|$))                            # most tokens: here for speed
      | (?P<face>[<>]?[:;=]'?-?[()DPp\[\]|{{](?!{w}) | \^_\^)
      | (?P<tag></?[A-Za-z]\w*(?:\s[^<>'.:]*)?/?>)
      | (?P<address>(?:https?://|www\.){address})
      | (?P<stopped>(?i:nos?|figs?|art|ca|op|pp|prop)\.(?=\s*\d) | {compound}\.(?=[,;:]))
      | (?P<end>[A-Za-z](?=\.\s+(?:{_STARTERS})\s))
      | (?P<initials>
            [A-Za-z]\.(?:[A-Za-z]\.)*(?!{letter})(?:-{w}+)*     # U.S.-based
          | (?:{w}+-)+(?:[A-Za-z]\.){{2,}}(?!{letter})          # non-U.S.
          | (?i:ph|ed)\.[Dd]\.
        )
      | (?P<joined>
            {letter}{w}*(?:\.{letter}{w}*)+(?:-{w}+)*(?:/{address}|@{address})?  # end.The, example.com
          | {letter}{w}*(?:[!?]{letter}{w}*)+                   # what?The
          | {simple}/{simple}(?:/{simple})?                     # and/or
        )
      | (?P<number>
            \d+(?:[.,]\d+)*(?:-{w}+)+                           # 3.5-inch
          | [-+]?(?:[.,:]\d+|\d+(?=[.,:]\d))(?:[.,:]\d+)*       # 10:30, 1,000.50
        )
      | (?P<name>
            [A-Z]+(?:&[A-Z]+)+ | [Cc]\+\+ | [CFcf]\#            # B&W
          | (?:US|AU|HK|NZ|A|C)\$ | [\w.+-]{{1,64}}@[\w-]+(?:\.[\w-]+)*
        )
      | (?P<elided>
            [A-HJ-XZdlno]['’](?!(?i:ll|re|ve)(?!{w})){letter}{{2,}}  # O'Brien, o'clock
          | [DLdl]['’] | [Yyj]['’](?={letter})                  # y'all
          | {letter}+[AEIOUYaeiouy]['’]{vowel}{letter}*         # Hawai'i
          | (?i:ol['’] | cap['’]n | e['’]er | s['’]mores)
        )
      | (?P<word>{compound}(?:(?<=[^Nn][Nn])['’][Tt](?!{w}))?(?:\.(?!\d))?)
      | (?P<clitic>['’](?:[DMSdms]|(?i:ll|re|ve))(?!{w}))
      | (?P<clipped>
            ['’](?:(?i:em|til(?!{w})|cause(?!{w})|n['’]?(?!{w})) | \d0s(?!{w}) | \d\d(?![\w'’"]))  # 'em, '90s
          | '[Tt](?=(?i:is|was)(?:(?i:n['’]t))?(?!{w}))         # 'twas
        )
      | (?P<sign>[-+]\d+ | \#{letter}+ | @[A-Za-z]\w* | \#+ | \*+ | _+ | -+ | \.+ | [!?]+ | \S)
        )""",
        re.VERBOSE,
    )


_TOKEN = _token()
