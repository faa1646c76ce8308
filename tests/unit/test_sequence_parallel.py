"""Several ranks that share a packed row give the loss and the gradients of one, for every family. Real gloo ranks, one thread each;
ZeRO, whole runs and other numbers of ranks: tests/integration/test_sequence_parallel.py."""

import itertools
from datetime import timedelta

import pytest
import torch

from rlvid.families import FAMILIES, named
from rlvid.families.checkpoint import load_model, load_processor
from rlvid.learner.divided import divide, looks, own_places, peers_of
from rlvid.learner.logprobs import AnswerLogProbs
from rlvid.learner.packing import pack
from rlvid.types import UNKNOWN
from rlvid.world.tiny_model import build_tiny_model
from tests.unit.test_packing import CORPUS, DECAY, make_media_prompt, make_prompt

ROWS = {  # answers of each prompt; its video's frames, or the media it shows
    "several prompts, answers of 1 to 300": [((1, 300, 7), 4), ((33, 1), 2), ((2,), 6)],
    "one answer of one token, no media": [((1,), ())],
    "fewer answer tokens than ranks of some, images beside a video": [((1, 1), ("image", "video", "image")), ((1,), 4)],
}
CASES = {2: list(ROWS), 4: list(ROWS)[:1]}
"""Which rows so many ranks share."""
LAYERS = 3


def loaded(folder, peers=None):
    """(module, processor) with checkpointing on; experts are the engine's."""
    model, processor = load_model(folder, dtype=torch.float32, attn_implementation="sdpa"), load_processor(folder)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    forbidden = named(model.config.model_type).media_token_ids(processor.tokenizer)
    options = {"chunk": 16, "forbidden": forbidden, "temperature": 0.9, "entropy": True, "experts": "replay"}
    return AnswerLogProbs(model.train(), **options, peers=peers), processor


def batch_of(module, processor, row):
    config = module.model.config
    height, width = named(config.model_type).tiny_frame
    size, prompts = (2 * height, width), []
    for seed, (answers, shown) in enumerate(ROWS[row]):
        if isinstance(shown, tuple):
            prompts.append(make_media_prompt(processor, size, shown, seed=seed, answers=answers))
        else:
            prompts.append(make_prompt(processor, size, seed=seed, answers=answers, frames=shown))
    batch = pack(prompts, processor, config)
    if named(config.model_type).has_experts:
        length = batch.model_inputs["input_ids"].shape[1]
        routes = torch.rand(length, LAYERS, config.text_config.num_experts, generator=torch.Generator().manual_seed(0)).topk(2).indices
        batch.routes_NLK = routes.masked_fill((torch.arange(length) % 5 == 0)[:, None, None], UNKNOWN).short()
    return batch


def learn(module, batch, peers=None):
    """(log-probs, entropies, gradients, what was counted of experts) of a loss that reads whole answers. Several ranks: summed, as ZeRO does."""
    config = module.model.config
    if peers:
        frames = {"frame_token": getattr(config, named(config.model_type).frame_key), "merge": config.vision_config.spatial_merge_size}
        batch = divide(batch, peers.part, peers.parts, **frames)
    module.zero_grad()
    logprobs, entropy = module(batch.to("cpu", torch.float32))
    answers = torch.zeros(int(batch.sequence_A.max()) + 1).index_add(0, batch.sequence_A, logprobs)
    (answers.square().mean() + (logprobs * batch.advantages_A).sum() - 0.1 * entropy.sum()).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    counted = torch.tensor(list(module.routing.take().values()) if module.routing else [])
    for tensor in (*gradients.values(), counted) if peers else ():
        if tensor is not None:
            torch.distributed.all_reduce(tensor)
    return logprobs.detach(), entropy.detach(), gradients, counted


def rank(number, world, folders, meeting, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=number, world_size=world, init_method=f"file://{meeting}", timeout=timedelta(seconds=120))
    peers = peers_of(number, world, world, timedelta(seconds=120))
    for family, folder in folders.items():
        module, processor = loaded(folder, peers)
        for at, row in enumerate(CASES[world]):
            torch.save(learn(module, batch_of(module, processor, row), peers), f"{out}/{family}-{at}-{number}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {family: str(build_tiny_model(tmp_path_factory.mktemp(family), CORPUS, family=family, layers=LAYERS)) for family in FAMILIES}


@pytest.fixture(scope="module")
def divided(folders, tmp_path_factory):
    """Folders with what each of so many ranks says of every family and row."""
    out = {world: tmp_path_factory.mktemp(f"ranks-{world}") for world in CASES}
    for world, folder in out.items():
        torch.multiprocessing.spawn(rank, (world, folders, folder / "meeting", folder), nprocs=world)  # fails with any of them
    return out


@pytest.fixture(scope="module")
def alone(folders):
    """What one rank says: {(family, number of the row): ...}."""
    said = {}
    for family, folder in folders.items():
        module, processor = loaded(folder)
        for at, row in enumerate(ROWS):
            logprobs, entropy, gradients, counted = learn(module, batch_of(module, processor, row))
            kept = {name: None if gradient is None else gradient.clone() for name, gradient in gradients.items()}
            said[family, at] = logprobs, entropy, kept, counted
    return said


@pytest.mark.parametrize(("world", "row"), [(world, row) for world, rows in CASES.items() for row in rows])
@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_that_share_a_row_give_the_loss_and_gradients_of_one(divided, alone, family, world, row):
    """Checkpointing on, rows whose length the ranks do not divide, ranks without an answer's token."""
    out, at = divided[world], list(ROWS).index(row)
    logprobs, entropy, gradients, counted = alone[family, at]
    everything = torch.cat([gradient.flatten() for gradient in gradients.values() if gradient is not None])
    for number in range(world):
        theirs, spread, changes, routed = torch.load(out / f"{family}-{at}-{number}.pt")
        torch.testing.assert_close(theirs, logprobs, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(spread, entropy, rtol=1e-5, atol=1e-5)
        assert torch.equal(routed, counted) and bool(counted.sum()) == named(family).has_experts
        assert {name for name, change in changes.items() if change is None} == {name for name, gradient in gradients.items() if gradient is None}
        for name, gradient in gradients.items():
            if gradient is not None:
                rounding = 1e-6 if name.endswith(DECAY) else 1e-7
                assert (changes[name] - gradient).norm() <= 1e-5 * gradient.norm() + rounding * everything.norm(), name


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_every_token_is_looked_at_once_by_each_that_sees_it(parts):
    """All ranks' looks together are the packed row's mask; each rank has equally many tokens."""
    lengths = [[17, 3, 1, 300], [40, 1], [5], [9, 2, 2]]
    filling = -sum(map(sum, lengths)) % (2 * parts)
    lengths += [[filling]] if filling else []
    length = sum(map(sum, lengths))
    seen_NN = torch.zeros(length, length, dtype=torch.int)
    for part in range(parts):
        places = own_places(length, part, parts)
        assert len(places) == length // parts
        for causal, pairs in looks(lengths, part, parts):
            for (asked, count), (start, keys) in pairs:
                mine = places[asked : asked + count]
                assert not causal or torch.equal(mine, torch.arange(start, start + keys))
                for at, query in enumerate(mine.tolist()):
                    seen_NN[query, start : start + (at + 1 if causal else keys)] += 1
    expected_NN, start = torch.zeros(length, length, dtype=torch.int), 0
    for prompt, *answers in lengths:
        expected_NN[start : start + prompt, start : start + prompt] = torch.ones(prompt, prompt, dtype=torch.int).tril()
        at = start + prompt
        for answer in answers:
            expected_NN[at : at + answer, start : start + prompt] = 1
            expected_NN[at : at + answer, at : at + answer] = torch.ones(answer, answer, dtype=torch.int).tril()
            at += answer
        start = at
    assert torch.equal(seen_NN, expected_NN)


def test_sequence_parallel_divides_the_tower_by_frames_and_gives_every_rank_one(folders):
    """All visual tokens are somebody's, each from its own frame; a rank without any has a frame all the same."""
    module, processor = loaded(folders["qwen3_vl"])
    model = module.model
    for row, parts in itertools.product(ROWS, (2, 4, 8)):
        batch, merge = batch_of(module, processor, row), model.config.vision_config.spatial_merge_size
        ids_N = batch.model_inputs["input_ids"][0]
        whole = pixel_means(batch.model_inputs, merge)
        found = 0
        for part in range(parts):
            one = divide(batch, part, parts, frame_token=model.config.video_token_id, merge=merge)
            mine = own_places(len(one.model_inputs["input_ids"][0]) * parts, part, parts)
            visual = (torch.cat([ids_N, ids_N.new_zeros(2 * parts)]) == model.config.video_token_id).long()
            wanted = whole[(visual.cumsum(0) - 1)[mine][visual[mine] == 1]]
            torch.testing.assert_close(pixel_means(one.model_inputs, merge)[one.share.keep_V], wanted, rtol=0, atol=0)
            assert int(one.model_inputs["video_grid_thw"].prod(1).sum()) == len(one.model_inputs["pixel_values_videos"]) > 0
            found += len(wanted)
        assert found == len(whole)


def pixel_means(inputs, merge):
    """A number for each visual token that no other has."""
    return inputs["pixel_values_videos"].double().mean(1).unflatten(0, (-1, merge**2)).mean(1)
