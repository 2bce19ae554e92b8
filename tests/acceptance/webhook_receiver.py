"""The receiver of a webhook, as a process: `python -m tests.acceptance.webhook_receiver SECRET STATUS…`.

It answers its requests with these statuses, in turn; 0 is no answer at all. It logs each request with its headers and
body, and whether the signature is right.
"""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = base64.b64decode(sys.argv[1].removeprefix("whsec_"))
STATUSES = [int(each) for each in sys.argv[2:]]


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = STATUSES.pop(0)
        say(
            "received",
            id=self.headers["webhook-id"],
            is_signed=self.is_signed(body),
            body=body.decode(),
        )
        if status == 0:
            self.rfile.read(1)  # until the caller is gone
            return
        self.send_response(status)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def is_signed(self, body: bytes) -> bool:
        """By who knows the secret, and now."""
        of, at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        made = hmac.new(KEY, f"{of}.{at}.".encode() + body, hashlib.sha256).digest()
        given = base64.b64decode(self.headers["webhook-signature"].removeprefix("v1,"))
        return hmac.compare_digest(made, given) and abs(time.time() - int(at)) < 300

    def log_message(self, *args: object) -> None:
        """Says nothing."""


def say(event: str, **what: Any) -> None:
    sys.stderr.write(json.dumps({"event": event, **what}) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    say("listening", port=server.server_address[1])
    server.serve_forever()
