"""One engine in a process of its own, with its model in reach: which tokens, positions and log-probs does it give to prompts with videos and images?

python -m tests.integration.engine_alone JOB RESULT    both pickles, of the records below
"""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """`settings`: overrides of configs/quickstart.yaml. prompts: (text, [(frames [T, H, W, 3], metadata), or (image [H, W, 3], None), ...])."""

    settings: list[str]
    prompts: list[tuple[str, list[tuple[Any, dict[str, Any] | None]]]]


@dataclass(frozen=True)
class Seen:
    """One prompt as the engine had it: token ids, position ids [3, N] (None: of a prompt of text alone), and the tokens and log-probs of its answers."""

    ids: list[int]
    positions_3N: Any
    tokens_M: list[tuple[int, ...]]
    logprobs_M: list[tuple[float, ...]]


def main(job: Path, result: Path) -> None:
    from rlvid.actors.rollout import as_vllm_takes, engine_arguments, forbidden_tokens, rollout_environment
    from rlvid.config import load
    from rlvid.sync.plugin import register
    from tests.integration.conftest import CONFIG

    asked: Job = pickle.loads(job.read_bytes())
    config = load(CONFIG, asked.settings)
    os.environ |= rollout_environment(config) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.llm_engine import LLMEngine

    register()
    engine = LLMEngine.from_engine_args(engine_arguments(config))
    counted: dict[tuple[int, ...], Any] = {}

    def listen(model: Any) -> None:
        """Keep what the model tells the engine about positions."""
        inner = model.get_mrope_input_positions

        def heard(ids: list[int], *rest: Any) -> Any:
            positions, delta = inner(ids, *rest)
            counted[tuple(ids)] = positions.cpu()
            return positions, delta

        model.get_mrope_input_positions = heard

    engine.apply_model(listen)
    drawn = {"n": 3, "max_tokens": 6, "seed": 1, "temperature": config.rollout.temperature, "logit_bias": forbidden_tokens(config.model.path)}
    sampling = SamplingParams(**drawn, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY)
    for number, (text, media) in enumerate(asked.prompts):
        engine.add_request(str(number), {"prompt": text, **({"multi_modal_data": as_vllm_takes(media)} if media else {})}, sampling)
    done: dict[int, Any] = {}
    while engine.has_unfinished_requests():
        done |= {int(output.request_id): output for output in engine.step() if output.finished}
    seen = [
        Seen(
            list(output.prompt_token_ids),
            counted.get(tuple(output.prompt_token_ids)),
            [tuple(answer.token_ids) for answer in output.outputs],
            [tuple(entry[token].logprob for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)) for answer in output.outputs],
        )
        for _, output in sorted(done.items())
    ]
    result.write_bytes(pickle.dumps(seen))


if __name__ == "__main__":
    from tests.integration import engine_alone  # so that the records are pickled under this name

    engine_alone.main(Path(sys.argv[1]), Path(sys.argv[2]))
