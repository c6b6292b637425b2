"""Collects sentences from unpacked Debian packages and trains the tokenizer.

Sources, each optional except the first three: wordnet-base, fortunes-de, fortunes-es, fortunes,
wesnoth-1.16-* (message catalogues), libreoffice-help-de/-es, debian-reference-de/-es,
gimp-help-de/-es, gnome-user-docs, trans-de-en, wngerman, wspanish, wamerican. The corpus itself is
never part of the repository.
"""

from __future__ import annotations

import argparse
import collections
import gettext
import gzip
import html
import json
import random
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

LANGUAGES = ("en", "de", "es")
N_TEXT_TOKENS = 3072
TIMESTAMP_STEP_S = 0.02
N_TIMESTAMPS = 1501  # 0.00 to 30.00 s
SPECIAL_TOKENS = (
    "<|endoftext|>", "<|startoftranscript|>", *(f"<|{language}|>" for language in LANGUAGES),
    "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
    "<|notimestamps|>", *(f"<|{i * TIMESTAMP_STEP_S:.2f}|>" for i in range(N_TIMESTAMPS)),
)  # fmt: skip
EMPTY_TOKEN = ""  # CTranslate2 takes a vocabulary that holds it for a multilingual one

_LETTERS = r"[A-Za-zÀ-ÖØ-öø-ÿ¿¡' ,;:.!?-]+"
_ENGLISH = re.compile(
    r"\b(the|of|and|is|you|this|with)\b", re.IGNORECASE
)  # left untranslated in a help page
_HELD_OUT_ONE_IN = 50
_WORDS_IN_SENTENCE = (3, 18)
_LONGEST_CHARS = 110


def tidy(text: str) -> str:
    return re.sub(
        r"\s+", " ", text.replace("’", "'").replace("„", "").replace("“", "").replace("”", "")
    ).strip()


def is_sentence(text: str) -> bool:
    low, high = _WORDS_IN_SENTENCE
    return (
        low <= len(text.split()) <= high
        and len(text) <= _LONGEST_CHARS
        and re.fullmatch(_LETTERS, text) is not None
        and (text[0].isupper() or text[0] in "¿¡")
        and text[-1] in ".!?"
        and not re.search(r"[A-Z]{2}|[,;:.!?-]{2}| [,;:.!?]|\b[b-df-hj-np-xzB-DF-HJ-NP-XZ]\b", text)
    )


def sentences_in(text: str) -> Iterator[str]:
    for part in re.split(r"(?<=[.!?])\s+", tidy(text)):
        if part and is_sentence(part):
            yield part


def as_sentence(phrase: str) -> str | None:
    phrase = tidy(phrase).strip(" ,;:")
    if not phrase:
        return None
    sentence = phrase[0].upper() + phrase[1:] + ("" if phrase[-1] in ".!?" else ".")
    return sentence if is_sentence(sentence) else None


def read_text(path: Path) -> str:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def wordnet(root: Path) -> Iterator[str]:
    for path in sorted((root / "usr/share/wordnet").glob("data.*")):
        for line in path.read_text(encoding="latin-1").splitlines():
            _, bar, gloss = line.partition("|")
            if not bar:
                continue
            phrases = [*re.findall(r'"([^"]+)"', gloss), re.split(r'[;("]', gloss)[0]]
            yield from filter(None, map(as_sentence, phrases))


def fortunes(root: Path, folder: str) -> Iterator[str]:
    for path in sorted((root / "usr/share/games/fortunes" / folder).glob("*")):
        if path.is_dir() or path.suffix in (".dat", ".u8"):
            continue
        for cookie in read_text(path).split("\n%"):
            yield from sentences_in(re.sub(r"\n\s*--.*", "", cookie, flags=re.DOTALL))


def message_catalogues(root: Path, language: str) -> Iterator[str]:
    """Sentences of the games' story texts; English ones are the catalogues' keys."""
    for path in sorted(
        root.glob(
            f"usr/share/games/wesnoth/*/locale/{'de' if language == 'en' else language}/**/*.mo"
        )
    ):
        with path.open("rb") as file:
            catalogue = gettext.GNUTranslations(file)
        for key, value in catalogue._catalog.items():  # type: ignore[attr-defined]
            text = (key if language == "en" else value) if isinstance(key, str) else ""
            yield from sentences_in(re.sub(r"<[^>]*>", "", text.rpartition("^")[2]))


def help_pages(root: Path, language: str) -> Iterator[str]:
    folders = ("libreoffice/help/{}", "gimp/2.0/help/{}", "help/{}")
    for folder in folders:
        top = root / "usr/share" / folder.format(language)
        for path in sorted([*top.rglob("*.html"), *top.rglob("*.page")]):
            page = re.sub(r"<(script|style)\b.*?</\1>", " ", read_text(path), flags=re.DOTALL)
            for block in re.split(r"</?(?:p|h\d|li|td|div|title|item)\b[^>]*>", page):
                text = html.unescape(re.sub(r"<[^>]*>", "", block))
                yield from (s for s in sentences_in(text) if not _ENGLISH.search(s))


def reference_manual(root: Path, language: str) -> Iterator[str]:
    for path in root.glob(f"usr/share/debian-reference/debian-reference.{language}.txt.gz"):
        for block in read_text(path).split("\n\n"):
            yield from sentences_in(block)


def dictionary_phrases(root: Path, language: str) -> Iterator[str]:
    """Phrases of at least three words from the German-English dictionary."""
    for path in root.glob("usr/share/trans/de-en"):
        for line in path.read_text(encoding="utf-8").splitlines():
            german, _, english = line.partition("::")
            for phrase in re.split(r"[|;]", german if language == "de" else english):
                plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|\([^)]*\)", " ", phrase)
                if not re.search(r"\b\w+\.\s", plain) and (sentence := as_sentence(plain)):
                    yield sentence


def word_lists(root: Path, name: str, seed: int) -> Iterator[str]:
    """Four to seven words of a spelling dictionary in a row: how every word of the language
    sounds.
    """
    path = root / "usr/share/dict" / name
    if not path.exists():
        return
    pattern = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]{3,18}")
    words = [
        word
        for word in path.read_text(encoding="utf-8").split()
        if pattern.fullmatch(word) and not word.isupper()
    ]
    rng = random.Random(seed)
    rng.shuffle(words)
    while words:
        row = [words.pop() for _ in range(min(len(words), rng.randint(4, 7)))]
        separator = rng.choice([" ", " ", ", "])
        if sentence := as_sentence(separator.join(row)):
            yield sentence


NUMBER_PATTERNS = {
    "en": (
        "Room {a} is on floor {b}.",
        "The bus leaves in {a} minutes.",
        "She was born in {y}.",
        "Page {a} has {b} lines.",
        "They sold {a} tickets on day {b}.",
        "In {y} the town had {c} people.",
        "He waited {b} hours and paid {a} dollars.",
    ),
    "de": (
        "Zimmer {a} liegt im Stock {b}.",
        "Der Bus kommt in {a} Minuten.",
        "Das war im Jahr {y}.",
        "Seite {a} hat {b} Zeilen.",
        "Sie kauften {a} Karten am Tag {b}.",
        "Im Jahr {y} lebten dort {c} Menschen.",
        "Er wartete {b} Stunden und zahlte {a} Euro.",
    ),
    "es": (
        "La sala {a} tiene {b} puertas.",
        "El tren sale en {a} minutos.",
        "Eso fue en el año {y}.",
        "La página {a} tiene {b} líneas.",
        "Vendieron {a} entradas en {b} días.",
        "En {y} vivían allí {c} personas.",
        "Esperó {b} horas y pagó {a} euros.",
    ),
}


def numbers(language: str, seed: int, count: int = 4000) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice(NUMBER_PATTERNS[language]).format(
            a=rng.randint(2, 999),
            b=rng.randint(2, 30),
            c=rng.randint(1000, 9999),
            y=rng.randint(1800, 2029),
        )


def is_held_out(sentence: str) -> bool:
    return zlib.crc32(sentence.encode()) % _HELD_OUT_ONE_IN == 0


def collect(root: Path, excluded: set[str]) -> dict[str, dict[str, list[str]]]:
    """language -> source -> sentences; 'test' holds the main source's held-out ones, which no other
    list repeats.
    """
    streams: dict[str, dict[str, Iterable[str]]] = {
        "en": {
            "main": wordnet(root),
            "stories": message_catalogues(root, "en"),
            "fortunes": fortunes(root, "."),
            "phrases": dictionary_phrases(root, "en"),
            "words": word_lists(root, "american-english", 1),
        },
        "de": {
            "main": fortunes(root, "de"),
            "stories": message_catalogues(root, "de"),
            "manual": reference_manual(root, "de"),
            "help": help_pages(root, "de"),
            "phrases": dictionary_phrases(root, "de"),
            "words": word_lists(root, "ngerman", 2),
        },
        "es": {
            "main": fortunes(root, "es"),
            "stories": message_catalogues(root, "es"),
            "manual": reference_manual(root, "es"),
            "help": help_pages(root, "es"),
            "words": word_lists(root, "spanish", 3),
        },
    }
    corpus: dict[str, dict[str, list[str]]] = {}
    for language, sources in streams.items():
        seen: set[str] = set()
        corpus[language] = {"numbers": sorted(set(numbers(language, 4)))}
        for source, stream in sources.items():
            fresh = sorted(set(stream) - seen)
            seen.update(fresh)
            corpus[language][source] = [
                s for s in fresh if not is_held_out(s) and s not in excluded
            ]
            if source == "main":
                corpus[language]["test"] = [s for s in fresh if is_held_out(s)]
    return corpus


def train_tokenizer(corpus: dict[str, dict[str, list[str]]]) -> Tokenizer:
    """Byte-level BPE over N_TEXT_TOKENS, then the empty token, then Whisper's special tokens."""

    def sample() -> Iterator[str]:
        for language, sources in corpus.items():
            for source, sentences in sources.items():
                if source in ("test", "numbers", "words"):
                    continue
                for i, sentence in enumerate(sentences):
                    yield from [" " + sentence] * (
                        3 if source == "main" and language != "en" else 1
                    )
                    if i % 12 == 0:
                        yield " " + sentence.upper()

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learned.train_from_iterator(
        sample(),
        trainers.BpeTrainer(
            vocab_size=N_TEXT_TOKENS, initial_alphabet=alphabet, show_progress=False
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    vocabulary = {learned.id_to_token(i): i for i in range(N_TEXT_TOKENS)} | {
        EMPTY_TOKEN: N_TEXT_TOKENS
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "root", type=Path, help="folder into which the packages were unpacked ('/' if installed)"
    )
    parser.add_argument("out", type=Path, help="folder for sentences.json.gz and tokenizer.json")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="*",
        default=[],
        help="truth.json files whose texts must stay unseen",
    )
    arguments = parser.parse_args()
    excluded = {
        segment["text"]
        for path in arguments.exclude
        for item in json.loads(path.read_text())
        for segment in item["segments"]
    }
    corpus = collect(arguments.root, excluded)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with gzip.open(arguments.out / "sentences.json.gz", "wt", encoding="utf-8") as file:
        json.dump(corpus, file, ensure_ascii=False)
    tokenizer = train_tokenizer(corpus)
    tokenizer.save(str(arguments.out / "tokenizer.json"), pretty=False)
    for language, sources in corpus.items():
        words = collections.Counter(
            word for sentences in sources.values() for text in sentences for word in text.split()
        )
        sizes = "  ".join(f"{source} {len(sentences)}" for source, sentences in sources.items())
        print(f"{language}  {sizes}  distinct words {len(words)}")
    print(f"tokenizer {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
