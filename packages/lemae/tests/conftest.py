"""A real HTTP server on the loopback that speaks chat completions."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

KEY = "sk-very-secret-4711"


class Service:
    """A server whose answer to each request is a function of the request's fields.

    Args:
        answer: from the fields and the number of the request, from 1, to a status and a body: the
            text of a reply, or any JSON value.
    """

    key = KEY

    def __init__(self, answer):
        self.requests, self.headers = [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.requests.append(fields)
                service.headers.append({k.lower(): v for k, v in self.headers.items()})
                status, body = answer(fields, len(service.requests))
                body = _completion(fields, body) if isinstance(body, str) else body
                content = json.dumps(body).encode()
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

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def client(self, **options):
        from lemae.language_models import OpenAIChat

        return OpenAIChat("small", self.url, api_key_env="TEST_KEY", **options)


def _completion(fields, text):
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": fields["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200},
    }


@pytest.fixture
def serve(monkeypatch):
    """Start servers that the test talks to through the openai package; see :class:`Service`."""
    pytest.importorskip("openai")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr("lemae._codegen.client._backoff_s", lambda attempt: 0.01)
    started = []

    def start(answer):
        started.append(Service(answer))
        return started[-1]

    yield start
    for service in started:
        service.close()
