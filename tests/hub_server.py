"""A Hub of the tests' own: what huggingface_hub asks for, in memory, on the loopback device. For tests only."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
import transformers.utils.hub

KINDS = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}


class Hub(ThreadingHTTPServer):
    """Repositories by kind and name: branches, each a list of (commit, files); files by path."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, list[tuple[str, dict[str, bytes]]]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()  # their terms must be accepted
        self.accepted: set[str] = set()  # tokens whose owners have accepted them
        self.renamed: dict[str, str] = {}  # by the old name
        self.discussions: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[str] = []  # method and path
        self.large: dict[str, bytes] = {}
        self.fails_on_commit = False
        self.statuses: dict[str, int] = {}  # to answer with, by the end of the path: that part is out of order

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files to a branch, from which all others are gone; return the commit."""
        commits = self.repos.setdefault(repo, {}).setdefault(branch, [])
        commit = hashlib.sha1(f"{repo} {branch} {len(commits)}".encode()).hexdigest()
        commits.append((commit, dict(files)))
        return commit

    def offer(self, repo: str, files: dict[str, bytes], author: str, status: str = "open") -> str:
        """Commit files to a pull request; return the commit."""
        opened = self.discussions.setdefault(repo, [])
        number = len(opened) + 1
        opened.append({"num": number, "author": {"name": author}, "status": status, "title": "Adding safetensors"})
        return self.add(repo, files, f"refs/pr/{number}")

    def snapshot(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        branches = self.repos.get(repo, {})
        for name, commits in branches.items():
            for commit in reversed(commits):
                if revision in (name, commit[0]):
                    return commit
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.answer({"error": code}, 404, X_Error_Code=code)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def allowed(self, repo: str) -> bool:
        return repo in self.server.repos and (repo not in self.server.private or "Authorization" in self.headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {self.path}")
        for end, status in self.server.statuses.items():
            if address.path.endswith(end):
                return self.answer({"error": "out of order"}, status)
        for old, new in self.server.renamed.items():
            if old in address.path:
                return self.answer({}, 307, Location=self.path.replace(old, new, 1))
        if found := re.fullmatch(r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", address.path):
            return self.send_file(*map(unquote, found.groups()))
        if found := re.fullmatch(r"/cdn/(\w+)", address.path):
            return self.send_content(self.server.large[found[1]])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/discussions", address.path):
            return self.send_discussions(found[1], parse_qs(address.query))
        if found := re.fullmatch(
            r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", address.path
        ):
            kind, name, what, revision, below = (part and unquote(part) for part in found.groups())
            return self.send_info(KINDS[kind] + name, name, what, revision or "main", below)
        return self.missing("RepoNotFound")

    def send_file(self, repo: str, revision: str, path: str) -> None:
        if not self.allowed(repo):
            return self.missing("RepoNotFound")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo in self.server.gated and token not in self.server.accepted:
            status = 403 if token else 401
            return self.answer({"error": "Access is restricted"}, status, X_Error_Code="GatedRepo")
        commit = self.server.snapshot(repo, revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        if path not in commit[1]:
            return self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit[0])
        content = commit[1][path]
        if mode(path) == "regular":
            return self.send_content(content, X_Repo_Commit=commit[0], ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        checksum = hashlib.sha256(content).hexdigest()
        self.server.large[checksum] = content
        headers = {"X_Linked_Etag": f'"{checksum}"', "X_Linked_Size": str(len(content)), "X_Repo_Commit": commit[0]}
        # on another host, whose redirects clients do not follow to learn about a file
        elsewhere = self.server.url.replace("127.0.0.1", "localhost")
        return self.answer({}, 302, Location=f"{elsewhere}/cdn/{checksum}", **headers)

    def send_content(self, content: bytes, **headers: str) -> None:
        headers["Accept_Ranges"] = "bytes"
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.answer(content[first : last + 1], 206, **headers)
        return self.answer(content, **headers)

    def send_discussions(self, repo: str, query: dict[str, list[str]]) -> None:
        if not self.allowed(repo):
            return self.missing("RepoNotFound")
        opened = [
            item
            | {"createdAt": "2026-01-01T00:00:00.000Z", "isPullRequest": True, "repo": {"name": repo, "type": "model"}}
            for item in self.server.discussions.get(repo, [])
            if item["author"]["name"] in query.get("author", [item["author"]["name"]])
        ]
        return self.answer({"discussions": opened, "count": len(opened), "start": 0})

    def send_info(self, repo: str, name: str, what: str | None, revision: str, below: str | None) -> None:
        if not self.allowed(repo):
            return self.missing("RepoNotFound")
        commit = self.server.snapshot(repo, revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        sha, files = commit
        if what == "tree":
            entries = [self.entry(path, files) for path in files if not below or path.startswith(f"{below}/")]
            return self.missing("EntryNotFound") if below and not entries else self.answer(entries)
        siblings = [
            {"rfilename": path}
            | (
                {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
                if mode(path) == "lfs"
                else {}
            )
            for path, content in files.items()
        ]
        about = {"_id": "0", "id": name, "sha": sha, "private": repo in self.server.private, "tags": []}
        about |= {"siblings": siblings, "downloads": 0, "likes": 0, "disabled": False, "gated": False}
        return self.answer(about)

    @staticmethod
    def entry(path: str, files: dict[str, bytes]) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(files[path]), "oid": hashlib.sha1(files[path]).hexdigest()}

    def do_PUT(self) -> None:
        self.server.large[self.path.rsplit("/", 1)[1]] = self.body()
        self.answer({})

    def do_POST(self) -> None:
        body, path = self.body(), unquote(urlsplit(self.path).path)
        server = self.server
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{server.url}/large/{item['oid']}"}}
            return self.answer({"transfer": "basic", "objects": objects})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        found = re.fullmatch(
            r"/api/(models|datasets|spaces)/([^/]+/[^/]+)/(preupload|commit|paths-info|branch)/([^/]+)", path
        )
        if not found or not self.allowed(KINDS[found[1]] + found[2]):
            return self.missing("RepoNotFound")
        repo, what, revision = KINDS[found[1]] + found[2], found[3], found[4]
        if what == "branch":
            if revision in server.repos[repo]:
                return self.answer({}, 409)
            server.repos[repo][revision] = list(server.repos[repo]["main"])
            return self.answer({})
        if what == "commit":
            return self.commit(repo, revision, body)
        if what == "paths-info":
            files = server.snapshot(repo, revision)[1]  # type: ignore[index]
            wanted = (
                json.loads(body)["paths"]
                if body.startswith(b"{")
                else re.findall(r"paths=([^&]+)", unquote(body.decode()))
            )
            return self.answer([self.entry(name, files) for name in wanted if name in files])
        files = [
            {"path": item["path"], "shouldIgnore": False, "uploadMode": mode(item["path"])}
            for item in json.loads(body)["files"]
        ]
        return self.answer({"files": files})

    def create(self, request: dict[str, Any]) -> None:
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        repo = KINDS[f"{request.get('type') or 'model'}s"] + name
        answer = {"url": f"{self.server.url}/{repo}", "id": name, "name": name}
        if repo in self.server.repos:
            return self.answer(answer, 409)
        self.server.repos[repo] = {"main": [("0" * 40, {})]}
        if request.get("private") or request.get("visibility") == "private":  # of huggingface_hub 2
            self.server.private.add(repo)
        return self.answer(answer)

    def commit(self, repo: str, revision: str, body: bytes) -> None:
        if self.server.fails_on_commit:
            return self.answer({"error": "broken off"}, 400)
        files = dict(self.server.repos[repo][revision][-1][1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = hashlib.sha1(body + repo.encode()).hexdigest()
        self.server.repos[repo][revision].append((commit, files))
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{repo}/commit/{commit}"})


def mode(path: str) -> str:
    """How a file is uploaded."""
    return "lfs" if path.endswith((".bin", ".model", ".parquet", ".safetensors")) else "regular"


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that serves while the block runs."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


@contextmanager
def using_hub(hub: Hub, home: Path, token: str | None = None) -> Iterator[None]:
    """Let this process use a Hub of the tests' own, with a cache of its own, while the block runs.

    What huggingface_hub and transformers read from the environment when they are imported is replaced.
    """
    constants = huggingface_hub.constants
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", token or "")
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            patch.setattr(constants, name, value)
        patch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
        patch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # of transformers 5, which is kept
        patch.setattr(transformers.utils.hub, "_is_offline_mode", False, raising=False)
        patch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(home / "hub"), raising=False)
        with fresh_sessions():
            yield


@contextmanager
def offline() -> Iterator[None]:
    """Let the process that uses a Hub do without it while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(transformers.utils.hub, "_is_offline_mode", True, raising=False)
        with fresh_sessions():
            yield


@contextmanager
def fresh_sessions() -> Iterator[None]:
    """Have the clients made anew at the start and at the end: they remember whether they are offline."""
    http = huggingface_hub.utils._http
    forget = getattr(http, "close_session", None) or http.reset_sessions
    forget()
    try:
        yield
    finally:
        forget()
