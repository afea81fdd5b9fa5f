import gc
import sys

import pytest

from iwae_lab.runs.startup import load_run


def test_the_collector_leaves_out_what_is_there_at_first_and_nothing_later() -> None:
    load_run.cache_clear()
    run = load_run()
    left_out = gc.get_freeze_count()
    assert gc.isenabled() and left_out > 0
    made_later = [[] for _ in range(10_000)]
    assert load_run() is run
    assert gc.get_freeze_count() <= left_out, f"{len(made_later)} objects of earlier jobs would never be freed"
    gc.unfreeze()


def test_the_collector_is_on_again_where_an_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    load_run.cache_clear()
    left_out = gc.get_freeze_count()
    monkeypatch.setitem(sys.modules, "iwae_lab.runs.run", None)
    with pytest.raises(ImportError):
        load_run()
    assert gc.isenabled() and gc.get_freeze_count() == left_out
