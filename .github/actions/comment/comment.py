#!/usr/bin/env python3
"""One comment of a pull request (merge request) that says what it changes for Envoy, edited by each later run.

The result comes from a job that anybody's fork may rewrite, so it is data: three files of known names, bounded, cleaned
of what a reader cannot see, and shown as a block of code that its content cannot end. In there neither Markdown nor HTML,
neither mentions nor commands of a forge mean anything. Nothing of it is printed to a log, where a line such as
`::set-output` would be a command, and nothing of it says where the comment goes: that comes from the event.

  comment.py --print RESULT             the comment, on standard output
  comment.py --forge github RESULT      GITHUB_EVENT_PATH, GITHUB_API_URL, GITHUB_REPOSITORY, MOORGATE_TOKEN
  comment.py --forge gitlab RESULT      CI_API_V4_URL, CI_PROJECT_ID, CI_MERGE_REQUEST_IID, MOORGATE_TOKEN
"""

import argparse
import json
import os
import re
import stat
import sys
import unicodedata
import urllib.error
import urllib.parse
import urllib.request

MARKER = "<!-- moorgate:diff -->"
# Of one file; both forges take comments of 65,536 characters and more.
MAX_READ = 1 << 20
MAX_SHOWN = {"diff.txt": 40_000, "check.txt": 15_000}
MAX_PAGES = 50
HEX = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?\Z")


class Refused(Exception):
    """What stops this program, in words that hold nothing of the result."""


def read(folder, name):
    """The text of a regular file, or none. Links are not followed: they would lead out of the result."""
    try:
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return file.read(MAX_READ).decode("utf-8", "replace")


def clean(text):
    """Without control characters, and without what turns, hides or joins text: a reader sees all that is there."""
    text = text.replace("\r\n", "\n")
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in hidden else "\ufffd" for c in text)


def block(text, limit, language=""):
    """A block of code that ends where it is meant to."""
    text = clean(text).rstrip("\n")
    cut = ""
    if len(text) > limit:
        text = text[:limit].rsplit("\n", 1)[0]
        cut = "\n\n_Cut: all of it is in the job's result._"
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}{cut}"


def verdict(folder):
    """The four fields of the result that count, or none of them."""
    try:
        result = json.loads(read(folder, "result.json"))
    except (ValueError, RecursionError):
        result = {}
    if not isinstance(result, dict):
        result = {}

    def number(key):
        value = result.get(key)
        return value if type(value) is int and 0 <= value < 256 else None

    def commit(key):
        value = result.get(key)
        return value if isinstance(value, str) and HEX.match(value) else None

    return number("check"), number("diff"), commit("base"), commit("head")


def render(folder):
    """The comment."""
    check, diff, base, head = verdict(folder)
    checked = {0: "no errors", 1: "**errors**: they are below"}.get(check, "**could not be checked**")
    changes = {0: "nothing changes for Envoy", 1: "what changes for Envoy is below"}
    changed = changes.get(diff, "**what changes for Envoy is not known**: a side does not compile")
    lines = [MARKER, "### Moorgate", "", f"- Check: {checked}.", f"- Effect: {changed}."]
    if base and head:
        lines.append(f"- From `{base[:12]}` to `{head[:12]}`.")
    for title, name, wanted in (("Effect", "diff.txt", diff != 0), ("Check", "check.txt", check != 0)):
        text = read(folder, name) if wanted else ""
        if text.strip():
            lines += ["", f"<details{' open' if name == 'diff.txt' else ''}><summary>{title}</summary>", ""]
            lines += [block(text, MAX_SHOWN[name], "diff" if name == "diff.txt" else ""), "", "</details>"]
    return "\n".join(lines) + "\n"


class Api:
    """The part of a forge's API that comments need."""

    def __init__(self, url, headers):
        self.url, self.headers = url.rstrip("/"), headers

    def send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json", "Content-Type": "application/json", **self.headers}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path}: {error.code}") from None

    def put(self, path, method, body):
        """Edits the comment with the marker that this token's own account wrote, or writes one."""
        for page in range(1, MAX_PAGES + 1):
            comments = self.send("GET", f"{path}?per_page=100&page={page}")
            for comment in comments:
                user = comment.get("user") or comment.get("author") or {}
                own = user.get("type") == "Bot" or user.get("bot") is True or user.get("id") == self.me
                if own and str(comment.get("body", "")).startswith(MARKER):
                    return self.send(method, self.one(path, comment["id"]), {"body": body})
            if len(comments) < 100:
                break
        return self.send("POST", path, {"body": body})


class GitHub(Api):
    me = object()

    def one(self, path, number):
        return f"/repos/{os.environ['GITHUB_REPOSITORY']}/issues/comments/{int(number)}"

    def number(self, event, repository):
        """The pull request: of the event itself, or the open one whose head the finished run was for."""
        if "pull_request" in event:
            return int(event["pull_request"]["number"])
        run = event["workflow_run"]
        if run.get("event") != "pull_request":
            raise Refused("the finished run was not one of a pull request")
        owner, branch = run["head_repository"]["owner"]["login"], run["head_branch"]
        query = urllib.parse.urlencode({"state": "open", "head": f"{owner}:{branch}", "per_page": 100})
        for pull in self.send("GET", f"/repos/{repository}/pulls?{query}"):
            if pull["head"]["sha"] == run["head_sha"]:
                return int(pull["number"])
        raise Refused("no open pull request has the commit of the finished run: it was pushed over or closed")


class GitLab(Api):
    me = None

    def one(self, path, number):
        return f"{path}/{int(number)}"


def comment(forge, folder):
    """Writes the comment where it belongs."""
    environ = os.environ
    if forge == "github":
        with open(environ["GITHUB_EVENT_PATH"], encoding="utf-8") as file:
            event = json.load(file)
        repository = environ["GITHUB_REPOSITORY"]
        headers = {"Authorization": f"Bearer {environ['MOORGATE_TOKEN']}", "X-GitHub-Api-Version": "2022-11-28"}
        api = GitHub(environ.get("GITHUB_API_URL", "https://api.github.com"), headers)
        number = api.number(event, repository)
        api.put(f"/repos/{repository}/issues/{number}/comments", "PATCH", render(folder))
    else:
        api = GitLab(environ["CI_API_V4_URL"], {"PRIVATE-TOKEN": environ["MOORGATE_TOKEN"]})
        api.me = api.send("GET", "/user")["id"]
        project, number = urllib.parse.quote(environ["CI_PROJECT_ID"], safe=""), int(environ["CI_MERGE_REQUEST_IID"])
        api.put(f"/projects/{project}/merge_requests/{number}/notes", "PUT", render(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the comment")
    parser.add_argument("--forge", choices=["github", "gitlab"])
    parser.add_argument("result", help="the folder with check.txt, diff.txt and result.json")
    arguments = parser.parse_args()
    if arguments.print == bool(arguments.forge):
        parser.error("say --print, or --forge")
    if arguments.print:
        sys.stdout.write(render(arguments.result))
        return
    try:
        comment(arguments.forge, arguments.result)
    except (Refused, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
