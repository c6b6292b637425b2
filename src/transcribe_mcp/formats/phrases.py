"""Function words that mark phrases, for the most common languages.

Lines break well before a conjunction or preposition, and badly after one or after an article. Words
that usually have another role, such as German ``zu`` before a verb, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

_CONJUNCTIONS = {
    "en": (
        "and but or nor because that which who whom whose where when while if although though "
        "unless until whether"
    ),
    "de": (
        "und aber oder denn weil dass welche welcher welches wenn als während obwohl damit "
        "sondern sobald nachdem"
    ),
    "fr": "et mais ou car parce que qui lorsque quand si quoique puisque dont",
    "es": "y e o u pero porque que cuando mientras aunque donde sino pues si",
    "it": "e ed o ma perché che quando mentre anche dove se sebbene oppure",
    "pt": "e ou mas porque que quando enquanto embora onde se",
    "nl": "en of maar want omdat dat wanneer terwijl hoewel waar toen als",
}
_PREPOSITIONS = {
    "en": (
        "of in on at by for with about against between into through during before after above "
        "below from under over without within towards upon across to"
    ),
    "de": (
        "von mit nach bei aus vor über unter zwischen durch für gegen ohne um seit in an auf im "
        "am zum zur vom beim"
    ),
    "fr": "de avec dans sur sous pour sans chez vers entre depuis contre par à en au aux",
    "es": "de con por para sin sobre entre desde hasta hacia en a al del",
    "it": (
        "di con per tra fra senza sotto sopra da in a su del della dei delle nel nella al alla "
        "dal dalla"
    ),
    "pt": "de com por para sem sobre entre desde até em do da dos das no na nos nas ao à",
    "nl": "van met naar bij uit voor onder tussen door tegen zonder sinds in op aan te",
}
_DETERMINERS = {
    "en": "the a an my your his her its our their this these those every each no",
    "de": (
        "der die das den dem des ein eine einen einem einer eines mein meine dein deine sein "
        "seine ihr ihre unser unsere dieser diese dieses jeder jede jedes kein keine"
    ),
    "fr": (
        "le la les un une des du mon ton son ma ta sa mes tes ses notre votre leur ce cet cette ces"
    ),
    "es": "el la los las un una unos unas mi tu su nuestro nuestra este esta estos estas ese esa",
    "it": "il lo la i gli le un uno una mio tuo suo nostro questo questa",
    "pt": "o a os as um uma meu seu nosso este esta",
    "nl": "de het een mijn jouw zijn haar ons onze deze dit",
}


@dataclass(frozen=True, slots=True)
class Phrases:
    """Words of one language, in lower case.

    Attributes:
        begins: good places to break are before these.
        leans: bad places to break are after these.
    """

    begins: frozenset[str] = frozenset()
    leans: frozenset[str] = frozenset()


_UNKNOWN = Phrases()
_OF = {
    language: Phrases(
        frozenset(f"{_CONJUNCTIONS[language]} {_PREPOSITIONS[language]}".split()),
        frozenset(f"{_CONJUNCTIONS[language]} {_PREPOSITIONS[language]} {determiners}".split()),
    )
    for language, determiners in _DETERMINERS.items()
}


def phrases_of(language: str | None) -> Phrases:
    """The words of a language; empty sets for others, which break by width and pauses."""
    return _OF.get(language or "", _UNKNOWN)
