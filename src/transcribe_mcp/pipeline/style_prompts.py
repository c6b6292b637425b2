"""Prompts with punctuation, for windows that a Whisper model wrote without any.

The decoder treats a prompt as preceding text, and continues in its style. The acceptance rules are
in ``temperature_fallback.Decoder``; the thresholds were chosen on English recordings
(docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..align.times import MARKS
from ..domain.text_marks import CLOSERS
from ..domain.transcript import Word

MIN_WORDS = 15  # a shorter text may well be part of one sentence
WORDS_PER_MARK = 20  # with fewer than one mark per 20 words, a text lacks punctuation
MAX_CHANGE = 0.05  # in the number of words, or one word: repeated words must not be lost

# Languages whose writing has punctuation. The Chinese characters are the same
# in both scripts, so that the prompt does not turn one into the other.
STYLE_PROMPTS = {
    "ar": "مرحبًا بكم. هذه محاضرة اليوم، من البداية إلى النهاية. هل نبدأ؟",
    "bn": "নমস্কার, আপনাদের স্বাগত। এটি আজকের বক্তৃতা, শুরু থেকে শেষ পর্যন্ত। আমরা কি শুরু করব?",
    "cs": "Dobrý den, vítejte. Toto je dnešní přednáška, od začátku do konce. Začneme?",
    "da": "Hej og velkommen. Her er dagens foredrag, fra start til slut. Skal vi begynde?",
    "de": (
        "Guten Tag und herzlich willkommen. "
        "Hier ist der heutige Vortrag, von Anfang bis Ende. Wollen wir beginnen?"
    ),
    "el": (
        "Καλημέρα και καλώς ήρθατε. "
        "Αυτή είναι η σημερινή ομιλία, από την αρχή μέχρι το τέλος. Ξεκινάμε;"
    ),
    "en": "Hello, and welcome. Here is today's talk, from beginning to end. Shall we start?",
    "es": "Hola y bienvenidos. Esta es la charla de hoy, de principio a fin. ¿Empezamos?",
    "fa": "سلام و خوش آمدید. این سخنرانی امروز است، از آغاز تا پایان. شروع کنیم؟",
    "fi": "Hyvää päivää ja tervetuloa. Tässä on päivän puhe, alusta loppuun. Aloitetaanko?",
    "fr": "Bonjour et bienvenue. Voici l'exposé d'aujourd'hui, du début à la fin. On commence ?",
    "hi": "नमस्ते और स्वागत है। यह आज का व्याख्यान है, शुरू से अंत तक। क्या हम शुरू करें?",
    "hu": "Jó napot, üdvözlöm önöket. Ez a mai előadás, az elejétől a végéig. Kezdhetjük?",
    "id": "Halo dan selamat datang. Inilah ceramah hari ini, dari awal sampai akhir. Kita mulai?",
    "it": "Buongiorno e benvenuti. Ecco la conferenza di oggi, dall'inizio alla fine. Cominciamo?",
    "ja": "こんにちは、ようこそ。これは今日の講演で、最初から最後まであります。始めましょうか？",
    "ko": "안녕하세요, 환영합니다. 오늘 강연을 처음부터 끝까지 들려드립니다. 시작할까요?",
    "nl": "Hallo en welkom. Dit is de lezing van vandaag, van begin tot eind. Zullen we beginnen?",
    "pl": "Dzień dobry, witam państwa. Oto dzisiejszy wykład, od początku do końca. Zaczynamy?",
    "pt": "Olá e bem-vindos. Esta é a palestra de hoje, do início ao fim. Vamos começar?",
    "ro": (
        "Bună ziua și bine ați venit. "
        "Iată prelegerea de astăzi, de la început până la sfârșit. Începem?"
    ),
    "ru": "Здравствуйте и добро пожаловать. Вот сегодняшняя лекция, от начала до конца. Начнём?",
    "sv": "Hej och välkomna. Här är dagens föredrag, från början till slut. Ska vi börja?",
    "tr": "Merhaba, hoş geldiniz. Bugünkü konuşma, başından sonuna kadar burada. Başlayalım mı?",
    "uk": "Добрий день і ласкаво просимо. Ось сьогоднішня лекція, від початку до кінця. Почнемо?",
    "vi": (
        "Xin chào và chào mừng các bạn. Đây là bài nói hôm nay, từ đầu đến cuối. "
        "Chúng ta bắt đầu nhé?"
    ),
    "zh": "大家好，我是今天的主持人。今天的故事很短，也很有趣。你想不想知道？",
}  # fmt: skip


def lacks_punctuation(words: Sequence[Word]) -> bool:
    """Whether a text has too few marks."""
    return len(words) >= MIN_WORDS and n_marks(words) * WORDS_PER_MARK < len(words)


def n_marks(words: Sequence[Word]) -> int:
    """Number of words with a mark after them."""
    return sum(word.text.rstrip(CLOSERS).endswith(MARKS) for word in words)


def punctuates(before: Sequence[Word], after: Sequence[Word]) -> bool:
    """Whether the new text has more marks and about as many words; only the marks should differ."""
    is_same_length = abs(len(after) - len(before)) <= max(1, MAX_CHANGE * len(before))
    return is_same_length and n_marks(after) > n_marks(before)
