"""The languages of Whisper's models, with the codes and names that callers use for them.

``OTHER_NAMES`` has one row per language, with entries separated by commas. A row lists the names
that differ from Whisper's code and English name: the codes of ISO 639-1, 639-2 (both forms) and
639-3, withdrawn codes, codes of the members of a macrolanguage, other English names, and native
names. Sources: the code tables of ISO 639-3 (https://iso639-3.sil.org/code_tables/download_tables)
and the locale data of Unicode CLDR (https://cldr.unicode.org), plus the aliases of openai-whisper's
``tokenizer.py``.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from functools import cache

from ..errors import UnknownNameError

AUTO = "auto"

OTHER_NAMES = {
    "af": "afr",
    "am": "amh, አማርኛ",
    "ar": (
        "ara, arb, arz, apc, ary, arq, aeb, acm, afb, ajp, apd, ars, modern standard arabic, "
        "العربية, عربي"
    ),
    "as": "asm, অসমীয়া",
    "az": "aze, azj, azb, azeri, azərbaycan, azərbaycan dili, azərbaycanca",
    "ba": "bak, башҡорт, башҡорт теле, башҡортса",
    "be": "bel, belarusan, byelorussian, беларуская, беларуская мова",
    "bg": "bul, български, български език",
    "bn": "ben, bangla, বাংলা",
    "bo": "bod, tib, བོད་སྐད་, བོད་ཡིག",
    "br": "bre, brezhoneg",
    "bs": "bos, bosanski",
    "ca": "cat, valencian, català, valencià",
    "cs": "ces, cze, čeština, česky",
    "cy": "cym, wel, cymraeg",
    "da": "dan, dansk",
    "de": (
        "deu, ger, gsw, deutsch, austrian german, swiss german, swiss high german, "
        "hochdeutsch, schweizerdeutsch"
    ),
    "el": "ell, gre, modern greek, ελληνικά",
    "en": (
        "eng, american english, australian english, british english, canadian english, "
        "indian english"
    ),
    "es": (
        "spa, castilian, european spanish, latin american spanish, mexican spanish, español, "
        "castellano"
    ),
    "et": "est, ekk, vro, eesti, eesti keel",
    "eu": "eus, baq, euskara, euskera",
    "fa": "fas, per, pes, prs, farsi, dari, فارسی, دری",
    "fi": "fin, suomi",
    "fo": "fao, føroyskt",
    "fr": "fra, fre, canadian french, swiss french, français",
    "gl": "glg, galego",
    "gu": "guj, ગુજરાતી",
    "ha": "hau, harshen hausa",
    "haw": "ʻōlelo hawaiʻi",
    "he": "heb, iw, עברית",
    "hi": "hin, हिन्दी, हिंदी",
    "hr": "hrv, scr, hrvatski",
    "ht": "hat, haitian, kreyòl ayisyen, kreyòl",
    "hu": "hun, magyar",
    "hy": "hye, arm, հայերեն",
    "id": "ind, in, indonesia, bahasa indonesia",
    "is": "isl, ice, íslenska",
    "it": "ita, italiano",
    "ja": "jpn, 日本語, にほんご, nihongo",
    "jw": "jv, jav, jawa, basa jawa",
    "ka": "kat, geo, ქართული",
    "kk": "kaz, қазақ, қазақ тілі, қазақша",
    "km": "khm, ខ្មែរ, ភាសាខ្មែរ",
    "kn": "kan, ಕನ್ನಡ",
    "ko": "kor, 한국어, 한국말, 조선말",
    "la": "lat, latina, lingua latina",
    "lb": "ltz, letzeburgesch, lëtzebuergesch",
    "ln": "lin, lingála",
    "lo": "ລາວ, ພາສາລາວ",
    "lt": "lit, lietuvių, lietuvių kalba",
    "lv": "lav, lvs, ltg, latviešu, latviešu valoda",
    "mg": "mlg, plt, fiteny malagasy",
    "mi": "mri, mao, te reo māori, te reo",
    "mk": "mkd, mac, македонски, македонски јазик",
    "ml": "mal, മലയാളം",
    "mn": "mon, khk, mvf, монгол, монгол хэл",
    "mr": "mar, मराठी",
    "ms": "msa, may, zsm, melayu, bahasa melayu, bahasa malaysia",
    "mt": "mlt, malti",
    "my": "mya, bur, burmese, မြန်မာ, မြန်မာဘာသာ, ဗမာ",
    "ne": "nep, npi, dty, नेपाली",
    "nl": "nld, dut, vls, flemish, nederlands, vlaams",
    "nn": "nno, norwegian nynorsk, norsk nynorsk",
    "no": "nor, nb, nob, bokmål, norwegian bokmål, norsk, norsk bokmål",
    "oc": "oci, occitan post 1500, provençal",
    "pa": "pan, pnb, panjabi, ਪੰਜਾਬੀ, پنجابی",
    "pl": "pol, polski",
    "ps": "pus, pbt, pbu, pst, pushto, پښتو",
    "pt": (
        "por, brazilian, brazilian portuguese, european portuguese, português, português brasileiro"
    ),
    "ro": "ron, rum, mo, mol, moldavian, moldovan, română, limba română",
    "ru": "rus, русский, русский язык, по-русски",
    "sa": "san, संस्कृतम्, संस्कृत, संस्कृत भाषा",
    "sd": "snd, سنڌي, सिन्धी",
    "si": "sin, sinhalese, සිංහල",
    "sk": "slk, slo, slovenčina",
    "sl": "slv, slovene, slovenščina",
    "sn": "sna, chishona",
    "so": "som, soomaali, af soomaali",
    "sq": "sqi, alb, als, aln, shqip, gjuha shqipe",
    "sr": "srp, scc, montenegrin, cnr, српски, srpski",
    "su": "sun, basa sunda",
    "sv": "swe, svenska",
    "sw": "swa, swh, swc, congo swahili, kiswahili",
    "ta": "tam, தமிழ்",
    "te": "tel, తెలుగు",
    "tg": "tgk, тоҷикӣ, забони тоҷикӣ",
    "th": "tha, ไทย, ภาษาไทย",
    "tk": "tuk, türkmen, türkmençe, türkmen dili",
    "tl": "tgl, fil, filipino, pilipino, wikang filipino",
    "tr": "tur, türkçe",
    "tt": "tat, татар, татар теле, татарча",
    "uk": "ukr, українська, українська мова",
    "ur": "urd, اردو, اُردُو",
    "uz": "uzb, uzn, uzs, o‘zbek, o‘zbek tili, o‘zbekcha, ўзбек",
    "vi": "vie, tiếng việt",
    "yi": "yid, ji, ydd, yih, ייִדיש, אידיש",
    "yo": "yor, èdè yorùbá",
    "yue": "zh-yue, yue chinese, cantonese chinese, 粵語, 粤语, 廣東話, 广东话, 廣州話, 广州话",
    "zh": (
        "zho, chi, cmn, mandarin, mandarin chinese, simplified chinese, traditional chinese, "
        "putonghua, 中文, 汉语, 漢語, 普通话, 普通話, 國語, 国语, 华语, 華語"
    ),
}

# Country codes that users often give for a language, except those that are also codes of Whisper.
OF_COUNTRY = {
    "al": "sq", "at": "de", "cn": "zh", "cz": "cs", "dk": "da", "ee": "et", "gb": "en", "ge": "ka",
    "gr": "el", "hk": "yue", "il": "he", "ir": "fa", "jp": "ja", "kr": "ko", "kz": "kk", "mx": "es",
    "ph": "tl", "pk": "ur", "rs": "sr", "se": "sv", "tw": "zh", "ua": "uk", "us": "en", "vn": "vi",
}  # fmt: skip

# As in openai-whisper's tokenizer.py: 99 languages, and Cantonese since large-v3.
LANGUAGES = {
    "af": "afrikaans", "am": "amharic", "ar": "arabic", "as": "assamese", "az": "azerbaijani",
    "ba": "bashkir", "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bo": "tibetan",
    "br": "breton", "bs": "bosnian", "ca": "catalan", "cs": "czech", "cy": "welsh", "da": "danish",
    "de": "german", "el": "greek", "en": "english", "es": "spanish", "et": "estonian",
    "eu": "basque", "fa": "persian", "fi": "finnish", "fo": "faroese", "fr": "french",
    "gl": "galician", "gu": "gujarati", "ha": "hausa", "haw": "hawaiian", "he": "hebrew",
    "hi": "hindi", "hr": "croatian", "ht": "haitian creole", "hu": "hungarian", "hy": "armenian",
    "id": "indonesian", "is": "icelandic", "it": "italian", "ja": "japanese", "jw": "javanese",
    "ka": "georgian", "kk": "kazakh", "km": "khmer", "kn": "kannada", "ko": "korean", "la": "latin",
    "lb": "luxembourgish", "ln": "lingala", "lo": "lao", "lt": "lithuanian", "lv": "latvian",
    "mg": "malagasy", "mi": "maori", "mk": "macedonian", "ml": "malayalam", "mn": "mongolian",
    "mr": "marathi", "ms": "malay", "mt": "maltese", "my": "myanmar", "ne": "nepali", "nl": "dutch",
    "nn": "nynorsk", "no": "norwegian", "oc": "occitan", "pa": "punjabi", "pl": "polish",
    "ps": "pashto", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sa": "sanskrit",
    "sd": "sindhi", "si": "sinhala", "sk": "slovak", "sl": "slovenian", "sn": "shona",
    "so": "somali", "sq": "albanian", "sr": "serbian", "su": "sundanese", "sv": "swedish",
    "sw": "swahili", "ta": "tamil", "te": "telugu", "tg": "tajik", "th": "thai", "tk": "turkmen",
    "tl": "tagalog", "tr": "turkish", "tt": "tatar", "uk": "ukrainian", "ur": "urdu", "uz": "uzbek",
    "vi": "vietnamese", "yi": "yiddish", "yo": "yoruba", "yue": "cantonese", "zh": "chinese",
}  # fmt: skip


_AUTOMATIC = frozenset(
    {"auto", "autodetect", "auto-detect", "auto detect", "automatic", "detect", "und"}
)
# -us, -hans-cn, - united states; after a space only a code.
_REGION = re.compile(r"-[a-z0-9 -]+| ([a-z]{2}|[a-z]{4})")


def requested_language(name: str) -> str:
    """``auto``, or Whisper's code of a language.

    Accepts Whisper's codes, ISO 639-1, 639-2 and 639-3, English and native names, in any letter
    case, with or without a region or script: ``de``, ``deu``, ``de_AT.UTF-8``, ``German``,
    ``Deutsch``, ``Portuguese (Brazil)``.

    Raises:
        UnknownNameError: Whisper does not support the language; the hint suggests the nearest one.
    """
    given = name[:64]
    name, _, inside = unicodedata.normalize("NFKC", name).partition("(")
    name = _folded(re.split("[.@]", name, maxsplit=1)[0])
    inside = _folded(inside.rstrip(") "))
    if name in _AUTOMATIC:
        return AUTO
    codes = _codes()
    if inside in codes and len(inside) > 3:  # Chinese (Cantonese), Norwegian (Nynorsk)
        return codes[inside]
    if name in codes:
        return codes[name]
    first, *_ = re.split("[- ]", name, maxsplit=1)
    region = name[len(first) :]
    names_another = any(len(part) > 3 and part in codes for part in re.split("[- ]", region))
    if first in codes and _REGION.fullmatch(region) and not names_another:
        return codes[first]
    raise UnknownNameError(
        f"there is no language {given!r}",
        hint=_language_hint(first, name, codes),
    )


def _language_hint(first: str, name: str, codes: Mapping[str, str]) -> str:
    if first in OF_COUNTRY:
        near = [OF_COUNTRY[first]]
    else:
        names = [each for each in codes if len(each) > 3]  # short codes resemble each other
        near = list(
            dict.fromkeys(
                codes[each] for each in difflib.get_close_matches(name, names, n=3, cutoff=0.7)
            )
        )
    if near:
        return f"did you mean {' or '.join(f'{code} ({LANGUAGES[code]})' for code in near)}?"
    return "use auto, or one language: a code such as de, or a name such as german"


def _folded(name: str) -> str:
    """Normalize letter case, accents, apostrophes, quotes, spaces and dashes."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(c for c in letters if unicodedata.category(c) != "Mn" and c not in _MARKS)
    return " ".join(re.sub(r"\s*[_\-‐‑–]\s*", "-", kept).split())


_MARKS = frozenset("'\"`´ʻʼ‘’“”«»„")


@cache
def _codes() -> dict[str, str]:
    """Every code and name, folded -> Whisper's code, which takes precedence over other codes."""
    others = {
        _folded(name): code for code, names in OTHER_NAMES.items() for name in names.split(",")
    }
    named = {_folded(name): code for code, name in LANGUAGES.items()}
    found = others | named | {code: code for code in LANGUAGES}
    return {name.replace(" ", "-"): code for name, code in found.items()} | found
