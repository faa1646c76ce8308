"""One rank of the learner: a DeepSpeed engine over a Qwen-VL model, driven by plain verbs from the group.

Runs inside its own process (a Ray actor), so heavy imports are local to it. Every method that touches weights is a
collective: the group calls it on all ranks at once.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

from rlvid.config import Config
from rlvid.families import Family, named
from rlvid.learner.hashed import Digests, hashed_while_written
from rlvid.learner.lora import ADAPTER, WithoutAdapter, add_adapter, merged, write_adapter
from rlvid.learner.pieces import freed_at_once, give_back, read_in_pieces
from rlvid.process.full_disk import said_plainly
from rlvid.process.log import to_log_file
from rlvid.types import TrainingPrompt

log = logging.getLogger("rlvid")


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of a group find each other."""

    address: str
    port: int


def open_store(meeting: Meeting, world: int) -> Any:
    """Where the ranks meet: torch's key-value store, on the meeting's address and no other. Whoever reaches it can disturb the group."""
    from torch.distributed import TCPStore

    listener = socket.create_server((meeting.address, meeting.port))
    return TCPStore(meeting.address, meeting.port, world, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


class Rank:
    """State: the DeepSpeed engine, the processor, and (once connected) the sending side of the weight transfer."""

    def __init__(self, config: Config, rank: int) -> None:
        self.config = config
        self.rank = rank
        self.world = config.learner.ranks
        self.version = 0
        self.transfer: Any = None
        self.packed: list[Any] = []
        self.peers: Any = None

    # ---- start

    def propose_meeting(self) -> Meeting:
        """A free port on this rank's node."""
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            return Meeting(ray.util.get_node_ip_address(), probe.getsockname()[1])

    def start(self, meeting: Meeting) -> int:
        """Join the group, load the model, build the DeepSpeed engine. Returns the number of parameters."""
        to_log_file(f"learner-{self.rank}")
        import torch

        torch.set_num_threads(self.config.learner.threads)
        torch.manual_seed(self.config.run.seed)
        self._join(meeting)
        self._load_model()
        self._build_engine()
        if self.config.learner.gradient_checkpointing and not self.config.on_gpu:
            # glibc does not use the aligned blocks that a layer has let go for the next one, and nothing would be saved: 865 MB instead of 241 were measured
            # with an adapter on 32 M parameters. An update takes 1.6 to 1.9 times as long.
            give_back(at_once=True)
        return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in self.module.parameters())

    def _join(self, meeting: Meeting) -> None:
        local = 0 if self.config.on_gpu else self.rank  # Ray shows a rank its own GPU only
        os.environ.update(
            MASTER_ADDR=meeting.address,
            MASTER_PORT=str(meeting.port),
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world),
            LOCAL_RANK=str(local),
            # All ranks find a store that is already there: torch itself would open one on every interface of the machine.
            TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RESTART_COUNT="0",
        )
        if self.rank == 0:
            self.store = open_store(meeting, self.world)
        import deepspeed

        if not self.config.on_gpu:  # its shared-memory collectives compile for half a minute and save nothing at these sizes
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        options = {"timeout": timedelta(seconds=self.config.learner.deadline_s), "auto_mpi_discovery": False, "verbose": False}
        deepspeed.init_distributed(dist_backend="nccl" if self.config.on_gpu else "gloo", **options)
        del os.environ["TORCHELASTIC_USE_AGENT_STORE"]  # the weight transfer meets elsewhere
        if (parts := self.config.learner.sequence_parallel) > 1:
            from rlvid.learner.divided import peers_of

            self.peers = peers_of(self.rank, self.world, parts, timedelta(seconds=self.config.learner.deadline_s))

    @freed_at_once()
    def _load_model(self) -> None:
        import torch

        from rlvid.families.checkpoint import load_processor
        from rlvid.learner.logprobs import AnswerLogProbs

        self.processor = load_processor(self.config.model.path)
        self.dtype = getattr(torch, self.config.dtype)
        model = self._read_model()
        family = named(model.config.model_type)
        model.train()
        if self.config.learner.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.config.learner.lora.rank:
            add_adapter(model, self._adapted(family), self.config.learner.lora, self.config.run.seed)
        elif self.config.model.freeze_vision:
            family.vision(model).requires_grad_(False)
        self.model_config = model.config
        options: dict[str, Any] = {
            "chunk": self.config.learner.logprob_chunk,
            "forbidden": family.media_token_ids(self.processor.tokenizer),
            "temperature": self.config.rollout.temperature,
            "attention": self.config.model.attention,
        }
        if self.peers is not None:
            options["peers"] = self.peers
        self.module = AnswerLogProbs(model, **options, entropy=self.config.loss.entropy_coef > 0, experts=self.config.sync.experts)
        self.reference = self._reference(options) if self.config.loss.kl_coef else None

    def _adapted(self, family: Family) -> str:
        return family.adapted(self.config.learner.lora.targets, vision=self.config.learner.lora.vision)

    def _read_model(self) -> Any:
        """The checkpoint as the learner holds it, read layer by layer by rank 0: under ZeRO 3 each rank has its share, otherwise all of it on its device."""
        keep = self._keep_share if self.config.learner.zero_stage == 3 else self._keep_whole
        model = read_in_pieces(self.config.model.path, self.dtype, keep, reads=self.rank == 0)
        return self._read_whole().to("cuda" if self.config.on_gpu else "cpu") if model is None else model

    def _keep_share(self, parameters: list[Any]) -> None:
        """Rank 0's values of these parameters, divided among the ranks; the whole is let go."""
        import deepspeed
        import torch

        deepspeed.zero.Init(module=torch.nn.ParameterList(parameters), config_dict_or_path=deepspeed_settings(self.config), dtype=self.dtype)

    def _keep_whole(self, parameters: list[Any]) -> None:
        """Rank 0's values of these parameters."""
        import torch

        for parameter in parameters:
            if self.config.on_gpu:
                parameter.data = parameter.data.to("cuda")
            torch.distributed.broadcast(parameter.data.view(-1).view(torch.uint8), 0)

    def _read_whole(self) -> Any:
        from rlvid.families.checkpoint import load_model

        return load_model(self.config.model.path, dtype=self.dtype)

    def _reference(self, options: dict[str, Any]) -> Any:
        """The starting policy for the KL term: the model without its adapter, or a copy that is divided as the policy is."""
        from rlvid.learner.logprobs import AnswerLogProbs

        if self.config.learner.lora.rank:
            return WithoutAdapter(self.module)
        reference = AnswerLogProbs(self._read_model().requires_grad_(False), **options)
        if self.config.learner.zero_stage < 3:
            return reference
        import deepspeed

        return deepspeed.initialize(model=reference, config=deepspeed_settings(self.config), dist_init_required=False)[0]

    @freed_at_once()
    def _build_engine(self) -> None:
        import deepspeed
        import torch

        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        settings = self.config.learner
        optimizer = torch.optim.AdamW(
            trained,
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=(self.config.on_gpu and not settings.offload_optimizer) or None,  # no temporaries of the size of what is stepped
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._lr_share(step))  # a method would be pickled into checkpoints
        self.engine, *_ = deepspeed.initialize(
            model=self.module,
            optimizer=optimizer,
            lr_scheduler=scheduler,
            config=deepspeed_settings(self.config),
            dist_init_required=False,
        )

    def _lr_share(self, step: int) -> float:
        """Linear warm-up, then cosine down to min_lr_share at the last step."""
        settings, total = self.config.learner, self.config.run.steps * self.config.loss.passes
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        progress = min(1.0, (step - settings.warmup_steps) / max(1, total - settings.warmup_steps))
        return settings.min_lr_share + (1 - settings.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))

    # ---- update

    def pack(self, batches: list[list[TrainingPrompt]]) -> dict[str, str]:
        """Fetch the frames and make this rank's micro-batches, for `update`. Returns {question id: why} of those that it cannot make; none is kept then."""
        from ray.exceptions import RayError

        self.packed, refused = [], dict[str, str]()
        for batch in batches:
            try:
                self.packed.append(self._pack(batch))
            except RayError:
                raise  # frames that are lost
            except Exception:  # whatever a prompt makes of processor and positions
                refused |= self._refused(batch)
        return refused

    def _pack(self, prompts: list[TrainingPrompt]) -> Any:
        from rlvid.learner.packing import pack, pack_distilled

        if prompts[0].teacher is not None:
            packed = pack_distilled(prompts, self.processor, self.model_config, _fetch_frames, answers_only=self.config.distill.tokens == "answer")
        else:
            packed = pack(prompts, self.processor, self.model_config, _fetch_frames)
        if self.peers is None:
            return packed
        from rlvid.learner.divided import divide

        config = self.model_config
        frames = {"frame_token": getattr(config, named(config.model_type).frame_key), "merge": config.vision_config.spatial_merge_size}
        return divide(packed, self.peers.part, self.peers.parts, **frames)

    def _refused(self, batch: list[TrainingPrompt]) -> dict[str, str]:
        """The guilty ones of a micro-batch."""
        found: dict[str, str] = {}
        for prompt in batch:
            try:
                self._pack([prompt])
            except Exception as error:
                log.exception("%s", prompt.question_id)
                found[prompt.question_id] = str(error) or type(error).__name__
        if not found:
            raise RuntimeError("a micro-batch cannot be made although each of its prompts can")
        return found

    def update(self) -> dict[str, float]:
        """One optimizer step per pass over the packed micro-batches. Returns this rank's metric sums (see learner/group.py).

        They are those of the first pass, whose policy is the one that was sent; what is clipped is the last pass's, the first clips nothing.
        """
        import torch

        if self.config.learner.lora.dropout:
            torch.manual_seed(hash((self.config.run.seed, self.version, self.rank)))  # a resumed run drops the same
        packed = [batch.to(self.engine.device, self.dtype) for batch in self.packed]
        self.packed = []
        old: list[Any] = [None] * len(packed)
        sums: dict[str, float] = {}
        for number in range(self.config.loss.passes):
            terms = []
            for index, batch in enumerate(packed):
                self.engine.set_gradient_accumulation_boundary(index == len(packed) - 1)  # gradients are reduced with the last one
                terms.append(self._micro_step(batch, old, index) if batch.teacher is None else self._distil(batch))
            rate = self.engine.get_lr()[0]
            self.engine.step()
            if number == 0:
                sums = {key: math.fsum(term.get(key, 0.0) for term in terms) for key in {key: None for term in terms for key in term}}
                sums["mismatch/max_abs_dlogp"] = max(term.get("mismatch/max_abs_dlogp", 0.0) for term in terms)
                sums["optimizer/grad_norm"] = float(self.engine.get_global_grad_norm() or 0.0)
                sums["optimizer/lr"] = rate
            sums["loss/sum_clipped"] = math.fsum(term.get("loss/sum_clipped", 0.0) for term in terms)
        self.version += 1
        return sums

    def get_version(self) -> int:
        """Updates that the weights have seen."""
        return self.version

    def _distil(self, batch: Any) -> dict[str, float]:
        """Forward of the teacher's prompts without gradient, forward and backward of the student's."""
        import torch

        with torch.no_grad():
            teacher_AH = self.engine(batch.teacher, hidden_only=True)
        apart_A = self.engine(batch, teacher_AH=teacher_AH)
        loss = (batch.weights_A * apart_A).sum()
        self.engine.backward(self.config.distill.coef * loss * self.world)
        return {"loss/distill": float(loss)}

    def _micro_step(self, batch: Any, old: list[Any], index: int) -> dict[str, float]:
        """Forward, loss, backward of one micro-batch."""
        import torch

        from rlvid.algo.loss import policy_loss

        logprobs, entropy = _log_probs(self.engine, batch)
        if old[index] is None:
            old[index] = logprobs.detach()
        with torch.no_grad():
            reference = _log_probs(self.reference, batch)[0] if self.reference is not None else None
        loss, sums = policy_loss(
            logprobs,
            old_logprobs_A=old[index],
            sampler_logprobs_A=batch.sampler_logprobs_A,
            advantages_A=batch.advantages_A,
            weights_A=batch.weights_A,
            sequence_A=batch.sequence_A,
            options=_loss_options(self.config),
            reference_logprobs_A=reference,
            entropy_A=entropy,
        )
        self.engine.backward(loss * self.world)  # DeepSpeed averages over ranks; the weights, and shares of rows, already make it one sum
        routed = self._routed(self.module.routing) if self.module.routing is not None else {}
        return {name: float(value) for name, value in sums.items()} | _mismatch_sums(old[index], batch) | routed

    def _routed(self, routing: Any) -> dict[str, float]:
        """What was counted of experts, of all ranks that share the row."""
        import torch

        counted: dict[str, float] = routing.take()
        if self.peers is None:
            return counted
        return dict(zip(counted, self.peers.total(torch.tensor(list(counted.values()), device=self.engine.device)).tolist(), strict=True))

    # ---- turns on a shared GPU (rlvid/loop/turns.py)

    def rest(self) -> None:
        """Gradients, master weights and moments go to the host. The weights stay: a push needs them, and a new engine may want one at any time."""
        if self.config.on_gpu:
            import torch
            from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as States

            away = [state for state in States if state is not States.lp_params]
            self.engine.offload_states(include=away, pin_memory=True)
            torch.cuda.empty_cache()

    def wake(self) -> None:
        """Take back what `rest` sent away."""
        if self.config.on_gpu:
            self.engine.reload_states()

    # ---- checkpoints

    def save(self, folder: str) -> Digests:
        """DeepSpeed's own sharded checkpoint: weights (of an adapter: it alone), optimizer, scheduler. Returns the digests of what this rank wrote."""
        from deepspeed.runtime.zero.config import ZeroStageEnum

        # Before 3.11.4 Python pickles such a member as a call of getattr, which no checkpoint may hold; later ones by value, as here.
        ZeroStageEnum.__reduce_ex__ = lambda member, _: (ZeroStageEnum, (member.value,))
        with said_plainly("a checkpoint", Path(folder)), hashed_while_written(self.engine.checkpoint_engine, Path(folder)) as digests:
            self.engine.save_checkpoint(folder, tag="learner", save_latest=False, exclude_frozen_parameters=bool(self.config.learner.lora.rank))
        return digests

    def load(self, folder: str, version: int, tag: str = "learner") -> None:
        """Weights, optimizer and scheduler of a checkpoint. `tag`: learner, or universal where it was written by another number of ranks."""
        self.engine._config.load_universal_checkpoint = tag == "universal"
        path, _ = self.engine.load_checkpoint(folder, tag=tag, load_module_strict=not self.config.learner.lora.rank)
        if path is None:
            raise RuntimeError(f"{folder} holds no learner checkpoint")
        for state in self.engine.optimizer.state.values():  # of a universal checkpoint all share one count of steps, and each would add to it
            state["step"] = state["step"].clone()
        self.version = version

    def set_rates(self) -> None:
        """What the config says now, not what it said when the checkpoint was written: torch restores rates together with the moments."""
        settings, scheduler = self.config.learner, self.engine.lr_scheduler
        rate = settings.lr * self._lr_share(scheduler.last_epoch)
        scheduler.base_lrs = [settings.lr] * len(scheduler.base_lrs)
        for group in scheduler.optimizer.param_groups:
            group |= {"initial_lr": settings.lr, "lr": rate, "betas": settings.betas, "weight_decay": settings.weight_decay}

    def export(self, folder: str) -> None:
        """Write a Hugging Face checkpoint that from_pretrained and vLLM load. Rank 0 writes, all ranks gather.

        Of an adapter: the model with the adapter merged in, and the adapter alone in a folder of that name inside.
        """
        from rlvid.sync.adapter import adapter_tensors
        from rlvid.sync.source import ZeroSource

        adapted = bool(self.config.learner.lora.rank)
        state = {}
        for name, tensor in adapter_tensors(self.module.model) if adapted else ZeroSource(self.module.model).own():
            if self.rank == 0:
                state[name] = tensor.detach().cpu().clone()
        if self.rank == 0:
            with said_plainly("the exported policy", Path(folder)):
                (self._write_adapter if adapted else self._write_export)(state, Path(folder))

    def _write_adapter(self, tensors: dict[str, Any], folder: Path) -> None:
        where = self._adapted(named(self.model_config.model_type))
        write_adapter(folder / ADAPTER, tensors, where, self.config.learner.lora, self.config.model.path)
        named(self.model_config.model_type).save(merged(self._read_whole(), folder / ADAPTER), folder)
        self.processor.save_pretrained(folder)

    def _write_export(self, state: dict[str, Any], folder: Path) -> None:
        model = self._read_whole()
        unknown = model.load_state_dict(state, strict=False).unexpected_keys
        assert not unknown, f"export has unknown parameters {unknown}"
        named(model.config.model_type).save(model, folder)
        self.processor.save_pretrained(folder)

    # ---- weights to the engines

    def connect(self, engines: list[Any], widths: list[int]) -> None:
        """Open the weight transfer to these rollout actors (`widths`: tensor-parallel workers of each)."""
        from rlvid.sync.learner_side import open_transfer

        if self.transfer is not None:
            self.transfer.shutdown()
        self.transfer = open_transfer(self.config, self.rank, self.module.model, engines, widths)

    def send_weights(self) -> Any:
        """Push the weights. Returns rlvid.types.Sent; rank 0's is the one that counts."""
        return self.transfer.send(self.version)

    def checksum(self) -> str:
        """Checksum of the weights that the engines must hold; all ranks take part. Of an adapter: its own, once there was an update."""
        from rlvid.sync.adapter import adapter_digest, adapter_tensors, sent_scale
        from rlvid.sync.checksum import checksum
        from rlvid.sync.source import ZeroSource

        if self.config.learner.lora.rank and self.version:
            return adapter_digest(adapter_tensors(self.module.model, sent_scale(self.config)))

        return checksum(ZeroSource(self.module.model))

    def layout(self) -> Any:
        """Of what a push of whole weights brings, a rlvid.types.WeightsLayout."""
        from rlvid.sync.source import ZeroSource

        return ZeroSource(self.module.model).layout()

    def perturb(self, scale: float) -> None:
        """Debug door: add noise to all that is trained, so that greedy answers change. Counts as an update."""
        import deepspeed
        import torch

        generator = torch.Generator().manual_seed(0)
        for parameter in (parameter for parameter in self.module.parameters() if parameter.requires_grad):
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
                parameter.data.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * scale)
        self.version += 1


def deepspeed_settings(config: Config) -> dict[str, Any]:
    """The DeepSpeed configuration of a run; micro-batches are counted by the rank itself."""
    zero: dict[str, Any] = {"stage": config.learner.zero_stage, "stage3_param_persistence_threshold": config.learner.param_persistence_threshold}
    if config.learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    exact = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"} if config.sums_in_float32 else {}
    return exact | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.learner.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _loss_options(config: Config) -> Any:
    from rlvid.algo.loss import LossOptions

    return LossOptions(**{field.name: getattr(config.loss, field.name) for field in fields(LossOptions)})


def _log_probs(model: Any, batch: Any) -> tuple[Any, Any]:
    """(log-probabilities, entropies or None) of the answer tokens, whether the model was asked for entropies or not."""
    said = model(batch)
    return said if isinstance(said, tuple) else (said, None)


def _mismatch_sums(logprobs_A: Any, batch: Any) -> dict[str, float]:
    """How far the sampler's log-probabilities are from the learner's, over tokens that count."""
    from rlvid.algo.loss import k3_kl

    counted = batch.weights_A > 0
    sampled = counted & ~batch.sampler_logprobs_A.isnan()  # stored replies were sampled by nobody
    learner_A, sampler_A = logprobs_A[sampled].double(), batch.sampler_logprobs_A[sampled].double()  # the KL is below what float32 tells from 0
    difference = learner_A - sampler_A
    return {
        "tokens": float(counted.sum()),
        "sampled_tokens": float(sampled.sum()),
        "mismatch/sum_abs_dlogp": float(difference.abs().sum()),
        "mismatch/sum_kl": float(k3_kl(sampler_A, learner_A).sum()),
        "mismatch/max_abs_dlogp": float(difference.abs().max()) if len(difference) else 0.0,
        "policy/sum_neg_logprob": float(-logprobs_A[counted].sum()),
    }


def _fetch_frames(frames: Any) -> Any:
    """Frames come as a reference into the object store and are read here, on the learner's own node."""
    import ray

    return ray.get(frames, timeout=120) if isinstance(frames, ray.ObjectRef) else frames
