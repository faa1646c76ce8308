"""Sections of the update: advantages, loss, the learner's ranks, and the way of its weights to the engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from rlvid.config.base import Beta, Count, Positive, Resources, Seconds, Section, Share


class Advantage(Section):
    estimator: Literal["grpo", "rloo", "gdpo", "ema_grpo"] = "grpo"
    """grpo: (r - mean) / std of the group. rloo: r minus the mean of the group's others. gdpo: each reward part normalized by itself, summed by its weight,
    whitened over the step. ema_grpo: centred in the group, divided by a moving standard deviation of the task, so that tasks stay on one scale.
    Formulas and sources: the files of these names in rlvid/algo."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """ema_grpo: what the moving averages keep at a step."""
    group: Literal["joint", "per_variant", "batch"] = "joint"
    """Rewards normalized together: all K x M of a question, the M of a variant, or the whole step."""
    scale: Literal["std", "none"] = "std"
    """grpo: divide by the standard deviation (GRPO) or not (Dr.GRPO)."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Added to the standard deviation."""
    drop_zero_signal: bool = False
    """Leave groups whose accuracies and rewards are all equal, so that nothing can be learned from them, out of the update and take the next questions
    instead."""
    max_refills: Count = 2
    """Rounds of replacement per step when `drop_zero_signal` is on."""

    @model_validator(mode="after")
    def _group_of_the_estimator(self) -> Advantage:
        if self.group == "batch" and self.estimator != "grpo":
            raise ValueError(f"advantage.group batch belongs to advantage.estimator grpo, not {self.estimator}: use joint or per_variant")
        return self


class Loss(Section):
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Lower clip of the ratio: 1 - clip_low."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """Upper clip of the ratio: 1 + clip_high (clip-higher)."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """Mean over tokens (DAPO), mean of sequence means (GRPO), or sum over a constant length (Dr.GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """Ratio per token, or its geometric mean over the sequence (GSPO)."""
    truncated: Literal["count", "mask"] = "count"
    """Answers that were cut off by rollout.max_tokens. mask: their tokens count nothing in the loss (overlong filtering, DAPO); their rewards still count in
    the group's mean. rollout/truncated_share says how many there are."""
    policy_coef: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the policy's own loss; 0 leaves what else there is: distillation, the KL, the entropy."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the k3 KL to the starting policy; above 0 a second, frozen copy is kept."""
    surrogate: Literal["clip", "cispo", "likelihood"] = "clip"
    """clip: PPO's, whose clipped tokens have no gradient. cispo: the clipped ratio is a weight without gradient, and every token keeps its own. likelihood:
    advantage times log-probability, no ratio at all; `rlvid sft` sets it."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Bonus for the policy's entropy, mean over tokens: keeps groups from becoming unanimous. Costs one more table of logits a chunk."""
    importance: Literal["cap", "mask_tokens", "mask_answers"] = "cap"
    """Where learner and sampler disagree on a probability: cap the ratio at importance_cap, or leave tokens, or whole answers, out whose ratio (of an answer:
    its geometric mean) leaves importance_band."""
    importance_band: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(ge=1)]] = (0.5, 5.0)
    """Ratios of learner to sampler that count, for mask_tokens and mask_answers."""
    importance_cap: Annotated[float, Field(ge=1)] = 2.0
    """Truncated importance sampling: cap of learner / sampler probability."""
    passes: Positive = 1
    """Updates made from one batch of rollouts; from the second on the clip acts."""


class Distill(Section):
    model_config = ConfigDict(serialize_by_alias=True)

    sources: Annotated[tuple[Literal["variants", "repair"], ...], Field(alias="from")] = ()
    """Written `from`: whose right answers teach the plain prompt. variants: those of the other variants; repair: second answers under a teacher's patch. The
    policy under that prompt is the teacher, without gradient; the same policy under the plain prompt and the `uniform` view learns its distributions. Empty:
    off. Costs a forward of the one and a forward and backward of the other for these answers."""
    coef: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the mean KL(teacher || student) over these answers beside the policy's loss (loss.policy_coef 0: distillation alone)."""
    tokens: Literal["answer", "all"] = "answer"
    """Tokens that are distilled: those between <answer> and </answer>, or the rationale's, too, whose times and places belong to another view."""
    answers: Positive | None = None
    """Right answers of a question that are distilled at most, spread over the prompts they come from; null: rollout.answers."""


class Lora(Section):
    rank: Annotated[int, Field(ge=0, le=512)] = 0
    """Rank of the adapter's matrices; 0: none, all weights are trained. With one the model itself stays as it is: what is trained, kept in checkpoints and
    pushed is the adapter, and the reference policy of `loss.kl_coef` is the model with the adapter switched off. It wants about ten times the learning rate."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The adapter's product is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Linear layers that get one, by their last names, such as [q_proj, v_proj]; empty: all that the model's family names (attention and MLP)."""
    vision: bool = False
    """Adapt the vision tower and its merger, too."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the adapter's inputs, in the learner alone: above 0 its log-probabilities differ from the sampler's."""


class Learner(Section):
    ranks: Positive = 1
    """DeepSpeed ranks (actors)."""
    sequence_parallel: Positive = 1
    """So many ranks share every micro-batch: each has a share of its tokens, of the vision tower's frames and of the answers' logits, and the memory that these
    take of a rank falls with their number. Loss and gradients stay those of one rank. It must divide `ranks`; neighbours share, which should be on one node:
    keys and values of every layer go between them. For prompts that are too long for one; needs model.attention sdpa. A resumed run may have another."""
    zero_stage: Literal[1, 2, 3] = 1
    """ZeRO stage."""
    param_persistence_threshold: Count = 100_000
    """ZeRO 3 divides no parameter with fewer elements than this (DeepSpeed's stage3_param_persistence_threshold): gathering a small one costs more than it
    saves."""
    lora: Lora = Lora()
    """Train a low-rank adapter in place of the model."""
    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Peak learning rate of AdamW."""
    min_lr_share: Share = 0.0
    """Learning rate at the end of the cosine, as a share of lr."""
    warmup_steps: Count = 10
    """Linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW weight decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW betas."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradient clipping."""
    micro_batch_tokens: Positive = 16384
    """Tokens (prompts and answers) that a rank takes through the model at a time; a single prompt with its answers may exceed it. With sequence_parallel
    ranks that share hold so many each."""
    logprob_chunk: Positive = 1024
    """Answer tokens whose logits exist at a time."""
    gradient_checkpointing: bool = False
    """Trade time for activation memory: a third more on GPUs; without one an update takes about twice as long, because memory is given back at once."""
    accumulate: Literal["float32", "bfloat16"] = "float32"
    """With model.dtype bfloat16: what gradients are summed and reduced in. bfloat16 saves 2 to 4 bytes a parameter (divided by the ranks from ZeRO stage 2 on),
    and is off by nearly 1 % after 64 micro-batches."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in host memory."""
    threads: Positive = 1
    """CPU threads of a rank."""
    num_cpus: Annotated[float, Field(ge=0)] = 1
    """CPUs that Ray reserves for each rank."""
    num_gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs that Ray reserves for each rank."""
    resources: Resources = {}
    """Custom resources of Ray that each takes of its node, such as {rollout_node: 1}: the way to say on which nodes they stand."""
    start_deadline_s: Seconds = 900
    """Longest wait for the group to start, besides the time to read the checkpoint (model.read_mib_per_s)."""
    deadline_s: Seconds = 1800
    """Longest wait for one update or checkpoint."""


class Sync(Section):
    transport: Literal["auto", "gloo", "nccl", "ipc"] = "auto"
    """auto: nccl between GPUs, ipc within one (placement colocated), gloo otherwise."""
    mode: Literal["wait", "keep"] = "wait"
    """Answers that are being sampled when new weights come (with rollout.max_staleness above 0). wait: they are finished with the old weights first.
    keep: they stand still and go on with the new ones, on the keys and values of the old ones; the dumps say from which token on."""
    sparse: bool = False
    """Push what changed: engines patch the values that differ from the last push in a bit (about one in a hundred of a bfloat16 model at a learning rate of
    1e-6) in place. Everything is sent at the start, when an engine joins, where more than a tenth changed, and every `full_every` pushes. Rank 0 keeps a
    copy of the weights in host memory. With sync.transport gloo."""
    full_every: Positive = 50
    """With `sparse`: so many pushes at most until everything is sent again."""
    bucket_bytes: Positive = 32 * 2**20
    """Weights are packed into buckets of about this size: engines load one while the next is packed. Fast links between GPUs want larger ones."""
    verify: bool = True
    """Compare a checksum of the engines' loaded weights with the learner's after every sync: element by element and place by place."""
    experts: Literal["off", "measure", "replay"] = "measure"
    """Of a model with experts, where rounding may send a token through others in the engine than in the learner. measure: the engines tell which they took,
    and mismatch/experts is the share that the learner would choose otherwise. replay: the learner takes the engines' (routing replay). What cannot be known is
    in mismatch/experts_unknown, and the learner's own there. Choices are not dumped: a replayed step cannot be made again by `rlvid replay`."""
    deadline_s: Seconds = 300
    """Longest wait for each phase of a sync; with mode wait the engines' last answers have rollout.deadline_s beside."""
