"""Part of rollouts.py that runs inside the engine's worker: counts the videos that go through the vision tower."""

from __future__ import annotations

from typing import Any

from rlvid.sync.engine_side import WorkerExtension


class VisionCounter(WorkerExtension):
    """Mixed into vLLM's worker."""

    def count_vision(self) -> None:
        """Count from here on."""
        model = self.model_runner.get_model()
        original, self.items = model.embed_multimodal, 0

        def counted(**inputs: Any) -> Any:
            found = original(**inputs)
            self.items += len(found)
            return found

        model.embed_multimodal = counted

    def vision_items(self) -> int:
        """Videos seen so far."""
        return self.items
