"""The page with a transcript of six hours: the longest task that blocks it, in units of a fixed
piece of work in the same browser; and what axe-core finds.

python benchmarks/web_page.py [--words 60000] [--axe node_modules/axe-core/axe.min.js]

Needs playwright and the system's Chromium.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from common import Bar, report
from web_place import Site, Tab, chromium, site, spoken, tab

VOCABULARY = ("the", "harbour", "bread", "winter", "said", "nets", "herring", "and", "of", "a")
SPEAKERS = ("Anna", "Ben", "Speaker 3", "Speaker 4")
OBSERVE = """window.tasks = [];
new PerformanceObserver((list) => list.getEntries().forEach((task) => tasks.push(task.duration)))
  .observe({ type: "longtask", buffered: true });"""
# A yardstick: sorting, as much as takes a quiet laptop about 100 ms.
WORK = """() => {
  const numbers = Array.from({ length: 400000 }, (_, i) => (i * 7919) % 400009);
  const begin = performance.now();
  numbers.sort((a, b) => a - b);
  return performance.now() - begin;
}"""
STATES = {  # what axe-core looks at besides the pages as they open
    "editing": lambda page: (page.click("#edit"), page.locator(".w").first.click()),
    "a speaker": lambda page: page.locator(".who").first.click(),
    "versions": lambda page: (page.click("#saved"), page.locator("#versions").wait_for()),
    "keys": lambda page: page.keyboard.press("?"),
}
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def long_text(n_words: int) -> Iterator[dict[str, Any]]:
    """Sentences of made-up words, by speakers who take turns."""
    chance = random.Random(7)
    done = 0
    at = 0.5
    while done < n_words:
        texts = [chance.choice(VOCABULARY) for _ in range(chance.randint(5, 20))]
        end = round(at + 0.3 * len(texts), 3)
        yield spoken(at, end, texts, SPEAKERS[done // 120 % len(SPEAKERS)])
        at = round(end + 0.4, 3)
        done += len(texts)


def walk(page: Any, job_id: str, site_url: str) -> dict[str, Callable[[], object]]:
    """What a reader does, by name."""
    return {
        "open": lambda: (page.goto(f"{site_url}/t/{job_id}?at=9000"), settled(page)),
        "find": lambda: (page.keyboard.press("/"), page.keyboard.type("herring", delay=60)),
        "doubts": lambda: (page.keyboard.press("Escape"), page.keyboard.press("u")),
        "scroll": lambda: [page.mouse.wheel(0, 2500) for _ in range(12)],
        "play": lambda: page.keyboard.press("k"),
        "type": lambda: (
            page.keyboard.press("k"),
            page.click("#edit"),
            page.locator(".turn[aria-current] .w").first.click(),
            page.keyboard.type("and some more words ", delay=40),
        ),
        "split": lambda: page.keyboard.press("Enter"),
        "join": lambda: page.keyboard.press("Backspace"),
        "undo": lambda: page.keyboard.press("Control+z"),
        "leave": lambda: page.keyboard.press("Tab"),
        "return": lambda: page.keyboard.press("Shift+Tab"),
        "rename": lambda: (
            page.locator(".people button").nth(1).click(),
            page.keyboard.type("Benjamin"),
            page.keyboard.press("Enter"),
            page.locator(".people button", has_text="Benjamin").wait_for(),
        ),
    }


def settled(page: Any) -> None:
    page.wait_for_selector("html[data-ready]")


def measured(reader: Tab, here: Site) -> dict[str, dict[str, float]]:
    """The longest task of each step in milliseconds, and the yardstick beside it."""
    page = reader.open("/")
    page.add_init_script(OBSERVE)
    found: dict[str, dict[str, float]] = {}
    for name, act in walk(page, here.more[0], here.url).items():
        act()
        page.wait_for_timeout(1500)
        tasks = page.evaluate("tasks.splice(0)")
        unit = min(page.evaluate(WORK) for _ in range(3))
        page.evaluate("tasks.splice(0)")  # the yardstick's own
        found[name] = {"longest_ms": max(tasks, default=0.0), "unit_ms": unit}
        print(f"{name:<8}{found[name]['longest_ms']:8.0f} ms, unit {unit:6.0f} ms")
    return found


def findings(browser: Any, here: Site, axe: Path) -> int:
    """The number of serious findings of axe-core on every page, light and dark."""
    source = axe.read_text(encoding="utf-8")
    paths = ("/", f"/t/{here.talk}", f"/t/{here.hostile}", "/search?q=garden")
    looks = [(path, path, lambda page: None) for path in paths]
    looks += [(name, f"/t/{here.talk}", act) for name, act in STATES.items()]
    serious = 0
    for scheme in ("light", "dark"):
        for name, path, act in looks:
            with tab(browser, here.url, color_scheme=scheme) as reader:
                page = reader.open(path)
                act(page)
                page.evaluate(source)
                answer = page.evaluate("(rules) => axe.run(document, { runOnly: rules })", RULES)
                for each in answer["violations"]:
                    serious += each["impact"] in ("serious", "critical")
                    print(scheme, name, each["id"], each["impact"])
    return serious


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--words", type=int, default=60_000)
    parser.add_argument("--axe", type=Path)
    arguments = parser.parse_args()
    segments = list(long_text(arguments.words))
    with (
        tempfile.TemporaryDirectory() as folder,
        site(Path(folder) / "place", ("long.opus", segments)) as here,
        chromium() as browser,
    ):
        with tab(browser, here.url) as reader:
            steps = measured(reader, here)
        bars = [
            Bar(
                f"{name}: longest task over the yardstick",
                step["longest_ms"] / step["unit_ms"],
                "<=",
                2,
            )
            for name, step in steps.items()
        ]
        if arguments.axe:
            bars.append(
                Bar("serious findings of axe-core", findings(browser, here, arguments.axe), "<=", 0)
            )
    return report("web_page", {"words": arguments.words, "steps": steps}, bars)


if __name__ == "__main__":
    raise SystemExit(main())
