"""Text of any script is cut where Unicode's rules allow it, never inside what a reader takes for
one character.
"""

from __future__ import annotations

import json
import re
import unicodedata
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex
from tokenizers import Tokenizer

from transcribe_mcp.align.words import split_words
from transcribe_mcp.domain.sentences import cut_sentences
from transcribe_mcp.domain.transcript import Segment, Transcript, Word
from transcribe_mcp.formats import FormatOptions, SubtitleRules, render
from transcribe_mcp.frontends.mcp.pages import View, text_page

NANO = Path(__file__).parent / "data" / "whisper-nano" / "tokenizer.json"
WORD_S = 0.2

FAMILY, FLAGS, THUMB = "👨‍👩‍👧‍👦", "🇩🇪🇫🇷🇪🇸🇮🇹🇵🇱🇨🇿🇦🇹🇨🇭🇧🇪🇳🇱", "👍🏽"
TEXTS = {
    "ja katakana": (
        "ja",
        "コンピューターのサーバーにメールのデータをコピーしてスーパーマーケットでコーヒーを買った",
    ),
    "ja kinsoku": (
        "ja",
        "約１２３４万５６００円になり時々佐々木さんが来て「ええっ、すごいっ！」と言ったそうです",
    ),
    "ja halfwidth": ("ja", "ｶﾞｷﾞｸﾞｹﾞｺﾞﾊﾟﾋﾟﾌﾟﾍﾟﾎﾟ" * 5),
    "ja decomposed": (
        "ja",
        unicodedata.normalize("NFD", "がぎぐげござじずぜぞだぢづでどばびぶべぼぱぴぷぺぽ" * 3),
    ),
    "zh": (
        "zh",
        "我们使用Whisper模型处理了1234个文件其中98.6%成功了（包括视频）并且花了￥5000元发送到这个地址",
    ),
    "th": ("th", "วันนี้เราจะไปเที่ยวทะเลและกินอาหารทะเลที่ร้านใกล้ๆแล้วก็ไปเดินเล่นที่ตลาดน้ำเพราะแม่ชอบซื้อของ"),
    "lo": ("lo", "ມື້ນີ້ພວກເຮົາຈະໄປທ່ຽວຕະຫຼາດແລະກິນເຂົ້າໜຽວກັບໄກ່ປີ້ງຢູ່ຮ້ານໃກ້ໆບ້ານຂອງພວກເຮົາແລະເຮົາກໍ່ມີຄວາມສຸກຫຼາຍໆ"),
    "km": ("km", "ថ្ងៃនេះយើងនឹងទៅលេងសមុទ្រហើយញ៉ាំអាហារសមុទ្រនៅភោជនីយដ្ឋានដែលនៅជិតផ្ទះរបស់យើងព្រោះវាឆ្ងាញ់ណាស់"),
    "my": ("my", "မြန်မာနိုင်ငံသည်အရှေ့တောင်အာရှတွင်ရှိသောနိုင်ငံတစ်နိုင်ငံဖြစ်ပြီးလူဦးရေများစွာနေထိုင်ကြသည်။"),
    "bo": ("bo", "བོད་ཡིག་ནི་བོད་མིའི་སྐད་ཡིག་ཡིན་པ་དང་དེ་ནི་གངས་ཅན་ལྗོངས་ཀྱི་མི་རྣམས་ཀྱིས་བེད་སྤྱོད་བྱེད་པ་ཡིན།"),
    "hi": ("hi", " प्रतियोगितात्मकताविरोधीकार्यक्रमनिर्देशिकासम्बन्धीव्यवस्थापनसमितिमें काम है"),
    "ta": ("ta", " போக்குவரத்துக்கழகங்களுக்கிடையேயானஒப்பந்தங்களைப்பற்றியகலந்துரையாடல் நடந்தது"),
    "ko jamo": (
        "ko",
        unicodedata.normalize(
            "NFD", " 안녕하세요여러분오늘은날씨가정말좋아서우리는공원에가서 먹었다"
        ),
    ),
    "emoji": ("en", f" Our family {FAMILY * 8} likes {FLAGS * 3} and {THUMB * 23} #️⃣❤️"),
    "marks": ("en", " Za" + "l\u0301\u0324go\u030a\u0301" * 30),
    "fr": (
        "fr",
        " Bonjour ! « Comment allez-vous ? » demanda-t-il ; « très bien » : voilà "
        "tout ce que nous savons !",
    ),
}  # fmt: skip
# What no line starts or ends with, by JIS X 4051 and the orthographies of Thai, Lao, Khmer and
# Burmese.
NOT_FIRST = set(
    "ーぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ々〻ゝゞヽヾ・％、。！？」』）】…!?»;:"
    + "ะาำๆฯะາຳໆ"
    + "ៗ។"
    + "၊။"
    + "་།"
)
NOT_LAST = set("「『（【￥" + "เแโใไ" + "ເແໂໃໄ" + "«")


@cache
def tokenizer_of_nano() -> Tokenizer:
    return Tokenizer.from_file(str(NANO))


def tokens_of(text: str, language: str) -> list[Word]:
    """Words as an engine with a byte-level tokenizer makes them, back to back."""
    tokenizer = tokenizer_of_nano()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    spans = split_words(ids, lambda some: tokenizer.decode(list(some)), language)
    return [Word(i * WORD_S, (i + 1) * WORD_S, span.text) for i, span in enumerate(spans)]


def transcript(text: str, language: str, words: list[Word]) -> Transcript:
    end = words[-1].end if words else WORD_S * len(text)
    return Transcript(
        (Segment(0, end, text, tuple(words)),),
        end + 5,
        language,
        1,
        "fake",
        "fake",
        "cpu",
        "float32",
    )


def subtitle_lines(srt: str) -> list[str]:
    return [line for block in srt.split("\n\n") for line in block.strip().split("\n")[2:]]


def clusters(text: str) -> list[str]:
    return [cluster.strip() for cluster in regex.findall(r"\X", text) if cluster.strip()]


def assert_whole_clusters(whole: str, parts: list[str]) -> None:
    """The parts are the whole, and no border between them tears a cluster."""
    assert re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", whole)
    assert [c for part in parts for c in clusters(part)] == clusters(whole)


def assert_well_cut(whole: str, parts: list[str]) -> None:
    """Nor does one break the rules of its script."""
    assert_whole_clusters(whole, parts)
    for before, after in pairwise([part.strip() for part in parts if part.strip()]):
        assert after[0] not in NOT_FIRST, (before, after)
        assert before[-1] not in NOT_LAST, (before, after)


@pytest.mark.parametrize("timed", ["words", "segment"])
@pytest.mark.parametrize("columns", [20, 42])
@pytest.mark.parametrize("name", TEXTS)
def test_no_subtitle_line_tears_a_cluster_or_starts_where_its_script_forbids(
    name: str, columns: int, timed: str
) -> None:
    language, text = TEXTS[name]
    words = tokens_of(text, language) if timed == "words" else []

    srt = render(
        transcript(text, language, words),
        "srt",
        FormatOptions(SubtitleRules(max_line_chars=columns)),
    )

    assert_well_cut(text, subtitle_lines(srt))


@pytest.mark.parametrize("name", TEXTS)
def test_no_word_of_the_json_file_tears_a_cluster(name: str) -> None:
    language, text = TEXTS[name]

    segment = json.loads(render(transcript(text, language, tokens_of(text, language)), "json"))[
        "segments"
    ][0]

    assert_whole_clusters(text, [word["word"] for word in segment["words"]])


def test_scripts_without_spaces_have_the_words_of_their_dictionaries() -> None:
    words = [word.text for word in tokens_of("ភាសាខ្មែរគឺជាភាសាផ្លូវការរបស់ប្រទេសកម្ពុជា", "km")]

    assert words == ["ភាសាខ្មែរ", "គឺជា", "ភាសាផ្លូវការ", "របស់", "ប្រទេស", "កម្ពុជា"]


def test_clusters_take_the_columns_they_are_drawn_in() -> None:
    lines = {
        "ko": unicodedata.normalize("NFD", "안녕하세요여"),
        "ja": "ｶﾞｷﾞｸﾞｹﾞｺﾞﾊﾟ",
        "en": FAMILY * 6,
        "hi": "क्षि" * 6,
    }
    for language, text in lines.items():
        rules = SubtitleRules(max_line_chars=12, max_cue_s=60)
        (line,) = subtitle_lines(
            render(transcript(text, language, []), "srt", FormatOptions(rules))
        )
        assert line == text


@pytest.mark.parametrize("name", TEXTS)
def test_neither_sentences_nor_pages_end_inside_a_cluster(name: str) -> None:
    language, text = TEXTS[name]
    words = tokens_of(text * 12, language)
    slow = [
        Word(4 * word.start, 4 * word.start + WORD_S, word.text) for word in words
    ]  # a pause after each

    sentences = ["".join(word.text for word in sentence) for sentence in cut_sentences(slow)]
    pages, cursor = [], None
    while True:
        page, cursor = text_page(text * 12, View("job", "txt"), cursor, 200)
        pages.append(page)
        if cursor is None:
            break

    assert_well_cut(text * 12, sentences)
    assert_well_cut(text * 12, pages)
    assert all(len(page) <= 200 for page in pages)
