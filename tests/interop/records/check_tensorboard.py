"""The tensorboard package reads back every figure of a run, with its tag and step."""
import json

from interop import check, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@check("records: TensorBoard reads every figure that was logged")
def scalars(folder):
    events = EventAccumulator(str(folder / "runs"), size_guidance={"scalars": 0})
    events.Reload()
    history = json.loads((folder / "history.json").read_text())
    want = {}
    for entry in history:
        for name, value in entry.items():
            if name in ("step", "epoch"):
                continue
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            want.setdefault(tag, []).append((entry["step"], value))
    assert set(events.Tags()["scalars"]) == set(want), events.Tags()["scalars"]
    worst = 0.0
    for tag, points in want.items():
        got = events.Scalars(tag)
        assert [e.step for e in got] == [step for step, _ in points], tag
        for event, (_, value) in zip(got, points):
            # event files hold 32 bits; the history rounds `loss` to 4 decimals
            slack = 6e-8 * abs(value) + (5e-5 if tag == "train/loss" else 0)
            worst = max(worst, abs(event.value - value) - slack)
    assert worst <= 0, worst
    return f"{sum(len(points) for points in want.values())} figures under {len(want)} tags"


run()
