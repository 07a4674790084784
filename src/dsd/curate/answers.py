"""What the words of a comparison say: is something lasting called other, the same, or neither?"""

from __future__ import annotations

import re
import unicodedata

_MARKS = re.compile(r"[*_`\"“”„«»‘]+")
_SHORT = re.compile(r"\bcan't\b|\bcannot\b|n't\b")
_DEGREES = (
    r"(?:(?:\w+ly|very|quite|almost|the|a|an|some|somewhat|exact|it|they|these|those|this|is|are|was|were|be)\s+)*"
)
_SAMENESS = (
    r"(?:same|identical|equal|equivalent|alike|match(?:es|ed|ing)?|agree(?:s|ing)?|correspond(?:s|ing)?|consistent"
    r"|similar|unchanged|indistinguishable)"
)
_DENIED = rf"(?:not|never|no\s+longer|hardly|barely|partially|partly)\s+(?:\w+\s+){{0,3}}{_SAMENESS}\b"
_NONE_ALIKE = rf"\b(?:no\s+two|nothing|none|neither|no\s+\w+s?)\b(?:\s+[\w']+){{0,4}}\s+{_SAMENESS}\b"
_DIFFERENT = (
    r"(?:different(?:ly)?|differ(?:s|ed|ing)?|differences?|dissimilar|unlike|mismatch(?:es|ed|ing)?|inconsistent"
    r"|inconsistenc(?:y|ies)|discrepanc(?:y|ies)|contrast(?:s|ing)|conflict(?:s|ing)|unequal|var(?:y|ies|ied)"
    r"|non[\s-]?match(?:es|ing)?|no\s+match|non-identical|deviates?|diverges?|disagree(?:s|ing)?|vs|versus)"
)
_LOST = r"(?:missing|absent|lack(?:s|ing)|gone|lost|changed|altered|replaced|swapped|added|removed)"
_WHO = (
    r"(?:individual|subject|animal|character|person|people|creature|object|one|thing|pet|toy|product|cat|dog|bird|bear"
    r"|man|men|woman|women|boy|girl|child|children|robot|doll|car|mug|cup|bag|entit(?:y|ie)|item|figure)s?"
)
_SEVERAL = rf"\b(?:distinct|separate|unrelated)\s+(?:\w+\s+)?{_WHO}\b|\b(?:are|looks?|clearly)\s+distinct\b|\bdistinct$"
_OPENS_OTHER = re.compile(
    rf"{_DEGREES}(?:other|another|{_DIFFERENT}|{_DENIED}|{_LOST}|distinct|false|wrong|incorrect|no(?=\W*$|\s*[,(:])|x|(?:present\s+)?only\s+(?:in|on)|[✗✘❌×✕✖≠])"
    rf"(?!\w)(?!\s+(?:in|from)\s+(?:both|either|neither))"
)
_NO_OTHER = re.compile(
    rf"\b(?:no|not|never|nothing|none|neither|nor|without|zero|free\s+of)\b(?:\s+(?!{_SAMENESS}\b)[\w-]+){{0,6}}?\s+"
    rf"(?:{_DIFFERENT}|{_LOST}|changes?)\b"
)
_CLAIMS_OTHER = re.compile(
    rf"(?<![\w-])(?:{_DIFFERENT}|{_DENIED}|(?:does|do|is|are)\s+not$|{_LOST})(?!\w)|{_NONE_ALIKE}|{_SEVERAL}"
    rf"|\b(?:not|never)\s+(?:be\s+)?(?:one|the\s+other|another)\b|\b(?:is|are)\s+(?:an)?other\s+{_WHO}\b"
    rf"|\b(?:except|apart\s+from|aside\s+from|other\s+than|save\s+for|but\s+for)\b"
    rf"|\bonly\s+(?:in|on)\s+(?:the\s+)?(?:first|second|one)\b|[✗✘❌≠]"
)
_FALSE = re.compile(r"(?:so|therefore|thus|hence|verdict|answer|same|it\s+is|the\s+\w+\s+is|\W)*(?:false|no)\W*")
_SAYS_SAME = re.compile(
    rf"\b{_SAMENESS}\b|\b(?:both|each|also|too|likewise|shared?|shares|yes|true|agrees?|corresponds?|present|preserved"
    r"|retained|kept|in\s+common|either|neither|as\s+(?:in|before|above)|no\s+(?:visible\s+)?(?:changes?|differences?))\b"
    r"|[✓✔✅☑=]"
)
_UNSEEN = re.compile(
    r"\b(?:hidden|occluded|obscured|covered|cropped|out\s+of|not\s+(?:\w+\s+)?(?:visible|shown|seen|clear|applicable)"
    r"|unclear|none|n/a|cannot|can\s+not|partially\s+visible|only\s+partly\s+visible|invisible)\b"
)
_WHERE = re.compile(
    r"\b(?:in|of|from|between|across|on|to)\s+(?:(?:the|both|two|each|these|those|first|second|other|one|all|either)\s+)*"
    r"(?:pictures?|images?|photos?|photographs?|panels?|views?|shots?|scenes?)\b"
)
_EXPLAINED = re.compile(
    r"\b(?:due\s+to|because\s+of|owing\s+to|caused\s+by|explained\s+by|attributable\s+to|comes?\s+from|stems?\s+from"
    r"|result\s+of|makes?|depending\s+on|with\s+the|under\s+(?:the\s+)?)\b"
)
_HARMLESS = re.compile(
    r"\b(?:no|without(?:\s+a)?|beyond(?:\s+a)?)\s+(?:doubt|question)\b|\bdoubtless\b|\bnot\s+only\b|\bhave\s+two\s+differently\s+colou?red\s+eyes\b|\bno,\s+"
    r"|\bno\s+reason\s+to\s+\w+\b.*|\bnothing\s+(?:suggests|indicates|points|speaks|shows|contradicts)\b.*"
)
_HARD = re.compile(r"\s*(?:\b(?:but|while|whereas|although|though|however|yet)\b|[;])\s*")
_SOFT = re.compile(r"\s*,\s*(?:and\s+|or\s+)?|\s+and\s+")
_VERB = re.compile(
    rf"\b(?:is|are|was|were|has|have|had|shares?|match(?:es)?|looks?|appears?|seems?|shows?|wears?|differs?|remains?"
    rf"|does|do|features?|var(?:y|ies)|changed?s?|stays?|sits?|{_SAMENESS})\b"
)
_PASSING = {
    *("pose", "poses", "posture", "postures", "expression", "expressions", "mood", "action", "actions"),
    *("activity", "activities", "position", "positions", "viewpoint", "viewpoints", "view", "views", "angle"),
    *("angles", "perspective", "perspectives", "distance", "distances", "framing", "crop", "camera", "light"),
    *("lighting", "lights", "shadow", "shadows", "shading", "background", "backgrounds", "backdrop"),
    *("surroundings", "setting", "settings", "scene", "scenes", "scenery", "place", "places", "location"),
    *("locations", "weather", "time", "times", "day", "picture", "pictures", "image", "images", "panel", "panels"),
    *("photo", "photos", "side", "sides", "direction", "directions", "way", "ways", "shot", "shots", "frame"),
    *("scale", "zoom", "focus", "gesture", "gestures", "stance", "environment", "environments", "context"),
    *("contexts", "season", "room", "composition", "orientation", "brightness", "exposure", "saturation"),
    *("reflections", "reflection", "glare", "gaze", "smile", "tilt", "motion", "movement", "situation"),
    *("situations", "circumstances", "moment", "landscape", "surrounding", "illumination", "blur", "resolution"),
    *("foreground", "props", "ground", "floor", "photographs", "photograph", "pictured"),
}
"""What may differ between pictures of one individual."""
_IN_THE_PICTURE = re.compile(
    r"\b(?:size|scale|height|place|placement)\s+(?:in|within)\s+(?:the\s+)?(?:frame|picture|image|shot)\s*$"
)
_LASTING = re.compile(
    r"\b(?:hats?|furs?|eyes?|colou?rs?|patterns?|stripes?|spots?|collars?|ears?|tails?|markings?|marks?|clothes|clothing"
    r"|garments?|accessor(?:y|ies)|hair|build|body|shape|proportions?|scarf|bow|breed|species|wings?|beak|nose"
    r"|paws?|features?|details?|shirt|dress|coat|glasses|shoes?|handle|logo|material|design)\b"
)
_FILLING = {
    "the",
    "a",
    "an",
    "and",
    "or",
    "of",
    "in",
    "its",
    "their",
    "two",
    "both",
    "only",
    "his",
    "her",
    "are",
    "is",
    "s",
}
_FILLING |= {"facial", "head", "body", "overall", "slight", "minor", "general", "arm", "leg", "hand"}


def plain(comparison: str) -> str:
    """A comparison without case and marks of emphasis, with short forms and wide characters written out."""
    text = unicodedata.normalize("NFKC", comparison.replace("’", "'").replace("…", " ")).casefold()
    return _SHORT.sub(lambda found: "can not" if found[0].startswith("can") else " not", _MARKS.sub("", text))


def passing(words: str) -> bool:
    """Whether words name the pose or the surroundings, such as ``the facial expression``, and no feature besides."""
    if _IN_THE_PICTURE.search(words):
        return True
    found = set(re.findall(r"\w+", words))
    return not _PASSING.isdisjoint(found) and (_PASSING | _FILLING).issuperset(found)


def answered(answer: str) -> bool | None:
    """What an answer after a feature's name says: True for other, False for the same or unseen, None for neither."""
    answer = answer.strip()
    if _NO_OTHER.match(answer):
        return False
    if _OPENS_OTHER.match(answer) and not _UNSEEN.match(answer):
        return True
    if claim(answer):
        return True
    return False if _SAYS_SAME.search(answer) or _UNSEEN.search(answer) else None


def claim(sentence: str) -> str:
    """The clause of a sentence that calls something lasting other; empty where none does."""
    said = _HARMLESS.sub(" ", sentence.strip())
    said = re.sub(r"^no\b\s*[,:–-]\s*", "", said)
    if _FALSE.fullmatch(said):
        return said
    for clause in _clauses(said):
        if _calls_other(clause):
            return clause.strip()
    return ""


def _calls_other(clause: str) -> bool:
    # what is not different is left out: "no differences" and "not missing" claim nothing
    left = _WHERE.sub(" ", _NO_OTHER.sub(" ", clause))
    found = _CLAIMS_OTHER.search(left)
    if found is None:
        return False
    if re.fullmatch(_LOST, found[0]) and re.search(r"\b(?:both|either|neither|not|nothing|same)\b", left):
        return False
    words = set(re.findall(r"\w+", left))
    if words.isdisjoint(_PASSING):
        return True
    if re.search(rf"\bdifferent\s+(?:\w+\s+)?{_WHO}\b", left):
        return True
    return _LASTING.search(_CLAIMS_OTHER.sub(" ", _same_ones(left))) is not None and not _EXPLAINED.search(left)


def _same_ones(clause: str) -> str:
    """A clause without the subject that it speaks of: ``pictures of the same cat``, ``the subject's pose``."""
    return re.sub(r"\b(?:of|for|from|in|by|on|to)\s+(?:the\s+|this\s+)?(?:\w+\s+)?[\w']+|\b[\w]+'s?\b", " ", clause)


def _clauses(sentence: str) -> list[str]:
    """A sentence in clauses, each with its verb; what is listed stays together."""
    found = []
    for part in _HARD.split(sentence):
        waiting, continues = "", False
        place = 0
        for cut in [*_SOFT.finditer(part), None]:
            piece = part[place : cut.start()] if cut else part[place:]
            waiting = f"{waiting} {piece}".strip()
            if cut is not None:
                place = cut.end()
            if cut is None or _VERB.search(waiting) or (continues and "," in cut[0]):
                found.append(waiting)
                continues, waiting = bool(_VERB.search(waiting)), ""
    return [clause for clause in found if clause]
