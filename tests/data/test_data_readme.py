"""The dataset that iwae_lab/data/README.md adds is one, and the protocols and files it lists are the shipped ones."""

import re

import numpy as np
from helpers.commands import ROOT, records
from sklearn.datasets import load_digits

from iwae_lab.data.__main__ import datasets

README = (ROOT / "iwae_lab" / "data" / "README.md").read_text()


def block(heading: str, language: str) -> str:
    """The first code block of a language below a heading."""
    _, _, section = README.partition(f"\n## {heading}\n")
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def test_the_dataset_that_is_added_trains(cli, tiny, tmp_path, monkeypatch):
    (tmp_path / "digits.py").write_text(block("Add a dataset", "python"))
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "digits.yaml").write_text(block("Add a dataset", "yaml"))
    command = block("Add a dataset", "bash").replace("mine", str(tmp_path / "mine")).split()
    small = [override for override in tiny if not override.startswith("dataset")]
    done = cli(*command[1:], *small, "evaluation.images=null", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (record,) = records(tmp_path / "runs")
    assert re.fullmatch(r"digits#[0-9a-f]{8}/dynamic 1297/200/300 L_20", record["protocol"])

    monkeypatch.syspath_prepend(str(tmp_path))
    from digits import Digits

    splits = Digits().load(tmp_path)
    expected = np.rint(load_digits().data * 255 / 16)
    np.testing.assert_array_equal(np.concatenate([splits.train, splits.val, splits.test]), expected)


def test_every_dataset_is_listed_with_its_files_and_protocol():
    rows = {row.split("`")[1]: row for row in README.splitlines() if re.match(r"\| `\w+` \|.*\|.*\|.*\|.*\|", row)}
    assert rows.keys() == datasets().keys()
    for name, dataset in datasets().items():
        for protocol in dataset.official.values():
            assert f"`{protocol}`" in rows[name]
        for file in dataset.files:
            family = re.sub(r"_(train|valid|test)\.", "_{train,valid,test}.", file.name)
            assert f"`{family}`" in rows[name] or "as MNIST's" in rows[name]
