"""One variant actor: decodes a video once and cuts its K variants. decord may hang or crash here without harm."""

from __future__ import annotations

from typing import Any

from rlvid.config import Config
from rlvid.types import Prepared, Quarantined, Question


def variant_environment(config: Config) -> dict[str, str]:
    """Environment of the actor's process."""
    return {"OMP_NUM_THREADS": str(config.variants.threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}


class VariantActor:
    """Holds the checkpoint's processor, for the chat template and the size of a visual token."""

    def __init__(self, config: Config, number: int) -> None:
        self.config = config
        self.number = number

    def start(self) -> int:
        """Load the processor. Returns the pixels along one side of a visual token."""
        from transformers import AutoProcessor

        self.processor = AutoProcessor.from_pretrained(self.config.model.path)
        video = self.processor.video_processor
        self.factor = video.patch_size * video.merge_size
        self.frames_per_token = video.temporal_patch_size
        return self.factor

    def build(self, question: Question, kinds: tuple[str, ...], seed: int) -> list[Any]:
        """[Prepared, frames of variant 0, ..., frames of variant K-1], or [Quarantined, None, ...].

        Called with num_returns = K + 1, so that the frames [T, H, W, C] uint8 stay in the object store.
        """
        from rlvid.data.video import VideoError

        try:
            return self._build(question, kinds, seed)
        except VideoError as error:
            return [Quarantined(question.id, str(error)), *[None] * len(kinds)]

    def _build(self, question: Question, kinds: tuple[str, ...], seed: int) -> list[Any]:
        from rlvid.data.prompts import chat_prompt, question_text
        from rlvid.data.video import read_candidates, shown_size
        from rlvid.variants.build import cut, video_metadata
        from rlvid.variants.explore import explore

        video, prompt = self.config.video, self.config.prompt

        def size_for(height: int, width: int) -> tuple[int, int]:
            return shown_size(height, width, max_pixels=video.max_pixels, factor=self.factor)

        clip = read_candidates(question.video, candidates=video.candidates, clip=question.clip, size_for=size_for, threads=self.config.variants.threads)
        specs = explore(
            kinds,
            times_s_N=clip.times_s_N,
            frames=video.frames,
            size=size_for(clip.height, clip.width),
            question_id=question.id,
            seed=seed,
            min_crop_area=self.config.variants.min_crop_area,
        )
        text = chat_prompt(self.processor, question_text(question, prompt.instructions, prompt.format), prompt.system)
        if problem := self._too_long(text, specs):
            return [Quarantined(question.id, f"{question.video}: {problem}"), *[None] * len(kinds)]
        metadata = tuple(video_metadata(spec) for spec in specs)
        return [Prepared(question, text, tuple(specs), metadata, clip.duration_s), *(cut(clip, spec) for spec in specs)]

    def _too_long(self, text: str, specs: list[Any]) -> str:
        """Why the engine could not hold the longest variant; empty when it can."""
        visual = max(len(spec.times_s) // self.frames_per_token * spec.size[0] * spec.size[1] // self.factor**2 for spec in specs)
        words = len(self.processor.tokenizer(text)["input_ids"])
        room = self.config.rollout.max_model_len - self.config.rollout.max_tokens
        if visual > self.config.video.max_tokens:
            return f"needs {visual} visual tokens, video.max_tokens is {self.config.video.max_tokens}: lower video.frames or video.max_pixels"
        # Qwen3-VL writes a timestamp of about a dozen tokens before every frame pair.
        words += 16 * (len(specs[0].times_s) // self.frames_per_token)
        if visual + words > room:
            return f"the prompt needs about {visual + words} tokens, the engine has room for {room}: raise rollout.max_model_len"
        return ""

    def check(self) -> int:
        """Heartbeat."""
        return self.number

    def stop(self) -> None:
        """Nothing to end beside the process."""
