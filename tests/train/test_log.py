"""metrics.jsonl without gaps or doubles, numbers that JSON has, a picture."""

import json

from tmr_jax.models.runtime import read_metrics
from tmr_jax.train.log import Display, History, draw_losses, duration


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    history = History(tmp_path, 0, False)
    for step in (1, 2, 3, 4):
        history.add({"step": step, "loss": 1.0 / step})
    history.add({"step": 2, "validation/mrr": 0.5})
    history.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')  # killed
    History(tmp_path, 2, validated=True).close()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 2]
    History(tmp_path, 2, validated=False).close()
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    History(tmp_path, 0, validated=False).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_every_line_is_strict_json(tmp_path):
    history = History(tmp_path, 0, False)
    history.add({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "skipped": 1})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()  # flushed, not closed
    assert json.loads(line) == {"step": 1, "loss": None, "grad_norm": None, "skipped": 1}
    history.close()


def test_the_picture_is_drawn_even_of_nothing(tmp_path):
    draw_losses(tmp_path)
    (tmp_path / "loss.png").unlink()
    history = History(tmp_path, 0, False)
    history.add({"step": 1, "loss": 2.0, "loss/t2m": 1.0})
    history.add({"step": 1, "validation/t2m/mrr": 0.5})
    history.close()
    draw_losses(tmp_path)
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_lines_come_now_and_then_where_there_is_no_terminal(capsys):
    with Display(total=1000, batch_size=8) as display:
        for step in range(1, 200):
            display.clock(step)
            display.step({"step": step, "loss": 1.5, "scale": 3.0})
        assert display.pairs_per_second() > 0
        display.step({"step": 1000, "loss": 0.25, "skipped": 2})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 1/1000")
    assert "loss 1.500" in lines[0]
    assert "2 steps skipped" in lines[1]


def test_durations_read_like_a_clock():
    assert [duration(s) for s in (0.2, 61.0, 3599.6, 7325.0)] == [
        "0:00",
        "1:01",
        "1:00:00",
        "2:02:05",
    ]
