"""The learner's ranks driven as one: every verb runs on all ranks at once, with a deadline."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from rlvid.config import Config
from rlvid.families.checkpoint import reading_s
from rlvid.learner.hashed import Digests
from rlvid.learner.packing import spread_over_ranks
from rlvid.learner.rank import Rank
from rlvid.process.one_line import first_line
from rlvid.process.role import Role, bundle
from rlvid.types import TrainingPrompt


class LearnerError(RuntimeError):
    """A rank died or did not answer. The job ends; starting it again resumes from the last whole checkpoint."""


class FramesLost(RuntimeError):
    """Frames of the batch are gone from the object store, with the node that held them. Nothing was learned yet."""


class PromptsRefused(RuntimeError):
    """Prompts that the learner cannot pack. Nothing was learned yet. `reasons`: by question id."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__(f"the learner cannot pack {', '.join(reasons)}")
        self.reasons = reasons


def role(config: Config) -> Role:
    """The learner's ranks."""
    learner = config.learner
    needs = bundle(learner.num_cpus, learner.num_gpus, learner.resources)
    return Role("learner rank", Rank, learner.ranks, needs, learner_environment(config), beside="rollout engine" if config.colocated else "")


def learner_environment(config: Config) -> dict[str, str]:
    """Environment of a rank's process, set before torch is imported."""
    return {
        "OMP_NUM_THREADS": str(config.learner.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": "cuda" if config.on_gpu else "cpu",
    }


class LearnerGroup:
    """`ranks` are actor handles of rlvid.learner.rank.Rank, rank 0 first."""

    def __init__(self, config: Config, ranks: Sequence[Any]) -> None:
        self.config = config
        self.ranks = list(ranks)
        self._submitting = threading.Lock()

    def start(self) -> int:
        """Meet, load, build. Returns the number of parameters."""
        model = self.config.model
        deadline_s = self.config.learner.start_deadline_s + reading_s(model.path, self.config.readers, model.read_mib_per_s)
        meeting = self._get([self.ranks[0].propose_meeting.remote()], deadline_s, "propose a meeting point")[0]
        return self._get([rank.start.remote(meeting) for rank in self.ranks], deadline_s, "start")[0]

    def update(self, prompts: Sequence[TrainingPrompt]) -> dict[str, float]:
        """One GRPO update on these prompts. Returns the metrics of the whole group. Raises FramesLost or PromptsRefused before anything was learned."""
        learner = self.config.learner
        parts, shared = learner.sequence_parallel, len(self.ranks) // learner.sequence_parallel
        shares: list[list[list[TrainingPrompt]]] = [[] for _ in range(shared)]
        for alike in ([prompt for prompt in prompts if not prompt.teacher], [prompt for prompt in prompts if prompt.teacher]):
            if alike:  # ranks must meet in their collectives: as many micro-batches of each kind on every one
                spread = spread_over_ranks(alike, shared, learner.micro_batch_tokens * parts)
                shares = [share + more for share, more in zip(shares, spread, strict=True)]
        self._pack([share for share in shares for _ in range(parts)])
        return _merge(self._all("update", *[()] * len(self.ranks))[::parts])  # ranks that share their rows say the same

    def _pack(self, shares: list[list[list[TrainingPrompt]]]) -> None:
        """Frames that are lost are noticed here, before the ranks begin to wait for each other."""
        from ray.exceptions import ObjectLostError, RayTaskError

        try:
            refused = self._all("pack", *[(share,) for share in shares])
        except RayTaskError as error:
            if isinstance(error.cause, ObjectLostError):
                raise FramesLost(first_line(error.cause)) from None
            raise
        if reasons := {id: reason for rank in refused for id, reason in rank.items()}:
            raise PromptsRefused(reasons)

    def save(self, folder: str) -> Digests:
        """Write the shards. Returns the digests of all of them."""
        return {name: told for digests in self._all("save", *[(folder,)] * len(self.ranks)) for name, told in digests.items()}

    def load(self, folder: str, version: int, *, tag: str = "learner") -> None:
        """Go on with the weights and the optimizer of a checkpoint that was written after update `version`. `tag`: learner or universal."""
        self._all("load", *[(folder, version, tag)] * len(self.ranks))

    def set_rates(self) -> None:
        """Learning rate, betas and weight decay as the config says: a loaded checkpoint brings those it was written with."""
        self._all("set_rates", *[()] * len(self.ranks))

    def export(self, folder: str) -> None:
        self._all("export", *[(folder,)] * len(self.ranks))

    def connect(self, engines: list[Any], widths: list[int]) -> None:
        """Open the weight transfer to these engines, in place of any before."""
        self._all("connect", *[(engines, widths)] * len(self.ranks))

    def send_weights(self) -> Any:
        """Push the weights to all connected engines. Returns rlvid.types.Sent."""
        return self._all("send_weights", *[()] * len(self.ranks))[0]

    def version(self) -> int:
        """Updates that the weights have seen."""
        return self._all("get_version", *[()] * len(self.ranks))[0]

    def layout(self) -> Any:
        """Of what a push brings: rlvid.types.WeightsLayout."""
        return self._all("layout", *[()] * len(self.ranks))[0]

    def checksum(self) -> str:
        return self._all("checksum", *[()] * len(self.ranks))[0]

    def perturb(self, scale: float) -> None:
        """Debug door: see Rank.perturb."""
        self._all("perturb", *[(scale,)] * len(self.ranks))

    def rest(self) -> None:
        """Leave the GPUs to the engines: see Rank.rest."""
        self._all("rest", *[()] * len(self.ranks))

    def wake(self) -> None:
        self._all("wake", *[()] * len(self.ranks))

    def stop(self) -> None:
        import ray

        for rank in self.ranks:
            ray.kill(rank)

    def _all(self, method: str, *args_per_rank: tuple[Any, ...]) -> list[Any]:
        with self._submitting:  # calls from two threads must reach all ranks in the same order
            calls = [getattr(rank, method).remote(*args) for rank, args in zip(self.ranks, args_per_rank, strict=True)]
        return self._get(calls, self.config.learner.deadline_s, method)

    @staticmethod
    def _get(calls: list[Any], deadline_s: float, what: str) -> list[Any]:
        """Wait for all ranks, but not for the others once one has failed: they would wait for it in a collective for ever."""
        import ray

        waiting = list(calls)
        try:
            while waiting:
                done, waiting = ray.wait(waiting, num_returns=1, timeout=deadline_s)
                if not done:
                    raise LearnerError(f"the learner did not {what} within {deadline_s:.0f} s")
                ray.get(done)
            return ray.get(calls)
        except ray.exceptions.RayTaskError:
            raise  # also what a rank says of another actor's death
        except ray.exceptions.RayActorError as error:
            raise LearnerError(f"a learner rank died in {what}: {first_line(error)}") from None


def _merge(sums: list[dict[str, float]]) -> dict[str, float]:
    """Sums over ranks, maxima where the name says so, means per token where the name says sum."""
    names = list(sums[0])  # all ranks have the same: each kind of micro-batch is on every one
    total = {name: (max if "/max_" in name else sum)(rank[name] for rank in sums) for name in names}
    tokens, sampled = max(1.0, total.pop("tokens")), max(1.0, total.pop("sampled_tokens"))
    for same in ("optimizer/grad_norm", "optimizer/lr"):
        total[same] = sums[0][same]
    return {
        "mismatch/mean_abs_dlogp": total.pop("mismatch/sum_abs_dlogp") / sampled,
        "mismatch/kl": total.pop("mismatch/sum_kl") / sampled,
        **_expert_shares(total),
        "policy/entropy": total.pop("policy/sum_neg_logprob") / tokens,
        "loss/clip_share": total.pop("loss/sum_clipped") / tokens,
        **({"loss/masked_share": total.pop("loss/sum_masked") / tokens} if "loss/sum_masked" in total else {}),
        **total,
    }


def _expert_shares(total: dict[str, float]) -> dict[str, float]:
    """What the ranks counted of experts' choices (rlvid/learner/experts.py), as shares. Takes the sums away; empty where nothing was counted."""
    known, apart, unknown = (total.pop(f"mismatch/sum_experts_{name}", 0.0) for name in ("known", "apart", "unknown"))
    if not known + unknown:
        return {}
    return {"mismatch/experts": apart / max(1.0, known), "mismatch/experts_unknown": unknown / (known + unknown)}
