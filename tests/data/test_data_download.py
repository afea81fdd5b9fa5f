"""Files are found, downloaded and checked."""

import gzip
import hashlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.datasets import Mirror, serve, sha256

from iwae_lab.console.errors import UserError
from iwae_lab.data.download import DataFile

CONTENT = b"the right content" * 1000


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "digits"


def file(*mirrors: str, **changes) -> DataFile:
    return DataFile(**{"name": "digits.bin", "digest": sha256(CONTENT), "mirrors": mirrors, "timeout": 5.0, **changes})


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def dead_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


@pytest.mark.parametrize("place", ["data/digits", "data", "elsewhere"])
def test_file_is_found_in_each_of_its_places(tmp_path, folder, place):
    path = tmp_path / place / "digits.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    found = file(places=(tmp_path / "elsewhere",)).read(folder)
    assert (found.path, found.data, found.published) == (path, CONTENT, True)


@pytest.mark.parametrize("level", [1, 9])
def test_gzip_files_are_known_by_what_they_hold(folder, level):
    folder.mkdir(parents=True)
    (folder / "digits.gz").write_bytes(gzip.compress(CONTENT, level))
    assert file(name="digits.gz").read(folder).data == CONTENT


def test_git_blob_id(folder, tmp_path):
    folder.mkdir(parents=True)
    (folder / "digits.bin").write_bytes(b"hello\n")
    known = "git:ce013625030ba8dba906f756967f9e9ca394464a"  # echo hello | git hash-object --stdin
    assert file(digest=known).read(folder).published
    (folder / "digits.bin").write_bytes(b"mine\n")
    assert not file(digest=known, exact=False).read(folder).published
    with pytest.raises(UserError, match="expected content of git:ce0136"):
        file(digest=known).read(folder)


def test_mirrors_are_tried_in_turn_until_one_is_right(folder):
    with (
        serve(Mirror({})) as empty,
        serve(Mirror({"digits.bin": b"wrong"})) as corrupt,
        serve(Mirror({"digits.bin": CONTENT}, cut=10)) as cut,
        serve(Mirror({"digits.bin": CONTENT})) as good,
        serve(Mirror({"digits.bin": CONTENT})) as unneeded,
    ):
        urls = [dead_url(), empty.url, corrupt.url, cut.url, good.url, unneeded.url]
        assert file(*urls).read(folder).data == CONTENT
        assert [len(m.requests) for m in (empty, corrupt, cut, good, unneeded)] == [1, 1, 1, 1, 0]
        assert visible(folder) == ["digits.bin"]
        assert file(*urls).read(folder).path == folder / "digits.bin"
        assert len(good.requests) == 1


def test_a_downloaded_gzip_file_is_unpacked_and_kept_packed(folder):
    packed = gzip.compress(CONTENT)
    with serve(Mirror({"digits.gz": packed})) as mirror:
        assert file(mirror.url, name="digits.gz").read(folder).data == CONTENT
    assert (folder / "digits.gz").read_bytes() == packed


def test_silent_mirror_is_given_up(folder):
    with serve(Mirror({"digits.bin": CONTENT}, silence=30)) as hung, serve(Mirror({"digits.bin": CONTENT})) as good:
        start = time.monotonic()
        assert file(hung.url, good.url, timeout=0.3).read(folder).data == CONTENT
        assert time.monotonic() - start < 5


def test_a_failure_that_passes_is_retried(folder):
    with serve(Mirror({"digits.bin": CONTENT}, failures=1)) as mirror:
        assert file(mirror.url).read(folder).data == CONTENT


def test_a_download_must_be_the_published_file(folder):
    with serve(Mirror({"digits.bin": b"another"})) as mirror, pytest.raises(UserError, match="expected content of"):
        file(mirror.url, exact=False).read(folder)
    assert visible(folder) == []


def reader(mirror: Mirror, folder: Path) -> subprocess.Popen[str]:
    """A process that reads the file from a mirror and prints its length."""
    program = (
        "import sys; from pathlib import Path; from iwae_lab.data.download import DataFile;"
        "print(len(DataFile('digits.bin', sys.argv[1], (sys.argv[2],)).read(Path(sys.argv[3])).data))"
    )
    command = [sys.executable, "-c", program, sha256(CONTENT), mirror.url, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_download_once(folder):
    with serve(Mirror({"digits.bin": CONTENT}, silence=1.0)) as mirror:
        both = [reader(mirror, folder) for _ in range(2)]
        assert [p.communicate(timeout=60)[0].strip() for p in both] == [str(len(CONTENT))] * 2
        assert len(mirror.requests) == 1


def test_killed_download_leaves_nothing_in_place(folder):
    with serve(Mirror({"digits.bin": CONTENT}, silence=30)) as mirror:
        process = reader(mirror, folder)
        while not (folder / ".digits.bin.partial").exists():
            time.sleep(0.02)
            assert process.poll() is None
        process.kill()
        process.communicate()
        assert not (folder / "digits.bin").exists()
        mirror.silence = 0
        assert file(mirror.url).read(folder).data == CONTENT
    assert visible(folder) == ["digits.bin"]


def test_missing_file_and_no_network(folder):
    url = dead_url()
    with pytest.raises(UserError) as raised:
        file(url).read(folder)
    text = str(raised.value)
    for part in (
        f"digits.bin: expected in one of {folder}, {folder.parent};",
        f"{url}digits.bin: ConnectionError",
        f"python -m iwae_lab.data --data-dir {folder.parent} fetch digits",
        f"curl -L --create-dirs -o {folder}/digits.bin {url}digits.bin",
    ):
        assert part in text
    assert visible(folder) == []


@pytest.mark.parametrize(
    ("name", "damaged", "expected"),
    [
        ("digits.bin", CONTENT[:-1], f"found sha256:{hashlib.sha256(CONTENT[:-1]).hexdigest()} (16,999 bytes)"),
        ("digits.gz", gzip.compress(CONTENT)[:-20], "expected a file that can be read to its end"),
        ("digits.gz", b"<html>no such page</html>", "(25 bytes)"),
    ],
    ids=["short", "cut", "no gzip file"],
)
def test_damaged_file_is_named_and_left_alone(folder, name, damaged, expected):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(damaged)
    with serve(Mirror({name: CONTENT})) as mirror, pytest.raises(UserError) as raised:
        file(mirror.url, name=name).read(folder)
    assert f"{folder / name}: " in str(raised.value)
    assert expected in str(raised.value)
    assert (folder / name).read_bytes() == damaged
    assert not mirror.requests


def test_another_datasets_file_of_the_same_name_is_no_obstacle(folder):
    folder.mkdir(parents=True)
    (folder.parent / "digits.bin").write_bytes(b"of another dataset")
    with serve(Mirror({"digits.bin": CONTENT})) as mirror:
        assert file(mirror.url).read(folder).path == folder / "digits.bin"


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "blocked").write_text("a file where a directory should be")
    with pytest.raises(UserError, match="blocked/digits: expected a directory that can be written"):
        file(dead_url()).read(tmp_path / "blocked" / "digits")
