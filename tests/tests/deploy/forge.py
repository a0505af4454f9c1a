"""What of GitHub's and GitLab's APIs a comment needs, for tests: forge.py PORT PULL-REQUESTS COMMENTS

Both are JSON. Every request needs the token `sticky`. /_state answers comments and the methods of the requests that wrote.
"""

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

pulls, comments, writes = json.loads(sys.argv[2]), json.loads(sys.argv[3]), []


class Forge(BaseHTTPRequestHandler):
    def answer(self):
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        path, _, query = self.path.partition("?")
        if path == "/_state":
            return self.say(200, {"comments": comments, "writes": writes})
        if "sticky" not in (self.headers.get("Authorization", "").removeprefix("Bearer "), self.headers.get("PRIVATE-TOKEN")):
            return self.say(401, {})
        if path.endswith("/user"):
            return self.say(200, {"id": 42})
        if path.endswith("/pulls"):
            return self.say(200, [pull for pull in pulls if f"head={pull['_head']}".replace(":", "%3A").replace("/", "%2F") in query])
        listed = re.search(r"/(?:issues|merge_requests)/7/(?:comments|notes)$", path)
        one = re.search(r"/(?:issues/comments|merge_requests/7/notes)/(\d+)$", path)
        if listed and self.command == "GET":
            page, size = (int(re.search(name + r"=(\d+)", query)[1]) for name in ("[^_]page", "per_page"))
            return self.say(200, comments[(page - 1) * size : page * size])
        if listed and self.command == "POST":
            own = {"type": "Bot", "id": 42}
            comments.append({"id": 1000 + len(comments), "body": body["body"], "user": own, "author": own})
            writes.append("POST")
            return self.say(201, comments[-1])
        if one and self.command in ("PATCH", "PUT"):
            (found,) = [comment for comment in comments if comment["id"] == int(one[1])]
            found["body"] = body["body"]
            writes.append(self.command)
            return self.say(200, found)
        return self.say(404, {})

    do_GET = do_POST = do_PATCH = do_PUT = answer

    def say(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(sys.argv[1])), Forge).serve_forever()
