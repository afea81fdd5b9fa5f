import gc

from iwae_lab.loading import load_run


def test_loading_leaves_the_collector_on_and_leaves_out_only_what_was_there_at_first() -> None:
    run = load_run()
    left_out = gc.get_freeze_count()
    assert gc.isenabled() and left_out > 0
    later = [[] for _ in range(10_000)]
    assert load_run() is run
    assert gc.get_freeze_count() <= left_out, f"{len(later)} objects of a multirun's earlier jobs would never be freed"
