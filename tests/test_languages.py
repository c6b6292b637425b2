"""A language is recognised however people and programs write it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run
from hypothesis import given, settings
from hypothesis import strategies as st

from transcribe_mcp import Options
from transcribe_mcp.domain.languages import LANGUAGES, OTHER_NAMES
from transcribe_mcp.errors import UnknownNameError

SPELLINGS = {
    "auto": ["auto", "Auto", " AUTO ", "auto-detect", "und"],
    "en": [
        "en-US",
        "en_GB.UTF-8",
        "EN",
        "eng",
        "English",
        "English (US)",
        "english - United States",
    ],
    "de": ["de", "deu", "ger", "de-CH-1996", "Deutsch", "“Deutsch”", "German", "Swiss German"],
    "es": ["es-419", "spa", "Español", "espanol", "Castilian", "Spanish (Latin America)"],
    "fr": ["fra", "fre", "fr_CA", "Français", "FRANCAIS"],
    "pt": ["pt-BR", "pt_BR", "pt BR", "Português", "Brazilian Portuguese", "Portuguese (Brazil)"],
    "zh": [
        "zh-Hans-CN",
        "zh_TW",
        "cmn",
        "zho",
        "chi",
        "Mandarin",
        "中文",
        "普通话",
        "中文（简体）",
    ],
    "yue": ["yue", "yue-Hant-HK", "zh-yue", "Chinese (Cantonese)", "粵語"],
    "no": ["no", "nb", "nb-NO", "nob", "Norsk", "Norwegian Bokmål"],
    "nn": ["nn", "nno", "Norwegian Nynorsk", "Norwegian (Nynorsk)"],
    "he": ["iw", "heb", "עברית"],
    "id": ["in", "ind", "Bahasa Indonesia"],
    "yi": ["ji", "yid"],
    "jw": ["jv", "jw", "jav"],
    "tl": ["fil", "tl", "fil-PH", "Filipino"],
    "ja": ["jpn", "日本語", "ja_JP"],
    "fa": ["fas", "per", "Farsi", "فارسی"],
    "el": ["ell", "gre", "Ελληνικά", "ελληνικα"],
    "vi": ["Tiếng Việt", "Tie\u0302\u0301ng Vie\u0323\u0302t", "tieng viet"],
    "uz": ["O‘zbek", "O'zbek"],
    "ht": ["Haitian Creole", "haitian-creole", "Kreyòl"],
}


@pytest.mark.parametrize(
    ("code", "spelling"), [(code, each) for code, many in SPELLINGS.items() for each in many]
)
def test_a_language_is_known_by_its_codes_and_names(code: str, spelling: str) -> None:
    assert Options(language=spelling).language == code


def test_every_name_of_the_table_leads_to_its_language_and_to_no_other() -> None:
    names = {
        code: [code, english, *OTHER_NAMES.get(code, "").split(", ")]
        for code, english in LANGUAGES.items()
    }
    wrong = [
        (code, name)
        for code, many in names.items()
        for name in many
        if Options(language=name).language != code
    ]
    assert not wrong and set(OTHER_NAMES) <= set(LANGUAGES)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("germn", "did you mean de (german)?"),
        ("jp", "did you mean ja (japanese)?"),
        ("gr", "did you mean el (greek)?"),
        ("klingon", "use auto"),
        ("en,de", "one language"),
        ("english-german", "one language"),
        ("german shepherd", "one language"),
        ("", "use auto"),
    ],
)
def test_a_language_that_is_none_or_two_is_refused_with_the_way_out(wanted: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match="there is no language") as caught:
        Options(language=wanted)
    assert hint in caught.value.hint


@settings(max_examples=200)
@given(st.text(max_size=30))
def test_any_text_is_a_language_or_refused_in_words(wanted: str) -> None:
    try:
        assert Options(language=wanted).language in {"auto", *LANGUAGES}
    except UnknownNameError as error:
        assert error.hint


def test_the_command_line_takes_a_language_with_its_region(tmp_path: Path) -> None:
    done = run(
        "transcribe",
        "gone.wav",
        "--engine",
        "fake",
        "--language",
        "Deutsch (Österreich)",
        cwd=tmp_path,
    )
    assert "no such file" in done.stderr and "language" not in done.stderr
