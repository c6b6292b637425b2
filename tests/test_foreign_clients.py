"""``/v1/audio`` with others' clients: openai-python 1, openai-node, the Vercel AI SDK and curl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from mcp_places import home, http_server
from patience import PATIENCE_S
from whisper_nano import SPEECH

CLIP = SPEECH / "en_0.flac"
FORMATS = ("json", "text", "srt", "vtt", "verbose_json", "diarized_json")
OPENAI_1 = ("openai==1.109.1", "httpx<1", "httpcore<2", "sniffio", "distro", "certifi")
NODE_PACKAGES = ("openai@6", "ai@6", "@ai-sdk/openai@3")
# Each prints an object: what came in each format, the text of a stream, and a refusal.
PYTHON = f"""
import json, sys
import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none")
create = client.audio.transcriptions.create

def send(**options):
    with open(sys.argv[2], "rb") as file:
        return create(file=file, **{{"model": "whisper-1", **options}})

said = {{}}
for name in {FORMATS}:
    answer = send(response_format=name)
    said[name] = answer if isinstance(answer, str) else answer.text
said["stream"] = "".join(
    event.delta for event in send(stream=True) if event.type == "transcript.text.delta"
)
try:
    send(model="nothing")
except openai.NotFoundError as error:
    said["refused"] = [error.status_code, error.code]
print(json.dumps(said))
"""
NODE = f"""
import fs from "node:fs";
import OpenAI from "openai";
import {{ createOpenAI }} from "@ai-sdk/openai";
import {{ experimental_transcribe as transcribe }} from "ai";

const [baseURL, path] = process.argv.slice(2);
const given = {{ baseURL, apiKey: "none" }};
const client = new OpenAI(given);
const send = (options) =>
  client.audio.transcriptions.create({{
    file: fs.createReadStream(path), model: "whisper-1", ...options,
  }});
const said = {{}};
for (const response_format of {json.dumps(FORMATS)}) {{
  const answer = await send({{ response_format }});
  said[response_format] = typeof answer === "string" ? answer : answer.text;
}}
said.stream = "";
for await (const event of await send({{ stream: true }})) {{
  if (event.type === "transcript.text.delta") said.stream += event.delta;
}}
try {{
  await send({{ model: "nothing" }});
}} catch (error) {{
  said.refused = [error.status, error.code];
}}
const model = createOpenAI(given).transcription("whisper-1");
const {{ text, segments }} = await transcribe({{
  model,
  audio: fs.readFileSync(path),
  providerOptions: {{ openai: {{ timestampGranularities: ["segment"] }} }},
}});
said.sdk = text;
said.segments = segments.length;
console.log(JSON.stringify(said));
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with home(tmp_path_factory.mktemp("clients")) as place, http_server(place) as address:
        yield address.removesuffix("mcp") + "v1"


def printed(command: Sequence[str], **options: Any) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(*command: str) -> None:
    """Fetch a client's packages. Skips where the index cannot be reached."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command)} failed: {done.stderr.strip()[-200:]}")


def assert_every_format(said: dict[str, Any]) -> None:
    text = said["json"]
    assert len(text.split()) > 3
    same = {"text", "verbose_json", "diarized_json", "stream"}
    assert {said[name].strip() for name in same} == {text}
    assert said["srt"].startswith("1\n00:00:0") and said["vtt"].startswith("WEBVTT\n")
    assert said["refused"] == [404, "model_not_found"]


def test_openai_python_1_gets_every_format(url: str, tmp_path: Path) -> None:
    # What else it needs, the current version needs too.
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target")
    install(*pip, str(tmp_path), *OPENAI_1)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    assert_every_format(
        json.loads(printed([sys.executable, "-c", PYTHON, url, str(CLIP)], env=environment))
    )


def test_openai_node_and_the_ai_sdk_get_every_format(url: str, tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node is not installed")
    install(npm, "install", "--silent", "--no-audit", "--prefix", str(tmp_path), *NODE_PACKAGES)
    script = tmp_path / "client.mjs"
    script.write_text(NODE, encoding="utf-8")
    said = json.loads(printed([node, str(script), url, str(CLIP)]))
    assert_every_format(said)
    assert said["sdk"].strip() == said["json"] and said["segments"]


def test_curl_gets_text_and_a_refusal_in_words(url: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    send = [curl, "--silent", f"{url}/audio/transcriptions", "-F", f"file=@{CLIP}"]
    assert len(printed([*send, "-F", "response_format=text"]).split()) > 3
    refused = json.loads(printed([*send, "-F", "response_format=doc"]))["error"]
    assert refused["param"] == "response_format" and "json" in refused["message"]
