"""How far a command is: a bar on a terminal, now and then a line elsewhere."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from ...core.runs.run_log import PHASES, end_memory_words, prepared_words


class Progress:
    """Shows a run's events as they come: bars on a terminal, a line every few seconds elsewhere. Call it with an event."""

    EVERY_S = 10.0  # between two lines where there is no terminal

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self._stream = stream
        self._clock = clock
        self._terminal = stream.isatty()
        self._bar: Any = None
        self._bar_name: str | None = None
        self._total_steps: int | None = None
        self._last_line = float("-inf")

    def __call__(self, event: Mapping[str, Any]) -> None:
        handler = getattr(self, f"_on_{event['event'].replace('-', '_')}", None)
        if handler is not None:
            handler(event)

    def phase(self, name: str, done: int, total: int) -> None:
        """Show how far a phase is, outside a run."""
        self({"event": "phase", "name": name, "done": done, "total": total})

    def close(self) -> None:
        """Finish the bar that is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = self._bar_name = None

    def _advance(self, name: str, done: int, total: int | None, note: str = "") -> None:
        if not self._terminal:
            now, last = self._clock(), total is not None and done >= total
            if now - self._last_line >= self.EVERY_S or last or name != self._bar_name:
                self._last_line, self._bar_name = now, name
                print(
                    f"{name}: {done}{f'/{total}' if total is not None else ''}{f'  {note}' if note else ''}",
                    file=self._stream,
                    flush=True,
                )
            return
        if name != self._bar_name:
            self.close()
            from tqdm import tqdm

            # Of a training the run's own speed and time left stand in the note; tqdm's would be others beside them.
            form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}" if name == "training" else None
            self._bar = tqdm(
                total=total, desc=name, file=self._stream, dynamic_ncols=True, initial=done, bar_format=form
            )
            self._bar_name = name
        self._bar.n = done
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.refresh()

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self._total_steps = event.get("total_steps")
        resumed = event.get("resumed_from")
        self._line(
            f"Training on {event.get('device')}{f', resumed from step {resumed}' if resumed is not None else ''}."
        )

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        name = str(event["name"])
        self._advance(PHASES.get(name, name), event.get("done", 0), event.get("total"))

    def _on_prepared(self, event: Mapping[str, Any]) -> None:
        self._line(prepared_words(event))

    def _on_step(self, event: Mapping[str, Any]) -> None:
        loss = event["loss"]  # NaN and infinities arrive as text
        note = f"loss {loss:.4f}" if isinstance(loss, int | float) else f"loss {loss}"
        if event.get("rolled_rows"):
            note += f", {event['rolled_rows']} rolled"
        if isinstance(event.get("step_s"), int | float):
            note += f", {event['step_s']:.3g} s a step"
        if event.get("eta_s") is not None:
            note += f", {human_time(event['eta_s'])} left"
        self._advance("training", event["step"], self._total_steps, note)

    def _on_sample(self, event: Mapping[str, Any]) -> None:
        images = event["images"]
        where = f" in {Path(images[0]['path']).parent.as_posix()}" if images else ""
        self._line(f"Step {event['step']}: {len(images)} samples{where}")

    def _on_drift(self, event: Mapping[str, Any]) -> None:
        self._line(f"Step {event['step']}: drift report {event['path']}")

    def _on_saved(self, event: Mapping[str, Any]) -> None:
        self._line(f"Step {event['step']}: checkpoint {event['path']}")

    def _on_exported(self, event: Mapping[str, Any]) -> None:
        # A run of an earlier version has one file and names no layout.
        for each in event.get("files") or [event]:
            check = each.get("check")
            checked = ""
            if isinstance(check, Mapping) and "used" in check and "total" in check:
                layout = f"{each['layout']} layout, " if "layout" in each else ""
                checked = f" ({layout}loaded again: {check['used']} of {check['total']} tensors used)"
            self._line(f"Step {event['step']}: exported {each['path']}{checked}")
        if event.get("placed"):
            self._line(f"Step {event['step']}: copied to {event['placed']}")

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self._line(f"Warning: {event['message']} {event.get('remedy') or ''}".rstrip())

    def _on_error(self, event: Mapping[str, Any]) -> None:
        self._line(f"Error: {event['message']} {event.get('remedy') or ''}".rstrip())

    def _on_paused(self, event: Mapping[str, Any]) -> None:
        self._line("Paused.")

    def _on_resumed(self, event: Mapping[str, Any]) -> None:
        self._line("Going on.")

    def _on_end(self, event: Mapping[str, Any]) -> None:
        self.close()
        self._line(f"{str(event['state']).capitalize()} at step {event['step']}. {end_memory_words(event)}".rstrip())


def human_time(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min."""
    if not isinstance(seconds, int | float):
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
