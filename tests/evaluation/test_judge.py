"""The judge of AlpacaEval: what it answers counts, and it is asked once."""

from __future__ import annotations

import http.server
import json
import threading
from typing import ClassVar

import pytest

from rdslib.evaluation import judge


class Judge(http.server.BaseHTTPRequestHandler):
    """Prefers whichever response has no number in it; once, it talks nonsense."""

    asked: ClassVar[list[str]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        self.asked.append(body["model"])
        first, second = (part for part in text.split('"answer":')[1:])
        ranks = (2, 1) if any(c.isdigit() for c in first.partition('"""')[2].partition('"""')[0]) else (1, 2)
        assert second
        verdict = str([{"model": f"model_{at}", "rank": rank} for at, rank in enumerate(ranks, 1)])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": verdict}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
        data = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.mark.slow
def test_a_judge_compares_responses_and_is_asked_once(tmp_path):
    judge.outputs([], [], "none")
    ours = judge.outputs(["a?", "b?", "c?"], ["words", "7", "more words"], "ours")
    theirs = judge.outputs(["a?", "b?", "c?"], ["1", "words", "2"], "theirs")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        for _ in range(2):
            found = judge.win_rates(ours, theirs, "a-judge", url, tmp_path / "kept.json")
            assert found.tolist() == [1, 0, 1]
        server.shutdown()
    assert Judge.asked == ["a-judge"] * 3, "earlier answers are kept"
