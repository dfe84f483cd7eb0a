"""A service on the loopback that answers as language models once did, for runs without one."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from lare.language_models import Transcript


@contextlib.contextmanager
def serve(transcripts):
    """Serve recorded dialogues by OpenAI's chat completions.

    Args:
        transcripts: files, of lare or lemae. Replies are given to the very messages they were to.

    Yields:
        The address, and the list of requests so far.
    """
    turns = [turn for path in transcripts for turn in Transcript(path).read()]
    recorded = {json.dumps(turn.messages): [r.text for r in turn.replies] for turn in turns}
    requests = []

    class Handler(BaseHTTPRequestHandler):
        """Answers one request."""

        def do_POST(self):
            """Complete a dialogue, or say 404 to one that is not recorded."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(asked)
            texts = recorded.get(json.dumps(asked["messages"]), [])[: asked.get("n", 1)]
            raw = json.dumps(_completion(texts)).encode()
            self.send_response(200 if texts else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()


def _completion(texts):
    messages = [{"role": "assistant", "content": text} for text in texts]
    choices = [
        {"index": index, "finish_reason": "stop", "message": message}
        for index, message in enumerate(messages)
    ]
    head = {"id": "recorded", "object": "chat.completion", "created": 0, "model": "recorded"}
    return {**head, "choices": choices}
