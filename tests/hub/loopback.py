"""
A Hugging Face Hub on 127.0.0.1 for tests: a real HTTP server that keeps its repositories in memory.

It speaks what `huggingface_hub` and transformers ask for in pushing and loading (repositories, commits, LFS, branches,
files and parts of them), knows who may do what, and can lose a connection or run out of room. A process talks to it
that was started with `Hub.environment()`, since `HF_ENDPOINT` is read at import.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NO_COMMIT = "0" * 40
LARGE = (".safetensors", ".png")  # what goes through LFS, whatever its size


class Refused(Exception):
    """An answer with an error: its HTTP status, and what the real Hub calls it."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Repository:
    owner: str
    private: bool
    branches: dict[str, str] = field(default_factory=lambda: {"main": NO_COMMIT})
    commits: dict[str, dict[str, "File"]] = field(default_factory=lambda: {NO_COMMIT: {}})


@dataclass
class File:
    data: bytes
    large: bool

    @property
    def oid(self) -> str:
        """What git calls it."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Hub:
    """
    Attributes:
        tokens (`dict[str, tuple[str, str]]`): user and right (`write` or `read`) by token.
        repositories (`dict[tuple[str, str], Repository]`): by kind (`models`) and id (`owner/name`).
        objects (`dict[str, bytes]`): uploaded by LFS, by SHA-256.
        cuts (`list[int]`): the next uploads lose their connection after so many bytes, one each.
        stops_at (`int`, *optional*): uploads read so many bytes and then nothing more, until `stopped` is seen and
            the sender gone.
        room (`int`, *optional*): bytes that `objects` may have together.
        asked (`list[str]`): the paths of all requests.
    """

    def __init__(self) -> None:
        self.tokens = {"mine": ("me", "write"), "looks": ("me", "read"), "other": ("somebody", "write")}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.stops_at: int | None = None
        self.stopped = threading.Event()
        self.room: int | None = None
        self.asked: list[str] = []
        self.lock = threading.Lock()
        handler = type("LoopbackHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self, token: str | None = "mine") -> dict[str, str]:
        """For a process that takes this server for the Hub, as the user whose token it is."""
        given = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        return given | ({"HF_TOKEN": token} if token else {})

    def files(self, repo: str, branch: str = "main", kind: str = "models") -> dict[str, bytes]:
        """What a repository has, by path."""
        repository = self.repositories[kind, repo]
        return {path: file.data for path, file in repository.commits[repository.branches[branch]].items()}


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        for method, pattern, name in ROUTES:
            if self.command in method.split() and (found := re.fullmatch(pattern, path)):
                try:
                    getattr(self, name)(**found.groupdict())
                except Refused as refusal:
                    self.body_bytes()  # or the connection could not be used again
                    said = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
                    self.reply({"error": str(refusal)}, refusal.status, {k: v for k, v in said.items() if v})
                return
        self.body_bytes()
        self.reply({"error": f"{self.command} {path}: no such thing"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def reply(self, body: Any, status: int = 200, headers: dict[str, Any] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body_bytes(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        del self.headers["Content-Length"]  # it is read once
        return self.rfile.read(length)

    def body(self) -> Any:
        return json.loads(self.body_bytes())

    # Who asks, and what they may.

    def user(self) -> tuple[str, str] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token)

    def writer(self, owner: str) -> str:
        """The user, who may write to what is `owner`'s."""
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if user[1] != "write":
            raise Refused(403, f"Forbidden: this token of {user[0]} has no write access")
        if user[0] != owner:
            raise Refused(403, f"Forbidden: {user[0]} has no write access to the namespace {owner}")
        return user[0]

    def repository(self, kind: str | None, repo: str, write: bool = False) -> Repository:
        found = self.hub.repositories.get((kind or "models", repo))
        user = self.user()
        if found is None or (found.private and (user or ("",))[0] != found.owner):
            # a private repository looks to others as if there were none
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.writer(found.owner)
        return found

    def commit_of(self, repository: Repository, revision: str) -> str:
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # What is asked for.

    def whoami(self) -> None:
        user = self.user()
        if user is None:
            raise Refused(401, "Invalid username or password.")
        token = {"accessToken": {"role": user[1], "displayName": "a token"}}
        self.reply({"type": "user", "name": user[0], "fullname": user[0], "orgs": [], "auth": token})

    def validate_yaml(self) -> None:
        self.body_bytes()
        self.reply({"errors": [], "warnings": []})

    def create(self) -> None:
        asked = self.body()
        user = self.user()
        owner = self.writer(asked.get("organization") or (user or ("",))[0])
        kind, repo = asked.get("type", "model") + "s", f"{owner}/{asked['name']}"
        exists = (kind, repo) in self.hub.repositories
        if not exists:
            self.hub.repositories[kind, repo] = Repository(owner, asked.get("visibility") == "private")
        place = repo if kind == "models" else f"{kind}/{repo}"
        self.reply({"url": f"{self.hub.url}/{place}", "name": repo}, 409 if exists else 200)

    def branch(self, kind: str, repo: str, name: str) -> None:
        repository = self.repository(kind, repo, write=True)
        start = json.loads(self.body_bytes() or b"{}").get("startingPoint", "main")
        if name in repository.branches:
            raise Refused(409, f"Reference already exists: {name}")
        repository.branches[name] = self.commit_of(repository, start)
        self.reply({})

    def refs(self, kind: str, repo: str) -> None:
        branches = self.repository(kind, repo).branches.items()
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in branches]
        self.reply({"branches": listed, "tags": [], "converts": []})

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        repository = self.repository(kind, repo, write=True)
        files = repository.commits[self.commit_of(repository, revision)]
        listed = []
        for asked in self.body()["files"]:
            mode = "lfs" if asked["path"].endswith(LARGE) else "regular"
            there = files.get(asked["path"])
            oid = None if there is None else there.sha256 if there.large else there.oid
            listed.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": listed})

    def lfs_batch(self, kind: str | None, repo: str) -> None:
        self.repository(kind, repo, write=True)
        objects: list[dict[str, Any]] = []
        for asked in self.body()["objects"]:
            known = asked["oid"] in self.hub.objects
            upload = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append({"oid": asked["oid"], "size": asked["size"], **({} if known else {"actions": upload})})
        self.reply({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> None:
        hub, length = self.hub, int(self.headers["Content-Length"])
        if hub.stops_at is not None:
            self.rfile.read(min(hub.stops_at, length))
            hub.stopped.set()
            self.rfile.read()  # until the sender is gone
            self.close_connection = True
            return
        with hub.lock:
            cut = hub.cuts.pop() if hub.cuts else None
        if cut is not None:
            self.rfile.read(min(cut, length))
            self.close_connection = True
            self.connection.shutdown(2)
            return
        data = self.body_bytes()
        if hub.room is not None and sum(map(len, hub.objects.values())) + length > hub.room:
            raise Refused(507, "Insufficient Storage")
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(422, "the bytes are not those that were announced")
        hub.objects[oid] = data
        self.reply(b"")

    def commit(self, kind: str, repo: str, revision: str) -> None:
        repository = self.repository(kind, repo, write=True)
        if revision not in repository.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body_bytes().splitlines()]
        with self.hub.lock:
            files = dict(repository.commits[repository.branches[revision]])
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
                elif line["key"] == "lfsFile":
                    files[value["path"]] = File(self.hub.objects[value["oid"]], large=True)
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            history = f"{repository.branches[revision]} {sorted((path, file.oid) for path, file in files.items())}"
            commit = hashlib.sha1(history.encode()).hexdigest()
            repository.commits[commit] = files
            repository.branches[revision] = commit
        self.reply({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def info(self, kind: str, repo: str, revision: str | None) -> None:
        repository = self.repository(kind, repo)
        commit = self.commit_of(repository, revision or "main")
        siblings = [{"rfilename": path} for path in repository.commits[commit]]
        self.reply({"id": repo, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings})

    def tree(self, kind: str, repo: str, revision: str, folder: str | None) -> None:
        repository = self.repository(kind, repo)
        files = repository.commits[self.commit_of(repository, revision)]
        root = f"{folder}/" if folder else ""
        deep = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("1", "true")
        listed = []
        for path, file in files.items():
            if path.startswith(root) and (deep or "/" not in path.removeprefix(root)):
                listed.append({"type": "file", "path": path, "size": len(file.data), "oid": file.oid})
        if root and not listed:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        self.reply(listed)

    def resolve(self, kind: str | None, repo: str, revision: str, path: str) -> None:
        repository = self.repository(kind, repo)
        commit = self.commit_of(repository, revision)
        file = repository.commits[commit].get(path)
        if file is None:
            raise Refused(404, f"{path} does not exist", "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.sha256 if file.large else file.oid}"'}
        data, status = file.data, 200
        if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(part[1]), int(part[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.reply(data, status, headers)


REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"{API}/branch/(?P<name>.+)", "branch"),
    ("GET", rf"{API}/refs", "refs"),
    ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", rf"{API}/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
    ("GET", rf"{API}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("POST", rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_upload"),
    ("GET HEAD", rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
