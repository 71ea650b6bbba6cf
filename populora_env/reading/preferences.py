"""Reading preferences: which of two attempts a reply prefers.

Each function is one way to read, which `judgements` lists from strict to lenient; None where it
does not apply. Every one takes time linear in the text.
"""

import re

from populora_env.reading.said import ANSWER_LIMIT, line_after, unmarked
from populora_env.records import Preference

VERDICT = re.compile(
    r"\b(?:verdict|winner|preference|judge?ment|decision)\*{0,3}(?:\s{0,2}(?:is\b|:|=)|\s[-\u2013\u2014]\s)\*{0,3}\s{0,3}",
    re.IGNORECASE,
)
_NAME = r"(?:(?:[Aa]ttempt|[Rr]esponse|[Aa]ssistant|[Ss]olution|[Oo]ption|[Aa]nswer) )?"
_ONE = rf"(?<!\w)(?:{_NAME}(A|B)|(?:[Aa]ttempt) (a|b))(?!\w)"
_VERY = r"(?:(?:clearly|much|slightly|far|definitely|overall|the|a bit|probably|still|also) ){0,3}"
_PREFERRED = re.compile(
    rf"{_ONE}(?:'s (?:answer|attempt|response|solution))? "
    rf"(?:(?:is|was|looks|seems) {_VERY}(?:better(?: one| attempt)?|best|superior|stronger|"
    r"preferable|preferred|winner)(?! (?:at|in|written|explained|formatted))|wins|won|beats|"
    r"outperforms)\b"
)
_CHOSEN = re.compile(
    r"\b(?i:(?:prefer|choose|pick|select|favou?r|go with|vote for)|(?:better|best|preferred)"
    r"(?: one| attempt| response)?(?: is|:)|(?:winner|answer|choice|vote|preference|decision|pick)"
    r"(?: is|:)|I(?:'d| would) say|it(?:'s| is)) "
    rf"[\"'(\[]{{0,2}}{_ONE}(?! (?:or|and|that|which|who)\b|/)"
)
_RIGHT = re.compile(rf"{_ONE} (?:is|was) {_VERY}(?:right|correct)\b")
_WRONG = re.compile(rf"{_ONE} (?:is|was) {_VERY}(?:wrong|incorrect)\b")
_TIES = re.compile(
    r"\b(?:tie|tied|draw|equally (?:good|bad|correct|wrong)|"
    r"[Bb]oth (?:attempts |responses )?are (?:equally )?(?:good|right|correct|fine|wrong|equal|"
    r"bad|incorrect)|[Nn]either (?:attempt |one )?is (?:better|good|right|correct))\b",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:not|never|no|nor|hardly|cannot|if|whether|unless|unsure)\b|n't\b", re.IGNORECASE
)
_BLAME = re.compile(
    r"\b(?:not|wrong|incorrect|worse|worst|bad|errors?|mistakes?|mis\w+|flaw\w*|less|avoid|fails?|"
    r"lacks?|but|however)\b|n't\b",
    re.IGNORECASE,
)
_TURNS = re.compile(r"\b(?:but|however|yet)\b", re.IGNORECASE)
_OR_BEFORE = re.compile(r"(?:\bor\s{1,3}(?:an?\s)?|[/|]\s?)$", re.IGNORECASE)
_OR_AFTER = re.compile(r"\s{1,3}or\b|\s?[/|]", re.IGNORECASE)
CLAUSE = re.compile(r"[.;!?\n,]|\b(?:but|because|since)\b")
_PREFERENCES = {
    "a": Preference.A,
    "b": Preference.B,
    "tie": Preference.TIE,
    "a tie": Preference.TIE,
    "draw": Preference.TIE,
    "a draw": Preference.TIE,
    "both": Preference.TIE,
    "equal": Preference.TIE,
    **{
        f"{name} {letter}": Preference[letter.upper()]
        for letter in "ab"
        for name in ("attempt", "response", "assistant", "solution", "option", "answer")
    },
    **{f"attempt_{letter}": Preference[letter.upper()] for letter in "ab"},
}
_MARKED = {"c": Preference.TIE, "a=b": Preference.TIE, "b=a": Preference.TIE}
_ORDER = re.compile(
    r"(?:attempt |response )?([ab]) ?(>{1,3}|<{1,3}|=| over ) ?(?:attempt |response )?([ab])"
)


def exact_preference(text: str) -> Preference | None:
    """Return the preference that a text is nothing but."""
    bare = unmarked(text)
    order = _ORDER.fullmatch(bare)
    if order is not None and order[1] != order[3]:
        if order[2] == "=":
            return Preference.TIE
        return _PREFERENCES[order[3] if order[2][0] == "<" else order[1]]
    if text.strip()[:2] == "[[" and bare in _MARKED:
        return _MARKED[bare]
    return _PREFERENCES.get(bare)


def only_preference(text: str) -> Preference | None:
    """Return what words of preference say; what is blamed or denied is not preferred."""
    found: set[Preference] = set()
    blames = _BLAME.search(text) is not None
    for pattern in (_PREFERRED, _CHOSEN) if blames else (_PREFERRED, _CHOSEN, _RIGHT):
        for match in pattern.finditer(text):
            if _is_open(text, match):
                return None
            found.add(_named(match))
    if not found and blames:
        found = _one_of_both(text)
    if not found:
        for match in _TIES.finditer(text):
            before = text[max(0, match.start() - 9) : match.start()]
            hedged = _OR_BEFORE.search(before) or _OR_AFTER.match(text, match.end())
            if hedged or _is_open(text, match):
                return None
            found.add(Preference.TIE)
    return found.pop() if len(found) == 1 else None


def _named(match: re.Match[str]) -> Preference:
    return _PREFERENCES[(match[1] or match[2]).casefold()]


def _is_open(text: str, match: re.Match[str]) -> bool:
    """Whether what was found is denied, doubted, or turned round afterwards."""
    before = CLAUSE.split(text[max(0, match.start() - 200) : match.start()])[-1]
    turned = _TURNS.search(text, match.end(), match.end() + 400)
    return _UNSURE.search(before) is not None or turned is not None


def _one_of_both(text: str) -> set[Preference]:
    """Return the one that is called right where the other is called wrong, and no more is said."""
    right, wrong = (list(pattern.finditer(text)) for pattern in (_RIGHT, _WRONG))
    if any(_is_open(text, match) for match in (*right, *wrong)):
        return set()
    praised, blamed = ({_named(match) for match in found} for found in (right, wrong))
    return praised if blamed and {one.mirrored for one in praised} == blamed else set()


_BEGINS = re.compile(
    r"[\s_(\[{\"']{0,9}(?:(?:Attempt|Response) )?(A|B|[Tt]ie|TIE)[_)\]}\"']{0,9} ?"
    r"(?:([:])|[.;\n]|,? ?(?:because|since|as)\b|, (?:and )?not (?:[Aa]ttempt )?[AB]\b|"
    r"(?: - |\u2014|\u2013|\())"
)
_LABEL = re.compile(r"(?<!\w)[AB]\s?:")
_BLAMES = re.compile(r"[^.\n]{0,60}(?:\bwrong|incorrect|error|mistake|worse)", re.IGNORECASE)


def first_preference(text: str) -> Preference | None:
    """Return the preference that a reply begins with, unless it lists what each attempt is."""
    match = _BEGINS.match(text)
    if match is None:
        return None
    # "A: wrong. B: right." lists what each is.
    if match[2] and (_LABEL.search(text, match.end()) or _BLAMES.match(text[match.end() :][:200])):
        return None
    value = _PREFERENCES[match[1].casefold()]
    rest = text[match.end() :]
    other = only_preference(rest[:ANSWER_LIMIT])  # "A. Wait, B is better."
    return None if other not in (None, value) or _says_another(rest, value) else value


def _says_another(text: str, value: Preference) -> bool:
    """Whether a line is nothing but another preference than one that was found."""
    others = (exact_preference(line) for line in text[:ANSWER_LIMIT].splitlines())
    return any(other not in (None, value) for other in others)


_LEADS = re.compile(
    rf"{_NAME}(A|B|[Tt]ie|TIE)(?!\w)(?=\s*$|[.;:!]|,? (?:because|since|as|is (?:\w+ )?better)\b)"
)


def stated_preference(text: str) -> Preference | None:
    """Return the preference that follows the last "Verdict:"."""
    line = line_after(VERDICT, text)
    if line is None:
        return None
    leads = _LEADS.match(line.lstrip("\"' "))
    exact = exact_preference(line)
    if exact is not None:
        return exact
    return only_preference(line) if leads is None else _PREFERENCES[leads[1].casefold()]


def last_preference(text: str) -> Preference | None:
    """Return the preference that stands alone on the last line."""
    lines, _, last = text.strip().rpartition("\n")
    value = exact_preference(last)
    return None if value is None or _says_another(lines, value) else value
