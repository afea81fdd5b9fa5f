"""What progress says."""

from iwae_lab.console.progress import Meter, clock


def test_the_time_left_follows_the_rate_of_the_last_minutes(monkeypatch, caplog):
    caplog.set_level("INFO")
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    meter, done = Meter("training", 0.5), 0.5
    for rate in [0.001] * 20 + [0.01] * 15:  # compiled after ten minutes
        now, done = now + 30, done + rate
        assert meter.due()
        meter.show(done)
    assert "left" not in caplog.messages[0]
    assert caplog.messages[-1].endswith(f"  {clock(30 * (1 - done) / 0.01)} left")
