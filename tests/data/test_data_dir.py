"""Where the data directory is, and what is said of settings of a dataset that make no sense."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest
from helpers.datasets import images, npz

from iwae_lab.console.errors import UserError
from iwae_lab.console.explain import explain
from iwae_lab.data.base import resolve_data_dir
from iwae_lab.runs.experiment import resolve


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("IWAE_LAB_DATA", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


def test_the_choice_comes_before_the_variable_and_that_before_the_cache(home, monkeypatch):
    assert resolve_data_dir() == home / ".cache" / "iwae_lab"
    monkeypatch.setenv("IWAE_LAB_DATA", "")
    assert resolve_data_dir() == home / ".cache" / "iwae_lab"
    monkeypatch.setenv("IWAE_LAB_DATA", "~/data")
    assert resolve_data_dir() == home / "data"
    assert resolve_data_dir("~/mine") == home / "mine"
    assert resolve_data_dir("mine") == Path("mine")
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("value", ["~no-such-user/data", "/etc/passwd"])
def test_what_can_be_no_directory_is_refused_by_its_key(home, monkeypatch, value):
    with pytest.raises(UserError, match=rf"^data_dir={value}: expected a directory$"):
        resolve_data_dir(value)
    monkeypatch.setenv("IWAE_LAB_DATA", value)
    with pytest.raises(UserError, match=rf"^IWAE_LAB_DATA={value}: expected a directory$"):
        resolve_data_dir()


def test_a_user_without_a_home_gets_a_cache_among_the_temporary_files(home, monkeypatch):
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert resolve_data_dir() == Path(tempfile.gettempdir()) / "iwae_lab"


def test_home_is_understood_in_the_configuration(composed, home):
    (home / "data").mkdir()
    (home / "data" / "mine.npz").write_bytes(npz(train=images(20), test=images(4)))
    data = resolve(composed("dataset=npz", "dataset.path=mine.npz", "data_dir='~/data'")).data
    assert len(data.test) == 4
    assert not os.path.exists("~")


def test_the_command_lists_what_other_libraries_have(cli, home):
    copy = home / ".keras" / "datasets" / "mnist.npz"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(npz(x_train=images(20), x_test=images(4)))
    listed = cli("-m", "iwae_lab.data", IWAE_LAB_DATA="~/data")
    assert listed.returncode == 0
    lines = listed.stdout.splitlines()
    assert lines[0] == f"data directory: {home}/data (not there yet)"
    (line,) = [line for line in lines if line.startswith("mnist ") and "t10k" in line]
    assert f"unusable: {copy}: expected content of sha256:" in line
    assert not (home / "data").exists()


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("dataset=npz", "dataset.path is missing: expected dataset.path=VALUE"),
        ("dataset=npz dataset.path=", "dataset.path=: expected the path of a .npz file"),
        ("dataset=npz dataset.path=null", "dataset.path=null: expected text"),
        ("dataset=npz dataset.path=[a]", "dataset.path=['a']: expected text"),
        ("dataset=npz dataset.path={a:1}", "dataset.path={'a': 1}: expected text"),
        ("dataset=mnst", "dataset=mnst: no such option (did you mean mnist?); expected one of fashion_mnist, mnist,"),
        ("dataset=../mnist", "dataset=../mnist: no such option (did you mean mnist?)"),
        ("dataset=", "dataset=: no such option; expected one of fashion_mnist, mnist,"),
        ("dataset.binarization=drawn", "dataset.binarization=drawn: expected one of dynamic, static, threshold"),
        ("dataset.binarization=Dynamic", "dataset.binarization=Dynamic: expected one of dynamic, static, threshold"),
        ("dataset.binarization=null", "dataset.binarization=null: expected text"),
        ("dataset=static_mnist dataset.binarization=dynamic", "dataset.binarization=dynamic: expected static"),
        ("dataset.binarisation=static", "dataset.binarisation: no such key (did you mean binarization?)"),
        ("dataset.path=mine.npz", "dataset.path: no such key; expected one of binarization"),
        ("+dataset.binarisation=static", "dataset.binarisation=static: no such key (did you mean binarization?)"),
        ("dataset._target_=nowhere.Else", "dataset._target_=nowhere.Else: expected a class to import"),
        ("dataset._target_=os.system", "dataset._target_=os.system: expected a class to import"),
        (
            "dataset._target_=iwae_lab.data.base.Dataset",
            "dataset._target_=iwae_lab.data.base.Dataset: expected a class that defines parse, split",
        ),
        ("~dataset.name", "dataset.name is missing: expected dataset.name=NAME"),
        ("data_dir=/no/such/folder", "data_dir=/no/such/folder: expected an existing directory"),
        ("data_dir='~no-such-user/data'", "data_dir=~no-such-user/data: expected an existing directory"),
        ("data_dir=", "data_dir=: expected an existing directory"),
    ],
)
def test_settings_that_make_no_sense(composed, overrides, expected):
    with pytest.raises(Exception) as raised:
        resolve(composed(*overrides.split()))
    assert explain(raised.value).startswith(expected)
