"""The client against real HTTP servers on the loopback, through the real SDK."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lare._codegen import (
    CacheError,
    CodegenError,
    LLMAuthError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMServerError,
    LLMTimeoutError,
    MissingKeyError,
    MissingPackageError,
    OpenAIChat,
    Reply,
    ReplyCache,
    Transcript,
    Usage,
    cache_key,
)

pytest.importorskip("openai")

KEY = "sk-very-secret-4711"
MESSAGES = [{"role": "user", "content": "Write JSON."}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr("lare._codegen.client._backoff_s", lambda attempt: 0.01)


class Service:
    """A server whose answer to each request is a function of the request's fields."""

    def __init__(self, answer):
        self.requests, self.headers = [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.requests.append(fields)
                service.headers.append({k.lower(): v for k, v in self.headers.items()})
                status, body = answer(fields, len(service.requests))
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:  # a client that went away
                    pass

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def client(self, **options):
        return OpenAIChat("small", self.url, api_key_env="TEST_KEY", **options)


def completion(fields, texts):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": fields["model"],
        "choices": [
            {
                "index": place,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
            for place, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def echo(fields, number):
    """Every reply tells its request and place."""
    texts = [f"{number}.{place}" for place in range(fields.get("n", 1))]
    return 200, completion(fields, texts)


def error(status, message="no"):
    return status, {"error": {"message": message, "type": "t", "code": "c"}}


def test_one_request_gives_n_replies():
    with Service(echo) as service:
        replies = service.client(max_completion_tokens=99, extra={"top_p": 0.5}).complete(
            MESSAGES, n=3, temperature=1.0, seed=5, schema=SCHEMA
        )
    assert [reply.text for reply in replies] == ["1.0", "1.1", "1.2"]
    assert [reply.usage for reply in replies] == [Usage(11, 7), Usage(0, 0), Usage(0, 0)]
    assert replies[0].model == "small"
    assert replies[0].finish_reason == "stop"
    assert not replies[0].cached
    (request,) = service.requests
    assert request["messages"] == MESSAGES
    assert (request["n"], request["temperature"], request["seed"]) == (3, 1.0, 5)
    assert (request["max_completion_tokens"], request["top_p"]) == (99, 0.5)
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA
    assert service.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_server_that_ignores_n_is_asked_again_with_the_next_seed():
    with Service(lambda fields, number: (200, completion(fields, [str(number)]))) as service:
        client = service.client()
        replies = client.complete(MESSAGES, n=3, seed=10)
        assert [reply.text for reply in replies] == ["1", "2", "3"]
        assert [request["seed"] for request in service.requests] == [10, 11, 12]
        assert [request.get("n") for request in service.requests] == [3, None, None]
        client.complete(MESSAGES, n=2)  # what was learnt stays
        assert [request.get("n") for request in service.requests[3:]] == [None, None]
        assert "seed" not in service.requests[-1]


def test_a_server_that_refuses_n_is_asked_one_by_one():
    def answer(fields, number):
        return error(400, "n must be 1") if "n" in fields else echo(fields, number)

    with Service(answer) as service:
        assert len(service.client().complete(MESSAGES, n=2)) == 2


@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_schema_that_is_refused_steps_down_once(status):
    def answer(fields, number):
        if fields.get("response_format", {}).get("type") == "json_schema":
            return error(status)
        return echo(fields, number)

    with Service(answer) as service:
        client = service.client()
        client.complete(MESSAGES, schema=SCHEMA)
        client.complete(MESSAGES, schema=SCHEMA)
    kinds = [request["response_format"]["type"] for request in service.requests]
    assert kinds == ["json_schema", "json_object", "json_object"]
    assert service.requests[1]["response_format"]["schema"] == SCHEMA


def test_the_last_rung_is_plain_text():
    def answer(fields, number):
        return error(400) if "response_format" in fields else echo(fields, number)

    with Service(answer) as service:
        service.client().complete(MESSAGES, schema=SCHEMA)
        assert len(service.requests) == 3


def test_a_temperature_that_is_refused_is_left_out():
    def answer(fields, number):
        if "temperature" in fields:
            return error(400, "Unsupported value: 'temperature' does not support 0.3")
        return echo(fields, number)

    with Service(answer) as service:
        client = service.client()
        client.complete(MESSAGES, temperature=0.3, schema=SCHEMA)
        client.complete(MESSAGES, temperature=0.3, schema=SCHEMA)
    assert len(service.requests) == 3
    assert "json_schema" in service.requests[-1]["response_format"]["type"]


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (401, LLMAuthError, 1),
        (403, LLMAuthError, 1),
        (404, LLMError, 1),
        (418, LLMError, 1),
        (429, LLMRateLimitError, 3),
        (500, LLMServerError, 3),
        (503, LLMServerError, 3),
    ],
)
def test_a_status_becomes_an_error_of_its_kind(status, kind, requests, caplog, tmp_path):
    """The server echoes the key; it is nowhere to be seen."""
    caplog.set_level(logging.DEBUG)
    cache = ReplyCache(tmp_path / "cache.sqlite")
    with Service(lambda fields, number: error(status, f"bad key {KEY}")) as service:
        client = service.client(cache=cache)
        with pytest.raises(kind) as caught:
            client.complete(MESSAGES)
    assert len(service.requests) == requests
    assert service.url in str(caught.value)
    assert str(status) in str(caught.value)
    assert "[key]" in str(caught.value)
    assert isinstance(caught.value, CodegenError)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    for place in (str(caught.value), repr(caught.value), repr(client), str(vars(client))):
        assert KEY not in place
    assert KEY not in caplog.text
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_key_in_a_reply_is_not_stored(tmp_path):
    cache = ReplyCache(tmp_path / "cache.sqlite")
    with Service(lambda fields, n: (200, completion(fields, [f"the key is {KEY}"]))) as service:
        (reply,) = service.client(cache=cache).complete(MESSAGES)
    assert reply.text == "the key is [key]"
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize("place", ["finish_reason", "model", "usage", "nested usage"])
def test_a_key_in_other_fields_is_not_stored(tmp_path, place):
    """A server that sends back what it got, in places where no text belongs."""
    got = {"a": [f"Bearer {KEY}"]}

    def answer(fields, number):
        body = completion(fields, ["text"])
        if place == "finish_reason":
            body["choices"][0]["finish_reason"] = got
        elif place == "nested usage":
            body["usage"]["prompt_tokens"] = got
        else:
            body[place] = got
        return 200, body

    cache, transcript = ReplyCache(tmp_path / "cache.sqlite"), Transcript(tmp_path / "t.jsonl")
    with Service(answer) as service:
        replies = service.client(cache=cache).complete(MESSAGES)
    transcript.add(MESSAGES, replies)
    assert replies[0].text == "text"
    assert replies[0].model == "small"
    assert KEY not in repr(replies)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_names_from_the_server_are_short_and_scrubbed():
    def answer(fields, number):
        body = completion(fields, ["text"])
        body["model"] = f"small {KEY}"
        body["choices"][0]["finish_reason"] = KEY if number == 1 else "x" * 33
        return 200, body

    with Service(answer) as service:
        first, second = (service.client().complete(MESSAGES)[0] for _ in range(2))
    assert (first.model, first.finish_reason) == ("small [key]", "[key]")
    assert second.finish_reason is None


@pytest.mark.parametrize("status", [200, 500])
def test_an_endless_body_is_refused(status):
    def answer(fields, number):
        return status, b" " * (9 << 20)

    with Service(answer) as service, pytest.raises(LLMServerError, match="8388608 bytes"):
        service.client(max_retries=0).complete(MESSAGES)


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_dripping_answer_meets_the_deadline(part):
    """Each byte comes in time, the last one never."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def drip():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            connection.sendall(b"X-Long: " if part == "headers" else b"\r\n")
            while not ended.wait(0.05):
                connection.sendall(b" ")

    thread = threading.Thread(target=drip)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    client = OpenAIChat("small", url, api_key_env="TEST_KEY", timeout_s=0.5, max_retries=0)
    start = time.monotonic()
    try:
        with pytest.raises(LLMTimeoutError, match=r"within 0\.5 s"):
            client.complete(MESSAGES)
        assert time.monotonic() - start < 5
    finally:
        ended.set()
        thread.join()
        listener.close()


def test_half_a_character_is_not_cached(tmp_path):
    cache = ReplyCache(tmp_path / "cache.sqlite")
    with Service(lambda fields, n: (200, completion(fields, ["a\ud800"]))) as service:
        (reply,) = service.client(cache=cache).complete(MESSAGES)
    assert reply.text == "a\ud800"
    assert len(cache) == 0


@pytest.mark.parametrize("value", ["sk-\u00e9", "sk-\u2013a", "sk-a\nb"])
def test_a_key_of_other_characters_is_told(monkeypatch, value):
    monkeypatch.setenv("TEST_KEY", value)
    with pytest.raises(
        MissingKeyError, match=r"TEST_KEY holds a character that is not.*ASCII"
    ) as e:
        OpenAIChat("m", "http://127.0.0.1:1/v1", api_key_env="TEST_KEY").complete(MESSAGES)
    assert value not in str(e.value)


def test_a_failure_that_passes_is_tried_again():
    def answer(fields, number):
        return error(503) if number < 3 else echo(fields, number)

    with Service(answer) as service:
        assert service.client().complete(MESSAGES)[0].text == "3.0"


def test_a_time_out_is_told():
    def answer(fields, number):
        time.sleep(0.6)
        return echo(fields, number)

    with Service(answer) as service, pytest.raises(LLMTimeoutError, match="within") as caught:
        service.client(timeout_s=0.1, max_retries=1).complete(MESSAGES)
    assert isinstance(caught.value, TimeoutError)
    assert len(service.requests) == 2


def test_a_refused_connection_is_told():
    with Service(echo) as service:
        pass
    with pytest.raises(LLMConnectionError, match="cannot be reached") as caught:
        service.client(max_retries=0).complete(MESSAGES)
    assert isinstance(caught.value, ConnectionError)
    assert service.url in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b"{}",
        b'"text"',
        b"null",
        b'{"choices": []}',
        b'{"choices": null}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": 3}',
        b"",
    ],
)
def test_a_body_that_is_no_completion_is_a_server_error(content):
    with (
        Service(lambda fields, number: (200, content)) as service,
        pytest.raises(LLMServerError) as caught,
    ):
        service.client(max_retries=0).complete(MESSAGES)
    assert service.url in str(caught.value)


def test_finished_parts_are_reused_after_a_failure(tmp_path):
    cache = ReplyCache(tmp_path / "folder" / "cache.sqlite")

    def answer(fields, number):
        return error(401) if number == 4 else (200, completion(fields, [str(number)]))

    with Service(answer) as service:
        with pytest.raises(LLMAuthError):
            service.client(cache=cache).complete(MESSAGES, n=5, seed=1)
        assert len(cache) == 3
        replies = service.client(cache=cache).complete(MESSAGES, n=5, seed=1)
        assert [reply.text for reply in replies] == ["1", "2", "3", "5", "6"]
        assert [reply.cached for reply in replies] == [True, True, True, False, False]
        assert [request["seed"] for request in service.requests[-2:]] == [4, 5]
        count = len(service.requests)
        again = service.client(cache=cache).complete(MESSAGES, n=5, seed=1)
        assert [reply.text for reply in again] == [reply.text for reply in replies]
        assert len(service.requests) == count
        service.client(cache=cache).complete(MESSAGES, n=1, seed=2)
        assert len(service.requests) == count + 1


def test_openai_needs_a_key_and_local_servers_do_not(monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(MissingKeyError, match="TEST_KEY"):
        OpenAIChat("m", api_key_env="TEST_KEY").complete(MESSAGES)
    with Service(echo) as service:
        service.client().complete(MESSAGES)
    assert KEY not in service.headers[0]["authorization"]


@pytest.mark.parametrize(
    "url",
    [
        "http://person:4711@127.0.0.1:1/v1",
        "http://person:47/11@127.0.0.1:1/v1",
        "http://127.0.0.1:1/v1?token=4711",
        "http://127.0.0.1:1/v1#4711",
    ],
)
def test_an_address_with_secrets_is_refused(monkeypatch, url):
    """Once sent, a server could repeat them, and they would be in an error, a log or a file."""
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    for given in (url, None):
        with pytest.raises(ValueError, match="the key in the environment variable") as caught:
            OpenAIChat("m", given)
        assert not any(part in str(caught.value) for part in ("person", "47", "11"))


def test_the_address_comes_from_an_argument_or_the_environment(monkeypatch):
    assert OpenAIChat("m", "http://127.0.0.1:1/v1/").base_url == "http://127.0.0.1:1/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:9/v1")
    assert OpenAIChat("m").base_url == "http://localhost:9/v1"
    for bad in ("localhost:8000", "file:///etc/passwd", "http://"):
        with pytest.raises(ValueError, match="no address"):
            OpenAIChat("m", bad)


def test_an_empty_address_does_not_send_the_key_elsewhere(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for empty in ("", " "):
        with pytest.raises(ValueError, match="give the address of a service, or None"):
            OpenAIChat("m", empty)
    assert "api.openai.com" in OpenAIChat("m").base_url


def test_bad_numbers_are_refused():
    for options in ({"timeout_s": 0}, {"max_retries": -1}):
        with pytest.raises(ValueError, match="give a positive"):
            OpenAIChat("m", "http://localhost/v1", **options)
    with pytest.raises(ValueError, match="at least one"):
        OpenAIChat("m", "http://localhost/v1").complete(MESSAGES, n=0)


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingPackageError, match="pip install openai") as caught:
        OpenAIChat("m", "http://127.0.0.1:1/v1").complete(MESSAGES)
    assert isinstance(caught.value, ImportError)


# --- the cache ----------------------------------------------------------------------------------


def key(**changes):
    fields = {
        "model": "m",
        "base_url": "u",
        "messages": MESSAGES,
        "temperature": 1.0,
        "seed": 1,
        "index": 0,
        "schema": None,
    }
    return cache_key(**{**fields, **changes})


def test_everything_that_shapes_a_reply_is_in_its_key():
    changes = [
        {},
        {"model": "n"},
        {"base_url": "v"},
        {"messages": [*MESSAGES, *MESSAGES]},
        {"temperature": 0.5},
        {"temperature": None},
        {"seed": 2},
        {"seed": None},
        {"index": 1},
        {"schema": SCHEMA},
        {"extra": {"top_p": 1}},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key() == key()


def test_the_cache_gives_back_what_it_got(tmp_path):
    cache = ReplyCache(tmp_path / "cache.sqlite")
    assert cache.get("k") is None
    assert len(cache) == 0
    reply = Reply("text \x00 \u2603", "m", Usage(1, 2), finish_reason="stop")
    cache.put("k", reply)
    cache.put("k", Reply("other", "m"))
    got = ReplyCache(tmp_path / "cache.sqlite").get("k")
    assert got == Reply(reply.text, "m", Usage(1, 2), True, "stop")
    assert cache.get("j") is None


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "cache.sqlite"
    program = (
        "import sys\nfrom lare._codegen import Reply, ReplyCache\n"
        f"cache = ReplyCache({str(path)!r})\n"
        "for i in range(60):\n"
        "    cache.put(f'{sys.argv[1]}-{i}', Reply(str(i), 'm'))\n"
        "    cache.put(f'both-{i}', Reply(str(i), 'm'))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    cache = ReplyCache(path)
    assert len(cache) == 180
    assert cache.get("a-59").text == cache.get("b-59").text == cache.get("both-59").text == "59"


@pytest.mark.parametrize("content", [b"this is no database, but long enough" * 40, b"x"])
def test_a_corrupted_cache_is_refused_and_not_changed(tmp_path, content):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(content)
    cache = ReplyCache(path)
    for work in (lambda: cache.get("k"), lambda: cache.put("k", Reply("a", "m")), cache.__len__):
        with pytest.raises(CacheError, match=r"cache\.sqlite.*move the file away"):
            work()
    assert path.read_bytes() == content


def test_a_strange_row_is_refused(tmp_path):
    path = tmp_path / "cache.sqlite"
    cache = ReplyCache(path)
    cache.put("k", Reply("a", "m"))
    for row in ("no json", "[]", "{}", '{"text": "a", "model": "m", "usage": 3}'):
        db = sqlite3.connect(path)
        db.execute("UPDATE replies SET reply = ?", (row,))
        db.commit()
        db.close()
        with pytest.raises(CacheError, match="unreadable"):
            cache.get("k")


def test_a_cache_in_an_impossible_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError):
        ReplyCache(tmp_path / "file" / "cache.sqlite").put("k", Reply("a", "m"))
    with pytest.raises(OSError, match="cache"):
        ReplyCache(tmp_path).get("k")
